"""The smallest learning rate with which an update of one layer's MLP output makes the target the model's answer.

Katz et al. (2024), figure 26: forward pass shifting against one step of SGD or Adam, layer by layer. A prompt reaches
the edited matrix with the inputs it always had, so each update changes its output by a known shift; only the layers
above are run again, for many learning rates at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from errata.core.steps import adam_first_step, sgd_step
from errata.core.updates import WeightUpdate
from errata.errors import InputError
from errata.lens.backward_lens import BackwardLens
from errata.models import Place, outputs_moved, run_layers

RULES = ("shift", "sgd", "adam")
_RATES_A_RUN = 13


@dataclass(frozen=True)
class Flip:
    """rate: the smallest learning rate found that flips the answer, None where none up to `highest` does."""

    layer: int
    rule: str
    rate: float | None
    highest: float


def update_direction(lens: BackwardLens, layer: int, rule: str) -> WeightUpdate:
    """What one step of `rule` adds to the down projection for a learning rate of 1.

    "shift": x_nᵀe_t, x_n the input at the last prompt token, e_t the target's unembedding row.  "sgd": −XᵀΔ.  "adam":
    −G/(|G| + ε), Adam's first step.  Raises InputError for another rule.
    """
    factors = lens.of(layer, "down")
    if rule == "sgd":
        return sgd_step(factors, 1.0)
    if rule == "adam":
        return adam_first_step(factors.dense(), 1.0)
    if rule != "shift":
        raise InputError(f"rule={rule!r}: choose {', '.join(RULES)}.")
    assert lens.target is not None
    row: Tensor = lens.lm.lm_head.weight[lens.target]  # type: ignore[union-attr, index]
    last = lens.example.prompt_length - 1
    return WeightUpdate(left=factors.inputs[last][None], right=row.detach().float()[None])


def smallest_rate(
    lens: BackwardLens, layer: int, rule: str, *, lowest: float = 1e-5, highest: float = 1e3, digits: float = 0.02
) -> Flip:
    """Search the rates from `lowest` to `highest`, evenly in their logarithm, to a relative precision of `digits`.

    Of the rates looked at the smallest that flips the answer counts; a larger one may fail again, and often does.
    """
    update = update_direction(lens, layer, rule)
    shift = lens.of(layer, "down").inputs @ update.matrix(lens.lm.device_of(layer))
    low, high = lowest, highest
    found: float | None = None
    while True:
        rates = torch.logspace(math.log10(low), math.log10(high), _RATES_A_RUN)
        flipped = answers_target(lens, layer, shift, rates.tolist())
        if not bool(flipped.any()):
            return Flip(layer, rule, found, highest)
        first = int(flipped.float().argmax())
        found = float(rates[first])
        if first == 0 or found / float(rates[first - 1]) - 1 <= digits:
            return Flip(layer, rule, found, highest)
        low, high = float(rates[first - 1]), found


@torch.no_grad()
def answers_target(
    lens: BackwardLens, layer: int, shift: Float[Tensor, "pos d_model"], rates: Sequence[float]
) -> Bool[Tensor, " rate"]:
    """Whether the model's next token is the target when rate · `shift` is added to what the layer's MLP gives."""
    lm, n = lens.lm, lens.example.prompt_length
    scales = torch.tensor(rates, device=shift.device)[:, None, None]
    moves = (scales * shift[None, :n]).to(lm.dtype)
    entering = lens.states[layer][:n].to(lm.dtype).expand(len(rates), -1, -1).contiguous()
    mask = torch.ones(len(rates), n, dtype=torch.long, device=entering.device)
    with outputs_moved(lm, Place(layer, "down"), moves):
        hidden = run_layers(lm, entering, mask, first=layer).hidden
    assert hidden is not None
    return lm.logits(hidden[:, -1])[:, : lm.num_tokens].argmax(1) == lens.target
