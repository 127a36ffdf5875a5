"""What an editor reads, the factors of each fact's own fine-tuning gradient; and runs of a model from a layer on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from errata.edit.methods.mend.editor import MendEditor
from errata.models import (
    LanguageModel,
    Place,
    RowFactors,
    TargetRow,
    pad_right,
    run_backward,
    run_layers,
    states_entering,
)

_AT_ONCE = 2048  # tokens of a forward: more are no faster on a CPU


@dataclass(frozen=True)
class Entering:
    """Right-padded rows as they enter layer `first`: hidden states, or token ids where `first` is 0."""

    inputs: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"]
    mask: Int[Tensor, "batch pos"]
    first: int

    def run(self, lm: LanguageModel) -> Float[Tensor, "batch pos d_head"]:
        """The backbone's output for these rows; differentiable in what hooks add on the way."""
        hidden = run_layers(lm, self.inputs, self.mask, first=self.first).hidden
        assert hidden is not None
        return hidden


@torch.no_grad()
def entering(lm: LanguageModel, groups: Sequence[Sequence[Sequence[int]]], first: int) -> list[Entering]:
    """Run the layers below `first` once for the rows of all groups, packed by length; each group as one batch."""
    if not first:
        return [Entering(*pad_right(rows, device=lm.embed_device), first) for rows in groups]
    every = [row for rows in groups for row in rows]
    hidden = states_entering(lm, every, first, most_tokens=_AT_ONCE)
    found, start = [], 0
    for rows in groups:
        own = hidden[start : start + len(rows)]
        start += len(rows)
        mask = pad_right(rows, device=lm.device_of(first))[1]
        found.append(Entering(pad_sequence(own, batch_first=True), mask, first))
    return found


@dataclass(frozen=True)
class TargetReads:
    """What a model says at the targets of a batch: mean NLL of each row's target tokens (nats), and whether all of them
    are its first choice."""

    nll: Float[Tensor, " batch"]
    right: Bool[Tensor, " batch"]


def read_targets(
    lm: LanguageModel, hidden: Float[Tensor, "batch pos d_head"], rows: Sequence[TargetRow]
) -> TargetReads:
    """Logits at the targets' positions only; a row's input is all of its tokens but the last."""
    device = lm.head_device
    lengths = torch.tensor([len(row.target_ids) for row in rows], device=device)
    at = torch.tensor(
        [(i, position) for i, row in enumerate(rows) for position in range(row.start - 1, len(row.ids) - 1)],
        device=device,
    )
    targets = torch.tensor([token for row in rows for token in row.target_ids], device=device)
    logits = lm.logits(hidden[at[:, 0], at[:, 1]]).float()
    nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    zeros = torch.zeros(len(rows), device=device, dtype=nll.dtype)
    wrong = zeros.index_add(0, at[:, 0], (logits.detach().argmax(1) != targets).to(nll))
    return TargetReads(zeros.index_add(0, at[:, 0], nll) / lengths, wrong == 0)


@dataclass(frozen=True)
class Gradient:
    """One matrix's part in each fact's gradient: x and δ token by token, and which tokens have any.

    A token whose x or δ is zero, as every pad's, adds nothing to xᵀδ; it is left out, as in the public code.
    """

    inputs: Float[Tensor, "fact pos d_in"]
    vjps: Float[Tensor, "fact pos d_out"]
    tokens: Bool[Tensor, "fact pos"]

    def rows(self) -> tuple[Float[Tensor, "row d_in"], Float[Tensor, "row d_out"]]:
        """x and δ of the tokens that have any, of all facts one after another."""
        return self.inputs[self.tokens], self.vjps[self.tokens]


@dataclass(frozen=True)
class Gradients:
    """The gradients of a batch of facts, by matrix, and the NLL that they are gradients of."""

    by_place: Mapping[Place, Gradient]
    nll: Float[Tensor, " fact"]


def gradients(lm: LanguageModel, rows: Sequence[TargetRow], entered: Entering, places: Sequence[Place]) -> Gradients:
    """Factors of each fact's own fine-tuning gradient, of the mean NLL over its target tokens, at `places`.

    Raises NumericsError where a loss or a gradient is not finite.
    """

    def loss(hidden: Tensor) -> Tensor:
        return read_targets(lm, hidden, rows).nll

    run = run_backward(lm, entered.inputs, entered.mask, places, loss, first=entered.first)
    by_place = {}
    for place in places:
        x, vjp = run.inputs[place].float(), run.vjps[place].float()
        by_place[place] = Gradient(x, vjp, (x != 0).any(-1) & (vjp != 0).any(-1))
    return Gradients(by_place, run.losses)


def updates_of(editor: MendEditor, read: Gradients, *, together: int = 1) -> dict[Place, RowFactors]:
    """The editor's update for every fact, zero rows where a token has none; `together` facts in a row share theirs."""
    return {place: _update(editor, place, gradient, together) for place, gradient in read.by_place.items()}


def _update(editor: MendEditor, place: Place, gradient: Gradient, together: int) -> RowFactors:
    left, right = (_put(rows, gradient.tokens, together) for rows in editor(place, *gradient.rows()))
    return left, right


def _put(rows: Tensor, tokens: Tensor, together: int) -> Tensor:
    """Rows back at their facts' tokens; then each fact gets those of all facts that are edited with it."""
    whole = rows.new_zeros(*tokens.shape, rows.shape[-1])
    whole[tokens] = rows
    if together == 1:
        return whole
    facts, width = tokens.shape
    padded = torch.cat([whole, whole.new_zeros(-facts % together, width, whole.shape[-1])])
    groups = padded.reshape(-1, together * width, whole.shape[-1])
    return groups.repeat_interleave(together, dim=0)[:facts]
