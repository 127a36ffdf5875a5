"""A lens on a terminal, and as the files that are asked for."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from errata.core.words import printable, visible
from errata.lens import BackwardLens
from errata.lens.table import LensTable
from errata.reports.lens_grid import tables_grid
from errata.store import atomic_write_text
from errata.store.tables import write_rows
from errata.views.html import page
from errata.views.plotting import grid_figure, save_figure
from errata.views.terminal import terminal_grid


def lens_text(lens: BackwardLens, table: LensTable, *, width: int, colour: bool, max_layers: int | None) -> str:
    """The grid on a terminal, with what is seen said above and below it."""
    grid = tables_grid(lens, [table])
    (sheet,) = grid.readings
    which = "least" if sheet.shows == "bottom" else "most"
    vector = f"{'−' if table.sign == '-vjp' else ''}{'δ' if table.source == 'vjp' else 'x'}"
    if sheet.side == "forward":
        vector = "h"
    answer = visible(lens.answer_text)
    said = [
        *textwrap.wrap(printable(grid.title), width),
        *textwrap.wrap(f"{grid.subtitle}; the model's own answer: {answer}", width),
        "",
        terminal_grid(grid, sheet, width=width, colour=colour, max_layers=max_layers),
        "",
        *textwrap.wrap(
            f"Cells: the {which} probable token of LL({vector}) of {table.matrix or table.source}, {table.mode} mode; "
            f"{'background' if colour else 'mark'}: ‖{vector.lstrip('−')}‖ on a log scale, up to "
            f"{float(table.norm.max()):.3g}. Layers go upwards.",
            width,
        ),
    ]
    if table.source == "vjp" and table.sign == "vjp":
        step = "A step goes along −δ: the least probable tokens are promoted, the most probable demoted."
        said += textwrap.wrap(step, width)
    said += [*_ranks(lens, table, width), *(part for note in lens.notes for part in textwrap.wrap(note, width))]
    return "\n".join(said)


def _ranks(lens: BackwardLens, table: LensTable, width: int) -> list[str]:
    """Where the tracked tokens stand at the last position, by layer."""
    last = lens.example.prompt_length - 1
    lines = []
    for token in table.tracked:
        places = [table.rank(token, layer, last) for layer in table.layers]
        shown = " ".join("–" if place is None else str(place) for place in places)
        name = visible(table.texts[token])
        said = f"Rank of {name} at the last token, by layer, of {table.vocabulary:,}: {shown}"
        lines += textwrap.wrap(said, width, subsequent_indent="  ")
    return lines


def write_lens(
    lens: BackwardLens, table: LensTable, outputs: dict[str, Path], *, track: Sequence[int | str] | None, top: int
) -> list[Path]:
    """Write the asked-for files, each whole or not at all; the HTML holds every matrix, mode and sign."""
    written = []
    for kind, target in outputs.items():
        if kind == "html":
            atomic_write_text(target, page(lens.grid(track=track, top=top)))
        elif kind == "json":
            atomic_write_text(target, json.dumps(lens_record(lens, table), ensure_ascii=False, indent=1) + "\n")
        elif kind == "parquet":
            write_rows(target, list(table.rows()))
        else:
            grid = tables_grid(lens, [table])
            save_figure(grid_figure(grid, grid.readings[0]), target)
        written.append(target)
    return written


def lens_record(lens: BackwardLens, table: LensTable) -> dict[str, Any]:
    """The lens and one of its tables as plain JSON."""
    e = lens.example
    return {
        "model": lens.lm.name,
        "prompt": e.prompt,
        "tokens": list(lens.tokens),
        "token_ids": list(e.ids),
        "target_ids": list(e.target_ids),
        "loss_name": e.loss_name,
        "loss": lens.loss,
        "answer_id": lens.answer,
        "segments": {name: list(places) for name, places in lens.segments().items()},
        "notes": list(lens.notes),
        "cells": list(table.rows()),
    }
