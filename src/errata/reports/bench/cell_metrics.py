"""The metrics of a benchmark's cells: which a data set has, and each as a number and as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from errata.evaluate.metrics import Metric, metric_info
from errata.jobs.bench.bench_options import BenchOptions
from errata.jobs.bench.cells import Cell, CellResult
from errata.jobs.bench.outcomes import Outcome, totals

Done = Sequence[tuple[Cell, CellResult]]
COUNTERFACT = ("score", "es", "ps", "ns", "accuracy", "paraphrase_accuracy", "neighbour_accuracy")
ZSRE = ("zsre_score", "zsre_efficacy", "zsre_paraphrase", "zsre_specificity")
DRIFT = ("perplexity", "kl_drift", "tokens_changed", "ge", "rs")


def own_metrics(options: BenchOptions) -> tuple[str, ...]:
    """The metrics of the data set, by their keys in METRICS."""
    return ZSRE if options.dataset == "zsre" else COUNTERFACT


def figures_of(result: CellResult) -> dict[str, Metric]:
    """Every metric of a cell by its key in METRICS; Scores are metrics without an interval."""
    summary, zsre, changed = totals(result.outcomes)
    count = len(result.outcomes)
    metrics = {"score": Metric(summary.score, None, count), **summary.metrics(), **changed}
    metrics["zsre_score"] = Metric(zsre.score, None, count)
    metrics |= {f"zsre_{name}": value for name, value in zsre.metrics().items()}
    return metrics | {name: Metric(*values) for name, values in result.extras.items()}


def values_of(outcomes: Sequence[Outcome], keys: Sequence[str]) -> dict[str, float | None]:
    """The metrics of some facts and half of their intervals, by name."""
    metrics = figures_of(CellResult(list(outcomes)))
    values = {key: metrics[key].value for key in keys}
    return {**values, **{f"{key}_interval": metrics[key].interval for key in keys}}


def shown(key: str, metric: Metric | None) -> str:
    """A metric with half of its interval, as its digits are shown; a dash where it was not measured."""
    if metric is None or metric.value is None:
        return "–"
    info = metric_info(key)
    return info.shown(metric.value) + ("" if metric.interval is None else f" ± {info.shown(metric.interval)}")


def with_interval(row: Mapping[str, Any], key: str) -> str:
    """One metric of a row of `values_of` as text."""
    return shown(key, Metric(row[key], row[f"{key}_interval"], 0))
