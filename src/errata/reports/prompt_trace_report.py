"""The trace of one prompt on a terminal, and as the files that are asked for."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from errata.core.words import points, printable, visible
from errata.lens import BackwardLens
from errata.reports.trace_grid import sheet_name
from errata.store import atomic_write_text
from errata.store.tables import write_rows
from errata.tracing import Trace
from errata.tracing.record import trace_record
from errata.views.grid import Grid, ValueSheet
from errata.views.html import page
from errata.views.plotting import save_figure, value_figure
from errata.views.terminal import terminal_grid

_SURE = 0.3
_BARS = " ▁▂▃▄▅▆▇█"


def own_answer_text(trace: Trace) -> str:
    """What is traced where nobody said what: the model's own answer, which is worth tracing where the model is sure."""
    said = f"No --answer was given: what is traced is the model's own, {visible(trace.answer)} ({trace.clean:.1%})."
    if trace.clean < _SURE:
        said += " The model is not sure of it: a trace says more of a fact that the model knows."
    return said


def trace_text(trace: Trace, *, width: int, colour: bool, max_layers: int | None) -> str:
    """The grids of what was restored (else of what is attributed), and the lines at the subject's last token."""
    grid = trace.grid()
    sheets = _value_sheets(grid)
    # Attributions repeat in small what was restored.
    shown = [sheet for sheet in sheets if not trace.restored or not sheet.name.endswith("attributed")]
    said = [*textwrap.wrap(printable(grid.title), width), *textwrap.wrap(grid.subtitle, width)]
    for sheet in shown:
        how = "Restored" if trace.restored else "Attributed"
        said += ["", f"{how}: {sheet.name.removesuffix(', attributed')} ({sheet.label})"]
        said.append(terminal_grid(grid, sheet, width=width, colour=colour, max_layers=max_layers))
    said += ["", *_lines(trace, width), *_correlations(trace)]
    for note in trace.notes:
        said += textwrap.wrap(note, width)
    return "\n".join(said)


def _lines(trace: Trace, width: int) -> list[str]:
    """A line of bars for each kind at the subject's last token, from layer 0 on."""
    last = trace.subject_tokens[1]
    values = {kind: trace.effect(kind)[:, last].tolist() for kind in trace.restored}
    if not values:
        values = {kind: cells[:, last].tolist() for kind, cells in trace.attribution.items()}
    top = max((value for line in values.values() for value in line), default=0.0)
    if not float(points(top, 2)) > 0:
        return [f"At the subject's last token {visible(trace.tokens[last])} nothing brings the answer back."]
    said = textwrap.wrap(
        f"At the subject's last token {visible(trace.tokens[last])}, by layer from 0 up, full bar = "
        f"{points(top, 2)} points:",
        width,
    )
    for kind, line in values.items():
        bars = "".join(_BARS[max(0, min(8, round(8 * value / top)))] for value in line)
        peak = max(range(len(line)), key=line.__getitem__)
        said.append(f"{bars}  {sheet_name(kind, trace.config.window)}: {points(line[peak], 2)} points at layer {peak}")
    return said


def _correlations(trace: Trace) -> list[str]:
    both = [kind for kind in trace.attribution if kind in trace.restored]
    if not both:
        return []
    parts = []
    for kind in both:
        linear, ranks = trace.correlation(kind)
        parts.append(f"{kind} {linear:.2f}, {ranks:.2f}")
    return [f"Attribution against exact effects (Pearson, Spearman): {'; '.join(parts)}."]


def write_trace(trace: Trace, outputs: dict[str, Path], *, page_grid: Grid | None = None) -> list[Path]:
    """Write the asked-for files, each whole or not at all. `page_grid`: for the HTML, instead of the trace's own."""
    for kind, target in outputs.items():
        if kind == "html":
            atomic_write_text(target, page(page_grid or trace.grid()))
        elif kind == "json":
            atomic_write_text(target, json.dumps(trace_record(trace), ensure_ascii=False, indent=1) + "\n")
        elif kind == "parquet":
            write_rows(target, list(trace.rows()))
        else:
            grid = trace.grid()
            shown = [s for s in _value_sheets(grid) if not trace.restored or not s.name.endswith("attributed")]
            save_figure(value_figure(grid, shown, title=f"{grid.title}\n{grid.subtitle}"), target)
    return list(outputs.values())


def grid_with_lens(trace: Trace, lens: BackwardLens | None) -> Grid:
    """The trace's page with the lens of the same prompt and answer beside it; a note where there is none."""
    grid = trace.grid()
    if lens is None:
        note = "No Backward Lens stands beside the trace: with the answer behind it the prompt has other tokens."
        return replace(grid, notes=(*grid.notes, note))
    track = list(dict.fromkeys([trace.answer_id, trace.own_id]))
    other = lens.grid(modes=[lens.mode], matrices=["down"], forward=["residual"], track=track)
    return replace(
        grid,
        texts=other.texts,
        vocabulary=other.vocabulary,
        sheets=[*grid.sheets, *other.sheets],
        notes=(*grid.notes, *other.notes),
    )


def _value_sheets(grid: Grid) -> Sequence[ValueSheet]:
    return [sheet for sheet in grid.sheets if isinstance(sheet, ValueSheet)]
