"""The command `errata edit`: facts in, a patch and a report out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.exit_codes import end_with, next_step, requirements_of
from errata.cli.inputs import batch_of, overrides_of, read_fact_file
from errata.cli.options import (
    AtOnce,
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
    Quiet,
    Require,
    Revision,
    Set,
    SkipBad,
    Verbose,
)
from errata.cli.session import ModelChoice, TextSource, check_settings, open_model
from errata.errors import ConfigError
from errata.jobs.terminal_progress import progress_on


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
    from errata.edit import method_of, opened_preset
    from errata.patches import RUN_FILES
    from errata.store.run_folder import check_out

    batch = batch_of(at_once=at_once, in_batches=in_batches, one_by_one=one_by_one)
    out = out.expanduser()
    progress = progress_on(quiet=quiet)
    requirements = requirements_of(require or [], evaluated=evaluate)
    check_out(out, overwrite=overwrite, ours=RUN_FILES)
    file = read_fact_file(facts, format=format, limit=limit, skip_bad=skip_bad)
    opened = opened_preset(preset)
    chosen = method_of(method, opened).name
    overrides = overrides_of(chosen, settings or [])
    choice = ModelChoice(model=model, device=device, dtype=dtype, revision=revision)
    text = TextSource(corpus=corpus, field=field)
    opened_text = check_settings(overrides, text, progress, method=chosen, choice=choice)
    _check_batch_size(batch_size)
    lm = open_model(choice, progress)
    from errata.jobs.edit_job import edit_facts
    from errata.jobs.edit_verdict import judged
    from errata.reports.edit_summary import save_run, summary

    result = edit_facts(
        lm, file.without_problems, method=chosen, preset=opened, progress=progress, corpus=opened_text,
        skip_bad=skip_bad, evaluate=evaluate, batch_size=batch_size, in_batches=batch, **overrides,
    )  # fmt: skip
    result.report["skipped"] = [str(problem) for problem in file.errors] + result.report["skipped"]
    result.report["required"] = judged(requirements, result.before, result.after)
    out = save_run(result, out, overwrite=overwrite)
    typer.echo(summary(result.report, verbose=verbose))
    typer.echo(f"\nPatch and report: {out}\n{next_step(result, out)}")
    end_with(result.report["failed"], result.report["required"])


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, found {batch_size}.")
