"""Commands that measure edits and compare settings and methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.options import (
    AtOnce,
    BatchSize,
    CorpusPath,
    Device,
    Dtype,
    Facts,
    Field,
    Format,
    InBatches,
    Model,
    OneByOne,
    Quiet,
    Require,
    Revision,
    Set,
    SkipBad,
)


def evaluate(
    patch: Annotated[Path, typer.Argument(help="Folder of a patch.")],
    facts: Annotated[
        Path | None, typer.Option("--facts", "-f", help="Facts to measure on; default: the patch's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for every prompt's numbers.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N facts.")] = None,
    skip_bad: SkipBad = False,
    format: Format = "auto",
    generate: Annotated[
        bool, typer.Option("--generate", help="Also let the model write 100 tokens a prompt: GE and RS.")
    ] = False,
    references: Annotated[
        Path | None, typer.Option("--references", help="JSONL of relation (id or template), target, text: for RS.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option("--corpus", help="Held-out text for drift; default: the model's own samples.")
    ] = None,
    field: Field = "text",
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Tokens of held-out text; 0: no drift.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of generations and the model's own samples.")] = 0,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the patch's model.")] = None,
    device: Device = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Default: the patch's.")] = None,
    revision: Revision = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier evaluation in --out.")] = False,
    require: Require = None,
    quiet: Quiet = False,
) -> None:
    """Measure a model without and with a patch: success, accuracy, changed answers, drift elsewhere, generations."""
    from errata.cli.evaluation import run_eval

    run_eval(
        patch,
        facts_file=facts,
        out=out,
        limit=limit,
        skip_bad=skip_bad,
        format=format,  # type: ignore[arg-type]
        generate=generate,
        references_file=references,
        text={"corpus": corpus, "field": field, "text_tokens": text_tokens, "seed": seed},
        overwrite=overwrite,
        require=require or [],
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        quiet=quiet,
    )


def bench(
    methods: Annotated[str, typer.Option(help="Methods, as memit,rome,shift; `errata methods` lists them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for cells, tables, figures and summary.md.")],
    dataset: Annotated[str, typer.Option(help="counterfact, zsre or relations.")] = "counterfact",
    data: Annotated[
        Path | None, typer.Option(help="The data set's file (default: DATASET.json in the folder $ERRATA_DATA).")
    ] = None,
    n: Annotated[str, typer.Option("--n", "-n", help="Numbers of edits, as 1,10,100; 1: single edits.")] = "1,10,100",
    singles: Annotated[int, typer.Option(help="Records behind the single edits.")] = 100,
    first: Annotated[int, typer.Option(help="Skip so many records (tune on others than you report).")] = 0,
    at_once: AtOnce = False,
    in_batches: InBatches = None,
    one_by_one: OneByOne = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="METHOD.NAME=VALUE", help="Override a method's hyperparameter."),
    ] = None,
    preset: Annotated[
        list[Path] | None,
        typer.Option("--preset", help="Settings of one of the methods from a file that `errata tune` wrote."),
    ] = None,
    mixed: Annotated[
        str | None, typer.Option(metavar="A|B", help="Mixed-relation study of two relations (or prompt templates).")
    ] = None,
    study: Annotated[
        bool, typer.Option("--study", help="Relate each fact's outcome to what can be known before.")
    ] = False,
    corpus: CorpusPath = None,
    field: Field = "text",
    text: Annotated[
        str | None, typer.Option(help="Held-out text for perplexity and drift (default: the model's own samples).")
    ] = None,
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Tokens of it; 0 leaves drift out.")] = 2000,
    generate: Annotated[bool, typer.Option("--generate", help="Also write texts (100 facts at most) for GE.")] = False,
    references: Annotated[
        Path | None, typer.Option(help="With --generate: reference texts for RS, as for errata eval.")
    ] = None,
    batch_size: BatchSize = 32,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    model: Model = "smollm2",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    quiet: Quiet = False,
) -> None:
    """Compare methods on a data set: tables, scaling curves and prompts' scores; goes on where it was stopped."""
    from errata.cli.benchmark import run_bench_command
    from errata.cli.run import one_order

    run_bench_command(
        data,
        out,
        options={
            "methods": methods,
            "dataset": dataset,
            "counts": n,
            "singles": singles,
            "first": first,
            "in_batches": one_order(at_once=at_once, in_batches=in_batches, one_by_one=one_by_one),
            "settings": settings or [],
            "presets": preset or [],
            "mixed": mixed,
            "study": study,
            "text_tokens": text_tokens,
            "generate": generate,
            "batch_size": batch_size,
            "seed": seed,
        },
        sources={"corpus": corpus, "text": text, "field": field},
        references=references,
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        quiet=quiet,
    )


def tune(
    facts: Facts,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for preset.json, the table of trials, summary.md.")],
    model: Model = "smollm2",
    budget: Annotated[float, typer.Option(metavar="MINUTES", help="How long it may take in all.")] = 30.0,
    method: Annotated[str, typer.Option(help="memit, alphaedit, emmet, pmet, ft or ft-l.")] = "memit",
    n: Annotated[
        int | None,
        typer.Option(
            "--n", "-n", help="Facts edited at once, as many as you mean to edit; default: 100, or half of F."
        ),
    ] = None,
    first: Annotated[int, typer.Option(help="Skip so many records (tune on others than you report).")] = 0,
    layers: Annotated[
        str | None, typer.Option(metavar="A-B,C-D", help="Ranges of layers to try in any case, as 5-9,7-9,9.")
    ] = None,
    traced: Annotated[
        int, typer.Option("--trace", metavar="N", help="Known facts that causal tracing proposes ranges from; 0: none.")
    ] = 12,
    settings: Set = None,
    corpus: CorpusPath = None,
    field: Field = "text",
    text_tokens: Annotated[
        int,
        typer.Option("--text-tokens", help="Tokens of the model's own text for the drift that decides ties; 0: none."),
    ] = 500,
    batch_size: BatchSize = 32,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    format: Format = "auto",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    quiet: Quiet = False,
) -> None:
    """Find settings of a method for a model that nobody has tuned, by small edits: writes a preset for --preset."""
    from errata.cli.tune import run_tune

    run_tune(
        facts,
        out,
        options={
            "method": method,
            "minutes": budget,
            "count": n,
            "first": first,
            "layers": layers,
            "traced": traced,
            "text_tokens": text_tokens,
            "batch_size": batch_size,
            "seed": seed,
        },
        settings=settings or [],
        sources={"corpus": corpus, "field": field},
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        format=format,  # type: ignore[arg-type]
        quiet=quiet,
    )
