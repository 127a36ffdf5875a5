"""Where a reproduction's tables and figures go, the lines of its summary, and means over prompts and segments."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from errata.reports.output_files import OutputFolder
from errata.views.plotting import line_figure

Records = Sequence[Mapping[str, Any]]
SHOWN_SEGMENTS = ("first subject", "middle subject", "last subject", "first after", "further", "last")


class Folder(OutputFolder):
    """Tables and figures, and a line of the summary for each finding."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self.lines: list[list[str]] = []

    def line(self, figure: str, what: str, found: str, published: str) -> None:
        """A line of the summary: of which figure, what is compared, what was found, what was published."""
        self.lines.append([figure, what, found, published])


def by_layer(values: Iterable[Sequence[int | float | None]]) -> list[float]:
    """Mean over prompts for each layer; NaN where no prompt has a number."""
    return [mean(column) for column in zip(*values, strict=True)]


def mean(values: Iterable[int | float | None]) -> float:
    """Mean of the numbers, None and NaN left out; NaN where none is left."""
    numbers = [x for x in values if x is not None and not math.isnan(x)]
    return fmean(numbers) if numbers else math.nan


def standard_error(values: Iterable[int | float | None]) -> float:
    """Standard error of the numbers' mean, None left out; NaN for fewer than two."""
    numbers = [x for x in values if x is not None]
    if len(numbers) < 2:
        return math.nan
    middle = fmean(numbers)
    return math.sqrt(sum((x - middle) ** 2 for x in numbers) / (len(numbers) - 1) / len(numbers))


def segment_values(measured: Records, get: Callable[[Mapping[str, Any]], Any], layers: Sequence[int]) -> dict:
    """Values by segment and layer: each prompt gives the mean over its positions in the segment."""
    rows: dict[str, list[list[int | float | None]]] = {name: [] for name in SHOWN_SEGMENTS}
    for one in measured:
        values = get(one)
        for name in SHOWN_SEGMENTS:
            places = one["segments"].get(name, [])
            if places:
                row = [[values[i][at] for at in places if values[i][at] is not None] for i in layers]
                rows[name].append([fmean(cell) if cell else None for cell in row])
    return rows


def segment_lines(
    folder: Folder, name: str, values: Mapping[str, Any], layers: Sequence[int], label: str, title: str
) -> dict[str, list[float]]:
    """Means over prompts by segment and layer, as a table and a figure; `label` names the column."""
    means = {segment: by_layer(rows) for segment, rows in values.items() if rows}
    errors = {
        segment: [standard_error(column) for column in zip(*rows, strict=True)]
        for segment, rows in values.items() if rows
    }  # fmt: skip
    rows = [
        {"segment": segment, "layer": i, label: means[segment][i], "standard_error": errors[segment][i],
         "prompts": len(values[segment])}
        for segment in means for i in layers
    ]  # fmt: skip
    folder.table(name, rows)
    bands = {
        segment: (
            [m - 1.96 * e for m, e in zip(means[segment], errors[segment], strict=True)],
            [m + 1.96 * e for m, e in zip(means[segment], errors[segment], strict=True)],
        )
        for segment in means
    }
    folder.figure(
        name,
        lambda: line_figure(layers, means, xlabel="layer", ylabel=label.replace("_", " "), title=title, bands=bands),
    )
    return means
