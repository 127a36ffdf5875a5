"""Where each model family keeps its parts: one row a family, no branches anywhere else.

A row names modules by dotted paths: `backbone` from the causal language model, `layers`, `embed_tokens` and `ln_final`
from the backbone, the others from one block. Rows are verified on the loaded model (verify.py), so a wrong path or
orientation is an error at load and never a wrong number.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Family:
    """One `config.model_type`: paths to its modules, and what its head does after `lm_head`.

    `in_first` is true where a block's projections store (d_in, d_out), as Conv1D does. `gate_up` names a fused
    gate-and-up projection, whose output is gate then up. `q`, `k`, `v`, `o` and the fused `qkv` are named from the
    attention module; the outputs of `qkv` are all queries, then keys, then values, or where `qkv_grouped` is true a
    group for each key head: its queries, the key, the value. The `*_attr` name config fields: logits are multiplied by
    `logit_scale_attr`, divided by `logit_divisor_attr`, and passed through c·tanh(logits/c) for `logit_softcap_attr`;
    what attention and the MLP write is multiplied by `residual_scale_attr` before it joins the residual stream, and
    passes the norms `attention_post_norm` and `mlp_post_norm` first.
    """

    model_type: str
    example: str
    backbone: str = "model"
    layers: str = "layers"
    embed_tokens: str = "embed_tokens"
    ln_final: str = "norm"
    attention: str = "self_attn"
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    o: str = "o_proj"
    qkv: str | None = None
    qkv_grouped: bool = False
    gate: str | None = None
    up: str | None = None
    gate_up: str | None = None
    down: str
    in_first: bool = False
    attention_post_norm: str | None = None
    mlp_post_norm: str | None = None
    logit_scale_attr: str | None = None
    logit_divisor_attr: str | None = None
    logit_softcap_attr: str | None = None
    residual_scale_attr: str | None = None

    @property
    def post_norm(self) -> bool:
        """Whether what an MLP writes passes a norm before it joins the residual stream."""
        return self.mlp_post_norm is not None

    @property
    def name(self) -> str:
        """The row's name to everything outside models/."""
        return self.model_type


_GATED = Family(
    model_type="llama",
    example="Llama 2/3, SmolLM2, TinyLlama, Yi, DeepSeek-LLM",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
)
_POST_NORMED = replace(
    _GATED, attention_post_norm="post_attention_layernorm", mlp_post_norm="post_feedforward_layernorm"
)
_GPT2 = Family(
    model_type="gpt2",
    example="GPT-2 (all sizes), DistilGPT-2",
    backbone="transformer",
    layers="h",
    embed_tokens="wte",
    ln_final="ln_f",
    attention="attn",
    qkv="c_attn",
    o="c_proj",
    up="mlp.c_fc",
    down="mlp.c_proj",
    in_first=True,
)
_BLOOM = replace(
    _GPT2,
    model_type="bloom",
    example="BLOOM",
    embed_tokens="word_embeddings",
    attention="self_attention",
    qkv="query_key_value",
    qkv_grouped=True,
    o="dense",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    in_first=False,
)

_ROWS = (
    _GATED,
    replace(_GATED, model_type="mistral", example="Mistral 7B, Zephyr"),
    replace(_GATED, model_type="qwen2", example="Qwen2, Qwen2.5"),
    replace(_GATED, model_type="qwen3", example="Qwen3 (dense)"),
    replace(_GATED, model_type="gemma", example="Gemma"),
    replace(
        _POST_NORMED,
        model_type="gemma2",
        example="Gemma 2",
        logit_softcap_attr="final_logit_softcapping",
    ),
    replace(
        _POST_NORMED,
        model_type="gemma3_text",
        example="Gemma 3 (text: 270M, 1B)",
        logit_softcap_attr="final_logit_softcapping",
    ),
    Family(
        model_type="phi",
        example="Phi-1, Phi-1.5, Phi-2",
        ln_final="final_layernorm",
        o="dense",
        up="mlp.fc1",
        down="mlp.fc2",
    ),
    Family(
        model_type="phi3",
        example="Phi-3, Phi-3.5, Phi-4-mini",
        qkv="qkv_proj",
        gate_up="mlp.gate_up_proj",
        down="mlp.down_proj",
    ),
    replace(_POST_NORMED, model_type="olmo2", example="OLMo 2"),
    replace(_GATED, model_type="stablelm", example="StableLM 2, StableLM 3B"),
    Family(model_type="starcoder2", example="StarCoder2", up="mlp.c_fc", down="mlp.c_proj"),
    replace(
        _GATED,
        model_type="granite",
        example="Granite 3 (dense)",
        logit_divisor_attr="logits_scaling",
        residual_scale_attr="residual_multiplier",
    ),
    replace(_GATED, model_type="cohere", example="Command R, Aya", logit_scale_attr="logit_scale"),
    replace(_GATED, model_type="smollm3", example="SmolLM3"),
    _GPT2,
    replace(
        _GPT2,
        model_type="gptj",
        example="GPT-J 6B",
        qkv=None,
        o="out_proj",
        up="mlp.fc_in",
        down="mlp.fc_out",
        in_first=False,
    ),
    replace(
        _GPT2,
        model_type="gpt_neo",
        example="GPT-Neo",
        attention="attn.attention",
        qkv=None,
        o="out_proj",
        in_first=False,
    ),
    Family(
        model_type="gpt_neox",
        example="GPT-NeoX 20B, Pythia",
        backbone="gpt_neox",
        embed_tokens="embed_in",
        ln_final="final_layer_norm",
        attention="attention",
        qkv="query_key_value",
        qkv_grouped=True,
        o="dense",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
    ),
    Family(
        model_type="opt",
        example="OPT (all sizes but 350M)",
        backbone="model.decoder",
        ln_final="final_layer_norm",
        o="out_proj",
        up="fc1",
        down="fc2",
    ),
    _BLOOM,
    replace(_BLOOM, model_type="falcon", example="Falcon 7B, Falcon-RW"),
)

FAMILIES: Mapping[str, Family] = {row.model_type: row for row in _ROWS}
