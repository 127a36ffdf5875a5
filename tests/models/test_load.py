"""Loading and wrapping: what is refused and in which words, and that a wrong family row never passes."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from errata.errors import ModelError, ModelNotFoundError, UnsupportedModelError
from errata.models import FAMILIES, LanguageModel, load, wrap
from errata.models.families.load import check_config
from errata.models.families.verify import verify
from tiny import VARIANTS, tiny_hf, tiny_model, tiny_tokenizer


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """One thread (tiny models on a busy machine), and no network: a hub id must fail the same everywhere."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def saved(tmp_path):
    """A tiny model saved as a folder."""
    tiny_hf("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_row_is_true(variant, dtype):
    lm = wrap(tiny_hf(variant, dtype=dtype), tiny_tokenizer(), name=variant)
    square = variant.endswith("-square")
    assert (lm.d_mlp == lm.d_model) == square
    assert lm.num_layers == 4
    assert not lm.hf.training
    assert not any(parameter.requires_grad for parameter in lm.hf.parameters())
    assert sum(parameter.numel() for parameter in lm.hf.parameters()) < 200_000
    assert lm.down_weight(1).data_ptr() == lm.down(1).weight.data_ptr(), "a view, not a copy"


WRONG_ROWS = [
    ("gpt2-square", {"in_first": False}),
    ("llama-square", {"in_first": True}),
    ("llama-square", {"down": "mlp.gate_proj"}),
    ("llama-square", {"down": "mlp.up_proj"}),
    ("gpt2-square", {"down": "mlp.c_fc"}),
    ("gpt2-square", {"down": "attn.c_proj"}),
    ("llama-square", {"down": "self_attn.o_proj"}),
    ("llama", {"down": "self_attn.o_proj"}),
    ("llama", {"down": "mlp.up_proj"}),
    ("gpt2", {"down": "mlp.c_fc"}),
    ("llama", {"down": "mlp.act_fn"}),
    ("llama", {"gate": "self_attn.q_proj"}),
    ("phi3", {"gate_up": "self_attn.qkv_proj"}),
    ("granite", {"residual_scale_attr": None}),
    ("llama", {"residual_scale_attr": "rms_norm_eps"}),
    ("granite", {"logit_divisor_attr": None}),
    ("cohere", {"logit_scale_attr": None}),
    ("gemma2", {"logit_softcap_attr": None}),
    ("gemma2", {"mlp_post_norm": None}),
    ("olmo2", {"mlp_post_norm": None}),
    ("llama", {"mlp_post_norm": "post_attention_layernorm"}),
    ("llama", {"ln_final": "embed_tokens"}),
    ("llama", {"ln_final": "norms"}),
    ("llama", {"embed_tokens": "norm"}),
    ("llama", {"layers": "norm"}),
    ("gpt2", {"layers": "blocks"}),
    ("llama", {"backbone": "transformer"}),
    ("llama", {"attention": "attn"}),
    ("llama", {"down": "mlp.w2"}),
]


@pytest.mark.parametrize(("variant", "wrong"), WRONG_ROWS, ids=lambda value: str(value))
def test_a_wrong_row_is_found_out(variant, wrong):
    hf = tiny_hf(variant).eval().requires_grad_(False)
    family = FAMILIES[hf.config.model_type]
    assert all(getattr(family, name) != value for name, value in wrong.items())
    blocks = list(hf.modules())
    with pytest.raises(UnsupportedModelError, match=r"families/rows\.py"):
        verify(LanguageModel(hf, tiny_tokenizer(), replace(family, **wrong), "wrong"))
    assert list(hf.modules()) == blocks
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in hf.modules())


def test_a_down_projection_that_was_packed_after_loading_is_found_out():
    hf = tiny_hf("llama")
    hf.model.layers[2].mlp.down_proj.weight = torch.nn.Parameter(
        torch.ones(32, 80, dtype=torch.int8), requires_grad=False
    )
    with pytest.raises(UnsupportedModelError, match=r"layers\.2\.mlp\.down_proj\.weight is int8.*dequantize"):
        wrap(hf, tiny_tokenizer(), name="packed")


@pytest.mark.parametrize(
    ("model_type", "settings", "words"),
    [
        ("t5", {}, "encoder-decoder"),
        ("bart", {}, "encoder-decoder"),
        ("mixtral", {}, "mixture of experts.*dense"),
        ("qwen3_moe", {}, "mixture of experts"),
        ("deepseek_v3", {}, "mixture of experts"),
        ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized.*unquantized checkpoint"),
        ("gpt2", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized"),
        ("mamba", {}, "model_type='mamba'.*known: bloom, cohere"),
        ("bert", {}, "model_type='bert'.*families/rows.py"),
    ],
)
def test_models_that_cannot_be_edited_are_refused_from_their_config(model_type, settings, words, tmp_path):
    config = CONFIG_MAPPING[model_type]()
    for name, value in settings.items():
        setattr(config, name, value)
    with pytest.raises(UnsupportedModelError, match=words) as caught:
        check_config(config, "some/model")
    assert "some/model" in str(caught.value)
    # The same through a folder, before its weights are read.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **settings, "num_hidden_layers": 2}))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UnsupportedModelError, match=words.split(".*")[0]):
        load(tmp_path)


def test_supported_configs_pass():
    for model_type in FAMILIES:
        check_config(CONFIG_MAPPING[model_type](), model_type)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "gemma3_text", "opt"])
def test_a_saved_model_loads_with_the_same_digest(variant, tmp_path):
    tiny_hf(variant).save_pretrained(tmp_path)
    tiny_tokenizer(True).save_pretrained(tmp_path)
    lm, expected = load(str(tmp_path)), tiny_model(variant, bos=True)
    assert lm.digest() == expected.digest()
    assert (lm.family.name, lm.dtype, lm.name) == (expected.family.name, torch.float32, str(tmp_path))
    text = "The Eiffel Tower"
    assert lm.tokenizer(text)["input_ids"] == expected.tokenizer(text)["input_ids"]
    ids = torch.tensor([[0, 5, 9, 300]])
    with torch.no_grad():
        assert torch.equal(lm.hf(ids).logits, expected.hf(ids).logits)


def test_the_dtype_is_taken_by_name_or_object_and_changes_the_digest(saved):
    by_name, by_object = load(saved, dtype="bfloat16"), load(saved, dtype=torch.bfloat16)
    assert by_name.dtype == by_object.dtype == torch.bfloat16
    assert by_name.digest() == by_object.digest() != load(saved).digest()


def test_the_digest_follows_every_weight():
    lm = wrap(tiny_hf("llama"), tiny_tokenizer(), name="x")
    digests = {lm.digest()}
    for parameter in lm.hf.parameters():
        with torch.no_grad():
            parameter.view(-1)[0] += 1
        digests.add(lm.digest())
    assert len(digests) == 1 + len(list(lm.hf.parameters()))


def test_a_fresh_digest_sees_a_write_that_torch_does_not_count():
    lm = wrap(tiny_hf("llama"), tiny_tokenizer(), name="x")
    before, weight = lm.digest(), lm.down(1).weight
    weight.data[[3, 5]] = weight.data[[5, 3]]
    assert lm.digest(fresh=True) != before
    assert lm.digest() == lm.digest(fresh=True)
    weight.data[[3, 5]] = weight.data[[5, 3]]
    assert lm.digest(fresh=True) == before


@pytest.mark.parametrize("dtype", ["float33", "int8", torch.int64, "Tensor", "", "bool"])
def test_a_bad_dtype_is_an_error(saved, dtype):
    with pytest.raises(ModelError, match="float32, bfloat16 or float16"):
        load(saved, dtype=dtype)


@pytest.mark.parametrize(
    "device", ["gpu", "cuda:99", "cpu:x", "", "cuda" if not torch.cuda.is_available() else "cuda:98"]
)
def test_a_bad_device_is_an_error(saved, device):
    with pytest.raises(ModelError, match=r"not usable here.*'cpu'"):
        load(saved, device=device)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./nowhere", "No model folder"),
        ("/nowhere/at/all", "No model folder"),
        ("~/nowhere-at-all", "No model folder"),
        ("a/b/c", "No model folder"),
        ("", "No model folder"),
        ("smollm3-typo", "No model 'smollm3-typo'.*smollm2"),
        ("nobody/no-such-model", "No model .*hub.*cannot be reached"),
    ],
)
def test_a_name_that_leads_nowhere_is_an_error(name, words):
    with pytest.raises(ModelNotFoundError, match=words):
        load(name)


def test_a_file_is_not_a_model(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match="No model folder"):
        load(file)


def test_a_folder_without_config_is_an_error(saved):
    (saved / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"without config\.json"):
        load(saved)


def test_pickled_weights_are_never_read(saved):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="never unpickles"):
        load(saved)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'{"hidden_size": 32}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0not json at all!"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"not json"),
    ],
)
def test_a_damaged_folder_is_an_error(saved, file, content):
    (saved / file).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_an_error(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="Cannot load the model"):
        load(saved)


def test_a_revision_of_a_folder_is_an_error(saved):
    with pytest.raises(ModelError, match="Leave it out"):
        load(saved, revision="main")


def test_code_in_a_model_s_folder_is_not_run(saved):
    config = AutoConfig.from_pretrained(saved).to_dict()
    config |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"}
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "evil.py").write_text(f"open({str(saved / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(ModelError):
        load(saved)
    assert not (saved / "ran").exists()


class Halving(LlamaForCausalLM):
    """A user's own model: its head says half as much."""

    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        found.logits = found.logits / 2
        return found


def test_a_class_of_the_user_s_own_is_named_and_no_row_of_ours_is_blamed():
    hf = tiny_hf("llama")
    halving = Halving(hf.config)
    halving.load_state_dict(hf.state_dict())
    with pytest.raises(
        UnsupportedModelError, match="forward computes something else than the family 'llama'"
    ) as caught:
        wrap(halving, tiny_tokenizer(), name="mine")
    message = str(caught.value)
    assert message.startswith(f"mine is a {__name__}.Halving, a class of its own")
    assert "load the weights as a LlamaForCausalLM" in message
    assert "families/rows.py" not in message


def test_a_row_of_ours_is_blamed_where_the_class_is_transformers_own():
    lm = tiny_model("granite")
    with pytest.raises(
        UnsupportedModelError, match=r"family row 'granite'.*Correct the row in models/families/rows\.py"
    ):
        verify(LanguageModel(lm.hf, lm.tokenizer, replace(lm.family, logit_divisor_attr=None), "mine"))


@pytest.mark.parametrize(("variant", "name"), [("llama", "LlamaForCausalLM"), ("gpt_neo", "GPTNeoForCausalLM")])
def test_printed_a_model_is_one_line(variant, name):
    lm = tiny_model(variant)
    assert repr(lm) == f"LanguageModel tiny-{variant}: {name}, 4 layers of width 32, float32 on cpu"
    patched = replace(lm, patches=["one patch"])
    assert repr(patched) == f"{lm!r}, with 1 patch on it"
