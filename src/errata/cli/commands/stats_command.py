"""The command `errata stats`: second moments computed ahead of time."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from errata.cli.options import CorpusPath, Device, Dtype, Field, Model, Quiet, Revision
from errata.cli.session import ModelChoice, TextSource, check_settings, open_model
from errata.jobs.terminal_progress import progress_on


def stats(
    model: Model = "smollm2",
    layers: Annotated[
        str | None, typer.Option(help="Layers as 7,8,9 or 7-9; default: those of the model's preset.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Corpus tokens; default: the preset's.")] = None,
    corpus: CorpusPath = None,
    field: Field = "text",
    seed: Annotated[int, typer.Option(help="For the model's own samples.")] = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    quiet: Quiet = False,
) -> None:
    """Compute second moments ahead of time, or extend them with more tokens; edits find them by themselves."""
    from errata.edit import parse_layers

    progress = progress_on(quiet=quiet)
    choice = ModelChoice(model=model, device=device, dtype=dtype, revision=revision)
    overrides: dict[str, Any] = {} if layers is None else {"layers": parse_layers(layers)}
    text = check_settings(overrides, TextSource(corpus=corpus, field=field), progress, choice=choice)
    lm = open_model(choice, progress)
    from errata.edit import settings_for
    from errata.jobs.stats_job import run_stats

    config = settings_for(lm, **overrides).config
    count = config.moment_tokens if tokens is None else tokens
    moments = run_stats(lm, config.layers, tokens=count, corpus=text, seed=seed, progress=progress)
    for layer in moments.layers:
        trace = float(moments[layer].diagonal().sum())
        typer.echo(f"layer {layer:3d}  d_mlp {lm.d_mlp:,}  mean ‖k‖² {trace:.4g}  over {moments.tokens:,} tokens")
    typer.echo(f"source {moments.source}  digest {moments.digest[:12]}")
