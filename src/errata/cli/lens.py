"""The command `errata lens`: options in, a grid on the terminal and the asked-for files out."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from errata.cli.run import check_cheaply, command, read_fact_file, with_patch
from errata.errors import ConfigError
from errata.jobs.progress import progress_on

if TYPE_CHECKING:
    from errata.facts.readers import Format


def run_lens(
    prompt: str,
    target: str | None,
    *,
    patch_folder: Path | None,
    options: dict[str, Any],
    show: dict[str, Any],
    outputs: dict[str, Path],
    load: dict[str, Any],
) -> None:
    from errata.facts.checks import check_prompt
    from errata.jobs.lens_job import check_outputs

    check_prompt(prompt)
    check_outputs(outputs)
    if show["max_layers"] is not None and show["max_layers"] < 2:
        raise ConfigError(f"--max-layers must be at least 2, found {show['max_layers']}.")
    with with_patch(patch_folder, load) as (lm, patch):
        from errata.jobs.lens_job import lens_text, write_lens
        from errata.lens import backward_lens
        from errata.lens.table import FORWARD_SOURCES
        from errata.models import mlp_matrices

        with patch.applied(lm) if patch else nullcontext():
            matrix, track = show["matrix"], show["track"] or None
            tapped = None if matrix in FORWARD_SOURCES else {*mlp_matrices(lm.family), "o", matrix}
            lens = backward_lens(lm, prompt, target, matrices=None if tapped is None else sorted(tapped), **options)
            if matrix in FORWARD_SOURCES:
                table = lens.forward(matrix, top=show["top"], track=track)
            else:
                table = lens.project(matrix, sign=show["sign"], top=show["top"], track=track)
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        width = shutil.get_terminal_size((100, 24)).columns
        typer.echo(lens_text(lens, table, width=width, colour=colour, max_layers=show["max_layers"]))
        for path in write_lens(lens, table, outputs, track=track, top=show["top"]):
            typer.echo(f"Written: {path}")


def run_reproduce(
    paper: str,
    facts_file: Path,
    out: Path,
    *,
    options: dict[str, Any],
    corpus: str | None,
    field: str,
    format: Format,
    load: dict[str, Any],
    quiet: bool,
) -> None:
    from errata.jobs.reproduce import ReproduceOptions, check_reproduce, reproduce

    out = out.expanduser()
    check_reproduce(out, paper)
    chosen = ReproduceOptions(**options)
    check_cheaply({}, corpus)
    found = read_fact_file(facts_file, format=format, limit=chosen.n, skip_bad=False)
    progress = progress_on(quiet=quiet)
    with command(load, progress) as lm:
        summary = reproduce(lm, found.facts, out, options=chosen, corpus=corpus, field=field, progress=progress)
    typer.echo(f"{summary}\nTables, figures and this summary: {out}")
