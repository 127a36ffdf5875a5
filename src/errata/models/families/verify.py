"""Check on the loaded model that its family row is true: paths, orientation, tapping, partial runs, head.

A few forwards of five tokens: cheap beside loading, and it turns a wrong row, an unusual
checkpoint or an incompatible transformers release into an error at load.
"""

from functools import partial

import torch
from torch import Tensor, nn

from errata.errors import UnsupportedModelError
from errata.models.families.handover import packed_message
from errata.models.language_model import LanguageModel
from errata.models.run.hooks import After, block_output, hooked
from errata.models.run.partial import run_layers
from errata.models.run.undisturbed import undisturbed
from errata.models.weights.projections import Projection, matrices, projection

_RELATIVE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 6e-2, torch.float16: 2e-2}


@torch.no_grad()
def verify(lm: LanguageModel) -> None:
    """Raise UnsupportedModelError unless `lm` behaves as its row says. Sets `lm.block_returns_tuple`."""
    _check_modules(lm)
    ids = torch.arange(5, device=lm.embed_device)[None] % lm.d_vocab
    mask = torch.ones_like(ids)
    layer = lm.num_layers // 2
    record: dict[str, Tensor] = {}
    full = _full_forward(lm, ids, mask, layer, record)

    tail = run_layers(lm, record["layer_in"], mask, first=layer, tap_down=[layer])
    assert tail.hidden is not None
    _expect_close(lm, "running from a layer on", lm.logits(tail.hidden), full)
    _expect_close(lm, "tapping the down projection", tail.down_inputs[layer], record["down_in"])
    head = run_layers(lm, ids, mask, stop=layer + 1, record=True)
    assert head.hidden is not None
    _expect_close(lm, "running up to a layer", head.hidden, record["layer_out"])
    _check_what_down_adds_to(lm, layer, record)
    top = run_layers(lm, ids, mask, stop=lm.num_layers).hidden
    assert top is not None
    normed = run_layers(lm, top, mask, first=lm.num_layers).hidden
    assert normed is not None
    _expect_close(lm, "running the final norm", lm.logits(normed), full)
    first = run_layers(lm, ids[:, :3], mask[:, :3], record=True).key_values
    rest = run_layers(lm, ids[:, 3:], mask[:, 3:], prefix=first)
    assert rest.hidden is not None
    _expect_close(lm, "running from a position on", lm.logits(rest.hidden), full[:, 3:])

    # Not by a constant: LayerNorm takes that off again.
    move = torch.linspace(-1, 1, lm.d_model, device=record["layer_in"].device).to(record["layer_in"])
    moved = run_layers(lm, record["layer_in"] + move, mask, first=layer).hidden
    assert moved is not None
    if torch.allclose(lm.logits(moved).float(), full.float(), rtol=1e-6):
        raise _unsupported(lm, "replacing a block's input", "it changes nothing")


def _full_forward(lm: LanguageModel, ids: Tensor, mask: Tensor, layer: int, record: dict[str, Tensor]) -> Tensor:
    """Logits of a plain forward; each map of the layer is computed by hand beside it, its vectors go to `record`."""

    def keep_down(entering: Tensor, output: Tensor) -> None:
        # Cloned: Falcon adds the attention's output to it in place.
        record["down_in"], record["down_out"] = entering.clone(), output.clone()

    def keep_block(entering: Tensor, output: Tensor | tuple) -> None:
        record["layer_in"], record["layer_out"] = entering.clone(), block_output(output).clone()
        lm.block_returns_tuple = isinstance(output, tuple)

    maps = [projection(lm, layer, matrix) for matrix in matrices(lm.family)]
    hooks = [
        *(After(one.module, partial(_check_map, lm, one)) for one in maps),
        After(lm.down(layer), keep_down),
        After(lm.layers[layer], keep_block),
    ]
    with hooked(hooks), undisturbed(lm):
        return lm.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits


def _check_map(lm: LanguageModel, one: Projection, entering: Tensor, output: Tensor) -> None:
    what = f"its {one.place.matrix} projection"
    try:
        product = entering @ one.weight
        by_hand = product if one.bias is None else product + one.bias
    except (RuntimeError, IndexError):
        shape = tuple(one.module.weight.shape)  # type: ignore[union-attr, arg-type]
        raise _unsupported(lm, what, f"{shape} is not the shape that the row's orientation means") from None
    _expect_close(lm, what, by_hand, one.part(output))


def _check_what_down_adds_to(lm: LanguageModel, layer: int, record: dict[str, Tensor]) -> None:
    """What the down projection writes must reach the block's output times `residual_scale`, or through a post-norm."""
    what, down_out, layer_out = "what its down projection writes", record["down_out"], record["layer_out"]
    if down_out.numel() != layer_out.numel():
        raise _unsupported(lm, what, f"{down_out.shape[-1]} numbers a token, where a block gives {layer_out.shape[-1]}")
    # As large as the stream itself, or half precision would round the difference away.
    move = torch.linspace(-1, 1, down_out.numel()).reshape(down_out.shape).to(down_out)
    move *= float(layer_out.float().norm() / move.float().norm())
    ones = torch.ones(layer_out.shape[:2], dtype=torch.long, device=layer_out.device)
    with hooked([After(lm.down(layer), lambda _entering, output: output + move)]):
        moved = run_layers(lm, record["layer_in"], ones, first=layer, stop=layer + 1).hidden
    assert moved is not None
    off = _difference(moved - layer_out, (lm.residual_scale * move).reshape(layer_out.shape))
    is_direct = off <= _RELATIVE_TOLERANCE.get(lm.dtype, 6e-2)
    if is_direct and lm.family.post_norm:
        raise _unsupported(lm, what, "it joins the residual stream directly, with no norm in between")
    if not is_direct and not lm.family.post_norm:
        raise _unsupported(lm, what, f"a relative {off:.1e} off what residual_scale={lm.residual_scale:g} predicts")


def _check_modules(lm: LanguageModel) -> None:
    _part(lm, lm.hf, lm.family.backbone)
    if not isinstance(_part(lm, lm.backbone, lm.family.layers), nn.ModuleList):
        raise _unsupported(lm, f"its part {lm.family.layers!r}", "it is not a list of blocks")
    _part(lm, lm.backbone, lm.family.ln_final)
    if _part(lm, lm.backbone, lm.family.embed_tokens) is not lm.hf.get_input_embeddings():
        raise _unsupported(lm, f"its part {lm.family.embed_tokens!r}", "it is not the token embedding")
    row = lm.family
    maps = [row.qkv, row.o] if row.qkv else [row.q, row.k, row.v, row.o]
    inner = [row.attention, row.down, row.gate, row.up, row.gate_up, row.attention_post_norm, row.mlp_post_norm]
    for path in filter(None, inner):
        _part(lm, lm.layers[0], path)
    for path in maps:
        _part(lm, lm.layers[0], f"{row.attention}.{path}")
    paths = [row.down, *filter(None, (row.gate, row.up, row.gate_up)), *(f"{row.attention}.{path}" for path in maps)]
    for layer in range(lm.num_layers):
        for path in paths:
            _check_weight(lm, layer, path)
    for path, width in ((lm.family.up, lm.d_mlp), (lm.family.gate, lm.d_mlp), (lm.family.gate_up, 2 * lm.d_mlp)):
        if path and width not in tuple(getattr(_part(lm, lm.layers[0], path), "weight", torch.empty(0)).shape):
            raise _unsupported(lm, f"its part {path!r}", f"it is not {width} wide, as the down projection's input asks")


def _check_weight(lm: LanguageModel, layer: int, path: str) -> None:
    """A map's weight must be there, and as large as layer 0's. That it is a plain one was seen before."""
    module = _part(lm, lm.layers[layer], path)
    weight, first = (getattr(one, "weight", None) for one in (module, _part(lm, lm.layers[0], path)))
    if not isinstance(weight, Tensor) and module.state_dict():
        # What quantized modules hold goes by other names, and not among the parameters.
        raise UnsupportedModelError(packed_message(lm.name, f"layer {layer}'s {path} is a {type(module).__name__}"))
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        found = tuple(weight.shape) if isinstance(weight, Tensor) else "none"
        raise _unsupported(lm, f"layer {layer}'s {path}", f"its weight is {found}")
    if weight.shape != first.shape:  # type: ignore[union-attr]
        raise _unsupported(lm, f"layer {layer}'s {path}", "its shape differs from layer 0's")


def _part(lm: LanguageModel, owner: nn.Module, path: str) -> nn.Module:
    try:
        return owner.get_submodule(path)
    except AttributeError:
        raise _unsupported(lm, f"its part {path!r}", f"{type(owner).__name__} has no such module") from None


def _expect_close(lm: LanguageModel, what: str, found: Tensor, expected: Tensor) -> None:
    difference = _difference(found, expected)
    if not difference <= _RELATIVE_TOLERANCE.get(lm.dtype, 6e-2):
        raise _unsupported(lm, what, f"off by a relative {difference:.1e} from a full forward")


def _difference(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double().reshape(expected.shape), expected.double()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def _unsupported(lm: LanguageModel, what: str, found: str) -> UnsupportedModelError:
    base = next((one for one in type(lm.hf).__mro__ if one.__module__.partition(".")[0] == "transformers"), None)
    if base is not type(lm.hf):
        own = f"{type(lm.hf).__module__}.{type(lm.hf).__qualname__}"
        instead = f" as a {base.__name__}" if base else ""
        return UnsupportedModelError(
            f"{lm.name} is a {own}, a class of its own whose forward computes something else than the family "
            f"{lm.family.model_type!r} ({what}: {found}). errata edits what transformers' own classes compute: load "
            f"the weights{instead}, if that is the model you mean."
        )
    return UnsupportedModelError(
        f"{lm.name} does not match the family row {lm.family.model_type!r} ({what}: {found}). "
        "Correct the row in models/families/rows.py, or check the transformers version."
    )
