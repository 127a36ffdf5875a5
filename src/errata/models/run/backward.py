"""One forward and one backward that keep what every wanted matrix read and the loss gradient at what it wrote.

No weight gradient is ever made: parameters stay frozen, the embeddings alone ask for gradients, and the gradients asked
for are those of the tapped activations (VJPs). Memory is n·(d_in + d_out) numbers a matrix.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.errors import NumericsError
from errata.models.language_model import LanguageModel
from errata.models.run.hooks import After, Before, by_row, hooked
from errata.models.run.partial import position_arguments, run_layers
from errata.models.run.undisturbed import undisturbed
from errata.models.weights.projections import Place, Projection, projection

# Powers of two, so that they come off again exactly. Deep VJPs are below what float16 can hold.
_LOSS_SCALE = {torch.float16: 2.0**12, torch.bfloat16: 2.0**12}
_SMALLEST_SCALE = 2.0**-12


@dataclass(frozen=True)
class Backward:
    """What a forward and a backward gave, by matrix and by layer; VJPs in float32 or better.

    states: the residual stream entering each layer run, and last the one leaving the top block (before the final norm).
    inputs, outputs: what each matrix read and wrote.  vjps: ∂(sum of losses)/∂(a matrix's output).
    state_vjps: the same for `states`.  attention, attention_vjps: attention probabilities and ∂loss/∂probabilities.
    """

    losses: Float[Tensor, " batch"]
    hidden: Float[Tensor, "batch pos d_head"]
    inputs: dict[Place, Float[Tensor, "batch pos d_in"]]
    outputs: dict[Place, Float[Tensor, "batch pos d_out"]]
    vjps: dict[Place, Float[Tensor, "batch pos d_out"]]
    states: list[Float[Tensor, "batch pos d_model"]]
    state_vjps: list[Float[Tensor, "batch pos d_model"]]
    attention: dict[int, Float[Tensor, "batch head pos pos"]] = field(default_factory=dict)
    attention_vjps: dict[int, Float[Tensor, "batch head pos pos"]] = field(default_factory=dict)
    loss_scale: float = 1.0


LossOnHidden = Callable[[Float[Tensor, "batch pos d_head"]], Float[Tensor, " batch"]]


def run_backward(
    lm: LanguageModel,
    inputs: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
    mask: Int[Tensor, "batch pos"],
    places: Sequence[Place],
    loss: LossOnHidden,
    *,
    first: int = 0,
    attention: bool = False,
) -> Backward:
    """Run a right-padded batch and the backward of the sum of its losses, tapping `places`.

    `inputs` are token ids, or the hidden states entering layer `first`: then no layer below is run, forward or back.
    `loss` sees the backbone's output (after the final norm) and gives one number in nats for each row; since they are
    summed, no row changes another's VJPs. At pads everything is zero. `attention` also keeps attention maps and their
    gradients (the model's eager attention is used for this one run). Raises NumericsError where a loss or a gradient
    is not finite.
    """
    taps = _GraphTaps(len(mask))
    maps = [projection(lm, *place) for place in places]
    with torch.enable_grad(), _tapped(lm, taps, maps, attention=attention):
        hidden = _last_hidden_state(lm, inputs, mask, first)
        losses = loss(hidden)
        total = losses.sum()
    if not bool(losses.isfinite().all()):
        raise NumericsError(
            f"The loss is not finite ({losses.detach().flatten()[:4].tolist()}): {lm.dtype} is too narrow for "
            f"{lm.name} (load it as float32), its weights are broken, or the loss function is not defined there."
        )
    tensors = [*taps.outputs.values(), *taps.states, *taps.attention.values()]
    taken, scale = gradients(lm, total, tensors)
    real, batch = mask[..., None], len(mask)
    by_module = dict(zip(taps.outputs, taken, strict=False))
    rest = taken[len(taps.outputs) :]
    return Backward(
        losses=losses.detach(),
        hidden=hidden.detach(),
        inputs={one.place: taps.inputs[id(one.module)] * real for one in maps},
        outputs={one.place: by_row(one.part(taps.outputs[id(one.module)].detach()), batch) for one in maps},
        vjps={one.place: one.part(by_row(by_module[id(one.module)], batch)) * real for one in maps},
        states=[state.detach() for state in taps.states],
        state_vjps=[gradient * real for gradient in rest[: len(taps.states)]],
        attention={layer: kept.detach() for layer, kept in taps.attention.items()},
        attention_vjps=dict(zip(taps.attention, rest[len(taps.states) :], strict=True)),
        loss_scale=scale,
    )


def _last_hidden_state(lm: LanguageModel, inputs: Tensor, mask: Tensor, first: int) -> Tensor:
    """The backbone's output, differentiable from the embeddings on, or from the hidden states that are given."""
    if inputs.is_floating_point():
        hidden = run_layers(lm, inputs.detach().requires_grad_(), mask, first=first).hidden
        assert hidden is not None
        return hidden
    assert not first, "token ids enter at layer 0"
    return _whole(lm, inputs, mask).last_hidden_state


def _whole(lm: LanguageModel, ids: Tensor, mask: Tensor) -> Any:
    arguments = position_arguments(lm, mask, ids.shape[1])
    with undisturbed(lm, ids):
        return lm.backbone(input_ids=ids, attention_mask=mask, **arguments, use_cache=False)


@torch.no_grad()
def run_taps(
    lm: LanguageModel, ids: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"], places: Sequence[Place]
) -> tuple[dict[Place, Float[Tensor, "batch pos d_in"]], dict[Place, Float[Tensor, "batch pos d_out"]]]:
    """What goes into and comes out of `places` in a plain forward."""
    taps = _GraphTaps(len(ids))
    maps = [projection(lm, *place) for place in places]
    with _tapped(lm, taps, maps, attention=False):
        _whole(lm, ids, mask)
    inputs = {one.place: taps.inputs[id(one.module)] for one in maps}
    return inputs, {one.place: by_row(one.part(taps.outputs[id(one.module)]), len(ids)) for one in maps}


def widened(tensor: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Half precision as float32; float32 and float64 as they are."""
    return tensor.float() if tensor.element_size() < 4 else tensor


@torch.enable_grad()
def gradients(lm: LanguageModel, total: Float[Tensor, ""], tensors: Sequence[Tensor]) -> tuple[list[Tensor], float]:
    """∂total/∂tensors in float32 or better, and the loss scale they were taken under (off again in what is returned).

    In half precision the scale is lowered until nothing overflows. NumericsError where a gradient is not finite.
    """
    scale = _LOSS_SCALE.get(lm.dtype, 1.0)
    while True:
        taken = torch.autograd.grad(total * scale, tensors, retain_graph=scale != 1.0, allow_unused=True)
        unscaled = [
            widened(torch.zeros_like(tensor) if gradient is None else gradient) / scale
            for tensor, gradient in zip(tensors, taken, strict=True)
        ]
        if all(bool(gradient.isfinite().all()) for gradient in unscaled):
            return unscaled, scale
        if scale == 1.0 or scale <= _SMALLEST_SCALE:
            raise NumericsError(
                f"The gradient of the loss is not finite in {lm.dtype}; load {lm.name} as float32, or its weights are "
                "broken."
            )
        scale /= 2.0**4


@dataclass
class _GraphTaps:
    """Keeps what maps read and wrote and the states between blocks, as parts of the graph."""

    batch: int
    inputs: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    states: list[Tensor] = field(default_factory=list)
    attention: dict[int, Tensor] = field(default_factory=dict)

    def hooks(self, lm: LanguageModel, maps: Sequence[Projection], *, attention: bool) -> list[Before | After]:
        """Those that keep; token embeddings ask for a gradient, so that there is a graph."""
        blocks = [*lm.layers, lm.backbone.get_submodule(lm.family.ln_final)]
        attending = [block.get_submodule(lm.family.attention) for block in lm.layers] if attention else []
        return [
            After(lm.embed_tokens, lambda _ids, output: output.requires_grad_()),
            *(After(module, partial(self._keep_map, id(module))) for module in dict.fromkeys(m.module for m in maps)),
            *(Before(block, self.states.append) for block in blocks),
            *(After(module, partial(self._keep_attention, i)) for i, module in enumerate(attending)),
        ]

    def _keep_map(self, module: int, entering: Tensor, output: Tensor) -> Tensor:
        self.inputs[module] = by_row(entering.detach(), self.batch)
        self.outputs[module] = output
        # A copy goes on: Falcon adds attention's output to this one in place, and what was kept must not move.
        return output.clone()

    def _keep_attention(self, layer: int, _entering: Any, output: tuple[Any, ...]) -> None:
        self.attention[layer] = next(part for part in output[1:] if isinstance(part, Tensor) and part.ndim == 4)


@contextmanager
def _tapped(lm: LanguageModel, taps: _GraphTaps, maps: Sequence[Projection], *, attention: bool) -> Iterator[None]:
    """The taps set, and where attention maps are wanted the implementation of attention that gives them."""
    implementation = str(lm.hf.config._attn_implementation)
    try:
        if attention:
            lm.hf.set_attn_implementation("eager")
        with hooked(taps.hooks(lm, maps, attention=attention)):
            yield
    finally:
        if attention:
            lm.hf.set_attn_implementation(implementation)
