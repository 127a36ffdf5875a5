"""The command `errata trace`: one prompt or a file of facts in, grids on the terminal and files out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from errata.cli.lens import expanded
from errata.cli.run import read_fact_file, with_patch
from errata.cli.screen import screen_width, shows_colour
from errata.core.words import counted
from errata.errors import ConfigError, InputError
from errata.jobs.progress import progress_on

if TYPE_CHECKING:
    from errata.facts.readers import Format


def run_trace(
    prompt: str | None,
    *,
    facts_file: Path | None,
    one: dict[str, Any],
    many: dict[str, Any],
    options: dict[str, Any],
    outputs: dict[str, Path],
    patch_folder: Path | None,
    chat: bool,
    load: dict[str, Any],
    quiet: bool,
) -> None:
    """One prompt, or the facts of a file: the options of the other are refused. InputError for both or none."""
    if (prompt is None) == (facts_file is None):
        raise InputError('Give either a prompt (errata trace "..." --subject "...") or facts (--facts FILE --out DIR).')
    chosen = {**options, "kinds": _kinds(options["kinds"])}
    outputs = {kind: expanded(path, f"--{kind}") for kind, path in outputs.items()}
    patch_folder = None if patch_folder is None else expanded(patch_folder, "--patch")
    if prompt is not None:
        _refuse(many, "--facts")
        _one(prompt, one, chosen, outputs, patch_folder, chat, load, quiet)
    else:
        _refuse({**one, **outputs}, "a prompt")
        assert facts_file is not None
        _many(expanded(facts_file, "--facts"), many, chosen, patch_folder, chat, load, quiet)


def _kinds(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _refuse(options: dict[str, Any], belongs_to: str) -> None:
    given = [name for name, value in options.items() if value is not None and value is not False and value != "auto"]
    if given:
        raise ConfigError(f"--{given[0].replace('_', '-')} belongs to {belongs_to}, which is not given.")


def _one(
    prompt: str,
    one: dict[str, Any],
    options: dict[str, Any],
    outputs: dict[str, Path],
    patch_folder: Path | None,
    chat: bool,
    load: dict[str, Any],
    quiet: bool,
) -> None:
    from errata.facts.checks import check_subject
    from errata.reports.output_files import check_outputs

    if one["subject"] is None:
        raise InputError("--subject is missing: the words of the prompt to corrupt.")
    check_subject(prompt, one["subject"])
    check_outputs(outputs)
    if one["max_layers"] is not None and one["max_layers"] < 2:
        raise ConfigError(f"--max-layers must be at least 2, found {one['max_layers']}.")
    swap = tuple(one["swap"] or ())
    if bool(swap) != (options["corruption"] == "swap"):
        raise ConfigError("--corruption swap and --swap OTHER-SUBJECT (repeatable) belong together.")
    options = {**options, "severed": "all" if options["severed"] else "none"}
    _check_options(options)
    progress = progress_on(quiet=quiet)
    with with_patch(patch_folder, load, progress) as (lm, patch):
        from errata.jobs.lens_job import lens_of_trace
        from errata.reports.prompt_trace_report import grid_with_lens, own_answer_text, trace_text, write_trace
        from errata.tracing import trace

        with patch.applied(lm) if patch else nullcontext():
            found = trace(lm, prompt, one["subject"], one["answer"], chat=chat, swap=swap, progress=progress, **options)
            with_lens = "html" in outputs and one["lens"] is not False
            grid = grid_with_lens(found, lens_of_trace(lm, found)) if with_lens else None
        if one["answer"] is None:
            typer.echo(own_answer_text(found) + "\n")
        typer.echo(trace_text(found, width=screen_width(), colour=shows_colour(), max_layers=one["max_layers"]))
        for path in write_trace(found, outputs, page_grid=grid):
            typer.echo(f"Written: {path}")


def _check_options(options: dict[str, Any]) -> None:
    """Before the model is loaded."""
    from errata.tracing.prompt_trace import config_of

    config_of(options)


def _many(
    facts_file: Path,
    many: dict[str, Any],
    options: dict[str, Any],
    patch_folder: Path | None,
    chat: bool,
    load: dict[str, Any],
    quiet: bool,
) -> None:
    from errata.jobs.trace_job import TraceRun
    from errata.models import as_chat
    from errata.reports.trace_report import write_traces
    from errata.store.run_folder import check_records_folder
    from errata.tracing.prompt_trace import config_of

    if many["out"] is None:
        raise InputError("--out is missing: the folder for tables, figures and the summary.")
    out = expanded(many["out"], "--out")
    check_records_folder(out)
    config = config_of({**options, "severed": "last subject" if options["severed"] else "none"})
    format: Format = many["format"] or "auto"
    found = read_fact_file(
        facts_file, format=format, limit=many["n"], skip_bad=many["skip_bad"], limit_option="--n", edited=False
    )
    progress = progress_on(quiet=quiet)
    records = len(found.facts) + found.bad_records
    if many["n"] is not None and records < many["n"]:
        progress.note(f"--n {many['n']}: {facts_file} holds {counted(records, 'record')}; all are used.")
    with with_patch(patch_folder, load, progress) as (lm, patch), patch.applied(lm) if patch else nullcontext():
        facts = as_chat(found.facts) if chat else found.facts
        run = TraceRun.of(lm, facts, config, out / "records", found.places, many["skip_bad"], progress)
        summary = write_traces(out, run.average(progress), run.traces())
    typer.echo(f"{summary}\nTables, figures, the page and this summary: {out}")
