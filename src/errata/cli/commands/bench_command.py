"""The command `errata bench`: methods compared on a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from errata.cli.inputs import batch_of, read_reference_texts
from errata.cli.options import (
    AtOnce,
    BatchSize,
    CorpusPath,
    Device,
    Dtype,
    Field,
    InBatches,
    Model,
    OneByOne,
    Quiet,
    Revision,
)
from errata.cli.session import ModelChoice, TextSource, check_layers, open_model
from errata.errors import ConfigError, FactsError
from errata.jobs.terminal_progress import progress_on

if TYPE_CHECKING:
    from errata.edit import PresetFile


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
    from errata.jobs.bench.bench_folder import check_folder
    from errata.jobs.bench.bench_options import BenchOptions, parse_counts, parse_settings
    from errata.jobs.bench.data_records import read_records

    batch = batch_of(at_once=at_once, in_batches=in_batches, one_by_one=one_by_one)
    progress = progress_on(quiet=quiet)
    options = BenchOptions(
        methods=tuple(name.strip() for name in methods.split(",")), counts=parse_counts(n), dataset=dataset,
        first=first, singles=singles, in_batches=batch, settings=parse_settings(settings or []),
        presets=_presets(preset or []), text_tokens=text_tokens, generate=generate, mixed=_pair(mixed), study=study,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    check_folder(out.expanduser())
    _check_text(text, text_tokens)
    path = _data(data, dataset)
    read_records(path, options)
    opened, held_out = (TextSource(corpus=source, field=field).opened(progress) for source in (corpus, text))
    choice = ModelChoice(model=model, device=device, dtype=dtype, revision=revision)
    check_layers([fields["layers"] for fields in options.settings.values() if "layers" in fields], choice)
    reference_texts = read_reference_texts(references, generate=generate)
    lm = open_model(choice, progress)
    from errata.jobs.bench.bench_job import run_bench
    from errata.reports.bench.bench_report import write_bench

    result = run_bench(
        lm, path, out,
        options=options, references=reference_texts, progress=progress, corpus=opened, text=held_out,
    )  # fmt: skip
    typer.echo(write_bench(result))
    typer.echo(f"Tables and figures: {result.out}")


def _presets(paths: list[Path]) -> dict[str, PresetFile]:
    """Preset files by their method; ConfigError where two are of one method."""
    from errata.edit import read_preset

    presets: dict[str, PresetFile] = {}
    for path in paths:
        preset = read_preset(path)
        if preset.method in presets:
            raise ConfigError(f"Two --preset files are of {preset.method}; give one of them.")
        presets[preset.method] = preset
    return presets


def _pair(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    one, bar, other = text.partition("|")
    if not bar or not one.strip() or not other.strip() or one == other:
        raise ConfigError(f"--mixed {text!r}: write two different relations as 'A|B'.")
    return one.strip(), other.strip()


# What is looked for, and whose release it is part of: docs/data.md.
_SOURCES = {
    "counterfact": "`counterfact.json` of the ROME project's release (or EasyEdit's copy of CounterFact)",
    "zsre": "`zsre_mend_eval.json` of the ROME project's release, renamed",
    "relations": "the LRE project's relations, put into one list",
}


def _data(path: Path | None, dataset: str) -> Path:
    """The data set's file, as given or from the folder of data sets; FactsError says where data sets come from."""
    if path is not None:
        return path.expanduser()
    name = f"{dataset}.json"
    way_out = f"errata brings no data set along; it takes {_SOURCES[dataset]}. docs/data.md says more."
    folder = os.environ.get("ERRATA_DATA")
    if not folder:
        raise FactsError(f"Say with --data where {name} is, or name its folder in $ERRATA_DATA. {way_out}")
    path = Path(folder).expanduser() / name
    if not path.is_file():
        raise FactsError(f"There is no {name} in {folder} ($ERRATA_DATA). {way_out}")
    return path


def _check_text(text: str | None, text_tokens: int) -> None:
    if text is not None and not text_tokens:
        raise ConfigError("--text is what drift is measured on, and --text-tokens 0 asks for no drift.")
