"""The command `errata trace`: one prompt or a file of facts in, grids on the terminal and files out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from errata.cli.inputs import read_fact_file, typed_prompt
from errata.cli.options import Chat, Device, Format, PatchDtype, PatchModel, Quiet, Revision, SkipBad
from errata.cli.screen import screen_width, shows_colour
from errata.cli.session import ModelChoice, expanded, open_patched, output_paths
from errata.core.words import counted
from errata.errors import ConfigError, InputError
from errata.jobs.terminal_progress import progress_on

if TYPE_CHECKING:
    from errata.core.progress import ProgressSink
    from errata.facts import FactFile
    from errata.models import LanguageModel
    from errata.tracing import TraceConfig


def trace(
    prompt: Annotated[
        list[str] | None, typer.Argument(help="The beginning of a text, in quotes; or give --facts.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Of a prompt: the words in it to corrupt.")] = None,
    answer: Annotated[
        str | None, typer.Option("--answer", "-a", help="What comes next; default: the model's own next token.")
    ] = None,
    facts: Annotated[
        Path | None, typer.Option("--facts", "-f", help="Trace the facts of a file that the model knows.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="Of the facts: the first N records.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Of facts: folder for tables, figures and summary.md.")
    ] = None,
    kinds: Annotated[str, typer.Option(help="What is restored, of hidden,mlp,attention.")] = "hidden,mlp,attention",
    tokens: Annotated[
        str,
        typer.Option(help='Where: all, or "last subject": its last token alone, enough to propose layers.'),
    ] = "all",
    severed: Annotated[
        bool, typer.Option(help="Also restore hidden states while the token's MLPs, or attention, stay corrupted.")
    ] = True,
    samples: Annotated[int, typer.Option(help="Corrupted runs.")] = 10,
    noise: Annotated[float, typer.Option(help="In standard deviations of the subjects' embeddings.")] = 3.0,
    window: Annotated[int, typer.Option(help="Layers whose MLPs or attentions are restored together.")] = 10,
    corruption: Annotated[str, typer.Option(help="gaussian, uniform, swap (another subject) or zero.")] = "gaussian",
    swap: Annotated[
        list[str] | None, typer.Option(help="Of a prompt, with --corruption swap: another subject (repeatable).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    exact: Annotated[bool, typer.Option(help="--no-exact: the attribution only, one backward a prompt.")] = True,
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", help="Tokens run at a time: memory and speed.")] = 2048,
    lens: Annotated[
        bool | None,
        typer.Option("--lens/--no-lens", help="The Backward Lens beside it in --html (default: yes)."),
    ] = None,
    max_layers: Annotated[int | None, typer.Option("--max-layers", help="Show so many layers on the terminal.")] = None,
    patch: Annotated[Path | None, typer.Option("--patch", "-p", help="Trace the model with this patch on.")] = None,
    chat: Chat = False,
    html: Annotated[Path | None, typer.Option(help="Interactive page, one offline file.")] = None,
    pdf: Annotated[Path | None, typer.Option(help="The grids as a figure.")] = None,
    png: Annotated[Path | None, typer.Option(help="The grids as a picture.")] = None,
    json: Annotated[Path | None, typer.Option(help="Every number as JSON.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Every cell as a row of a Parquet file.")] = None,
    skip_bad: SkipBad = False,
    format: Format = "auto",
    model: PatchModel = None,
    device: Device = "cpu",
    dtype: PatchDtype = None,
    revision: Revision = None,
    quiet: Quiet = False,
) -> None:
    """Causal tracing: which states of a prompt bring its answer back when the subject is corrupted."""
    text = typed_prompt(prompt, "trace") if prompt else None
    _check_one_given(text, facts)
    outputs = output_paths(html=html, pdf=pdf, png=png, json=json, parquet=parquet)
    patch = None if patch is None else expanded(patch, "--patch")
    if text is not None:
        _check_side({"n": n, "out": out, "skip_bad": skip_bad, "format": format}, "--facts")
        _check_prompt(text, subject, outputs, max_layers)
        _check_swap(tuple(swap or ()), corruption)
    else:
        one = {"subject": subject, "answer": answer, "swap": swap, "lens": lens, "max_layers": max_layers}
        _check_side({**one, **outputs}, "a prompt")
        facts = expanded(facts, "--facts")  # type: ignore[arg-type]
        out = _checked_folder(out)
    from errata.tracing import TraceConfig

    where = "all" if text is not None else "last subject"
    config = TraceConfig(
        kinds=tuple(part.strip() for part in kinds.split(",") if part.strip()), tokens=tokens,
        severed=where if severed else "none", samples=samples, noise=noise, window=window, corruption=corruption,
        seed=seed, exact=exact, batch_tokens=batch_tokens,
    )  # fmt: skip
    choice = ModelChoice(model=model, device=device, dtype=dtype, revision=revision)
    progress = progress_on(quiet=quiet)
    if text is None:
        assert facts is not None
        assert out is not None
        file = read_fact_file(facts, format=format, limit=n, skip_bad=skip_bad, limit_option="--n", edited=False)
        _note_fewer(n, file, facts, progress)
        lm, opened = open_patched(patch, choice, progress)
        with opened.applied(lm) if opened else nullcontext():
            summary = _trace_facts(lm, file, out, config, chat=chat, skip_bad=skip_bad, progress=progress)
        typer.echo(f"{summary}\nTables, figures, the page and this summary: {out}")
        return
    assert subject is not None
    lm, opened = open_patched(patch, choice, progress)
    from errata.jobs.lens_job import lens_of_trace
    from errata.reports.prompt_trace_report import grid_with_lens, own_answer_text, trace_text, write_trace
    from errata.tracing import trace as run

    with opened.applied(lm) if opened else nullcontext():
        options = {**vars(config), "chat": chat, "swap": tuple(swap or ())}
        result = run(lm, text, subject, answer, progress=progress, **options)
        grid = grid_with_lens(result, lens_of_trace(lm, result)) if "html" in outputs and lens is not False else None
    if answer is None:
        typer.echo(own_answer_text(result) + "\n")
    typer.echo(trace_text(result, width=screen_width(), colour=shows_colour(), max_layers=max_layers))
    for path in write_trace(result, outputs, page_grid=grid):
        typer.echo(f"Written: {path}")


def _check_side(given: dict[str, object], belongs_to: str) -> None:
    """ConfigError where an option of the other use of the command is given."""
    names = [name for name, value in given.items() if value is not None and value is not False and value != "auto"]
    if names:
        raise ConfigError(f"--{names[0].replace('_', '-')} belongs to {belongs_to}, which is not given.")


def _check_prompt(prompt: str, subject: str | None, outputs: dict[str, Path], max_layers: int | None) -> None:
    from errata.facts.checks import check_subject
    from errata.reports.output_files import check_outputs

    if subject is None:
        raise InputError("--subject is missing: the words of the prompt to corrupt.")
    check_subject(prompt, subject)
    check_outputs(outputs)
    if max_layers is not None and max_layers < 2:
        raise ConfigError(f"--max-layers must be at least 2, found {max_layers}.")


def _check_swap(swap: tuple[str, ...], corruption: str) -> None:
    if bool(swap) != (corruption == "swap"):
        raise ConfigError("--corruption swap and --swap OTHER-SUBJECT (repeatable) belong together.")


def _checked_folder(out: Path | None) -> Path:
    from errata.store.run_folder import check_records_folder

    if out is None:
        raise InputError("--out is missing: the folder for tables, figures and the summary.")
    out = expanded(out, "--out")
    check_records_folder(out)
    return out


def _note_fewer(n: int | None, file: FactFile, path: Path, progress: ProgressSink) -> None:
    records = len(file.facts) + file.bad_records
    if n is not None and records < n:
        progress.note(f"--n {n}: {path} holds {counted(records, 'record')}; all are used.")


def _trace_facts(
    lm: LanguageModel,
    file: FactFile,
    out: Path,
    config: TraceConfig,
    *,
    chat: bool,
    skip_bad: bool,
    progress: ProgressSink,
) -> str:
    """Trace the facts, write what comes of it, and give the summary."""
    from errata.jobs.trace_job import TraceRun
    from errata.models import as_chat
    from errata.reports.trace_report import write_traces

    facts = as_chat(file.facts) if chat else file.facts
    run = TraceRun.of(lm, facts, config, out / "records", file.places, skip_bad, progress)
    return write_traces(out, run.average(progress), run.traces())


def _check_one_given(prompt: str | None, facts: Path | None) -> None:
    if (prompt is None) == (facts is None):
        raise InputError('Give either a prompt (errata trace "..." --subject "...") or facts (--facts FILE --out DIR).')
