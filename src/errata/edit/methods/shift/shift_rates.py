"""Learning rates of forward pass shifting, one for each fact: from a wanted logit margin, or found by trying.

A fact writes r·kᵀv into one layer's down projection. No edit of a layer changes what it reads, so at position q of the
fact's own prompt, where it reads k_q, its output moves by exactly r·(k_q·k)v. With the lead = the target's logit − the
best other one at the last position, and g_q the lead's VJP at that output,

    d lead/dr at r = 0   =   Σ_q (k_q·k)(g_q·v),      r = (margin − lead)/(d lead/dr):

exact to first order, from one backward a fact. Where it is not enough, or the first order is far off, the layers from
the edited one on are run again for a ladder of rates. Each fact counts alone, as if no other were edited.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from errata.core.progress import SILENT, ProgressSink
from errata.edit.values.prompt_rows import states_at
from errata.models import LanguageModel, Place, outputs_moved, pad_right, run_backward, run_layers
from errata.models.run.packing import packs

_AT_ONCE = 2048  # tokens of a forward
# What the line search multiplies a rate by: 2^−4 … 2^6 in steps of √2.
LADDER = tuple(2.0 ** (step / 2) for step in range(-8, 13))


@dataclass(frozen=True)
class Writing:
    """What facts write at a rate of 1, kᵀv each, the prompts that it is read after, and the tokens wanted there."""

    layer: int
    prompts: list[tuple[int, ...]]
    targets: Int[Tensor, " fact"]
    keys: Float[Tensor, "fact d_mlp"]
    values: Float[Tensor, "fact d_model"]


@dataclass(frozen=True)
class Rates:
    """rates, in the facts' order.  backwards: no rate helps, to first order.  unanswered: no tried rate was enough."""

    rates: Float64[Tensor, " fact"]
    backwards: Bool[Tensor, " fact"]
    unanswered: Bool[Tensor, " fact"]
    searched: bool


def choose_rates(
    lm: LanguageModel,
    writing: Writing,
    *,
    learning_rate: float,
    margin: float = 0.0,
    line_search: bool = False,
    progress: ProgressSink = SILENT,
) -> Rates:
    """`learning_rate`; or, with a `margin` above 0, the rate that gives it to first order, where one does.

    The line search takes the smallest rate on a ladder around that one with which the target is the answer, by `margin`
    at least; the largest where none is enough. Raises NumericsError where a gradient is not finite.
    """
    count = len(writing.prompts)
    rates = torch.full((count,), learning_rate, dtype=torch.float64)
    nobody = torch.zeros(count, dtype=torch.bool)
    backwards = nobody
    if margin > 0:
        lead, slope = leads(lm, writing, progress=progress)
        backwards = slope <= 0
        rates = torch.where(backwards, rates, (margin - lead) / slope)
    if not line_search:
        return Rates(rates, backwards, nobody, searched=False)
    ladder = rates[:, None] * torch.tensor(LADDER, dtype=torch.float64)
    enough = try_rates(lm, writing, ladder, margin=margin, progress=progress)
    # argmax gives the first of equal ones: the smallest rate that is enough.
    chosen = torch.where(enough.any(1), enough.int().argmax(1), ladder.shape[1] - 1)
    return Rates(ladder.gather(1, chosen[:, None])[:, 0], backwards, ~enough.any(1), searched=True)


def leads(
    lm: LanguageModel, writing: Writing, *, progress: ProgressSink = SILENT
) -> tuple[Float64[Tensor, " fact"], Float64[Tensor, " fact"]]:
    """Each fact's lead as the model is, and how it grows with the fact's rate at a rate of 0."""
    place = Place(writing.layer, "down")
    lead, slope = (torch.zeros(len(writing.prompts), dtype=torch.float64) for _ in range(2))
    with progress.stage("margins", len(writing.prompts), "facts") as advance:
        for members in packs([len(prompt) for prompt in writing.prompts], most_tokens=_AT_ONCE):
            ids, mask = pad_right([writing.prompts[i] for i in members], device=lm.embed_device)
            ends, targets = mask.sum(1) - 1, writing.targets[members]

            def of(hidden: Tensor, ends=ends, targets=targets) -> Tensor:
                return _lead(_logits(lm, states_at(hidden, ends)), targets)

            run = run_backward(lm, ids, mask, [place], of)
            responses = _responses(run.inputs[place], writing.keys[members])
            along = run.vjps[place].double() @ writing.values[members].double()[:, :, None]
            lead[members] = run.losses.double().cpu()
            slope[members] = (responses * along[..., 0]).sum(1).cpu()
            advance(len(members))
    return lead, slope


@torch.no_grad()
def try_rates(
    lm: LanguageModel,
    writing: Writing,
    rates: Float64[Tensor, "fact rate"],
    *,
    margin: float = 0.0,
    progress: ProgressSink = SILENT,
) -> Bool[Tensor, "fact rate"]:
    """Whether each fact, written alone at each of its rates, makes the target the answer, by `margin` at least."""
    enough = torch.zeros(rates.shape, dtype=torch.bool)
    at_once = max(1, _AT_ONCE // rates.shape[1])
    with progress.stage("line search", len(writing.prompts), "facts") as advance:
        for members in packs([len(prompt) for prompt in writing.prompts], most_tokens=at_once):
            enough[members] = _try(lm, writing, members, rates[members], margin)
            advance(len(members))
    return enough


def _try(
    lm: LanguageModel, writing: Writing, members: list[int], rates: Float64[Tensor, "fact rate"], margin: float
) -> Bool[Tensor, "fact rate"]:
    """The same for a few facts: every fact at every rate a row of one run, which starts at the edited layer."""
    layer, tries = writing.layer, rates.shape[1]
    ids, mask = pad_right([writing.prompts[i] for i in members], device=lm.embed_device)
    below = run_layers(lm, ids, mask, stop=layer + 1, tap_inputs=[layer], tap_down=[layer], end_at_down=True)
    responses = _responses(below.down_inputs[layer], writing.keys[members])
    scales = (rates.to(responses.device)[:, :, None] * responses[:, None]).float().flatten(0, 1)
    entering, many, values, targets = (
        of_fact.repeat_interleave(tries, 0)
        for of_fact in (below.layer_inputs[layer], mask, writing.values[members], writing.targets[members])
    )
    with outputs_moved(lm, Place(layer, "down"), scales[:, :, None] * values[:, None]):
        hidden = run_layers(lm, entering, many, first=layer).hidden
    assert hidden is not None
    logits = _logits(lm, states_at(hidden, many.sum(1) - 1))
    enough = (logits.argmax(1) == targets) & (_lead(logits, targets) >= margin)
    return enough.reshape(-1, tries).cpu()


def _responses(
    inputs: Float[Tensor, "fact pos d_mlp"], keys: Float[Tensor, "fact d_mlp"]
) -> Float64[Tensor, "fact pos"]:
    """k_q·k at every position: how much of its value a fact adds there at a rate of 1."""
    return (inputs.double() @ keys.double()[:, :, None])[..., 0]


def _logits(lm: LanguageModel, hidden: Float[Tensor, "row d_head"]) -> Float[Tensor, "row token"]:
    return lm.logits(hidden)[:, : lm.num_tokens].float()


def _lead(logits: Float[Tensor, "row token"], targets: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    """The target's logit − the largest other one."""
    others = logits.scatter(1, targets[:, None], -torch.inf)
    return logits.gather(1, targets[:, None])[:, 0] - others.max(1).values
