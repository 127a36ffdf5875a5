"""A grid of tokens × layers as plain data: what the terminal, the HTML page and the figures are all drawn from."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from errata.core.words import visible

FORMAT = 1

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """A token that is followed through the grid: its 0-based rank in every cell, and how many share its logit."""

    text: str
    ranks: Sequence[Sequence[int]]
    ties: Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One way to fill the grid. Cells are [layer][position].

    side: "backward" or "forward".  name: what is read ("down", "residual").  shows: the extreme that a cell shows
    first, "top" or "bottom".  top, bottom: indices into the document's `texts`, from the extreme inwards.  null: cells
    with nothing to read.
    """

    side: str
    name: str
    source: str
    mode: str
    sign: str
    shows: str
    top: Sequence[Sequence[Sequence[int]]]
    top_values: Sequence[Sequence[Sequence[float]]]
    bottom: Sequence[Sequence[Sequence[int]]]
    bottom_values: Sequence[Sequence[Sequence[float]]]
    norm: Rows
    share: Rows | None
    null: Sequence[Sequence[bool]]
    tracked: Sequence[Tracked]

    def shown(self, layer: int, position: int) -> int | None:
        """Index of the text that the cell shows first."""
        return None if self.null[layer][position] else getattr(self, self.shows)[layer][position][0]


@dataclass(frozen=True, kw_only=True)
class ValueSheet:
    """One number in each cell instead of tokens: cells are [layer][position], None where there is none.

    name: what is seen ("hidden").  label: what its numbers are, with their unit.  limit: the number in full colour, and
    its negative in the other one.  details: further numbers of a cell, by name.  facts: numbers of the whole sheet.
    """

    side: str = "effect"
    name: str
    label: str
    values: Sequence[Sequence[float | None]]
    limit: float
    details: Mapping[str, Sequence[Sequence[float | None]]] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)

    @property
    def digits(self) -> int:
        """Decimals of a cell: three digits of the limit, two decimals at least and four at most."""
        return 2 if self.limit >= 1 or not self.limit else min(4, 2 - math.floor(math.log10(self.limit)))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A prompt's tokens, its layers, and any number of sheets over them. Texts are raw; views make them visible.

    labels: `tokens` are names of columns to be shown as they are, not what a model reads.
    """

    title: str
    subtitle: str
    tokens: Sequence[str]
    layers: Sequence[int]
    texts: Sequence[str]
    sheets: Sequence[Sheet | ValueSheet]
    vocabulary: int
    segments: Mapping[str, Sequence[int]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    labels: bool = False

    @property
    def readings(self) -> list[Sheet]:
        """Its sheets of tokens, as a lens reads them."""
        return [sheet for sheet in self.sheets if isinstance(sheet, Sheet)]

    def head(self, position: int) -> str:
        """What stands over (or under) a column."""
        return self.tokens[position] if self.labels else visible(self.tokens[position])

    def to_json(self) -> str:
        """The whole grid as JSON that is ASCII and free of `<`, so that it may stand inside an HTML page."""
        record = {"format": FORMAT, **_plain(self)}
        text = json.dumps(record, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    if isinstance(value, (Grid, Sheet, ValueSheet, Tracked)):
        return {name: _plain(part) for name, part in vars(value).items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(part) for part in value]
    # Four digits are more than a reader of a cell can use.
    return float(f"{value:.4g}") if isinstance(value, float) else value
