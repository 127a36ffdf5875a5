"""How well failures of edits can be told before editing, as a table."""

from collections.abc import Iterator, Sequence
from typing import Any

from errata.jobs.bench.features import FEATURES
from errata.jobs.bench.study import FAILURES
from errata.reports.output_files import OutputFolder
from errata.views.text_tables import text_table


def prediction_parts(folder: OutputFolder, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How well failures can be told before editing."""
    known = [row for row in rows if row["auc"] is not None]
    if not rows:
        return
    names = [*FEATURES]
    every = [f"{part}_{name}" for part in ("auc", "weight") for name in names]
    folder.table("predictions", [{**dict.fromkeys(every), **row} for row in rows])
    cells = [
        [row["method"], row["facts"], row["failure"], f"{100 * row['share']:.0f} %",
         f"{row['auc']:.2f} ({row['auc_low']:.2f}–{row['auc_high']:.2f})",
         *("–" if row.get(f"auc_{name}") is None else f"{row[f'auc_{name}']:.2f}" for name in names)] for row in known
    ]  # fmt: skip
    header = ["method", "facts", "failure", "share", "AUC, all features", *names]
    failures = "; ".join(f"{name}: {meaning}" for name, meaning in FAILURES.items())
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in FEATURES.items())
    few = sorted({f"{row['method']}, {row['facts']} ({row['failure']})" for row in rows if row["auc"] is None})
    left = f" Too few of either outcome: {', '.join(few)}." if few else ""
    yield (
        "## What predicts failure\n\nAUC of a logistic regression on what is known before the edit, each record "
        "predicted by a fit without it (95 % bootstrap interval), then of each feature alone (0.5 is chance). "
        f"Failures: {failures}. Features: {meanings}.{left}\n\n{text_table(header, cells, right=range(3, len(header)))}"
    )
