"""Training of a MEND editor: Adam on networks and editing rates, validation on held-out facts, the best editor kept.

The state is the editor, Adam's moments and the number of steps; the random choices of a step depend on the seed and
its number. So a training that goes on from a saved state ends with the bits of one that was never stopped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from errata.edit.methods.mend.edit_gradients import Gradients
from errata.edit.methods.mend.editor import MendEditor
from errata.edit.methods.mend.examples import Batch, Schedule
from errata.edit.methods.mend.mend_config import MendConfig
from errata.edit.methods.mend.objective import Entered, batch_gradients, editor_losses, enter
from errata.edit.methods.mend.validation import Validation, validate, validation_batches
from errata.errors import NumericsError
from errata.models import LanguageModel


@dataclass
class Standing:
    """How far a training has come. `best`: the best validation, at step `best_step`; `seconds` of work in all."""

    step: int = 0
    seconds: float = 0.0
    validated_at: int = 0
    best_step: int = 0
    best: Validation | None = None


@dataclass(frozen=True)
class StepReport:
    """One step's losses, means over its facts in nats, and the gradient's norm before clipping."""

    loss: float
    edit: float
    locality: float
    gradient_norm: float


class Trainer:
    """An editor in training. `cache_bytes`: kept hidden states of batches that come again each epoch.

    One Adam with two groups is two Adams: networks and editing rates each have their own rate and moments.
    """

    def __init__(
        self,
        lm: LanguageModel,
        editor: MendEditor,
        config: MendConfig,
        schedule: Schedule,
        held_out: Sequence[Batch],
        *,
        cache_bytes: int = 1 << 30,
    ) -> None:
        self.lm, self.editor, self.config, self.schedule = lm, editor, config, schedule
        self.first = config.layers[0]
        self.held_out = held_out
        self.standing = Standing()
        groups = [
            {"params": editor.network_parameters(), "lr": config.learning_rate},
            {"params": [editor.rates], "lr": config.rate_learning_rate},
        ]
        self.adam = torch.optim.Adam(groups)
        self._cache_bytes = cache_bytes
        self._entered: dict[Batch, Entered] = {}
        self._held_out_entered: list[Entered] | None = None

    def advance(self) -> StepReport:
        """One step. Raises NumericsError where a loss or a gradient is not finite; nothing of that step is saved."""
        batch = self.schedule(self.standing.step)
        entered = self._enter(batch)
        read = batch_gradients(self.lm, batch, entered, self.editor)
        before = self.editor.statistics()
        # What the statistics of this step are made of counts in them, as in the public code.
        for place, gradient in read.by_place.items():
            self.editor.observe(place, *gradient.rows())
        try:
            report = self._gradient(batch, entered, read)
        except NumericsError:
            self.editor.set_statistics_(before)
            raise
        self.adam.step()
        self.standing.step += 1
        return report

    def _gradient(self, batch: Batch, entered: Entered, read: Gradients) -> StepReport:
        """Losses of the step, and their gradient, clipped, in the editor's parameters."""
        losses = editor_losses(self.lm, self.editor, batch, entered, read, self.config)
        loss = losses.total(self.config)
        self._expect_finite(float(loss.detach()), "loss")
        self.adam.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.editor.parameters(), self.config.clip))
        self._expect_finite(norm, "gradient of the editor")
        means = losses.edit.detach().mean(), losses.locality.detach().mean()
        return StepReport(float(loss.detach()), float(means[0]), float(means[1]), norm)

    def validate(self) -> tuple[Validation, bool]:
        """How the editor does now, and whether it never did better; the standing remembers the best."""
        standing = self.standing
        if self._held_out_entered is None:
            self._held_out_entered = validation_batches(self.lm, self.held_out, self.first)
        validation = validate(self.lm, self.editor, self.held_out, self._held_out_entered, self.config)
        standing.validated_at = standing.step
        is_best = math.isfinite(validation.loss) and (standing.best is None or validation.loss < standing.best.loss)
        if is_best:
            standing.best, standing.best_step = validation, standing.step
        return validation, is_best

    @property
    def validation_is_due(self) -> bool:
        """Whether this many steps call for a validation that has not been made."""
        step = self.standing.step
        return step > self.standing.validated_at and step % self.config.validate_every == 0

    @property
    def is_stuck(self) -> bool:
        """Whether `patience` steps went by without a better validation."""
        standing = self.standing
        return standing.best is not None and standing.validated_at - standing.best_step >= self.config.patience

    def _enter(self, batch: Batch) -> Entered:
        """A batch at the first edited layer. Whole batches are kept: a row's last bits depend on the rows beside it."""
        if (entered := self._entered.get(batch)) is not None:
            return entered
        entered = enter(self.lm, batch, self.first)
        if sum(one.nbytes for one in self._entered.values()) + entered.nbytes <= self._cache_bytes:
            self._entered[batch] = entered
        return entered

    def _expect_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            config = self.config
            raise NumericsError(
                f"The {what} is {value} at step {self.standing.step + 1} of the training. Lower learning_rate "
                f"(now {config.learning_rate:g}), rate_learning_rate ({config.rate_learning_rate:g}) or start_rate "
                f"({config.start_rate:g}); with a model in half precision, load it as float32."
            )


def train(
    trainer: Trainer,
    is_over: Callable[[Standing], bool],
    *,
    clock: Callable[[], float],
    on_step: Callable[[StepReport], None],
    on_validation: Callable[[Validation, bool], None],
    flush: Callable[[], None],
    flush_seconds: float,
) -> None:
    """Train until `is_over`, or until nothing gets better. `flush` keeps the state, every `flush_seconds` at most.

    The end is validated, so that a short training has an editor to show; `on_validation` hears which is the best.
    """
    standing = trainer.standing
    watch = _Watch(standing, clock)

    def keep() -> None:
        flush()
        watch.flushed = watch.seen

    def look() -> None:
        on_validation(*trainer.validate())
        watch.tick()
        keep()

    while not is_over(standing) and not trainer.is_stuck:
        report = trainer.advance()
        watch.tick()
        on_step(report)
        if trainer.validation_is_due:
            look()
        elif watch.seen - watch.flushed >= flush_seconds:
            keep()
    if standing.step > standing.validated_at:
        look()


class _Watch:
    """Counts the seconds of work into the standing; `flushed`: when the state was kept last."""

    def __init__(self, standing: Standing, clock: Callable[[], float]) -> None:
        self.standing, self.clock = standing, clock
        self.seen = self.flushed = clock()

    def tick(self) -> None:
        before, self.seen = self.seen, self.clock()
        self.standing.seconds += self.seen - before
