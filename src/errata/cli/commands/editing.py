"""Commands that edit, and those that prepare an edit or show what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.options import (
    AtOnce,
    Chat,
    CorpusPath,
    Device,
    Dtype,
    FactsArgument,
    Field,
    Format,
    InBatches,
    Model,
    OneByOne,
    Out,
    Overwrite,
    PatchDtype,
    PatchModel,
    Quiet,
    Require,
    Revision,
    Set,
    SkipBad,
    Verbose,
)


def demo(
    out: Out = Path("runs/demo"),
    model: Model = "smollm2",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Edit a dozen facts into a real model and show what it says before and after."""
    from errata.cli.run import run_demo

    run_demo(out, model=model, device=device, dtype=dtype, verbose=verbose, quiet=quiet)


def init(
    path: Annotated[Path, typer.Argument(help="Where to: a name that ends in .jsonl or .csv.")] = Path("facts.jsonl"),
) -> None:
    """Write a fact file to start from, with everything explained; nothing is overwritten."""
    from errata.cli.start import run_init

    run_init(path)


def edit(
    facts: FactsArgument,
    out: Out,
    model: Model = "smollm2",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    corpus: CorpusPath = None,
    field: Field = "text",
    method: Annotated[
        str | None, typer.Option(help="`errata methods` lists them; default: the preset's, or memit.")
    ] = None,
    preset: Annotated[
        Path | None, typer.Option("--preset", help="Settings from a file that `errata tune` wrote.")
    ] = None,
    at_once: AtOnce = False,
    in_batches: InBatches = None,
    one_by_one: OneByOne = False,
    settings: Set = None,
    format: Format = "auto",
    limit: Annotated[int | None, typer.Option(help="Use only the first N records.")] = None,
    skip_bad: SkipBad = False,
    evaluate: Annotated[bool, typer.Option(help="Measure the model before and after.")] = True,
    batch_size: Annotated[
        int, typer.Option(help="Target values optimised together: memory and speed, not the order of edits.")
    ] = 32,
    overwrite: Overwrite = False,
    require: Require = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Edit facts into a model: writes a patch and a report, and says what became of each fact."""
    from errata.cli.run import one_order, run_edit

    run_edit(
        facts,
        out,
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        options={
            "corpus": corpus,
            "field": field,
            "skip_bad": skip_bad,
            "evaluate": evaluate,
            "batch_size": batch_size,
            "in_batches": one_order(at_once=at_once, in_batches=in_batches, one_by_one=one_by_one),
        },
        method=method,
        preset=preset,
        settings=settings or [],
        format=format,  # type: ignore[arg-type]
        limit=limit,
        overwrite=overwrite,
        require=require or [],
        verbose=verbose,
        quiet=quiet,
    )


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
    from errata.cli.run import run_stats_command

    load = {"model": model, "device": device, "dtype": dtype, "revision": revision}
    run_stats_command(load, layers=layers, tokens=tokens, corpus=corpus, field=field, seed=seed, quiet=quiet)


def ask(
    prompt: Annotated[
        list[str],
        typer.Argument(help="The beginning of a text for the model to go on with, in quotes; bare words are joined."),
    ],
    patch: Annotated[
        Path | None, typer.Option("--patch", "-p", help="Folder of a patch: show before and after.")
    ] = None,
    chat: Chat = False,
    model: PatchModel = None,
    tokens: Annotated[int, typer.Option(help="Tokens to continue with.")] = 20,
    top: Annotated[int, typer.Option(help="Next tokens to show.")] = 5,
    full: Annotated[bool, typer.Option("--full", help="Show continuations whole, line by line.")] = False,
    device: Device = "cpu",
    dtype: PatchDtype = None,
    revision: Revision = None,
) -> None:
    """Show the continuation and the likeliest next tokens, before and after a patch."""
    from errata.cli.prompts import typed_prompts
    from errata.cli.run import run_ask

    run_ask(
        typed_prompts(prompt),
        patch_folder=patch,
        model=model,
        chat=chat,
        tokens=tokens,
        top=top,
        full=full,
        device=device,
        dtype=dtype,
        revision=revision,
    )


def methods(
    name: Annotated[str | None, typer.Argument(help="One method: what it writes, its settings and presets.")] = None,
) -> None:
    """List the editing methods, their hyperparameters and defaults; or tell all about one."""
    from errata.cli.listings import run_methods

    run_methods(name)


def models() -> None:
    """List supported families, known settings, and what is installed."""
    from errata.cli.listings import run_models

    run_models()
