"""The two kinds of work of a tuning, on a real model, each with the seconds that it took."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from errata.core.progress import SILENT, ProgressSink
from errata.edit import Edit, EditTask, Method, TargetValues, context_prefixes
from errata.edit.settings.value_config import ValueConfig
from errata.errors import ConfigError, NumericsError
from errata.evaluate import Measurement, measure
from errata.evaluate.drift import Drift
from errata.facts import Fact
from errata.jobs.batches import checked_edit
from errata.jobs.stats_job import run_stats
from errata.models import LanguageModel, relative_norm, updates_applied, weight_of
from errata.stats import Corpus, SecondMoments

# Of a measurement, what a tuning keeps of the edited model: value, half of the 95 % interval, count.
METRICS = ("score", "es", "ps", "ns", "em", "pm", "nm", "accuracy", "paraphrase_accuracy", "neighbour_accuracy")
Row = dict[str, Any]
# Target values of fewer facts are not worth lines of their own.
_SHOWN = 50


@runtime_checkable
class Worker(Protocol):
    """What a search asks for. Every answer is plain JSON and has `seconds`."""

    def values(self, config: Any, facts: Sequence[Fact]) -> Row:
        """Make the dear part for these facts; mean `nll` and `short_nll` where the method has target values."""
        ...

    def edit(self, config: Any, facts: Sequence[Fact], *, drift: bool) -> Row:
        """Edit and measure, the dear part being made: `metrics`, `relative_norm`, `landed`; or `mark`, why not."""
        ...

    def unedited(self, facts: Sequence[Fact]) -> Row:
        """`metrics` of the model as it is."""
        ...


@dataclass
class ModelWorker:
    """Work on a model, which is as it was after each piece.

    together: by last layer, every layer that some setting with it writes.  held_out: token ids behind the drift.
    """

    lm: LanguageModel
    method: Method
    corpus: Corpus | None
    cache: Path | None
    batch_size: int
    together: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    held_out: Callable[[], Sequence[Sequence[int]]] | None = None
    progress: ProgressSink = SILENT
    clock: Callable[[], float] = time.monotonic
    _prefixes: dict[Any, tuple[str, ...]] = field(default_factory=dict)
    # Of the last layers asked for: their factors are made once for all settings of a group.
    _moments: dict[Any, SecondMoments] = field(default_factory=dict)
    _drift: Drift | None = None

    def values(self, config: Any, facts: Sequence[Fact]) -> Row:
        """As `Worker` says; `mark` where the values diverge. Seconds that an earlier run spent on kept values count."""
        began = self.clock()
        try:
            found = self.method.prepare(self._task(config, facts, moments=False))
        except NumericsError as error:
            return {"seconds": self.clock() - began, "mark": f"diverged: {error}"}
        seconds = self.clock() - began
        if not isinstance(found, TargetValues):
            return {"seconds": seconds}
        means = {name: float(getattr(found, name).double().mean()) for name in ("nll", "short_nll")}
        # What an earlier run spent on the same values counts: else a plan would take those to come for free too.
        return {"seconds": seconds + found.kept_seconds, **means}

    def edit(self, config: Any, facts: Sequence[Fact], *, drift: bool) -> Row:
        """As `Worker` says; with `drift`, `kl_drift` is among the metrics where there is held-out text."""
        began = self.clock()
        if drift:
            self._unedited_text()
        try:
            edit = checked_edit(self.method, self._task(config, facts, moments=True))
        except (NumericsError, ConfigError) as error:
            return {"seconds": self.clock() - began, "mark": f"failed: {error}"}
        norms = [relative_norm(update, weight_of(self.lm, place)) for place, update in edit.updates.items()]
        try:
            with updates_applied(self.lm, edit.updates):
                metrics = metrics_of(measure(self.lm, facts))
                if drift and self._drift is not None:
                    found = self._drift.measure().kl_drift
                    metrics["kl_drift"] = [found.value, found.interval, found.count]
        except NumericsError as error:
            return {"seconds": self.clock() - began, "mark": f"failed: {error}"}
        told = {"relative_norm": max(norms, default=0.0), "landed": _landed(edit), "warnings": list(edit.warnings)[:5]}
        return {"seconds": self.clock() - began, "metrics": metrics, **told}

    def unedited(self, facts: Sequence[Fact]) -> Row:
        """As `Worker` says."""
        began = self.clock()
        metrics = metrics_of(measure(self.lm, facts))
        return {"metrics": metrics, "seconds": self.clock() - began}

    def prefixes(self, config: Any) -> tuple[str, ...]:
        """The context prefixes of a setting, sampled once."""
        if not self.method.uses_prefixes:
            return ("",)
        key = config.prefix_key
        if key not in self._prefixes:
            self._prefixes[key] = context_prefixes(self.lm, config)
        return self._prefixes[key]

    def _task(self, config: Any, facts: Sequence[Fact], *, moments: bool) -> EditTask:
        own = self._moments_of(config) if moments and self.method.uses_moments(config) else None
        progress = _Stages(self.progress) if not moments and len(facts) >= _SHOWN else SILENT
        if isinstance(config, ValueConfig):
            config = config.replace(retries=0)  # a second try would hide that a setting finds no values
        return EditTask(
            self.lm, tuple(facts), config, self.prefixes(config), own, self.batch_size, self.cache, progress,
            lambda _: nullcontext(),
        )  # fmt: skip

    def _moments_of(self, config: Any) -> SecondMoments:
        """The moments of a setting's layers: computed before, so they only have to be loaded."""
        layers = self.together.get(config.layers[-1], config.layers)
        key = (layers, config.moment_tokens, config.seed)
        if key not in self._moments:
            folder = None if self.cache is None else self.cache / "moments"
            made = run_stats(
                self.lm, layers, tokens=config.moment_tokens, corpus=self.corpus, seed=config.seed, cache=folder
            )
            self._moments = {key: made}
        return self._moments[key]

    def _unedited_text(self) -> None:
        """Look at the unedited model's predictions for the held-out text, once."""
        if self.held_out is not None and self._drift is None:
            self._drift = Drift(self.lm, self.held_out())


def metrics_of(measured: Measurement) -> dict[str, list[Any]]:
    """Value, interval and count of what a trial is judged by, by key in METRICS."""
    found = measured.metrics()
    return {name: [found[name].value, found[name].interval, found[name].count] for name in METRICS}


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
