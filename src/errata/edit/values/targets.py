"""Target values: for each fact, the vector at the subject that makes the model say the new target.

MEMIT (Meng et al. 2023), eq. 16, by Adam on a value shift at the last edited layer's output, or at the output of its
MLP (ROME), or of its attention and its MLP jointly (PMET). Facts are optimised together, each with its own Adam state,
clamp and stop; finished ones leave the batch. Equals one fact at a time through full forwards
(tests/reference/memit.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.core.steps import ADAM_BETAS, RowAdam
from errata.core.words import counted
from errata.edit.settings.value_config import ValueConfig
from errata.edit.values.halfway import Halfway
from errata.edit.values.robustness import short_losses
from errata.edit.values.value_problem import Evaluator, Problem, Site, prepare
from errata.errors import NumericsError
from errata.facts import Fact
from errata.models import LanguageModel

_FAST_SHARE, _FAST_FIRST, _FAST_LAST, _FAST_BETAS = 0.47, 5.0, 0.5, (0.5, 0.9)


@dataclass(frozen=True)
class TargetValues:
    """The optimised values of a batch of facts (rows), with how the optimisation ended.

    value: start + shift, of the MLP's output where attention's is shifted too.  nll, kl, loss: nats, at the end (loss
    includes both penalties).  first_nll: before the first update.  short_nll: where the value
    is reached only in part (robustness.py).  updates: Adam steps taken.  converged: the loss fell
    below stop_loss.
    """

    value: Float[Tensor, "fact d_model"]
    shift_norm: Float[Tensor, " fact"]
    start_norm: Float[Tensor, " fact"]
    first_nll: Float[Tensor, " fact"]
    short_nll: Float[Tensor, " fact"]
    nll: Float[Tensor, " fact"]
    kl: Float[Tensor, " fact"]
    loss: Float[Tensor, " fact"]
    updates: Int[Tensor, " fact"]
    converged: Int[Tensor, " fact"]
    # What an earlier run spent on those that were found in the cache.
    kept_seconds: float = field(default=0.0, compare=False)
    # Numbers of the facts that had a second try (second_try.py).
    second_tries: tuple[int, ...] = field(default=(), compare=False)

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are tensors, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


def target_values(
    lm: LanguageModel,
    facts: Sequence[Fact],
    config: ValueConfig,
    prefixes: Sequence[str],
    *,
    site: Site = "block",
    advance: Callable[[int], None] = lambda _: None,
    halfway: Halfway | None = None,
) -> TargetValues:
    """Optimise the target values of one batch of facts at layer `config.layers[-1]`.

    L(shift) = mean over contexts of mean over target tokens of NLL + kl_factor · KL(p_shift ‖ p₀) at "{subject} is a"
    + weight_decay · ‖shift‖/‖start‖²; after each Adam step ‖shift‖ is clipped to clamp · ‖start‖, start being what the
    bare prompt gives without a shift. Two shifts each have their own penalty and clip. `prefixes` starts with "".
    `advance` is given how many of the facts' evaluations are done, `evaluations(config)` for each fact in the end, but
    for those that `halfway` says were done before: where it holds a state, the batch goes on from there.
    Raises NumericsError where a fact ends without finite numbers.
    """
    problem = prepare(lm, facts, config.layers[-1], prefixes, site)
    descent = _Descent(problem, config)
    descent.run(advance, halfway or Halfway())
    values = descent.values()
    _expect_finite(lm, facts, values)
    return values


def _expect_finite(lm: LanguageModel, facts: Sequence[Fact], values: TargetValues) -> None:
    finite = values.loss.isfinite() & values.value.isfinite().all(dim=1)
    bad = [fact.id for fact, fine in zip(facts, finite.tolist(), strict=True) if not fine]
    if bad:
        raise NumericsError(
            f"The target values of {len(bad)} of {counted(len(facts), 'fact')} are not finite (first: {bad[0]!r}): "
            f"{lm.dtype} is "
            f"too narrow for {lm.name} (load it as float32), its weights are broken, or learning_rate is far too large."
        )


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


@dataclass(frozen=True)
class _Scale:
    """What rate, clamp and decay are relative to, for each fact and site.

    unit: of a channel; rates count in it and so do norms.  length: what a clamp of 1 allows.  decay: factor of the
    shift's norm in the loss.
    """

    unit: Float[Tensor, "fact site d_model"]
    length: Float[Tensor, "fact site"]
    decay: Float[Tensor, "fact site"]

    @classmethod
    def of(cls, problem: Problem, config: ValueConfig) -> "_Scale":
        if config.value_unit == "start":
            length = problem.start.new_full(problem.start.shape[:2], problem.start.shape[2] ** 0.5)
            return cls(problem.unit(), length, config.weight_decay / length)
        start_norm = problem.start.norm(dim=2)
        return cls(torch.ones_like(problem.start), start_norm, config.weight_decay / start_norm**2)


class _Descent:
    """A batch of facts on its way: the shifts so far, what was last read of each fact, and which are still active."""

    def __init__(self, problem: Problem, config: ValueConfig) -> None:
        n, device = len(problem.start), problem.start.device
        self.problem, self.config = problem, config
        self.rates, self.scale = learning_rates(config), _Scale.of(problem, config)
        self.shift = torch.zeros_like(problem.start)
        self.adam = RowAdam(self.shift, _FAST_BETAS if config.schedule == "fast" else ADAM_BETAS)
        self.losses = {name: torch.zeros(n, device=device) for name in ("first_nll", "nll", "kl", "loss")}
        self.updates = torch.zeros(n, dtype=torch.long, device=device)
        self.active = torch.arange(n, device=device)
        self.evaluator = Evaluator(problem, n)

    def run(self, advance: Callable[[int], None], halfway: Halfway) -> None:
        """Go on until every fact is done, from where `halfway` left the batch if it holds a state."""
        if (active := halfway.take_(self._state())) is not None:
            self.active, self.adam.steps = active, int(self.updates.max())
            self.evaluator.resume(active, halfway.tensors.get("essence_log_probs"))
        last = len(self.rates)
        for step in range(self.adam.steps, last + 1):
            gradient, norm = self._evaluate(with_gradient=step < last)
            going = self.losses["loss"][self.active] >= self.config.stop_loss
            # A fact that is done needs none of its other evaluations.
            advance(len(self.active) + int((~going).sum()) * (last - step))
            if step == last or not bool(going.any()):
                break
            if not bool(going.all()):
                self.active, gradient, norm = (of[going] for of in (self.active, gradient, norm))
                self.evaluator.keep(self.active)
            self._step_(gradient, norm, self.rates[step])
            done = (last + 1) * (len(self.shift) - len(self.active)) + len(self.active) * self.adam.steps
            halfway.keep_if_due({**self._state(), "active": self.active, **self.evaluator.reference()}, done)

    def values(self) -> TargetValues:
        """What the batch has come to."""
        start = self.problem.start
        return TargetValues(
            value=(start + self.shift)[:, -1],
            shift_norm=self.shift[:, -1].norm(dim=1),
            start_norm=start[:, -1].norm(dim=1),
            first_nll=self.losses["first_nll"],
            short_nll=short_losses(self.evaluator, self.shift),
            nll=self.losses["nll"],
            kl=self.losses["kl"],
            loss=self.losses["loss"],
            updates=self.updates,
            converged=(self.losses["loss"] < self.config.stop_loss).long(),
        )

    def _state(self) -> dict[str, Tensor]:
        moments = {"mean": self.adam.mean, "square": self.adam.square}
        return {"shift": self.shift, **moments, "updates": self.updates, **self.losses}

    def _evaluate(
        self, *, with_gradient: bool
    ) -> tuple[Float[Tensor, "active site d_model"], Float[Tensor, "active site"]]:
        """The gradient of NLL and KL for the active facts, and the norms of their shifts; their losses are noted."""
        active, factor = self.active, self.config.kl_factor
        nll, kl, gradient = self.evaluator(self.shift, active, factor, with_gradient=with_gradient)
        norm = (self.shift[active] / self.scale.unit[active]).norm(dim=2)
        loss = nll + factor * kl + (self.scale.decay[active] * norm).sum(1)
        if not self.adam.steps:
            self.losses["first_nll"].copy_(nll)
        for name, losses in (("nll", nll), ("kl", kl), ("loss", loss)):
            self.losses[name][active] = losses
        return gradient, norm

    def _step_(
        self, gradient: Float[Tensor, "active site d_model"], norm: Float[Tensor, "active site"], rate: float
    ) -> None:
        """A step down the loss with its penalty, then back to where the clamp ends."""
        active, unit, decay = self.active, self.scale.unit[self.active], self.scale.decay[self.active]
        # ‖shift‖ has no gradient at 0; like torch's norm, take 0 there.
        pull = decay / norm.clamp_min(1e-30) * (norm > 0)
        self.adam.step_(gradient + self.shift[active] / unit**2 * pull[..., None], active, lr=rate, unit=unit)
        limit = self.config.clamp * self.scale.length[active]
        norm = (self.shift[active] / unit).norm(dim=2)
        self.shift[active] *= torch.where(norm > limit, limit / norm, torch.ones_like(norm))[..., None]
        self.updates[active] += 1
