"""The command `errata tune`: facts in, a folder with a preset out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli.inputs import overrides_of
from errata.cli.options import BatchSize, CorpusPath, Device, Dtype, Facts, Field, Format, Model, Quiet, Revision, Set
from errata.cli.session import ModelChoice, TextSource, check_layers, check_settings, expanded, open_model
from errata.core.words import counted
from errata.errors import ConfigError
from errata.jobs.terminal_progress import progress_on
from errata.views.shell import program, shell_word

# CounterFact holds 20,000 records, of which a tuning looks at a few hundred: reading them all would take longer.
_RECORDS = 5_000


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
    from errata.facts import read_facts, require
    from errata.jobs.tune.tune_folder import check_tune_folder
    from errata.jobs.tune.tune_job import drawn
    from errata.jobs.tune.tune_options import TuneOptions, parse_ranges

    out, progress = expanded(out, "--out"), progress_on(quiet=quiet)
    fields = _fields(method, settings or [])
    options = TuneOptions(
        method=method, minutes=budget, count=n, first=first, layers=parse_ranges(layers), traced=traced, fields=fields,
        text_tokens=text_tokens, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    choice = ModelChoice(model=model, device=device, dtype=dtype, revision=revision)
    check_tune_folder(out)
    opened = check_settings(fields, TextSource(corpus=corpus, field=field), progress, method=method)
    check_layers(options.layers, choice)
    file = read_facts(facts.expanduser(), format=format, limit=first + _RECORDS)  # type: ignore[arg-type]
    kept = require(file, skip_bad=True)
    if file.bad_records:
        progress.note(f"{counted(file.bad_records, 'record')} of {facts} cannot be used and are left out.")
    drawn(kept, options)
    lm = open_model(choice, progress)
    from errata.jobs.tune.tune_job import tune as run
    from errata.reports.tune_report import write_tuning

    result = run(lm, kept, out, options=options, progress=progress, corpus=opened)
    typer.echo(write_tuning(result))
    path = shell_word(str(out / "preset.json"))
    typer.echo(f"Preset: {out / 'preset.json'}\nUse it: {program()} edit FACTS --preset {path} --out FOLDER")


def _fields(method: str, settings: list[str]) -> dict[str, Any]:
    """The fields that --set holds as they are given."""
    fields = overrides_of(method, settings)
    if "seed" in fields:
        raise ConfigError("--set seed=... is what --seed is for; give that.")
    return fields
