"""Where a reproduction's tables and figures go, the lines of its summary, and means over prompts."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from errata.jobs.lens_job import write_rows
from errata.store.atomic import atomic_file
from errata.views.plotting import save_figure

Records = Sequence[Mapping[str, Any]]


class Folder:
    """Tables as Parquet and CSV, figures as PDF and PNG, and a line of the summary for each finding."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.lines: list[list[str]] = []
        self.written: set[Path] = set()

    def table(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        self.written |= {self.out / "tables" / f"{name}.{kind}" for kind in ("parquet", "csv")}
        write_rows(self.out / "tables" / f"{name}.parquet", rows)
        with atomic_file(self.out / "tables" / f"{name}.csv") as staging:
            _write_csv(staging, rows)

    def figure(self, name: str, make: Callable[[], Any]) -> None:
        # Drawn twice: a figure is closed when it is written.
        for kind in ("pdf", "png"):
            self.written.add(save_figure(make(), self.out / "figures" / f"{name}.{kind}"))

    def forget_others(self) -> None:
        """Delete what an earlier run with other options left: it would read as belonging to this summary."""
        for part in ("tables", "figures"):
            for path in (self.out / part).iterdir():
                if path not in self.written and path.name.startswith(("fig", "tab", "imprint_and_shift")):
                    path.unlink()

    def line(self, figure: str, what: str, found: str, published: str) -> None:
        self.lines.append([figure, what, found, published])


def by_layer(values: Iterable[Sequence[int | float | None]]) -> list[float]:
    """Mean over prompts for each layer; NaN where no prompt has a number."""
    return [mean(column) for column in zip(*values, strict=True)]


def mean(values: Iterable[int | float | None]) -> float:
    numbers = [x for x in values if x is not None and not math.isnan(x)]
    return fmean(numbers) if numbers else math.nan


def standard_error(values: Iterable[int | float | None]) -> float:
    numbers = [x for x in values if x is not None]
    if len(numbers) < 2:
        return math.nan
    middle = fmean(numbers)
    return math.sqrt(sum((x - middle) ** 2 for x in numbers) / (len(numbers) - 1) / len(numbers))


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), extrasaction="raise")
        writer.writeheader()
        writer.writerows(rows)
