"""One cell of a benchmark: a method edits some facts, the model is measured as it is then, and put back."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from errata.backends import LOCAL
from errata.core.parts import Advance, Part, PartStore, complete, results
from errata.core.progress import SILENT, ProgressSink
from errata.edit import Edit, EditTask, Method, Settings, find_method, settings_for
from errata.errors import ConfigError, NumericsError
from errata.evaluate import FactScore, measure
from errata.evaluate.metrics import Metric, metric
from errata.facts import Fact
from errata.jobs.batches import right_after
from errata.jobs.bench.bench_options import BenchOptions
from errata.jobs.bench.outcomes import Outcome, outcome_of
from errata.jobs.memory import peak_memory_mib
from errata.jobs.workbench import Workbench
from errata.models import LanguageModel, relative_norm, updates_applied, weight_of

# ‖ΔW‖/‖W‖ from which on a cell is marked: of the weight's own little is left.
_EXPLODED = 10.0
# The row that every other is compared with: no edit at all.
UNEDITED = "unedited"


@dataclass(frozen=True)
class Cell:
    """study: "scaling" or "mixed".  label: what the facts are.  singly: each fact by itself on the unedited model."""

    study: str
    label: str
    method: str
    facts: tuple[Fact, ...]
    singly: bool = False
    # The number of edits whose settings are used, where it is not that of the facts (halves of a mixed study).
    count: int | None = None

    @property
    def name(self) -> str:
        return f"{self.method}, {self.label}"

    @property
    def columns(self) -> dict[str, str]:
        """What its rows in a table begin with."""
        return {"study": self.study, "method": self.method, "facts": self.label}


@dataclass
class CellResult:
    """What a cell gave, as plain JSON. mark: empty, or why its figures are not what they seem.

    extras: what was measured of the model beside the facts' prompts, as (value, interval, count).
    """

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    relative_norm: float = 0.0
    mark: str = ""
    failed: list[dict[str, Any]] = field(default_factory=list)
    extras: dict[str, list[Any]] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Extras(Protocol):
    """What is asked of the model as it is, beside the facts' prompts."""

    def prepare(self) -> None:
        """Look at the unedited model, before the first edit."""
        ...

    def __call__(self, facts: Sequence[Fact], *, singly: bool) -> Mapping[str, Metric]: ...


# The key of a single edit of a fact, and where it is kept.
Singles = tuple[Callable[[Fact], str], PartStore]


@dataclass
class Bench:
    """What the cells of one benchmark share. before: the unedited model's scores by fact id."""

    work: Workbench
    options: BenchOptions
    extras: Extras
    before: dict[str, FactScore] = field(default_factory=dict)

    @property
    def lm(self) -> LanguageModel:
        return self.work.lm

    @property
    def progress(self) -> ProgressSink:
        return self.work.progress

    def measure_unedited(self, facts: Sequence[Fact]) -> None:
        """Score those facts on the model as it is that have no scores yet."""
        missing = {fact.id: fact for fact in facts if fact.id not in self.before}
        if missing:
            scores = measure(self.lm, list(missing.values()), progress=self.progress).facts
            self.before |= dict(zip(missing, scores, strict=True))

    def settings(self, cell: Cell) -> Settings:
        """A preset's (a file's or the table's) or a guess, for so many facts at once; the benchmark's fields win."""
        together = cell.count or len(cell.facts)
        at_once = 1 if cell.singly else min(self.options.in_batches or together, together)
        fields, preset = self.options.fields(cell.method), self.options.presets.get(cell.method)
        return settings_for(self.lm, at_once, method=cell.method, preset=preset, **fields)

    def run(self, cell: Cell, singles: Singles) -> CellResult:
        """Run one cell; the model is as it was in the end. A method that diverges ends the cell with a mark."""
        if cell.method == UNEDITED:
            return self._unedited(cell)
        method = find_method(cell.method)
        config = self.settings(cell).config
        task = self.work.task(cell.facts, method, config, self.work.moments(method, config))
        result = self._singly(method, task, singles) if cell.singly else _guarded(lambda: self._together(method, task))
        result.told["peak_memory_mib"] = peak_memory_mib(self.lm.device)
        return result

    def _unedited(self, cell: Cell) -> CellResult:
        outcomes = [outcome_of(self.lm, fact, self.before[fact.id], self.before[fact.id]) for fact in cell.facts]
        return CellResult(outcomes, extras=_plain(self.extras(cell.facts, singly=cell.singly)))

    def _together(self, method: Method, task: EditTask) -> CellResult:
        began = time.monotonic()
        after = _Timed(lambda batch: right_after(self.lm, batch))
        edit = self.work.edit(method, task, in_batches=self.options.in_batches, after_batch=after)
        return self._measured(edit, task.facts, time.monotonic() - began - after.seconds, singly=False)

    def _singly(self, method: Method, task: EditTask, singles: Singles) -> CellResult:
        with suppress(NumericsError):  # of one fact: its own edit will say so
            method.prepare(task)
        key_of, store = singles
        quiet = replace(task, progress=SILENT)
        parts = [Part(key_of(fact), fact) for fact in task.facts]

        def work(bench: Bench, fact: Fact, advance: Advance) -> CellResult:
            one = _guarded(lambda: bench._single(method, quiet, fact))
            advance(1)
            return one

        complete(work, self, parts, store, backend=LOCAL, progress=self.progress, what="single edits", unit="facts")
        total, extras = CellResult(), {}
        for fact, one in zip(task.facts, results(parts, store), strict=True):
            _add(total, extras, fact, one)
        total.extras = _plain({name: metric(values, scale=1.0) for name, values in extras.items()})
        total.mark = _marks(total, len(task.facts))
        return total

    def _single(self, method: Method, task: EditTask, fact: Fact) -> CellResult:
        began = time.monotonic()
        edit = self.work.edit(method, replace(task, facts=(fact,)))
        return self._measured(edit, (fact,), time.monotonic() - began, singly=True)

    def _measured(self, edit: Edit, facts: Sequence[Fact], seconds: float, *, singly: bool) -> CellResult:
        began = time.monotonic()
        with updates_applied(self.lm, edit.updates):
            scores = measure(self.lm, facts).facts
            extras = _plain(self.extras(facts, singly=singly))
        norm = _relative_norm(self.lm, edit)
        return CellResult(
            outcomes=[outcome_of(self.lm, f, self.before[f.id], s) for f, s in zip(facts, scores, strict=True)],
            seconds={"edit": seconds + edit.kept_seconds, "evaluation": time.monotonic() - began},
            relative_norm=norm,
            mark=f"exploded: ‖ΔW‖/‖W‖ = {norm:.3g}" if norm > _EXPLODED else "",
            extras=extras,
            told=_told(edit),
        )


def _guarded(work: Callable[[], CellResult]) -> CellResult:
    try:
        return work()
    except NumericsError as error:
        return CellResult(mark=f"diverged: {error}")
    except ConfigError as error:  # settings that only the second moments show to be impossible
        return CellResult(mark=f"refused: {error}")


def _add(total: CellResult, extras: dict[str, list[float]], fact: Fact, one: CellResult) -> None:
    """One single edit's part of the cell; an edit that failed has no figures."""
    total.outcomes += one.outcomes
    total.relative_norm = max(total.relative_norm, one.relative_norm)
    for name, seconds in one.seconds.items():
        total.seconds[name] = total.seconds.get(name, 0.0) + seconds
    for name, (value, *_) in one.extras.items():
        extras.setdefault(name, []).append(value)
    if one.mark:
        total.failed.append({"id": fact.id, "reason": one.mark, "left_out": not one.outcomes})


def _marks(total: CellResult, count: int) -> str:
    """What is to be known of single edits that failed or exploded."""
    parts = []
    for left_out, what in ((True, "left out"), (False, "counted all the same")):
        found = [one["reason"] for one in total.failed if one["left_out"] == left_out]
        if found:
            parts.append(f"{len(found)} of {count} single edits {what}; the first {found[0]}")
    return "; ".join(parts)


class _Timed:
    """A function and the seconds spent in it."""

    def __init__(self, work: Callable[[Sequence[Fact]], dict[str, Any]]) -> None:
        self.work, self.seconds = work, 0.0

    def __call__(self, facts: Sequence[Fact]) -> dict[str, Any]:
        began = time.monotonic()
        found = self.work(facts)
        self.seconds += time.monotonic() - began
        return found


def _relative_norm(lm: LanguageModel, edit: Edit) -> float:
    """The largest ‖ΔW‖/‖W‖ of the matrices that were written."""
    norms = [relative_norm(update, weight_of(lm, place)) for place, update in edit.updates.items()]
    # A weight of zeros makes it infinite, which JSON cannot hold.
    return min(max(norms, default=0.0), sys.float_info.max)


def _told(edit: Edit) -> dict[str, Any]:
    told: dict[str, Any] = {"summary": list(edit.summary), "warnings": list(edit.warnings)[:5]}
    batches = edit.metrics.get("batches")
    return {**told, "batches": batches} if batches else told


def _plain(metrics: Mapping[str, Metric]) -> dict[str, list[Any]]:
    return {name: [found.value, found.interval, found.count] for name, found in metrics.items()}
