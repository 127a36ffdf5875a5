"""The command `errata lens`: options in, a grid on the terminal and the asked-for files out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from errata.cli.run import check_cheaply, command, read_fact_file, with_patch
from errata.cli.screen import screen_width, shows_colour
from errata.errors import ConfigError, InputError
from errata.jobs.progress import progress_on

if TYPE_CHECKING:
    from errata.facts.readers import Format


# Losses of a target that may be the model's own answer.
_TARGET_LOSSES = ("first", "target")
# Options that mean something under one loss only.
_LOSS_OPTIONS = {"against": "logit-difference", "reference": "kl"}


def expanded(path: Path, option: str) -> Path:
    """The path with a leading ~ replaced; InputError where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(f"{option} {path}: {error}") from error


def _check_lens(prompt: str, options: dict[str, Any], show: dict[str, Any], outputs: dict[str, Path]) -> None:
    """What can be judged without the model."""
    from errata.facts.checks import check_prompt
    from errata.lens.table import FORWARD_SOURCES
    from errata.reports.output_files import check_outputs

    check_prompt(prompt)
    check_outputs(outputs)
    if show["max_layers"] is not None and show["max_layers"] < 2:
        raise ConfigError(f"--max-layers must be at least 2, found {show['max_layers']}.")
    if show["sign"] not in ("vjp", "-vjp"):
        raise ConfigError(f"--sign {show['sign']}: choose 'vjp' or '-vjp'.")
    if show["sign"] == "-vjp" and show["matrix"] in FORWARD_SOURCES:
        raise ConfigError(f"--sign -vjp turns gradients round; {show['matrix']} is of the forward pass. Leave it out.")
    for name, loss in _LOSS_OPTIONS.items():
        if options[name] is not None and options["loss"] != loss:
            raise ConfigError(f"--{name} belongs to --loss {loss}; the loss is {options['loss']}.")


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
    """Print the lens of one prompt, with the patch on where one is given, and write the files that are asked for."""
    outputs = {kind: expanded(path, f"--{kind}") for kind, path in outputs.items()}
    _check_lens(prompt, options, show, outputs)
    with with_patch(patch_folder, load) as (lm, patch):
        from errata.jobs.lens_job import own_target
        from errata.lens import backward_lens
        from errata.lens.table import FORWARD_SOURCES
        from errata.models import mlp_matrices
        from errata.reports.lens_report import lens_text, write_lens

        with patch.applied(lm) if patch else nullcontext():
            if target is None and options["loss"] in _TARGET_LOSSES:
                target, probability = own_target(lm, prompt)
                said = f"No --target was given: it is the model's own answer, {target!r} ({probability:.1%})."
                typer.echo(f"{said} --target takes another.\n")
            matrix, track = show["matrix"], show["track"] or None
            tapped = None if matrix in FORWARD_SOURCES else {*mlp_matrices(lm.family), "o", matrix}
            lens = backward_lens(lm, prompt, target, matrices=None if tapped is None else sorted(tapped), **options)
            if matrix in FORWARD_SOURCES:
                table = lens.forward(matrix, top=show["top"], track=track)
            else:
                table = lens.project(matrix, sign=show["sign"], top=show["top"], track=track)
        typer.echo(lens_text(lens, table, width=screen_width(), colour=shows_colour(), max_layers=show["max_layers"]))
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
    skip_bad: bool,
    format: Format,
    load: dict[str, Any],
    quiet: bool,
) -> None:
    """Reproduce a paper's figures with the facts of a file, and print the summary."""
    from errata.jobs.reproduce import ReproduceOptions, check_reproduce

    out = expanded(out, "--out")
    check_reproduce(out, paper)
    chosen = ReproduceOptions(**options)
    check_cheaply({}, corpus, field=field)
    found = read_fact_file(facts_file, format=format, limit=chosen.n, skip_bad=skip_bad)
    progress = progress_on(quiet=quiet)
    with command(load, progress) as lm:
        from errata.jobs.reproduce import reproduce
        from errata.reports.reproduce.reproduction_report import write_reproduction

        result = reproduce(
            lm, found.without_problems, out,
            options=chosen, corpus=corpus, field=field, skip_bad=skip_bad, progress=progress,
        )  # fmt: skip
        summary = write_reproduction(result)
    typer.echo(f"{summary}\nTables, figures and this summary: {out}")
