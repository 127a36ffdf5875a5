"""What an evaluation found, as an object: totals in memory, the rows of single prompts on the disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.evaluate import Changes, Metric, Summary, ZsreSummary
from errata.evaluate.drift import DriftScore
from errata.evaluate.generation import GenerationConfig
from errata.evaluate.requirements import Requirement
from errata.evaluate.scores import all_metrics
from errata.evaluate.verdict import Verdict
from errata.jobs.eval_rows import Row, result_columns, result_rows
from errata.jobs.eval_states import Chunk, State, text_columns, text_rows
from errata.store.tables import write_parquet


@dataclass(frozen=True)
class StateSummary:
    """Totals of one state of the model; `generation` has "ge" and "rs" where texts were generated."""

    summary: Summary
    zsre: ZsreSummary
    generation: Mapping[str, Metric]

    def metrics(self) -> dict[str, Metric]:
        """Every total by its key in METRICS."""
        return {**all_metrics(self.summary, self.zsre), **self.generation}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        generation = {
            name: {"value": metric.value, "interval_95": metric.interval, "count": metric.count}
            for name, metric in self.generation.items()
        }
        return {**self.summary.to_json(), "zsre": self.zsre.to_json(), "generation": generation}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found: totals before and after, what changed, drift, plain facts about the run (`info`).

    verdict: how many facts are said after, and how many neighbours kept their answer.

    The rows of single prompts stay on the disk, in the cache; `write_rows` makes one file of them.
    """

    before: StateSummary
    after: StateSummary
    changes: Changes
    drift: DriftScore | None
    info: dict[str, Any]
    states: tuple[State, State]
    chunks: tuple[Chunk, ...]
    generation: GenerationConfig | None
    verdict: Verdict

    def judged(self, requirements: Sequence[Requirement]) -> list[dict[str, Any]]:
        """Each requirement with what was found, as plain JSON."""
        before, after = self.metrics()
        return [one.judged(before, {**after, **self.verdict.metrics()}).to_json() for one in requirements]

    def metrics(self) -> tuple[dict[str, Metric], dict[str, Metric]]:
        """Every number before and after by its key in METRICS; what compares the two states is in the second."""
        before, after = self.before.metrics(), {**self.after.metrics(), **self.changes.metrics()}
        if self.drift is not None:
            before["perplexity"] = self.drift.perplexity_before
            after |= self.drift.metrics()
        return before, after

    def rows(self) -> Iterator[list[Row]]:
        """One row a fact and prompt, chunk by chunk."""
        for chunk in self.chunks:
            yield result_rows(chunk.facts, {state.name: state.rows(chunk) for state in self.states})

    def texts(self) -> Iterator[list[Row]]:
        """One row a generation prompt, chunk by chunk; none where nothing was generated."""
        for chunk in self.chunks if self.generation else ():
            texts = {state.name: state.texts(chunk, self.generation) for state in self.states}  # type: ignore[arg-type]
            yield list(text_rows(chunk.facts, texts))

    def write_rows(self, folder: Path) -> None:
        """Write results.parquet and, where texts were generated, generations.parquet."""
        names = [state.name for state in self.states]
        write_parquet(folder / "results.parquet", self.rows(), result_columns(names))
        if self.generation:
            write_parquet(folder / "generations.parquet", self.texts(), text_columns(names))
