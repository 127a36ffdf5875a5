"""Which MLP neurons an answer comes from: integrated gradients of its probability (Dai et al. 2022, section 3.2).

With a the activations of one layer's MLP (what its down projection reads) at the prompt's last token and p(x) the
answer's probability when x stands in their place,

    attribution = a/m ⊙ Σ_{i=0}^{m−1} ∂p/∂x (i/m · a),    which sums to about p(a) − p(0).

The sum starts at 0 and stops short of a, as in the published code (the paper's formula runs from 1 to m). Where a
norm follows the MLP (Gemma 2 and 3, OLMo 2) it undoes the scale i/m, and nearly all of the change lies close to 0.

Nothing but that one token changes: it alone is run, from the layer on, against the keys and values of the tokens before
it; all points of the sum and several prompts at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from errata.core.log_losses import nll_and_gradient
from errata.errors import NumericsError
from errata.models import KeyValues, LanguageModel, Place, inputs_replaced, left_aligned, pad_right, run_layers


@dataclass(frozen=True)
class Question:
    """A prompt as token ids, and the token whose probability after it is attributed."""

    ids: tuple[int, ...]
    answer: int


@dataclass(frozen=True)
class Attributions:
    """scores: each neuron's part in the probability of a question's answer.  activations: what it is there."""

    scores: Float64[Tensor, "question layer d_mlp"]
    activations: Float[Tensor, "question layer d_mlp"]


@dataclass(frozen=True)
class _LastTokens:
    """What is known of each prompt's last token: its state entering each layer, its activations, what precedes it."""

    entering: dict[int, Float[Tensor, "prompt 1 d_model"]]
    activations: dict[int, Float[Tensor, "prompt d_mlp"]]
    before: KeyValues


def attributions(
    lm: LanguageModel,
    questions: Sequence[Question],
    layers: Sequence[int],
    *,
    steps: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Attributions:
    """Every neuron's part in the probability of each question's answer, for all `layers`, `steps` points each.

    All questions run together: give few, of close lengths (memory: questions × steps × longest prompt, as keys and
    values). Raises NumericsError where a score is not finite.
    """
    last = _last_tokens(lm, questions, layers)
    answers = torch.tensor([question.answer for question in questions], device=lm.head_device)
    rows = torch.arange(len(questions), device=lm.embed_device).repeat_interleave(steps)
    before, asked = last.before.rows(rows), answers[rows.to(answers.device)]
    scores = []
    for layer in layers:
        activation = last.activations[layer]
        points = _points(activation, steps)
        entering = last.entering[layer][rows.to(activation.device)]
        gradients = _probability_gradients(lm, layer, points, entering, before, asked)
        score = activation.double() / steps * gradients.unflatten(0, (-1, steps)).sum(1)
        scores.append(score.to(answers.device))
        advance(len(questions))
    activations = torch.stack([last.activations[layer].to(answers.device) for layer in layers], dim=1)
    attributed = Attributions(torch.stack(scores, dim=1), activations)
    if not bool(attributed.scores.isfinite().all()):
        raise NumericsError(
            f"Attributions are not finite in {lm.dtype}; load {lm.name} as float32, or its weights are broken."
        )
    return attributed


def _points(activation: Float[Tensor, "prompt d_mlp"], steps: int) -> Float[Tensor, "point d_mlp"]:
    """i/m · a for i = 0 … m − 1, prompt after prompt."""
    shares = torch.arange(steps, device=activation.device, dtype=torch.float64) / steps
    return (shares[None, :, None] * activation[:, None].double()).to(activation.dtype).flatten(0, 1)


def _probability_gradients(
    lm: LanguageModel,
    layer: int,
    points: Float[Tensor, "point d_mlp"],
    entering: Float[Tensor, "point 1 d_model"],
    before: KeyValues,
    answers: Int[Tensor, " point"],
) -> Float64[Tensor, "point d_mlp"]:
    """∂p/∂x at each point, as p · ∂log p/∂x: a small p would underflow on its way down in half precision."""
    ones = torch.ones(len(points), 1, dtype=torch.long, device=points.device)
    points = points.requires_grad_()
    with torch.enable_grad(), inputs_replaced(lm, Place(layer, "down"), points[:, None]):
        hidden = run_layers(lm, entering, ones, first=layer, prefix=before).hidden
        assert hidden is not None
        logits = lm.logits(hidden[:, 0])[:, : lm.num_tokens]
    nll, gradient = nll_and_gradient(logits.detach(), answers)
    (slope,) = torch.autograd.grad(logits, points, -gradient.to(logits.dtype))
    return slope.double() * (-nll.double()).exp()[:, None]


@torch.no_grad()
def _last_tokens(lm: LanguageModel, questions: Sequence[Question], layers: Sequence[int]) -> _LastTokens:
    ids, mask = pad_right([question.ids for question in questions], device=lm.embed_device)
    ends = mask.sum(1, keepdim=True) - 1
    whole = run_layers(lm, ids, mask, stop=lm.num_layers, record=True).key_values
    assert whole is not None
    # The whole prompt is run, then its last token hidden: a prompt of one token has nothing before it, and a row of
    # nothing but pads gives NaN.
    before = left_aligned(KeyValues(whole.layers, mask.scatter(1, ends, 0)))
    before = before.rows(torch.arange(len(ids), device=before.mask.device), width=int(ends.max()))
    # Taps on the one token only: those of whole prompts would hold every layer's activations at every token.
    run = run_layers(lm, ids.gather(1, ends), torch.ones_like(ends), prefix=before, tap_inputs=layers, tap_down=layers)
    activations = {layer: tapped[:, 0] for layer, tapped in run.down_inputs.items()}
    return _LastTokens(run.layer_inputs, activations, before)
