"""The two kinds of work of a tuning, on a real model, each with the seconds that it took."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from errata.core.progress import SILENT, ProgressSink
from errata.edit import Edit, EditTask, Method, TargetValues
from errata.edit.settings.value_config import ValueConfig
from errata.errors import ConfigError, NumericsError
from errata.evaluate import Measurement, measure
from errata.facts import Fact
from errata.jobs.workbench import Workbench
from errata.models import relative_norm, updates_applied, weight_of

# Of a measurement, what a tuning keeps of the edited model: value, half of the 95 % interval, count.
METRICS = ("score", "es", "ps", "ns", "em", "pm", "nm", "accuracy", "paraphrase_accuracy", "neighbour_accuracy")
Row = dict[str, Any]
# Target values of fewer facts are not worth lines of their own.
_SHOWN = 50


@runtime_checkable
class Worker(Protocol):
    """What a search asks for. Every answer is plain JSON and has `seconds`."""

    def values(self, config: Any, facts: Sequence[Fact]) -> Row:
        """Make the costly part for these facts; mean `nll` and `short_nll` where the method has target values."""
        ...

    def edit(self, config: Any, facts: Sequence[Fact], *, drift: bool) -> Row:
        """Edit and measure, the costly part being made: `metrics`, `relative_norm`, `landed`; or `mark`, why not."""
        ...

    def unedited(self, facts: Sequence[Fact]) -> Row:
        """`metrics` of the model as it is."""
        ...


@dataclass
class ModelWorker:
    """Work on a model, which is as it was after each piece.

    together: by last layer, every layer that some setting with it writes.
    """

    bench: Workbench
    method: Method
    together: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic

    def values(self, config: Any, facts: Sequence[Fact]) -> Row:
        """As `Worker` says; `mark` where the values diverge. Seconds that an earlier run spent on kept values count."""
        began = self.clock()
        try:
            prepared = self.method.prepare(self._task(config, facts, moments=False))
        except NumericsError as error:
            return {"seconds": self.clock() - began, "mark": f"diverged: {error}"}
        seconds = self.clock() - began
        if not isinstance(prepared, TargetValues):
            return {"seconds": seconds}
        means = {name: float(getattr(prepared, name).double().mean()) for name in ("nll", "short_nll")}
        # What an earlier run spent on the same values counts: else a plan would take those to come for free too.
        return {"seconds": seconds + prepared.kept_seconds, **means}

    def edit(self, config: Any, facts: Sequence[Fact], *, drift: bool) -> Row:
        """As `Worker` says; with `drift`, `kl_drift` is among the metrics where there is held-out text."""
        began = self.clock()
        lm = self.bench.lm
        if drift:
            self.bench.look_at_text(None)
        try:
            edit = self.bench.edit(self.method, self._task(config, facts, moments=True))
        except (NumericsError, ConfigError) as error:
            return {"seconds": self.clock() - began, "mark": f"failed: {error}"}
        norms = [relative_norm(update, weight_of(lm, place)) for place, update in edit.updates.items()]
        try:
            with updates_applied(lm, edit.updates):
                metrics = metrics_of(measure(lm, facts))
                if drift and (text := self.bench.drift()) is not None:
                    kl = text.measure().kl_drift
                    metrics["kl_drift"] = [kl.value, kl.interval, kl.count]
        except NumericsError as error:
            return {"seconds": self.clock() - began, "mark": f"failed: {error}"}
        outcome = {
            "relative_norm": max(norms, default=0.0),
            "landed": _landed(edit),
            "warnings": list(edit.warnings)[:5],
        }
        return {"seconds": self.clock() - began, "metrics": metrics, **outcome}

    def unedited(self, facts: Sequence[Fact]) -> Row:
        """As `Worker` says."""
        began = self.clock()
        metrics = metrics_of(measure(self.bench.lm, facts))
        return {"metrics": metrics, "seconds": self.clock() - began}

    def _task(self, config: Any, facts: Sequence[Fact], *, moments: bool) -> EditTask:
        # Computed before for all settings of a group, so they only have to be loaded, and their factors made once.
        layers = self.together.get(config.layers[-1], config.layers)
        own = self.bench.moments(self.method, config, layers=layers, progress=SILENT) if moments else None
        progress = _Stages(self.bench.progress) if not moments and len(facts) >= _SHOWN else SILENT
        if isinstance(config, ValueConfig):
            config = config.replace(retries=0)  # a second try would hide that a setting finds no values
        return self.bench.task(facts, self.method, config, own, progress=progress)


def metrics_of(measured: Measurement) -> dict[str, list[Any]]:
    """Value, interval and count of what a trial is judged by, by key in METRICS."""
    metrics = measured.metrics()
    return {name: [metrics[name].value, metrics[name].interval, metrics[name].count] for name in METRICS}


def _landed(edit: Edit) -> float | None:
    """The share of the wanted change that landed, of methods that say so."""
    residual = edit.metrics.get("residual")
    return float(residual["landed"]) if isinstance(residual, Mapping) else None


class _Stages:
    """The progress of target values without what else is told: a tuning has its own lines."""

    def __init__(self, progress: ProgressSink) -> None:
        self._progress = progress
        self.stage = progress.stage

    def note(self, text: str) -> None:
        """Left out."""
