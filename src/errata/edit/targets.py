"""Target values: for each fact, the vector at the subject that makes the model say the new target.

MEMIT (Meng et al. 2023), eq. 16, by Adam on a value shift at the last edited layer's output, or at the output of its
MLP (ROME), or of its attention and its MLP jointly (PMET). Everything that cannot change is computed once: positions
before the edited one are frozen as keys and values, layers below the shift as hidden states. Facts are optimised
together, each with its own Adam state, clamp and stop; finished ones leave the batch. Equals one fact at a time through
full forwards (tests/reference/memit.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.core.losses import kl_and_gradient, nll_and_gradient
from errata.edit.packing import packs
from errata.edit.passes import Pass, Suffix, plan_passes
from errata.edit.rows import Row, essence_rows, rewriting_rows
from errata.edit.shared import SharedPrefixes
from errata.edit.value_config import ValueConfig
from errata.errors import NumericsError
from errata.facts import Fact
from errata.models import KeyValues, LanguageModel, Place, joined, left_aligned, outputs_shifted, pad_right, run_layers

# Bounds the memory of the passes that prepare a batch.
_PREPARED_TOKENS = 4096
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
# Where the shift is added: to what the layer leaves in the stream, or to what these matrices of the layer write.
Site = Literal["block", "mlp", "attention and mlp"]
_MATRICES: dict[Site, tuple[str, ...]] = {"block": (), "mlp": ("down",), "attention and mlp": ("o", "down")}
_FAST_SHARE, _FAST_FIRST, _FAST_LAST, _FAST_BETAS = 0.47, 5.0, 0.5, (0.5, 0.9)


@dataclass(frozen=True)
class TargetValues:
    """The optimised values of a batch of facts (rows), with how the optimisation ended.

    value: start + shift, of the MLP's output where attention's is shifted too.  nll, kl, loss: nats, at the end (loss
    includes both penalties).  first_nll: before the first update.  updates: Adam steps taken.  converged: the loss fell
    below stop_loss.
    """

    value: Float[Tensor, "fact d_model"]
    shift_norm: Float[Tensor, " fact"]
    start_norm: Float[Tensor, " fact"]
    first_nll: Float[Tensor, " fact"]
    nll: Float[Tensor, " fact"]
    kl: Float[Tensor, " fact"]
    loss: Float[Tensor, " fact"]
    updates: Int[Tensor, " fact"]
    converged: Int[Tensor, " fact"]
    # What an earlier run spent on those that were found in the cache.
    kept_seconds: float = field(default=0.0, compare=False)

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


def target_values(
    lm: LanguageModel,
    facts: Sequence[Fact],
    config: ValueConfig,
    prefixes: Sequence[str],
    *,
    site: Site = "block",
    advance: Callable[[int], None] = lambda _: None,
) -> TargetValues:
    """Optimise the target values of one batch of facts at layer `config.layers[-1]`.

    L(shift) = mean over contexts of mean over target tokens of NLL + kl_factor · KL(p_shift ‖ p₀) at "{subject} is a"
    + weight_decay · ‖shift‖/‖start‖²; after each Adam step ‖shift‖ is clipped to clamp · ‖start‖, start being what the
    bare prompt gives without a shift. Two shifts each have their own penalty and clip. `prefixes` starts with "".
    `advance` is told how many of the facts' evaluations are done, `evaluations(config)` for each fact in the end.
    Raises NumericsError where a fact ends without finite numbers.
    """
    problem = _prepare(lm, facts, config, prefixes, site)
    values = _optimise(problem, config, advance)
    _expect_finite(lm, facts, values)
    return values


def _expect_finite(lm: LanguageModel, facts: Sequence[Fact], values: TargetValues) -> None:
    finite = values.loss.isfinite() & values.value.isfinite().all(dim=1)
    bad = [fact.id for fact, fine in zip(facts, finite.tolist(), strict=True) if not fine]
    if bad:
        raise NumericsError(
            f"The target values of {len(bad)} of {len(facts)} facts are not finite (first: {bad[0]!r}): {lm.dtype} is "
            f"too narrow for {lm.name} (load it as float32), its weights are broken, or learning_rate is far too large."
        )


@dataclass
class _Problem:
    """Rows from their edited token on, ready to enter layer `first`; `start` is what the shifts are added to.

    places: the maps whose outputs are shifted; none where it is the stream that enters `first`.
    """

    lm: LanguageModel
    first: int
    places: tuple[Place, ...]
    suffixes: list[Suffix]
    start: Float[Tensor, "fact site d_model"]
    prefix: KeyValues | None

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
def _prepare(
    lm: LanguageModel, facts: Sequence[Fact], config: ValueConfig, prefixes: Sequence[str], site: Site
) -> _Problem:
    rows = rewriting_rows(lm, facts, prefixes) + essence_rows(lm, facts, context=len(prefixes))
    layer = config.layers[-1]
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
    return _Problem(lm, first, places, suffixes, start, prefix)


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


def learning_rates(config: ValueConfig) -> list[float]:
    """Adam's learning rate at each update; one entry fewer than the loss is evaluated.

    "published": constant. "fast": just under half of the updates, from five times the rate down to a half, under an
    Adam that forgets sooner (β 0.5, 0.9). Adam moves every coordinate by about its rate whatever the gradient's size,
    so the published schedule spends most of its updates on the way; larger steps need moments that keep up with them.
    """
    updates = config.value_steps - 1
    if config.schedule == "published":
        return [config.learning_rate] * updates
    kept = min(updates, max(2, round(updates * _FAST_SHARE)))
    fall = (_FAST_FIRST - _FAST_LAST) / max(1, kept - 1)
    return [config.learning_rate * (_FAST_FIRST - fall * i) for i in range(kept)]


def evaluations(config: ValueConfig) -> int:
    """How often a fact's loss is evaluated where it never falls below stop_loss."""
    return len(learning_rates(config)) + 1


class _Adam:
    """torch.optim.Adam's update for each fact's shift, with rows that can be dropped."""

    def __init__(self, shape: torch.Size, device: torch.device, betas: tuple[float, float]) -> None:
        self.betas = betas
        self.mean = torch.zeros(shape, device=device)
        self.square = torch.zeros(shape, device=device)
        self.steps = 0

    def step_(self, shift: Tensor, gradient: Tensor, active: Tensor, learning_rate: float) -> None:
        self.steps += 1
        beta1, beta2 = self.betas
        mean, square = self.mean[active], self.square[active]
        mean = mean.mul_(beta1).add_(gradient, alpha=1 - beta1)
        square = square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        self.mean[active], self.square[active] = mean, square
        denominator = (square.sqrt() / (1 - beta2**self.steps) ** 0.5).add_(_EPSILON)
        shift[active] -= learning_rate / (1 - beta1**self.steps) * (mean / denominator)


def _optimise(problem: _Problem, config: ValueConfig, advance: Callable[[int], None]) -> TargetValues:
    start = problem.start
    n = len(start)
    start_norm = start.norm(dim=2)
    shift = torch.zeros_like(start)
    adam = _Adam(start.shape, start.device, _FAST_BETAS if config.schedule == "fast" else _BETAS)
    rates = learning_rates(config)
    result = {name: torch.zeros(n, device=start.device) for name in ("first_nll", "nll", "kl", "loss")}
    updates = torch.zeros(n, dtype=torch.long, device=start.device)
    active = torch.arange(n, device=start.device)
    evaluator = _Evaluator(problem, n)
    for step in range(len(rates) + 1):
        last = step == len(rates)
        nll, kl, gradient = evaluator(shift, active, config.kl_factor, with_gradient=not last)
        norm = shift[active].norm(dim=2)
        decay = config.weight_decay / start_norm[active] ** 2
        loss = nll + config.kl_factor * kl + (decay * norm).sum(1)
        for name, values in (("nll", nll), ("kl", kl), ("loss", loss)):
            result[name][active] = values
        if step == 0:
            result["first_nll"] = nll.clone()
        going = loss >= config.stop_loss
        # A fact that is done needs none of its other evaluations.
        advance(len(active) + int((~going).sum()) * (len(rates) - step))
        if last or not bool(going.any()):
            break
        if not bool(going.all()):
            active, gradient, norm, decay = active[going], gradient[going], norm[going], decay[going]
            evaluator.keep(active)
        # ‖shift‖ has no gradient at 0; like torch's norm, take 0 there.
        gradient = gradient + shift[active] * (decay / norm.clamp_min(1e-30) * (norm > 0))[..., None]
        adam.step_(shift, gradient, active, rates[step])
        limit = config.clamp * start_norm[active]
        norm = shift[active].norm(dim=2)
        shift[active] *= torch.where(norm > limit, limit / norm, torch.ones_like(norm))[..., None]
        updates[active] += 1
    return TargetValues(
        value=(start + shift)[:, -1],
        shift_norm=shift[:, -1].norm(dim=1),
        start_norm=start_norm[:, -1],
        first_nll=result["first_nll"],
        nll=result["nll"],
        kl=result["kl"],
        loss=result["loss"],
        updates=updates,
        converged=(result["loss"] < config.stop_loss).long(),
    )


class _Evaluator:
    """Loss and gradient of every active fact, over a few packed passes through the layers above the edited one."""

    def __init__(self, problem: _Problem, n: int) -> None:
        self.problem, self.n = problem, n
        self.passes = plan_passes(problem.suffixes, problem.prefix, n, problem.start.device)
        self.essence_log_probs: Tensor | None = None

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
