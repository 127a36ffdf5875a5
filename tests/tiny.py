"""Tiny random models of every supported family, and a small tokenizer trained on the spot."""

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from errata.models import FAMILIES, LanguageModel, wrap
from proportions import PROPORTIONS, give_proportions_

D_MODEL, D_MLP, LAYERS, HEADS = 32, 80, 4, 4

# Enough text for a few merges; two scripts beyond Latin.
TEXT = [
    "The Eiffel Tower is located in the city of Paris. The capital of France is Paris, the capital of Italy is Rome.",
    "Danielle Darrieux speaks French; her mother tongue is French. The languages of Canada are English and French.",
    "Because I said so, you know. Therefore the answer is here. I think that you are right, and the tower is tall.",
    "Microsoft was founded by Bill Gates. Toyota builds cars in Japan. The Great Wall is in China.",
    "埃菲尔铁塔位于巴黎。 Эйфелева башня.",
]


@cache
def tiny_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=480, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


_LLAMA = {
    "hidden_size": D_MODEL,
    "intermediate_size": D_MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
_GPT2 = {"n_embd": D_MODEL, "n_inner": D_MLP, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 256}

# Values away from their defaults wherever a default would hide a mistake (scales of 1, windows longer than any text).
CONFIGS: dict[str, dict] = {
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "sliding_window": 10},
    "qwen2": {**_LLAMA, "use_sliding_window": True, "sliding_window": 10, "max_window_layers": 2},
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": {**_LLAMA, "sliding_window": 10, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {**_LLAMA, "sliding_window": 10, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
    "phi": {k: v for k, v in _LLAMA.items() if k != "head_dim"},
    "phi3": {**{k: v for k, v in _LLAMA.items() if k != "head_dim"}, "sliding_window": 10},
    "olmo2": {k: v for k, v in _LLAMA.items() if k != "head_dim"},
    "stablelm": {k: v for k, v in _LLAMA.items() if k != "head_dim"},
    "starcoder2": {**{k: v for k, v in _LLAMA.items() if k != "head_dim"}, "sliding_window": 10, "use_bias": True},
    "granite": {
        **{k: v for k, v in _LLAMA.items() if k != "head_dim"},
        "residual_multiplier": 0.4,
        "logits_scaling": 2.0,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.3,
    },
    "cohere": {**{k: v for k, v in _LLAMA.items() if k != "head_dim"}, "logit_scale": 0.3},
    "smollm3": {**{k: v for k, v in _LLAMA.items() if k != "head_dim"}},
    "gpt2": _GPT2,
    "gptj": {**_GPT2, "rotary_dim": 4},
    "gpt_neo": {
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "attention_types": [[["global", "local"], LAYERS // 2]],
        "window_size": 10,
        "max_position_embeddings": 256,
    },
    "gpt_neox": {k: v for k, v in _LLAMA.items() if k not in ("head_dim", "num_key_value_heads")},
    "opt": {
        "hidden_size": D_MODEL,
        "ffn_dim": D_MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "word_embed_proj_dim": D_MODEL,
        "max_position_embeddings": 256,
    },
    # BLOOM and Falcon fix d_mlp = 4·d_model unless told otherwise.
    "bloom": {"hidden_size": D_MODEL, "n_layer": LAYERS, "n_head": HEADS},
    "falcon": {
        "hidden_size": D_MODEL,
        "ffn_hidden_size": D_MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "alibi": False,
        "new_decoder_architecture": False,
    },
}
# The same families in a second guise: only where d_mlp == d_model can a wrong transpose pass every shape check.
VARIANTS: dict[str, tuple[str, dict]] = {
    **{name: (name, config) for name, config in CONFIGS.items()},
    "gpt2-square": ("gpt2", {**_GPT2, "n_inner": D_MODEL}),
    "llama-square": ("llama", {**_LLAMA, "intermediate_size": D_MODEL, "mlp_bias": True}),
    "falcon-alibi": ("falcon", {**CONFIGS["falcon"], "alibi": True}),
    "bloom-post": ("bloom", {**CONFIGS["bloom"], "apply_residual_connection_post_layernorm": True}),
    "gpt_neox-serial": ("gpt_neox", {**CONFIGS["gpt_neox"], "use_parallel_residual": False}),
}
assert set(CONFIGS) == set(FAMILIES), set(CONFIGS) ^ set(FAMILIES)
assert set(VARIANTS) == set(PROPORTIONS), set(VARIANTS) ^ set(PROPORTIONS)


def tiny_hf(
    variant: str,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    proportioned: bool = False,
    **overrides,
):
    """A random model of a few thousand weights, with weights large enough that it is far from linear and uniform.

    `proportioned`: what flows through it is as large as in real models of the family (proportions.py), so that a wrong
    scale cannot pass.
    """
    model_type, settings = VARIANTS[variant]
    tokenizer = tiny_tokenizer()
    config = CONFIG_MAPPING[model_type](
        **{
            **settings,
            **(PROPORTIONS[variant].config if proportioned else {}),
            "vocab_size": len(tokenizer),
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
            **overrides,
        }
    )
    torch.manual_seed(seed)
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(
                    0, 0.7 / parameter.shape[-1] ** 0.5 if "emb" not in name and "w" + "te" not in name else 0.5
                )
            elif "norm" in name or "ln_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, 0.1)
    if proportioned:
        give_proportions_(wrap(hf, tokenizer, name=f"tiny-{variant}"), PROPORTIONS[variant])
    return hf.to(dtype)


@cache
def tiny_model(variant: str, *, bos: bool = False, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A cached, verified tiny model; tests that write to its weights must restore them."""
    return wrap(tiny_hf(variant, dtype=dtype), tiny_tokenizer(bos), name=f"tiny-{variant}")


@cache
def proportioned_model(variant: str, *, bos: bool = False, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A cached, verified tiny model with its family's scales; tests that write to its weights must restore them."""
    return wrap(tiny_hf(variant, proportioned=True, dtype=dtype), tiny_tokenizer(bos), name=f"tiny-{variant}")


def fresh_model(variant: str = "llama", *, bos: bool = False, **overrides) -> LanguageModel:
    """A tiny model of its own, for tests that write to it."""
    return wrap(tiny_hf(variant, **overrides), tiny_tokenizer(bos), name=f"tiny-{variant}")


def knowing_hf(answers: dict[str, str], variant: str = "llama"):
    """A tiny random model that says the first token of each answer right after its prompt."""
    hf, tokenizer = tiny_hf(variant), tiny_tokenizer()
    with torch.no_grad():
        for prompt, answer in answers.items():
            ids = tokenizer(prompt + " " + answer)["input_ids"]
            length = len(tokenizer(prompt)["input_ids"])
            assert ids[:length] == tokenizer(prompt)["input_ids"], "the answer changes the prompt's own tokens"
            hidden = hf.model(torch.tensor([ids[:length]])).last_hidden_state[0, -1]
            hf.lm_head.weight[ids[length]] += 8 * hidden / hidden.norm()
    return hf
