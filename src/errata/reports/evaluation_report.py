"""An evaluation as a table, and as a folder: results.parquet, generations.parquet, summary.json, summary.md."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from errata.core.words import counted
from errata.evaluate import METRICS, Metric, MetricInfo
from errata.jobs.evaluation import Evaluation
from errata.reports.output_files import plain_json
from errata.reports.verdict_text import explained, sentence
from errata.store import atomic_write_text
from errata.store.run_folder import folder_for
from errata.views.text_tables import text_table

FILES = frozenset({"results.parquet", "generations.parquet", "summary.json", "summary.md"})
_BETTER = {True: "higher", False: "lower", None: ""}


def save_evaluation(evaluation: Evaluation, out: Path, *, overwrite: bool) -> Path:
    """Write the folder, whole or not at all; returns which it is, as `folder_for` says."""
    other = str(evaluation.info["patch"])
    with folder_for(out, overwrite=overwrite, other=other, ours=FILES) as (out, staging):
        evaluation.write_rows(staging)
        atomic_write_text(staging / "summary.json", plain_json(report(evaluation)) + "\n")
        atomic_write_text(staging / "summary.md", evaluation_text(evaluation) + "\n")
    return out


def report(evaluation: Evaluation) -> dict[str, Any]:
    """Everything but the single prompts, as plain JSON; `metrics` is the printed table."""
    before, after = evaluation.metrics()
    return {
        **evaluation.info,
        "verdict": evaluation.verdict.to_json(),
        "metrics": metric_records(before, after),
        "before": evaluation.before.to_json(),
        "after": evaluation.after.to_json(),
        "changes": evaluation.changes.to_json(),
        "drift": None if evaluation.drift is None else evaluation.drift.to_json(),
    }


def metric_records(before: Mapping[str, Metric], after: Mapping[str, Metric]) -> list[dict[str, Any]]:
    """One record a metric that was measured, in the order of METRICS: values, intervals, count, and what it means."""
    return [
        {
            **{name: value for name, value in asdict(info).items() if name != "digits"},
            **_values("before", before.get(info.key)),
            **_values("after", after.get(info.key)),
            "count": found.count,
        }
        for info, found in _measured(before, after)
    ]


def metrics_with_intervals(before: Mapping[str, Metric], after: Mapping[str, Metric]) -> str:
    """One row a metric that was measured: values with half the width of their 95 % intervals."""
    rows = [
        [
            info.label, info.unit, _shown(info, before.get(info.key)), _shown(info, after.get(info.key)),
            f"{found.count:,}", _BETTER[info.higher_is_better], info.meaning,
        ]
        for info, found in _measured(before, after)
    ]  # fmt: skip
    return text_table(["metric", "unit", "before", "after", "n", "better", "meaning"], rows, right=(2, 3, 4))


def evaluation_text(evaluation: Evaluation) -> str:
    """The verdict in a sentence, what was required, the table, and in words what was measured."""
    info, drift = evaluation.info, evaluation.drift
    head = [sentence(evaluation.verdict.to_json()), *(one["text"] for one in info.get("required", []))]
    told = [f"Patch {info['patch']} ({info['method']}) on {info['model']['name']}: {counted(info['facts'], 'fact')}."]
    if drift is not None:
        seed = "" if info["held_out_seed"] is None else f" (seed {info['held_out_seed']})"
        told.append(
            f"Held-out text: {drift.positions:,} positions in {drift.documents:,} documents, {info['held_out']}{seed}."
        )
    if info["generation"]:
        told.append(
            f"Generations: top-k {info['generation']['top_k']}, {info['generation']['tokens']} tokens in total, "
            f"seed {info['generation']['seed']}."
        )
    told.append(
        "± is half a 95 % interval: over facts, for held-out text over its documents. Success (ES, PS, NS) compares "
        "two answers; accuracy asks for the model's first choice."
    )
    told += info["warnings"]
    if skipped := info["skipped"]:
        listed = "\n".join(f"  {text}" for text in skipped[:5])
        more = f"\n  ... and {len(skipped) - 5} more in summary.json" if len(skipped) > 5 else ""
        told.append(f"Skipped: {counted(len(skipped), 'problem')}\n{listed}{more}")
    told.append(explained())
    return "\n\n".join(["\n".join(head), metrics_with_intervals(*evaluation.metrics()), "\n".join(told)])


def _measured(before: Mapping[str, Metric], after: Mapping[str, Metric]) -> list[tuple[MetricInfo, Metric]]:
    found = ((info, after.get(info.key) or before.get(info.key)) for info in METRICS)
    return [(info, metric) for info, metric in found if metric is not None and metric.count]


def _values(state: str, metric: Metric | None) -> dict[str, float | None]:
    return {
        state: None if metric is None else metric.value,
        f"{state}_interval_95": None if metric is None else metric.interval,
    }


def _shown(info: MetricInfo, metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return ""
    value = info.shown(metric.value)
    return value if metric.interval is None else f"{value} ± {info.shown(metric.interval)}"
