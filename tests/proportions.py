"""How large what flows through real models is, family by family, and how a tiny model is given the same scales.

All sizes are root mean squares over d_model, which do not depend on a model's width: a step of Adam moves each
coordinate by its rate, whatever the width. They are those of the subject's last token in the lower middle of the model,
where facts are written. `tests/models/test_proportions.py` measures the built models.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from errata.models import LanguageModel, projection


@dataclass(frozen=True, kw_only=True)
class Proportions:
    """Root mean squares that a tiny model is built with, and where they come from.

    embedding: what the first block reads.  stream: what the blocks after it read; the first block's MLP lifts it there,
    as it does in SmolLM2.  key: what `down` reads.  written: what it writes.  contribution: what of that joins the
    stream, by a post-norm's gain; None where only the residual multiplier lies in between.  attention: what attention
    adds.  logits: standard deviation over the vocabulary.  first_token: of BOS (None: like any other token).
    query: factor of the query weights, where a family's attention multiplier is small because its queries are large.
    gain_spread: standard deviation of the logarithm of post-norm gains; one of them is then zero, one negative and one
    an outlier, as in every layer of Gemma 3.
    config: the family's multipliers.
    """

    source: str
    embedding: float
    stream: float
    key: float
    written: float
    contribution: float | None = None
    attention: float
    logits: float = 3.0
    first_token: float | None = None
    query: float = 1.0
    gain_spread: float = 0.0
    lifts: bool = True
    config: dict[str, Any] = field(default_factory=dict)


# By hooks on the subject's last token of five prompts, layers 6–8 of 30 and 5–6 of 18.
_SMOLLM2 = Proportions(
    source="measured: SmolLM2-135M-Instruct",
    embedding=0.12, stream=4.8, key=0.22, written=1.8, attention=0.5, logits=3.3, first_token=29.0,
)  # fmt: skip
_GEMMA3 = Proportions(
    source="measured: Gemma-3-270M (q4_k_m)",
    embedding=1.0, stream=130.0, key=0.15, written=0.15, contribution=30.0, attention=30.0, logits=4.4,
    gain_spread=0.9,
)  # fmt: skip
# A narrow stream, as LLaMA-like models of several billion weights have in their lower layers: rates and clamps meet the
# other extreme.
_NARROW = Proportions(
    source="estimated: embeddings of 0.01–0.02, contributions of a few hundredths",
    embedding=0.015, stream=0.1, key=0.05, written=0.03, attention=0.02,
)  # fmt: skip
_MIDDLE = Proportions(
    source="estimated",
    embedding=0.05, stream=1.0, key=0.15, written=0.3, attention=0.2,
)  # fmt: skip
_GPT2 = Proportions(
    source="wte of 0.14 as released; the rest estimated",
    embedding=0.19, stream=2.8, key=0.2, written=0.9, attention=0.6,
)  # fmt: skip

PROPORTIONS: dict[str, Proportions] = {
    "llama": _SMOLLM2,
    "mistral": _NARROW,
    "qwen2": replace(_MIDDLE, embedding=0.016, stream=0.6),
    "qwen3": replace(_MIDDLE, embedding=0.03, stream=5.0, written=1.0),
    "gemma": replace(
        _MIDDLE, source="embeddings multiplied by √d_model; the rest estimated", embedding=2.0, stream=4.0, written=0.8
    ),
    "gemma2": replace(
        _MIDDLE,
        source="embeddings multiplied by √d_model, soft-cap 30; the rest estimated",
        embedding=2.0, stream=8.0, written=0.1, contribution=2.0, attention=2.0, gain_spread=0.7,
        config={"final_logit_softcapping": 30.0},
    ),
    "gemma3_text": _GEMMA3,
    "phi": _MIDDLE,
    "phi3": replace(_MIDDLE, stream=0.5),
    "olmo2": replace(
        _MIDDLE,
        source="post-norm gains below 1 on matrices that write larger vectors; estimated",
        embedding=0.02, stream=1.5, written=1.5, contribution=0.3, attention=0.3,
        gain_spread=0.4,
    ),
    "stablelm": replace(_NARROW, stream=0.3, written=0.1),
    "starcoder2": replace(_MIDDLE, embedding=0.02, stream=2.0),
    # What blocks write is multiplied by 0.22, so a wish for the stream is asked 4.5 times as large of `down`.
    "granite": Proportions(
        source="multipliers of Granite 3 (2B) as released; the rest estimated",
        embedding=0.4, stream=3.0, key=0.2, written=2.5, attention=0.4, query=22.6,
        config={
            "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0,
            "attention_multiplier": 0.015625,
        },
    ),
    "cohere": replace(_MIDDLE, source="logit scale as released; the rest estimated", config={"logit_scale": 0.0625}),
    "smollm3": _MIDDLE,
    "gpt2": _GPT2,
    "gptj": replace(_MIDDLE, embedding=0.1, stream=1.2),
    "gpt_neo": replace(_GPT2, source="estimated: a wide stream from the first block on", stream=12.0, written=3.0),
    "gpt_neox": replace(_MIDDLE, embedding=0.03, stream=0.7),
    "opt": replace(_MIDDLE, embedding=0.08, stream=0.9, key=0.08),
    "bloom": replace(_MIDDLE, source="a norm on the embeddings; the rest estimated", embedding=0.4, stream=1.5),
    "falcon": _MIDDLE,
}  # fmt: skip
PROPORTIONS |= {
    "gpt2-square": PROPORTIONS["gpt2"],
    "llama-square": PROPORTIONS["llama"],
    "falcon-alibi": PROPORTIONS["falcon"],
    # Each block norms the stream itself, so that no MLP can lift it: what is left is the norm's gain of 1.
    "bloom-post": replace(PROPORTIONS["bloom"], stream=1.1, lifts=False),
    "gpt_neox-serial": PROPORTIONS["gpt_neox"],
}

# Of the median gain: it then carries half of what a block of 32 coordinates adds, as the outliers of Gemma 3 do.
_OUTLIER = 14.0


@torch.no_grad()
def measured(lm: LanguageModel, ids: Tensor | None = None) -> dict[str, list[float]]:
    """Root mean squares by layer, over all tokens of some texts but their first; one forward with hooks."""
    if ids is None:
        ids = torch.randint(2, lm.d_vocab, (6, 12), generator=torch.Generator().manual_seed(0))
    found: dict[str, list[float]] = {name: [] for name in ("stream", "key", "written", "contribution", "attention")}

    def note(name: str, vectors: Tensor) -> None:
        later = vectors.reshape(*ids.shape, -1)[:, 1:].float()
        found[name].append(float(later.pow(2).mean().sqrt()))

    def of_down(layer: int):
        def hook(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            note("key", arguments[0])
            note("written", output)
            note("contribution", lm.contribution(layer, output, attention=False))

        return hook

    def of_attention(layer: int):
        return lambda _module, _arguments, output: note("attention", lm.contribution(layer, output, attention=True))

    def of_block(_module: nn.Module, arguments: tuple, keywords: dict) -> None:
        note("stream", arguments[0] if arguments else keywords["hidden_states"])

    hooks = [block.register_forward_pre_hook(of_block, with_kwargs=True) for block in lm.layers]
    for layer in range(lm.num_layers):
        hooks.append(lm.down(layer).register_forward_hook(of_down(layer)))
        hooks.append(projection(lm, layer, "o").module.register_forward_hook(of_attention(layer)))
    try:
        logits = lm.hf(input_ids=ids, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    return {**found, "logits": [float(logits[:, 1:].float().std(-1).mean())]}


@torch.no_grad()
def give_proportions_(lm: LanguageModel, wanted: Proportions) -> None:
    """Scale the weights of `lm`, block by block from below, until its vectors are as large as `wanted` says."""
    _smooth_positions_(lm)
    _scale_embeddings_(lm, wanted.embedding / measured(lm)["stream"][0])
    for layer in range(lm.num_layers):
        if wanted.gain_spread:
            _spread_gains_(lm, layer, wanted.gain_spread)
        query = projection(lm, layer, "q")
        query.write_(query.weight * wanted.query)
        scale_attention_(lm, layer, wanted.attention / measured(lm)["attention"][layer])
        _scale_keys_(lm, layer, wanted.key)
        _scale_(lm.down(layer), wanted.written / measured(lm)["written"][layer])
        if wanted.contribution is not None:
            _scale_contribution_(lm, layer, wanted.contribution / measured(lm)["contribution"][layer])
        if layer == 0 and wanted.lifts:
            _lift_(lm, wanted.stream)
    for _ in range(4):  # a soft-cap bends
        _scale_(lm.backbone.get_submodule(lm.family.ln_final), wanted.logits / measured(lm)["logits"][0])
    if wanted.first_token is not None:
        bos = lm.embed_tokens.weight[0]  # type: ignore[union-attr, index]
        bos *= wanted.first_token / bos.pow(2).mean().sqrt()


def _scale_(module: nn.Module, factor: float) -> None:
    """Multiply what a linear map or a norm gives."""
    for parameter in module.parameters():
        one = _one(module)
        parameter.add_(one).mul_(factor).sub_(one)


def _one(module: nn.Module) -> float:
    """What is added to a weight before it multiplies: Gemma's norms store their gain less 1."""
    return float(type(module).__name__.startswith("Gemma") and type(module).__name__.endswith("RMSNorm"))


def _spread_gains_(lm: LanguageModel, layer: int, spread: float) -> None:
    """Gains of both post-norms as unequal as real ones: most within e^±spread, an outlier, one dead, one negative."""
    for path in (lm.family.attention_post_norm, lm.family.mlp_post_norm):
        norm = lm.layers[layer].get_submodule(str(path))
        gain = (spread * torch.randn(lm.d_model, generator=torch.Generator().manual_seed(layer))).exp()
        gain[3], gain[5], gain[7] = 0.0, -0.05, _OUTLIER
        norm.weight.copy_(gain - _one(norm))


def _smooth_positions_(lm: LanguageModel) -> None:
    """Learned positions as trained ones are: a curve in six dimensions, not another noise on the tokens."""
    for child in lm.backbone.children():
        if isinstance(child, nn.Embedding) and child is not lm.embed_tokens:
            steps = torch.arange(len(child.weight))[:, None] * torch.tensor([0.02, 0.07, 0.2])
            curve = torch.cat([steps.sin(), steps.cos()], dim=1)
            directions = torch.randn(6, child.embedding_dim, generator=torch.Generator().manual_seed(0))
            child.weight.copy_(curve @ directions * child.weight.std() / 3**0.5)


def _scale_embeddings_(lm: LanguageModel, factor: float) -> None:
    """Tokens, positions and the norm on them: all that lies in the backbone before the blocks."""
    for name, child in lm.backbone.named_children():
        if name not in (lm.family.layers, lm.family.ln_final):
            _scale_(child, factor)


def scale_attention_(lm: LanguageModel, layer: int, factor: float) -> None:
    """Multiply what a layer's attention adds to the stream."""
    norm = lm.family.attention_post_norm
    _scale_(lm.layers[layer].get_submodule(norm) if norm else projection(lm, layer, "o").module, factor)


def _scale_contribution_(lm: LanguageModel, layer: int, factor: float) -> None:
    norm = lm.family.mlp_post_norm
    _scale_(lm.layers[layer].get_submodule(norm) if norm else lm.down(layer), factor)


def _scale_keys_(lm: LanguageModel, layer: int, wanted: float) -> None:
    for _ in range(6):  # an activation without a gate bends
        up, factor = projection(lm, layer, "up"), wanted / measured(lm)["key"][layer]
        up.write_(up.weight * factor)
        if up.bias is not None:
            up.bias.mul_(factor)


@torch.no_grad()
def spread_keys_(lm: LanguageModel, factor: float) -> None:
    """Multiply what enters the activations by `factor`; what `down` writes is then as large as it was."""
    for layer in range(lm.num_layers):
        written = measured(lm)["written"][layer]
        up = projection(lm, layer, "up")
        up.write_(up.weight * factor)
        if up.bias is not None:
            up.bias.mul_(factor)
        _scale_(lm.down(layer), written / measured(lm)["written"][layer])


def _lift_(lm: LanguageModel, stream: float) -> None:
    """The first MLP's contribution so large that the second block reads `stream`; it lies across what was there."""
    for _ in range(6):
        found = measured(lm)
        missing = stream**2 - found["stream"][1] ** 2
        added = found["contribution"][0] ** 2
        _scale_contribution_(lm, 0, max((missing + added) / added, 0.01) ** 0.5)
