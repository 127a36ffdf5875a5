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

from errata.core.words import counted
from errata.edit.settings.value_config import ValueConfig
from errata.edit.values.halfway import Halfway
from errata.edit.values.robustness import short_losses
from errata.edit.values.value_problem import Evaluator, Problem, Site, prepare
from errata.errors import NumericsError
from errata.facts import Fact
from errata.models import LanguageModel

_BETAS, _EPSILON = (0.9, 0.999), 1e-8
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
    `advance` is told how many of the facts' evaluations are done, `evaluations(config)` for each fact in the end, but
    for those that `halfway` says were done before: where it holds a state, the batch goes on from there.
    Raises NumericsError where a fact ends without finite numbers.
    """
    problem = prepare(lm, facts, config.layers[-1], prefixes, site)
    values = _optimise(problem, config, advance, halfway or Halfway())
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


class _Adam:
    """torch.optim.Adam's update for each fact's shift, with rows that can be dropped."""

    def __init__(self, shape: torch.Size, device: torch.device, betas: tuple[float, float]) -> None:
        self.betas = betas
        self.mean = torch.zeros(shape, device=device)
        self.square = torch.zeros(shape, device=device)
        self.steps = 0

    def step_(self, shift: Tensor, gradient: Tensor, active: Tensor, learning_rate: float, unit: Tensor) -> None:
        self.steps += 1
        beta1, beta2 = self.betas
        mean, square = self.mean[active], self.square[active]
        mean = mean.mul_(beta1).add_(gradient, alpha=1 - beta1)
        square = square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        self.mean[active], self.square[active] = mean, square
        denominator = (square.sqrt() / (1 - beta2**self.steps) ** 0.5).add_(_EPSILON)
        shift[active] -= learning_rate / (1 - beta1**self.steps) * (mean / denominator) * unit[active]


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


def _optimise(problem: Problem, config: ValueConfig, advance: Callable[[int], None], halfway: Halfway) -> TargetValues:
    start = problem.start
    n = len(start)
    scale = _Scale.of(problem, config)
    shift = torch.zeros_like(start)
    adam = _Adam(start.shape, start.device, _FAST_BETAS if config.schedule == "fast" else _BETAS)
    rates = learning_rates(config)
    result = {name: torch.zeros(n, device=start.device) for name in ("first_nll", "nll", "kl", "loss")}
    updates = torch.zeros(n, dtype=torch.long, device=start.device)
    active = torch.arange(n, device=start.device)
    evaluator = Evaluator(problem, n)

    def state() -> dict[str, Tensor]:
        return {"shift": shift, "mean": adam.mean, "square": adam.square, "updates": updates, **result}

    if (kept := halfway.take_(state())) is not None:
        active, adam.steps = kept, int(updates.max())
        evaluator.resume(active, halfway.tensors.get("essence_log_probs"))
    for step in range(adam.steps, len(rates) + 1):
        last = step == len(rates)
        nll, kl, gradient = evaluator(shift, active, config.kl_factor, with_gradient=not last)
        unit, decay = scale.unit[active], scale.decay[active]
        norm = (shift[active] / unit).norm(dim=2)
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
            active, gradient, norm, decay, unit = (of[going] for of in (active, gradient, norm, decay, unit))
            evaluator.keep(active)
        # ‖shift‖ has no gradient at 0; like torch's norm, take 0 there.
        gradient = gradient + shift[active] / unit**2 * (decay / norm.clamp_min(1e-30) * (norm > 0))[..., None]
        adam.step_(shift, gradient, active, rates[step], scale.unit)
        limit = config.clamp * scale.length[active]
        norm = (shift[active] / unit).norm(dim=2)
        shift[active] *= torch.where(norm > limit, limit / norm, torch.ones_like(norm))[..., None]
        updates[active] += 1
        told = (len(rates) + 1) * (n - len(active)) + len(active) * adam.steps
        halfway.keep_if_due({**state(), "active": active, **evaluator.reference()}, told)
    return TargetValues(
        value=(start + shift)[:, -1],
        shift_norm=shift[:, -1].norm(dim=1),
        start_norm=start[:, -1].norm(dim=1),
        first_nll=result["first_nll"],
        short_nll=short_losses(evaluator, shift),
        nll=result["nll"],
        kl=result["kl"],
        loss=result["loss"],
        updates=updates,
        converged=(result["loss"] < config.stop_loss).long(),
    )
