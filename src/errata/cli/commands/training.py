"""Commands that train what a method needs before it can edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.help import GroupedCommand
from errata.cli.options import Device, Dtype, Facts, Field, Format, Model, Quiet, Revision, Set, SkipBad

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
    from errata.cli.train import run_train_mend

    run_train_mend(
        facts,
        out,
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        options={
            "steps": steps,
            "minutes": minutes,
            "corpus": corpus,
            "field": field,
            "valid": valid,
            "skip_bad": skip_bad,
            "overwrite": overwrite,
        },
        settings=settings or [],
        seed=seed,
        format=format,  # type: ignore[arg-type]
        limit=limit,
        quiet=quiet,
    )
