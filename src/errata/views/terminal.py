"""A grid on a terminal: a column a token, the top layer first, as wide as the screen; readable without colour."""

import io
import math
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.style import Style
from rich.text import Text

from errata.core.words import visible
from errata.views.grid import Grid, Sheet, ValueSheet

_NARROWEST, _WIDEST = 7, 16
# Shades of the norm, faint to strong: a mark for those who see no colour, a background for those who do.
_MARKS = " ░▒▓█"
_SHADES = ("", "#26313f", "#2f4a6b", "#2f6ea3", "#2f97d8")
_NEGATIVE_SHADES = ("", "#3d3226", "#6b4f2f", "#a3702f", "#d8972f")
_NARROWEST_VALUE = 8


def terminal_grid(
    grid: Grid, sheet: Sheet | ValueSheet, *, width: int, colour: bool, max_layers: int | None = None
) -> str:
    """The sheet as text of `width` columns, in several blocks where the prompt is wider; ANSI colours if `colour`.

    Each cell: a mark for the vector's norm, by fifths of the range of its logarithm, and the token that is shown; or of
    a sheet of values the number, marked by fifths of the limit.
    """
    label = max(len(str(layer)) for layer in grid.layers) + 2
    narrowest = _NARROWEST_VALUE if isinstance(sheet, ValueSheet) else _NARROWEST
    size = max(narrowest, min(_WIDEST, (width - label) // max(1, len(grid.tokens))))
    per_block = max(1, (width - label) // size)
    blocks = [range(at, min(at + per_block, len(grid.tokens))) for at in range(0, len(grid.tokens), per_block)]
    rows = _chosen_layers(len(grid.layers), max_layers)
    lines: list[Text] = []
    for number, block in enumerate(blocks):
        lines += [Text("")] if number else []
        lines += _block(grid, sheet, block, rows, label, size, colour)
    return _rendered(lines, width, colour)


def _chosen_layers(count: int, most: int | None) -> Sequence[int]:
    """The layers shown, top first: all, or `most` evenly spread ones with both ends."""
    if most is None or count <= most:
        return range(count - 1, -1, -1)
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)}, reverse=True)


def _block(
    grid: Grid, sheet: Sheet | ValueSheet, positions: range, rows: Sequence[int], label: int, size: int, colour: bool
) -> list[Text]:
    levels = [] if isinstance(sheet, ValueSheet) else _levels(sheet)
    lines = []
    for row in rows:
        line = Text(f"{grid.layers[row]:>{label - 1}} ", style="dim")
        for position in positions:
            if isinstance(sheet, ValueSheet):
                line.append_text(_value_cell(sheet, row, position, size, colour))
            else:
                line.append_text(_cell(grid, sheet, row, position, size, levels, colour))
        lines.append(line)
    head = Text(" " * label)
    for position in positions:
        head.append(_fitted(" " + grid.head(position), size), style="bold")
    return [*lines, head]


def _cell(
    grid: Grid, sheet: Sheet, row: int, position: int, size: int, levels: Sequence[Sequence[int]], colour: bool
) -> Text:
    shown = sheet.shown(row, position)
    if shown is None:
        return Text(_fitted(" –", size), style="dim")
    level = levels[row][position]
    text = visible(grid.texts[shown])
    if not colour:
        return Text(_fitted(_MARKS[level] + text, size))
    background = _SHADES[level]
    style = Style(color="white" if level > 1 else None, bgcolor=background or None, dim=level == 0)
    return Text(_fitted(" " + text, size - 1) + " ", style=style)


def _value_cell(sheet: ValueSheet, row: int, position: int, size: int, colour: bool) -> Text:
    value = sheet.values[row][position]
    if value is None:
        return Text(_fitted(" –", size), style="dim")
    level = min(4, int(5 * abs(value) / sheet.limit)) if sheet.limit else 0
    text = f"{value:.{sheet.digits}f}"
    text = text.removeprefix("-") if not float(text) else text
    if not colour:
        return Text(_fitted(_MARKS[level] + text, size))
    background = (_NEGATIVE_SHADES if value < 0 else _SHADES)[level]
    style = Style(color="white" if level > 1 else None, bgcolor=background or None, dim=level == 0)
    return Text(_fitted(" " + text, size - 1) + " ", style=style)


def _levels(sheet: Sheet) -> list[list[int]]:
    """0 to 4 for each cell: fifths of the range of the norms' logarithms."""
    known = [
        x
        for row, gone in zip(sheet.norm, sheet.null, strict=True)
        for x, g in zip(row, gone, strict=True)
        if not g and x > 0
    ]
    low, high = (math.log(min(known)), math.log(max(known))) if known else (0.0, 0.0)
    if high <= low:
        return [[0] * len(row) for row in sheet.norm]
    return [[min(4, int(5 * (math.log(x) - low) / (high - low))) if x > 0 else 0 for x in row] for row in sheet.norm]


def _fitted(text: str, size: int) -> str:
    if cell_len(text) < size:
        return set_cell_size(text, size)
    return set_cell_size(text, size - 2) + "… "


def _rendered(lines: Sequence[Text], width: int, colour: bool) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=colour, color_system="truecolor" if colour else None, highlight=False,
        no_color=not colour, legacy_windows=False,
    )  # fmt: skip
    for line in lines:
        line.no_wrap = True
        console.print(line, overflow="crop", soft_wrap=False)
    return "\n".join(part.rstrip() for part in stream.getvalue().splitlines())
