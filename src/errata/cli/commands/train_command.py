"""The command `errata train mend`: facts in, an editor's file out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli.help import GroupedCommand
from errata.cli.inputs import overrides_of, read_fact_file
from errata.cli.options import Device, Dtype, Facts, Field, Format, Model, Quiet, Revision, Set, SkipBad
from errata.cli.session import ModelChoice, TextSource, check_settings, expanded, open_model
from errata.errors import ConfigError
from errata.jobs.terminal_progress import duration, progress_on
from errata.views.shell import program, shell_word

train_app = typer.Typer(help="Train what a method needs before it can edit: mend.", rich_markup_mode=None)


@train_app.callback()
def train() -> None:
    """Train what a method needs before it can edit: mend."""


@train_app.command("mend", cls=GroupedCommand)
def train_mend(
    facts: Facts,
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the editor (safetensors).")],
    model: Model = "smollm2",
    steps: Annotated[int | None, typer.Option(help="Train for so many steps in all.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for so many minutes in all.")] = None,
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", help="Unrelated text that must not move; default: the facts' neighbours."),
    ] = None,
    field: Field = "text",
    seed: Annotated[
        int | None, typer.Option(help="Of the start, the order and the held-out facts; default: 0.")
    ] = None,
    settings: Set = None,
    valid: Annotated[int, typer.Option(help="Facts held out to tell the best editor by.")] = 100,
    limit: Annotated[int | None, typer.Option(help="Use only the first N records.")] = None,
    skip_bad: SkipBad = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train anew over an earlier --out.")] = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    format: Format = "auto",
    quiet: Quiet = False,
) -> None:
    """Train MEND's editor on facts; the same command goes on where an earlier one was stopped.

    Without --steps or --minutes it ends when the validation gets no better (--set patience=...).
    """
    from errata.jobs.train_job import check_editor_out, check_limits

    out = expanded(out, "--out")
    progress = progress_on(quiet=quiet)
    check_limits(steps=steps, minutes=minutes, valid=valid)
    check_editor_out(out, overwrite=overwrite)
    overrides = _overrides(settings or [], seed)
    choice = ModelChoice(model=model, device=device, dtype=dtype, revision=revision)
    text = TextSource(corpus=corpus, field=field)
    opened_text = check_settings(overrides, text, progress, method="mend", choice=choice)
    file = read_fact_file(facts, format=format, limit=limit, skip_bad=skip_bad)
    lm = open_model(choice, progress)
    from errata.jobs.train_job import train_mend as run

    result = run(
        lm, file.without_problems, out, progress=progress, steps=steps, minutes=minutes, corpus=opened_text,
        valid=valid, skip_bad=skip_bad, overwrite=overwrite, **overrides,
    )  # fmt: skip
    typer.echo(
        f"Best editor, of step {result.best_step:,} of {result.steps:,} ({duration(result.seconds)}), on "
        f"{result.validation.facts:,} held-out facts, each edited alone:\n{result.validation.line()}\n\n"
        f"Editor: {out}\n"
        f"Edit:   {program()} edit FACTS --method mend --set editor={shell_word(str(out))} --out FOLDER"
    )


def _overrides(settings: list[str], seed: int | None) -> dict[str, Any]:
    """The fields that --set and --seed set."""
    overrides = overrides_of("mend", settings)
    if seed is None:
        return overrides
    if "seed" in overrides:
        raise ConfigError("The seed is given twice (--seed and --set seed=...); give it once.")
    return {**overrides, "seed": seed}
