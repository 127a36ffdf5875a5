"""Models as people hand them over: unwrapped, or refused in one sentence that names the cause and the way out."""

import json
import re
import warnings

import peft
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from errata.errors import ModelError, UnsupportedModelError
from errata.jobs.ask_job import ask
from errata.models import load, run_layers, wrap
from tiny import tiny_hf, tiny_tokenizer

PROMPT = "The Eiffel Tower is in the city of"
LORA = {"r": 2, "target_modules": ["down_proj", "q_proj"], "init_lora_weights": False}


def refused(model, words, error=UnsupportedModelError, tokenizer=None):
    with pytest.raises(error, match=words) as caught:
        wrap(model, tiny_tokenizer() if tokenizer is None else tokenizer, name="mine")
    message = str(caught.value)
    assert "families.py" not in message
    assert "\n" not in message
    return message


def test_a_compiled_model_is_taken_as_the_model_behind_it():
    hf = tiny_hf("llama")
    expected = ask(wrap(tiny_hf("llama"), tiny_tokenizer(), name="x"), PROMPT)
    compiled = torch.compile(hf, backend="eager")
    compiled(torch.tensor([[3, 4, 5]]))
    lm = wrap(compiled, tiny_tokenizer(), name="x")
    assert lm.hf is hf
    assert ask(lm, PROMPT) == expected
    assert lm.digest() == wrap(tiny_hf("llama"), tiny_tokenizer()).digest()


def test_a_compiled_part_is_refused():
    hf = tiny_hf("llama")
    hf.model.layers[2] = torch.compile(hf.model.layers[2], backend="eager")
    refused(hf, r"torch\.compile wrapped \(model\.layers\.2 is a OptimizedModule\).*compile it as a whole")


def peft_model():
    return peft.get_peft_model(tiny_hf("llama"), peft.LoraConfig(**LORA))


def base_of_a_peft_model():
    return peft_model().get_base_model()


def prompt_tuned():
    return peft.get_peft_model(tiny_hf("llama"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))


def compiled_peft_model():
    return torch.compile(peft_model(), backend="eager")


@pytest.mark.parametrize("made", [peft_model, base_of_a_peft_model, prompt_tuned, compiled_peft_model])
def test_adapters_are_refused(made):
    message = refused(made(), r"mine carries PEFT adapters.*merge_and_unload\(\)")
    assert not re.search(r" is a (?!peft\.)", message)


def test_an_adapter_loaded_by_transformers_is_refused_and_its_merged_model_is_not(tmp_path):
    peft_model().save_pretrained(tmp_path)
    hf = tiny_hf("llama")
    hf.load_adapter(str(tmp_path))
    refused(hf, "carries PEFT adapters")
    ids = torch.tensor([[3, 4, 5]])
    merged = peft.PeftModel.from_pretrained(tiny_hf("llama"), str(tmp_path)).merge_and_unload()
    lm = wrap(merged, tiny_tokenizer(), name="merged")
    assert torch.allclose(lm.hf(ids).logits, hf(ids).logits, atol=1e-4)
    with pytest.raises(ModelError, match=r"is a PEFT adapter, not a model.*merge_and_unload"):
        load(tmp_path)


def test_an_adapter_attached_after_wrapping_is_found_before_weights_are_read_afresh(tmp_path):
    peft_model().save_pretrained(tmp_path)
    lm = wrap(tiny_hf("llama"), tiny_tokenizer(), name="mine")
    lm.hf.load_adapter(str(tmp_path))
    with pytest.raises(UnsupportedModelError, match=r"adapters \(model\.layers\.0.* is a peft\.tuners\.lora\."):
        lm.digest(fresh=True)


@pytest.mark.parametrize("layer", range(4))
def test_weights_of_any_layer_that_are_not_in_memory_are_found(layer):
    hf = tiny_hf("llama")
    hf.model.layers[layer].mlp.to("meta")
    refused(hf, rf"not wholly in memory: model\.layers\.{layer}\.mlp.*and 2 more.*without device_map")


def test_offloading_by_accelerate_is_refused_and_its_hooks_alone_are_not(tmp_path):
    from accelerate import cpu_offload, disk_offload
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    on_disk, in_memory, hooked = tiny_hf("llama"), tiny_hf("llama"), tiny_hf("llama")
    disk_offload(on_disk, tmp_path)
    refused(on_disk, "not wholly in memory")
    cpu_offload(in_memory, execution_device="cpu", offload_buffers=True)
    if any(parameter.device.type == "meta" for parameter in in_memory.parameters()):
        refused(in_memory, "not wholly in memory")
    expected = ask(wrap(tiny_hf("llama"), tiny_tokenizer()), PROMPT)
    for module in (hooked, hooked.model, *hooked.model.layers):
        add_hook_to_module(module, AlignDevicesHook(io_same_device=True))
    assert ask(wrap(hooked, tiny_tokenizer()), PROMPT) == expected


def test_a_model_loaded_with_a_device_map_on_one_device_works(tmp_path):
    from transformers import AutoModelForCausalLM

    tiny_hf("llama").save_pretrained(tmp_path)
    hf = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="cpu")
    said, expected = (ask(wrap(one, tiny_tokenizer()), PROMPT)[0].continuation for one in (hf, tiny_hf("llama")))
    assert said == expected


class Sharded(torch.Tensor):
    """As tensor parallelism does it."""

    device_mesh = "a mesh of 2 devices"


def test_sharded_weights_are_refused():
    hf = tiny_hf("llama")
    weight = hf.model.layers[1].mlp.up_proj.weight.detach()
    hf.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(weight.as_subclass(Sharded), requires_grad=False)
    refused(hf, "spread over a mesh of 2 devices, cpu; errata runs a model on one device")


class Packed(torch.Tensor):
    """As torchao and bitsandbytes do it: a float tensor to look at, something else inside."""


@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize("path", ["mlp.down_proj", "mlp.gate_proj", "self_attn.k_proj"])
def test_a_packed_weight_is_found_wherever_it_is(layer, path):
    hf = tiny_hf("llama")
    module = hf.model.layers[layer].get_submodule(path)
    shape = tuple(module.weight.shape)
    for weight, found in [
        (torch.ones(shape, dtype=torch.uint8), "is uint8"),
        (torch.ones(shape).to(torch.float8_e4m3fn), "is float8_e4m3fn"),
        (torch.ones(shape).as_subclass(Packed), "is float32 in a Packed"),
    ]:
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
        message = refused(hf, r"packed, quantized weights.*unquantized checkpoint.*dequantize\(\)")
        assert f"model.layers.{layer}.{path}.weight {found}" in message


def test_modules_that_hold_no_weight_are_packed_too():
    class Quantized(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("qweight", torch.ones(4, 4, dtype=torch.int32))

    hf = tiny_hf("llama")
    hf.model.layers[3].self_attn.o_proj = Quantized()
    refused(hf, r"packed, quantized weights \(layer 3's self_attn\.o_proj is a Quantized\)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = torch.ao.quantization.quantize_dynamic(tiny_hf("llama"), {torch.nn.Linear}, dtype=torch.qint8)
    refused(dynamic, "packed, quantized weights|no head")


def test_a_dequantized_model_that_still_names_its_quantization_is_taken():
    hf = tiny_hf("llama")
    hf.config.quantization_config = {"quant_method": "gguf"}
    ids, mask = torch.tensor([[3, 4, 5]]), torch.ones(1, 3, dtype=torch.long)
    lm = wrap(hf, tiny_tokenizer())
    assert torch.equal(run_layers(lm, ids, mask).hidden, hf.model(ids).last_hidden_state)


def test_models_without_a_head_are_refused():
    config = tiny_hf("llama").config
    refused(AutoModel.from_config(config), "LlamaModel, which has no head.*AutoModelForCausalLM")
    refused(AutoModelForSequenceClassification.from_config(config), "no head.*AutoModelForCausalLM")


def test_what_only_holds_a_model_is_refused_with_where_it_is():
    class Pipeline:
        def __init__(self):
            self.model = tiny_hf("llama")

    refused(torch.nn.DataParallel(tiny_hf("llama")), r"DataParallel.*errata\.wrap\(it\.module", ModelError)
    refused(Pipeline(), r"a pipeline.*errata\.wrap\(it\.model", ModelError)
    refused("gpt2", r"found a str.*errata\.load", ModelError)
    refused(None, "found a NoneType", ModelError)


@pytest.mark.parametrize("tokenizer", ["gpt2", 5, tiny_tokenizer().backend_tokenizer])
def test_what_is_no_tokenizer_is_refused(tokenizer):
    refused(tiny_hf("llama"), r"needs its tokenizer, found.*AutoTokenizer", ModelError, tokenizer)


def test_another_model_s_tokenizer_is_refused():
    refused(tiny_hf("llama", vocab_size=400), "up to 479, mine has embeddings for 400 only.*resize", ModelError)


def test_a_tokenizer_that_puts_an_unknown_token_first_is_refused():
    content = json.loads(tiny_tokenizer(True).backend_tokenizer.to_str())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 480, "content": "<|new|>"})
    content["post_processor"]["special_tokens"]["<s>"]["ids"] = [480]
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), eos_token="</s>")
    refused(tiny_hf("llama"), "up to 480, mine has embeddings for 480 only", ModelError, tokenizer)
