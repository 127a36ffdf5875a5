"""What a target value is optimised on: the facts' rows from their edited token on, and the loss of any shift there.

Everything that cannot change is computed once: positions before the edited one are frozen as keys and values, layers
below the shift as hidden states.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.core.losses import kl_and_gradient, nll_and_gradient
from errata.edit.values.passes import Pass, Suffix, plan_passes
from errata.edit.values.prompt_rows import Row, essence_rows, rewriting_rows
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

# Bounds the memory of the passes that prepare a batch.
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

    def run(self, one: Pass, shift: Float[Tensor, "row site d_model"]) -> Float[Tensor, "row pos d_head"]:
        """The backbone's output with each row's shift at its edited token, which is column 0."""
        entering = one.hidden
        if not self.places:
            edited = one.hidden[:, 0].float() + shift[:, 0]
            entering = torch.cat([edited[:, None].to(one.hidden), one.hidden[:, 1:]], dim=1)
        with outputs_shifted(self.lm, dict(zip(self.places, shift.unbind(1), strict=False)), column=0):
            hidden = run_layers(self.lm, entering, one.mask, first=self.first, prefix=one.prefix).hidden
        assert hidden is not None
        return hidden


@torch.no_grad()
def prepare(lm: LanguageModel, facts: Sequence[Fact], layer: int, prefixes: Sequence[str], site: Site) -> Problem:
    """The problem of a batch of facts with shifts at `layer`; `prefixes` starts with ""."""
    rows = rewriting_rows(lm, facts, prefixes) + essence_rows(lm, facts, context=len(prefixes))
    places = tuple(Place(layer, matrix) for matrix in _MATRICES[site])
    first = layer if places else layer + 1
    shared = SharedPrefixes.of(lm, rows)
    shared_kv = shared.run(stop=None)
    hidden = _entering(lm, rows, shared, shared_kv, first)
    positions = [shared.own_position(row) for row in rows]
    before = [states[:at] for states, at in zip(hidden, positions, strict=True)]
    prefix = _prefix_before(lm, before, rows, shared, shared_kv, first)
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
    hidden = torch.stack([suffix.hidden[:1] for suffix in bare])
    mask = torch.ones(len(bare), 1, dtype=torch.long, device=lm.device)
    own = None if prefix is None else prefix.rows(torch.tensor([suffix.kv_row for suffix in bare], device=lm.device))
    written: dict[Place, Tensor] = {}
    nothing = torch.zeros(len(bare), lm.d_model, device=lm.device)
    with outputs_shifted(lm, dict.fromkeys(places, nothing), column=0, seen=written):
        run_layers(lm, hidden, mask, first=layer, stop=layer + 1, prefix=own)
    return torch.stack([written[place].float() for place in places], dim=1)


def _entering(
    lm: LanguageModel, rows: Sequence[Row], shared: SharedPrefixes, shared_kv: KeyValues | None, layer: int
) -> list[Float[Tensor, "_ d_model"]]:
    """What enters `layer` at each row's own tokens."""
    found: dict[int, Tensor] = {}
    for members in packs([len(shared.own_ids(row)) for row in rows], most_tokens=_PREPARED_TOKENS):
        chosen = [rows[i] for i in members]
        ids, mask = pad_right([shared.own_ids(row) for row in chosen], device=lm.device)
        own = shared.select(shared_kv, chosen)
        # One layer at least has to run for its input to be seen.
        run = run_layers(lm, ids, mask, prefix=own, stop=max(layer, 1), tap_inputs=[0] if layer == 0 else [])
        hidden = run.layer_inputs[0] if layer == 0 else run.hidden
        assert hidden is not None
        found |= {i: states[: len(shared.own_ids(rows[i]))] for i, states in zip(members, hidden, strict=True)}
    return [found[i] for i in range(len(rows))]


def _prefix_before(
    lm: LanguageModel,
    before: Sequence[Float[Tensor, "_ d_model"]],
    rows: Sequence[Row],
    shared: SharedPrefixes,
    shared_kv: KeyValues | None,
    first: int,
) -> KeyValues | None:
    """Keys and values, at layers from `first` on, of everything before each row's edited position; left-padded.

    `before` are the states of each row's own tokens before the edited one, entering layer `first`.
    """
    widest = max(map(len, before))
    if widest == 0:
        return shared.select(shared_kv, rows)
    parts, order = [], []
    for members in packs([len(states) for states in before], most_tokens=_PREPARED_TOKENS):
        chosen = shared.select(shared_kv, [rows[i] for i in members])
        # A row whose subject starts right after the shared prefix has no position of its own here. It runs one anyway,
        # since a query that attends to nothing gives NaN, and its mask is put right afterwards.
        width = max(1, *(len(before[i]) for i in members))
        hidden = before[members[0]].new_zeros(len(members), width, before[0].shape[1])
        mask = torch.zeros(len(members), width, dtype=torch.long, device=lm.device)
        for at, i in enumerate(members):
            hidden[at, : len(before[i])] = before[i]
            mask[at, : len(before[i])] = 1
        running = mask.clone()
        running[:, 0] = 1
        run = run_layers(lm, hidden, running, first=first, prefix=chosen, record=True)
        assert run.key_values is not None
        true_mask = mask if chosen is None else torch.cat([chosen.mask, mask], dim=1)
        parts.append(left_aligned(KeyValues(run.key_values.layers, true_mask)))
        order += members
    return joined(parts).rows(torch.tensor(order, device=lm.device).argsort())


class Evaluator:
    """Loss and gradient of every active fact, over a few packed passes through the layers above the edited one."""

    def __init__(self, problem: Problem, n: int) -> None:
        self.problem, self.n = problem, n
        self.passes = plan_passes(problem.suffixes, problem.prefix, n, problem.start.device)
        self.essence_log_probs: Tensor | None = None

    def reference(self) -> dict[str, Tensor]:
        """What was read at shift 0, by name; nothing where no penalty asks for it."""
        return {} if self.essence_log_probs is None else {"essence_log_probs": self.essence_log_probs}

    def resume(self, active: Int[Tensor, " fact"], essence_log_probs: Tensor | None) -> None:
        """Go on with the active facts, and with what was read at shift 0 before."""
        self.keep(active)
        if essence_log_probs is not None:
            self.essence_log_probs = essence_log_probs.to(self.problem.start.device)

    def keep(self, active: Int[Tensor, " fact"]) -> None:
        """Drop the rows of finished facts."""
        kept = set(active.tolist())
        suffixes = [suffix for suffix in self.problem.suffixes if suffix.row.fact in kept]
        self.passes = plan_passes(suffixes, self.problem.prefix, self.n, self.problem.start.device)

    def __call__(
        self, shift: Tensor, active: Tensor, kl_factor: float, *, with_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        nll, kl = (torch.zeros(self.n, device=shift.device) for _ in range(2))
        gradient = torch.zeros_like(shift)
        # The first evaluation is at shift 0: its essence distribution is the unedited p₀.
        is_first = self.essence_log_probs is None
        for one in self.passes:
            with torch.set_grad_enabled(with_gradient):
                own = shift[one.facts].requires_grad_(with_gradient)
                hidden = self.problem.run(one, own)
                logits = self.problem.lm.logits(hidden[one.read_rows, one.read_columns])
            grad_logits = self._losses(one, logits.detach(), nll, kl, kl_factor, is_first)
            if with_gradient:
                (grad_own,) = torch.autograd.grad(logits, own, grad_logits.to(logits.dtype))
                # A product with a 0/1 matrix, not index_add_: sums in a fixed order on every device.
                gradient += (one.membership @ grad_own.flatten(1)).reshape(gradient.shape)
        return nll[active], kl[active], gradient[active]

    def _losses(self, one: Pass, logits: Tensor, nll: Tensor, kl: Tensor, kl_factor: float, is_first: bool) -> Tensor:
        """Add each fact's losses into `nll` and `kl`; return the gradient with respect to the logits."""
        gradients = []
        if one.num_targets:
            row_nll, grad = nll_and_gradient(logits[: one.num_targets], one.targets)
            nll += one.target_membership @ row_nll
            gradients.append(grad.mul_(one.target_weights[:, None]))
        if one.num_targets < len(logits):
            essence = logits[one.num_targets :]
            if self.essence_log_probs is None:
                self.essence_log_probs = torch.zeros(self.n, logits.shape[1], device=logits.device)
            if is_first:
                self.essence_log_probs[one.essence_facts] = essence.float().log_softmax(dim=-1)
            row_kl, grad = kl_and_gradient(essence, self.essence_log_probs[one.essence_facts])
            kl[one.essence_facts] = row_kl
            gradients.append(grad.mul_(kl_factor))
        return torch.cat(gradients)
