"""A benchmark's cells as tables: a row for each method, and what each batch gave right after it was written."""

from collections.abc import Iterator, Sequence
from typing import Any

from errata.evaluate.metrics import Metric, metric_info
from errata.jobs.bench.bench_options import BenchOptions
from errata.jobs.bench.cells import UNEDITED, Cell, CellResult
from errata.reports.bench.cell_metrics import COUNTERFACT, DRIFT, ZSRE, Done, figures_of, own_metrics, shown
from errata.reports.output_files import OutputFolder
from errata.views.text_tables import text_table

_MORE = ("em", "pm", "nm", "prompts_changed", "paraphrases_changed", "neighbours_changed")


def method_tables(folder: OutputFolder, done: Done, options: BenchOptions) -> Iterator[str]:
    """A table for each number of edits; all cells together in tables/cells."""
    columns = _columns(options, [result for _, result in done])
    rows: list[dict[str, Any]] = []
    for label in dict.fromkeys(cell.label for cell, _ in done):
        group = [(cell, result) for cell, result in done if cell.label == label]
        yield f"## {label}\n\n{_table(group, columns)}"
        rows += [_flat(cell, result) for cell, result in group]
    folder.table("cells", rows)


def batch_lines(folder: OutputFolder, done: Done) -> Iterator[str]:
    """What each batch gave while nothing had been written on top of it."""
    rows = []
    for cell, result in done:
        for number, batch in enumerate(result.told.get("batches", ()), 1):
            scores = batch["immediately"]
            zsre = {f"zsre_{key}": scores["zsre"][key] for key in ("score", "efficacy", "paraphrase", "specificity")}
            figures = {key: scores[key] for key in COUNTERFACT}
            rows.append({**cell.columns, "batch": number, "count": batch["facts"], **figures, **zsre})
    if not rows:
        return
    folder.table("batches", rows)
    lines = []
    for method, facts in dict.fromkeys((row["method"], row["facts"]) for row in rows):
        own = [row for row in rows if (row["method"], row["facts"]) == (method, facts)]
        shares = []
        for key in ("es", "ps", "ns", "accuracy"):
            measured = [(row[key], row["count"]) for row in own if row[key] is not None]
            if measured:
                mean = sum(value * count for value, count in measured) / sum(count for _, count in measured)
                shares.append(f"{metric_info(key).label} {mean:.1f}")
        lines.append(f"- {method}, {facts}: {', '.join(shares)}")
    yield "Right after each batch (means over facts; tables/batches.csv):\n\n" + "\n".join(lines)


def _columns(options: BenchOptions, results: Sequence[CellResult]) -> list[str]:
    """The columns of the main table: those of the data set, then drift where it was measured."""
    drift = [key for key in DRIFT if any(key in result.extras for result in results)]
    return [*own_metrics(options), "neighbours_changed", *drift]


def _table(group: Done, keys: Sequence[str]) -> str:
    rows = []
    for cell, result in group:
        metrics = figures_of(result)
        seconds = result.seconds.get("edit")
        rows.append([
            cell.method, *(shown(key, metrics.get(key)) for key in keys),
            "–" if cell.method == UNEDITED else f"{result.relative_norm:.3g}",
            "–" if seconds is None else f"{seconds:,.1f}",
            "*" * bool(result.mark),
        ])  # fmt: skip
    header = ["method", *(_column_head(key) for key in keys), "‖ΔW‖/‖W‖", "edit, s", ""]
    return text_table(header, rows, right=range(1, len(header) - 1))


def _column_head(key: str) -> str:
    info = metric_info(key)
    return f"{info.label}{', ' + info.unit if info.unit and info.unit != '%' else ''}"


def _flat(cell: Cell, result: CellResult) -> dict[str, Any]:
    metrics = figures_of(result)
    flat: dict[str, Any] = {**cell.columns, "n": len(cell.facts), "mark": result.mark}
    for key in (*COUNTERFACT, *_MORE, *ZSRE, *DRIFT):
        one = metrics.get(key) or Metric(None, None, 0)
        flat |= {key: one.value, f"{key}_interval": one.interval}
    seconds = {f"seconds_{name}": result.seconds.get(name) for name in ("edit", "evaluation")}
    return {**flat, "relative_norm": result.relative_norm, **seconds}
