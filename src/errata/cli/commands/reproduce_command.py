"""The command `errata reproduce`: a paper's experiments on a model, beside the published findings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.inputs import read_fact_file
from errata.cli.options import Device, Dtype, Facts, Field, Format, Model, Quiet, Revision, SkipBad
from errata.cli.session import ModelChoice, TextSource, check_settings, expanded, open_model
from errata.jobs.terminal_progress import progress_on


def reproduce(
    paper: Annotated[str, typer.Argument(help="backward-lens.")],
    facts: Facts,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for tables, figures and summary.md.")],
    n: Annotated[int, typer.Option("--n", "-n", help="Prompts: the first N records.")] = 100,
    mode: Annotated[str, typer.Option(help="Of the lens: paper, normalised, eps-free, linear or raw.")] = "paper",
    flip_prompts: Annotated[
        int, typer.Option("--flip-prompts", help="Prompts for the smallest flipping learning rates.")
    ] = 10,
    flip_layers: Annotated[int, typer.Option("--flip-layers", help="Layers for them, evenly spread.")] = 10,
    neuron_prompts: Annotated[int, typer.Option("--neuron-prompts", help="Prompts for the tables of neurons.")] = 10,
    mechanism_prompts: Annotated[
        int, typer.Option("--mechanism-prompts", help="Prompts for predicted and actual effects of a step.")
    ] = 5,
    lr: Annotated[float, typer.Option(help="Learning rate of that step.")] = 0.01,
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Tokens behind each perplexity.")] = 500,
    corpus: Annotated[
        str | None, typer.Option("--corpus", help="Text for perplexity; default: the model's own samples.")
    ] = None,
    field: Field = "text",
    skip_bad: SkipBad = False,
    model: Model = "smollm2",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    format: Format = "auto",
    quiet: Quiet = False,
) -> None:
    """Run a paper's experiments on a model: tables, figures and a summary beside the published findings."""
    from errata.jobs.reproduce import ReproduceOptions, check_reproduce

    out = expanded(out, "--out")
    check_reproduce(out, paper)
    options = ReproduceOptions(
        n=n, mode=mode, flip_prompts=flip_prompts, flip_layers=flip_layers, neuron_prompts=neuron_prompts,
        mechanism_prompts=mechanism_prompts, lr=lr, text_tokens=text_tokens,
    )  # fmt: skip
    progress = progress_on(quiet=quiet)
    check_settings({}, TextSource(corpus=corpus, field=field), progress)
    file = read_fact_file(facts, format=format, limit=options.n, skip_bad=skip_bad)
    choice = ModelChoice(model=model, device=device, dtype=dtype, revision=revision)
    lm = open_model(choice, progress)
    from errata.jobs.reproduce import reproduce as run
    from errata.reports.reproduce.reproduction_report import write_reproduction

    result = run(
        lm, file.without_problems, out,
        options=options, corpus=corpus, field=field, skip_bad=skip_bad, progress=progress,
    )  # fmt: skip
    typer.echo(f"{write_reproduction(result)}\nTables, figures and this summary: {out}")
