"""Where a reproduction's tables and figures go, the lines of its summary, and means over prompts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from errata.reports.output_files import OutputFolder

Records = Sequence[Mapping[str, Any]]


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
