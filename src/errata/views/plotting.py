"""Figures in the papers' style: vector PDF and PNG, with any token legible. The one module that imports matplotlib."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errata.core.words import visible
from errata.errors import InputError
from errata.store.atomic import atomic_file
from errata.views.grid import Grid, Sheet, ValueSheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # TrueType: text in the PDF stays text that can be searched
    "svg.fonttype": "none",
}
FORMATS = ("pdf", "png", "svg")
_MARKERS = "os^Dvx*P<>hd"
_CROWDED = 5  # lines from which on the legend stands beside the figure
_WIDEST = 64  # tokens
# A "$" in a token is a dollar. (Not a setting of the whole figure: the ticks of a log scale are formulas.)
_PLAIN: dict[str, Any] = {"parse_math": False}


def grid_figure(grid: Grid, sheet: Sheet, *, title: str | None = None) -> "Figure":
    """Token × layer grid: the text is the token at the shown extreme, the colour the vector's norm (log scale).

    Raises InputError for more than 64 tokens.
    """
    plt, colors = _matplotlib()
    import numpy as np

    if len(grid.tokens) > _WIDEST:
        raise InputError(
            f"A figure of {len(grid.tokens)} tokens could not be read; figures hold {_WIDEST}. The HTML page holds any."
        )
    norm = np.array(sheet.norm, dtype=float)
    null = np.array(sheet.null, dtype=bool)
    shown = np.ma.masked_where(null | (norm <= 0), norm)
    layers, tokens = norm.shape
    texts = [
        [visible(grid.texts[i]) if (i := sheet.shown(row, at)) is not None else "" for at in range(tokens)]
        for row in range(layers)
    ]
    heads = [visible(token) for token in grid.tokens]
    with plt.rc_context(_fonts([*heads, grid.title, *(text for row in texts for text in row)])):
        cell = 0.75
        figure, axes = plt.subplots(figsize=(1.6 + cell * tokens, 1.1 + 0.17 * layers))
        scale = colors.LogNorm(shown.min(), shown.max()) if shown.count() and shown.min() < shown.max() else None
        image = axes.imshow(shown, origin="lower", aspect="auto", cmap="Blues", norm=scale)
        for row in range(layers):
            for at in range(tokens):
                if texts[row][at]:
                    _cell_text(axes, at, row, _drawable(texts[row][at]), image, shown[row, at])
        axes.set_xticks(range(tokens), [_drawable(_cut(head)) for head in heads], rotation=35, ha="right", **_PLAIN)
        step = max(1, layers // 16)
        axes.set_yticks(range(0, layers, step), [str(grid.layers[i]) for i in range(0, layers, step)])
        axes.set_ylabel("layer")
        axes.set_title(_drawable(title or f"{grid.title}\n{_sheet_name(sheet)}"), fontsize=8, loc="left", **_PLAIN)
        figure.colorbar(image, ax=axes, label="‖v‖", pad=0.01)
    return figure


def _cell_text(axes: "Axes", x: int, y: int, text: str, image: Any, value: float) -> None:
    red, green, blue, _ = image.cmap(image.norm(value))
    dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
    axes.text(
        x,
        y,
        _cut(text),
        ha="center",
        va="center",
        fontsize=6,
        color="white" if dark else "black",
        clip_on=True,
        **_PLAIN,
    )


def _cut(text: str, limit: int = 12) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _sheet_name(sheet: Sheet) -> str:
    which = "least" if sheet.shows == "bottom" else "most"
    source = (
        f"{sheet.name}, {'−' if sheet.sign == '-vjp' else ''}{sheet.source}" if sheet.side == "backward" else sheet.name
    )
    return f"{source}, {sheet.mode} mode: {which} probable token, colour ‖v‖"


def line_figure(
    x: Sequence[int | float],
    lines: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    log: bool = False,
    log_x: bool = False,
) -> "Figure":
    """Lines with bands (low, high) where given; told apart by dashes and markers, not by colour alone."""
    plt, _ = _matplotlib()
    dashes = ["-", "--", ":", "-."]
    with plt.rc_context(_fonts([title, *lines])):
        figure, axes = plt.subplots(figsize=(5.6 if len(lines) > _CROWDED else 4.6, 2.9))
        for i, (name, values) in enumerate(lines.items()):
            style = {
                "marker": _MARKERS[i % len(_MARKERS)],
                "linestyle": dashes[i % len(dashes)],
                "color": _colour(plt, i),
            }
            (drawn,) = axes.plot(x, values, label=_drawable(name), markersize=3, linewidth=1, **style)
            if bands and name in bands:
                axes.fill_between(x, *bands[name], color=drawn.get_color(), alpha=0.15, linewidth=0)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_title(_drawable(title), fontsize=8, loc="left", **_PLAIN)
        if log_x:
            axes.set_xscale("log")
            axes.set_xticks(x, [f"{value:,}" for value in x])
            axes.minorticks_off()
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        if log:
            axes.set_yscale("log")
        if len(lines) > 1:
            _legend(axes, outside=len(lines) > _CROWDED)
    return figure


def matrix_figure(
    values: Sequence[Sequence[float]], *, xlabel: str, ylabel: str, label: str, title: str = "",
    limits: tuple[float, float] | None = None, rows: Sequence[str] | None = None,
) -> "Figure":  # fmt: skip
    """A heatmap; `limits` of opposite sign give a diverging scale. `rows` names the rows, else they are numbered."""
    plt, _ = _matplotlib()
    low, high = limits or (None, None)
    diverging = limits is not None and limits[0] < 0 < limits[1]
    with plt.rc_context(_fonts([title, *(rows or ())])):
        width, height = len(values[0]), len(values)
        figure, axes = plt.subplots(
            figsize=(min(7, 1.7 + 0.1 * width), min(6, 1.2 + 0.1 * height) if not rows else 2.6)
        )
        image = axes.imshow(
            values, origin="lower", aspect="auto", cmap="RdBu_r" if diverging else "viridis", vmin=low, vmax=high
        )
        if rows:
            axes.set_yticks(range(len(rows)), rows)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_title(_drawable(title), fontsize=8, loc="left", **_PLAIN)
        figure.colorbar(image, ax=axes, label=label)
    return figure


def value_figure(grid: Grid, sheets: Sequence[ValueSheet], *, title: str | None = None) -> "Figure":
    """Heatmaps of values side by side, a row a token from the top down, a column a layer, on one scale.

    Tokens of a segment that names the subject carry a star, as in the papers. Raises InputError for more than 64
    tokens.
    """
    plt, _ = _matplotlib()
    import numpy as np

    if len(grid.tokens) > _WIDEST:
        raise InputError(
            f"A figure of {len(grid.tokens)} tokens could not be read; figures hold {_WIDEST}. The HTML page holds any."
        )
    subject = {i for name, places in grid.segments.items() if "subject" in name for i in places}
    heads = [grid.head(i) + "*" * (i in subject) for i in range(len(grid.tokens))]
    high = max((sheet.limit for sheet in sheets), default=0.0) or 1.0
    values = [np.array([[np.nan if v is None else v for v in row] for row in sheet.values]).T for sheet in sheets]
    # What falls below zero is hardly seen beside what rises: then one hue says more than two.
    diverging = any(np.nanmin(one) < -0.1 * high for one in values if not np.isnan(one).all())
    with plt.rc_context(_fonts([*heads, grid.title, *(sheet.name for sheet in sheets)])):
        figure, all_axes = plt.subplots(
            1, len(sheets), sharey=True, squeeze=False,
            figsize=(2.0 + 2.3 * len(sheets), 1.3 + 0.17 * len(heads)),
        )  # fmt: skip
        image = None
        for axes, sheet, one in zip(all_axes[0], sheets, values, strict=True):
            colours = plt.get_cmap("RdBu_r" if diverging else "Purples").with_extremes(bad="0.93")
            low = -high if diverging else 0.0
            image = axes.imshow(one, aspect="auto", cmap=colours, vmin=low, vmax=high, interpolation="nearest")
            step = max(1, len(grid.layers) // 6)
            axes.set_xticks(range(0, len(grid.layers), step), [str(layer) for layer in grid.layers[::step]])
            axes.set_xlabel("layer")
            axes.set_title(_drawable(sheet.name), fontsize=8, loc="left", **_PLAIN)
        all_axes[0][0].set_yticks(range(len(heads)), [_drawable(_cut(head, 20)) for head in heads], **_PLAIN)
        figure.suptitle(_drawable(title or grid.title), fontsize=8, x=0.01, ha="left", **_PLAIN)
        if image is not None:
            figure.colorbar(image, ax=all_axes[0], label=_drawable(sheets[0].label), pad=0.01)
    return figure


def dot_figure(
    rows: Sequence[str],
    dots: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    title: str = "",
    limits: tuple[float, float] = (0.0, 100.0),
) -> "Figure":
    """A band for each row, top to bottom, in it a marker for each series, a little apart; NaN draws nothing."""
    plt, _ = _matplotlib()
    band = 0.8 / max(1, len(dots))
    with plt.rc_context(_fonts([title, *rows, *dots])):
        height = 1.0 + len(rows) * (0.14 + 0.05 * len(dots))
        figure, axes = plt.subplots(figsize=(6.4, max(height, 0.6 + 0.15 * len(dots))))
        for i in range(0, len(rows), 2):
            axes.axhspan(i - 0.5, i + 0.5, color="0.95", linewidth=0, zorder=0)
        for i, (name, values) in enumerate(dots.items()):
            places = [row - 0.4 + band * (i + 0.5) for row in range(len(rows))]
            style = {"marker": _MARKERS[i % len(_MARKERS)], "linestyle": "none", "color": _colour(plt, i)}
            axes.plot(values, places, label=_drawable(name), markersize=3.5, **style)
        axes.set_yticks(range(len(rows)), [_drawable(_cut(row, 48)) for row in rows], **_PLAIN)
        axes.set(xlabel=xlabel, xlim=limits, ylim=(len(rows) - 0.5, -0.5))
        axes.set_title(_drawable(title), fontsize=8, loc="left", **_PLAIN)
        _legend(axes, outside=True)
    return figure


def scatter_figure(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], *, xlabel: str, title: str = ""
) -> "Figure":
    """Side by side, a panel for each y label, in it the points (x, y) of each series; later series lie on top."""
    plt, _ = _matplotlib()
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    with plt.rc_context(_fonts([title, xlabel, *panels, *names])):
        figure, axes = plt.subplots(1, len(panels), figsize=(1.2 + 2.7 * len(panels), 2.9), sharex=True, squeeze=False)
        for place, (axis, (label, series)) in enumerate(zip(axes[0], panels.items(), strict=True)):
            for name, points in series.items():
                i = names.index(name)
                x, y = [point[0] for point in points], [point[1] for point in points]
                style = {"marker": _MARKERS[i % len(_MARKERS)], "linestyle": "none", "color": _colour(plt, i)}
                axis.plot(x, y, label=_drawable(name), markersize=3.5 + i, fillstyle="full" if i else "none", **style)
            axis.set(xlabel=xlabel, ylabel=label)
            if place == 0:
                axis.set_title(_drawable(title), fontsize=8, loc="left", **_PLAIN)
        _legend(axes[0][-1], outside=True)
    return figure


def _colour(plt: Any, i: int) -> Any:
    """Twenty colours, the strong half first."""
    return plt.get_cmap("tab20")((2 * i) % 20 + (i // 10) % 2)


def _legend(axes: "Axes", *, outside: bool) -> None:
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if outside else {}
    for text in axes.legend(fontsize=6, frameon=False, **place).get_texts():
        text.set(**_PLAIN)


def save_figure(figure: "Figure", path: str | os.PathLike[str]) -> Path:
    """Write one figure as PDF, PNG or SVG by its suffix, whole or not at all; the figure is closed.

    Raises InputError for another suffix.
    """
    (target,) = save_figures(figure, [path])
    return target


def save_figures(figure: "Figure", paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Write one figure to several files, as `save_figure` says; InputError for a suffix that is no kind of figure."""
    plt, _ = _matplotlib()
    targets = [Path(path) for path in paths]
    for target in targets:
        if _kind(target) not in FORMATS:
            known = ", ".join(FORMATS)
            raise InputError(f"{target.name}: a figure is written as {known}; end the name in one of them.")
    try:
        for target in targets:
            kind = _kind(target)
            with plt.rc_context(_STYLE), atomic_file(target) as staging:
                # No date in the file: the same figure is the same bytes.
                metadata = {"CreationDate": None} if kind == "pdf" else {"Date": None} if kind == "svg" else {}
                figure.savefig(staging, format=kind, dpi=200, metadata=metadata)
    finally:
        plt.close(figure)
    return targets


def _kind(path: Path) -> str:
    return path.suffix.lstrip(".").lower()


@cache
def _matplotlib() -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import colors
    from matplotlib import pyplot as plt

    return plt, colors


@cache
def _characters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())


@cache
def _font_for(char: str) -> str | None:
    """The name of an installed font that has `char`; the default one first."""
    from matplotlib import font_manager

    default = font_manager.findfont("DejaVu Sans")
    if ord(char) in _characters(default):
        return "DejaVu Sans"
    # matplotlib's own Last Resort font has a box for everything: no character, but the picture of one.
    fonts = [entry for entry in font_manager.fontManager.ttflist if "last resort" not in entry.name.lower()]
    for entry in sorted(fonts, key=lambda entry: (entry.name, entry.fname)):
        try:
            if ord(char) in _characters(entry.fname):
                return entry.name
        except (OSError, RuntimeError):
            continue
    return None


def _fonts(texts: Sequence[str]) -> dict[str, Any]:
    """The style, with every installed font that the texts need as a fallback."""
    needed = {_font_for(char) for text in texts for char in text}
    families = ["DejaVu Sans", *sorted(name for name in needed if name not in (None, "DejaVu Sans"))]  # type: ignore[type-var]
    return {**_STYLE, "font.family": families}


def _drawable(text: str) -> str:
    """The text, with code points in the place of characters that no installed font has."""
    return "".join(char if char == "\n" or _font_for(char) else f"‹{_code(char):X}›" for char in text)


def _code(char: str) -> int:
    """The code point, of what a control picture stands for where it is one."""
    return ord(char) - 0x2400 if 0x2400 <= ord(char) < 0x2420 else ord(char)
