"""What a target value is optimised on: the facts' rows from their edited token on, and the loss of any shift there.

Everything that cannot change is computed once: positions before the edited one are frozen as keys and values, layers
below the shift as hidden states. That is exact, not an approximation: attention is causal, so a shift at the edited
token reaches neither the positions before it nor the layers below it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.core.log_losses import kl_and_gradient, nll_and_gradient
from errata.edit.values.packed_batches import PackedBatch, Suffix, packed_batches
from errata.edit.values.prompt_rows import PromptRow, essence_rows, rewriting_rows
from errata.edit.values.shared_prefixes import SharedPrefixes
from errata.facts import Fact
from errata.models import (
    KeyValues,
    LanguageModel,
    Place,
    joined,
    left_aligned,
    outputs_shifted,
    pad_right,
    run_layers,
    usual_contribution,
)
from errata.models.run.packing import packs

# Bounds the memory of the runs that prepare a batch.
_PREPARED_TOKENS = 4096
# Where the shift is added: to what the layer leaves in the stream, or to what these matrices of the layer write.
Site = Literal["block", "mlp", "attention and mlp"]
_MATRICES: dict[Site, tuple[str, ...]] = {"block": (), "mlp": ("down",), "attention and mlp": ("o", "down")}


@dataclass
class Problem:
    """Rows from their edited token on, ready to enter layer `first`; `start` is what the shifts are added to.

    places: the maps whose outputs are shifted; none where it is the stream that enters `first`.
    """

    lm: LanguageModel
    first: int
    places: tuple[Place, ...]
    suffixes: list[Suffix]
    start: Float[Tensor, "fact site d_model"]
    prefix: KeyValues | None

    def unit(self) -> Float[Tensor, "fact site d_model"]:
        """The usual size of each channel of `start`, so that a shift can be as large as what it is added to.

        It is the same for all channels, start's root mean square, where nothing says how large each of them is. Behind
        a norm its gains do, a thousandfold apart: the stream after L + 1 layers is then √(L + 1) times as large as what
        the last one writes, and only a shift in these proportions can be written by the matrices below it.
        """
        usual = None if self.places else usual_contribution(self.lm, self.first - 1)
        if usual is None:
            return self.start.square().mean(dim=2, keepdim=True).sqrt().expand_as(self.start)
        # `first` is the layer above the shift: so many contributions there are in the stream.
        return (self.first**0.5 * usual).to(self.start).expand_as(self.start)

    def run(self, batch: PackedBatch, shift: Float[Tensor, "row site d_model"]) -> Float[Tensor, "row pos d_head"]:
        """The backbone's output with each row's shift at its edited token, which is column 0."""
        entering = batch.hidden
        if not self.places:
            edited = batch.hidden[:, 0].float() + shift[:, 0]
            entering = torch.cat([edited[:, None].to(batch.hidden), batch.hidden[:, 1:]], dim=1)
        with outputs_shifted(self.lm, dict(zip(self.places, shift.unbind(1), strict=False)), column=0):
            hidden = run_layers(self.lm, entering, batch.mask, first=self.first, prefix=batch.prefix).hidden
        assert hidden is not None
        return hidden


@torch.no_grad()
def prepare(lm: LanguageModel, facts: Sequence[Fact], layer: int, prefixes: Sequence[str], site: Site) -> Problem:
    """The problem of a batch of facts with shifts at `layer`; `prefixes` starts with ""."""
    rows = rewriting_rows(lm, facts, prefixes) + essence_rows(lm, facts, context=len(prefixes))
    places = tuple(Place(layer, matrix) for matrix in _MATRICES[site])
    first = layer if places else layer + 1
    beginnings = SharedPrefixes.of(lm, rows)
    work = _Preparation(lm, rows, beginnings, beginnings.run(stop=None), lm.device_of(layer))
    hidden = work.entering(first)
    positions = [beginnings.own_position(row) for row in rows]
    prefix = work.before([states[:at] for states, at in zip(hidden, positions, strict=True)], first)
    suffixes = [Suffix(row, i, hidden[i][positions[i] :].clone()) for i, row in enumerate(rows)]
    bare = [suffixes[i] for i, row in enumerate(rows) if row.context == 0]
    if places:
        start = _written(lm, bare, prefix, places)
    else:
        start = torch.stack([suffix.hidden[0] for suffix in bare])[:, None].float()
    return Problem(lm, first, places, suffixes, start, prefix)


def _written(
    lm: LanguageModel, bare: Sequence[Suffix], prefix: KeyValues | None, places: Sequence[Place]
) -> Float[Tensor, "fact site d_model"]:
    """What the maps at `places`, all of one layer, write at the bare prompts' edited tokens."""
    layer = places[0].layer
    device = lm.device_of(layer)
    hidden = torch.stack([suffix.hidden[:1] for suffix in bare])
    mask = torch.ones(len(bare), 1, dtype=torch.long, device=device)
    own = None if prefix is None else prefix.rows(torch.tensor([suffix.kv_row for suffix in bare], device=device))
    written: dict[Place, Tensor] = {}
    nothing = torch.zeros(len(bare), lm.d_model, device=device)
    with outputs_shifted(lm, dict.fromkeys(places, nothing), column=0, seen=written):
        run_layers(lm, hidden, mask, first=layer, stop=layer + 1, prefix=own)
    return torch.stack([written[place].float() for place in places], dim=1)


@dataclass(frozen=True)
class _Preparation:
    """The rows of a batch behind what each context begins with, which is run already; `device`: that of the shift."""

    lm: LanguageModel
    rows: Sequence[PromptRow]
    beginnings: SharedPrefixes
    beginnings_kv: KeyValues | None
    device: torch.device

    def entering(self, layer: int) -> list[Float[Tensor, "_ d_model"]]:
        """What enters `layer` at each row's own tokens."""
        own = [self.beginnings.own_ids(row) for row in self.rows]
        states: dict[int, Tensor] = {}
        for members in packs([len(ids) for ids in own], most_tokens=_PREPARED_TOKENS):
            ids, mask = pad_right([own[i] for i in members], device=self.lm.embed_device)
            prefix = self._beginnings_of(members)
            # One layer at least has to run for its input to be seen.
            run = run_layers(
                self.lm, ids, mask, prefix=prefix, stop=max(layer, 1), tap_inputs=[0] if layer == 0 else []
            )
            hidden = run.layer_inputs[0] if layer == 0 else run.hidden
            assert hidden is not None
            states |= {i: row[: len(own[i])] for i, row in zip(members, hidden, strict=True)}
        return [states[i] for i in range(len(own))]

    def before(self, states: Sequence[Float[Tensor, "_ d_model"]], first: int) -> KeyValues | None:
        """Keys and values, at layers from `first` on, of everything before each row's edited position; left-padded.

        `states` are those of each row's own tokens before the edited one, entering layer `first`.
        """
        if not max(map(len, states)):
            return self._beginnings_of(range(len(self.rows)))
        packed, order = [], []
        for members in packs([len(row) for row in states], most_tokens=_PREPARED_TOKENS):
            packed.append(self._pack_before([states[i] for i in members], self._beginnings_of(members), first))
            order += members
        return joined(packed).rows(torch.tensor(order, device=self.device).argsort())

    def _pack_before(
        self, states: Sequence[Float[Tensor, "_ d_model"]], prefix: KeyValues | None, first: int
    ) -> KeyValues:
        # A row whose subject starts right after what its context begins with has no position of its own here. It runs
        # one anyway, since a query that attends to nothing gives NaN, and its mask is put right afterwards.
        width = max(1, *map(len, states))
        hidden = states[0].new_zeros(len(states), width, states[0].shape[1])
        mask = torch.zeros(len(states), width, dtype=torch.long, device=self.device)
        for i, row in enumerate(states):
            hidden[i, : len(row)] = row
            mask[i, : len(row)] = 1
        running = mask.clone()
        running[:, 0] = 1
        run = run_layers(self.lm, hidden, running, first=first, prefix=prefix, record=True)
        assert run.key_values is not None
        true_mask = mask if prefix is None else torch.cat([prefix.mask, mask], dim=1)
        return left_aligned(KeyValues(run.key_values.layers, true_mask))

    def _beginnings_of(self, members: Sequence[int]) -> KeyValues | None:
        return self.beginnings.select(self.beginnings_kv, [self.rows[i] for i in members])


class Evaluator:
    """Loss and gradient of every active fact, over a few packed batches through the layers above the edited one.

    Losses are read where the head is, gradients where the shift is.
    """

    def __init__(self, problem: Problem, n: int) -> None:
        self.problem, self.n = problem, n
        self.device, self.head_device = problem.start.device, problem.lm.head_device
        self.batches = self._packed(problem.suffixes)
        self.essence_log_probs: Tensor | None = None

    def reference(self) -> dict[str, Tensor]:
        """What was read at shift 0, by name; nothing where no penalty asks for it."""
        return {} if self.essence_log_probs is None else {"essence_log_probs": self.essence_log_probs}

    def resume(self, active: Int[Tensor, " fact"], essence_log_probs: Tensor | None) -> None:
        """Go on with the active facts, and with what was read at shift 0 before."""
        self.keep(active)
        if essence_log_probs is not None:
            self.essence_log_probs = essence_log_probs.to(self.head_device)

    def keep(self, active: Int[Tensor, " fact"]) -> None:
        """Drop the rows of finished facts."""
        kept = set(active.tolist())
        self.batches = self._packed([suffix for suffix in self.problem.suffixes if suffix.row.fact in kept])

    def _packed(self, suffixes: Sequence[Suffix]) -> list[PackedBatch]:
        return packed_batches(suffixes, self.problem.prefix, self.n, self.device, self.head_device)

    def __call__(
        self, shift: Tensor, active: Tensor, kl_factor: float, *, with_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        nll, kl = (torch.zeros(self.n, device=self.head_device) for _ in range(2))
        gradient = torch.zeros_like(shift)
        # The first evaluation is at shift 0: its essence distribution is the unedited p₀.
        is_first = self.essence_log_probs is None
        for batch in self.batches:
            with torch.set_grad_enabled(with_gradient):
                own = shift[batch.facts].requires_grad_(with_gradient)
                hidden = self.problem.run(batch, own)
                logits = self.problem.lm.logits(hidden[batch.read_rows, batch.read_columns])
            gradients = [self._add_nll_(batch, logits.detach(), nll)] if batch.num_targets else []
            if batch.num_targets < len(logits):
                gradients.append(self._add_kl_(batch, logits.detach(), kl, is_first=is_first).mul_(kl_factor))
            if with_gradient:
                (grad_own,) = torch.autograd.grad(logits, own, torch.cat(gradients).to(logits.dtype))
                # A product with a 0/1 matrix, not index_add_: sums in a fixed order on every device.
                gradient += (batch.membership @ grad_own.flatten(1)).reshape(gradient.shape)
        return nll.to(self.device)[active], kl.to(self.device)[active], gradient[active]

    def _add_nll_(self, batch: PackedBatch, logits: Tensor, nll: Tensor) -> Tensor:
        """Add what each fact's targets cost into `nll`; the gradient with respect to their logits."""
        row_nll, gradient = nll_and_gradient(logits[: batch.num_targets], batch.targets)
        nll += batch.target_membership @ row_nll
        return gradient.mul_(batch.target_weights[:, None])

    def _add_kl_(self, batch: PackedBatch, logits: Tensor, kl: Tensor, *, is_first: bool) -> Tensor:
        """Put each fact's divergence at its essence into `kl`; the gradient with respect to the logits there."""
        essence = logits[batch.num_targets :]
        if self.essence_log_probs is None:
            self.essence_log_probs = torch.zeros(self.n, logits.shape[1], device=logits.device)
        if is_first:
            self.essence_log_probs[batch.essence_facts] = essence.float().log_softmax(dim=-1)
        row_kl, gradient = kl_and_gradient(essence, self.essence_log_probs[batch.essence_facts])
        kl[batch.essence_facts] = row_kl
        return gradient
