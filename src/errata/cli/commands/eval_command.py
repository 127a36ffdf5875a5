"""The command `errata eval`: a patch and facts in, a table on the terminal and a folder of results out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from errata.cli.exit_codes import end_with, eval_requirements
from errata.cli.inputs import read_fact_file, read_reference_texts
from errata.cli.options import Device, Field, Format, Quiet, Require, Revision, SkipBad
from errata.cli.session import ModelChoice, TextSource, check_settings, expanded, open_patched
from errata.errors import ConfigError
from errata.jobs.terminal_progress import progress_on

if TYPE_CHECKING:
    from errata.core.progress import ProgressSink
    from errata.facts import FactFile
    from errata.stats import Corpus


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
    from errata.evaluate.generation import GenerationConfig

    progress = progress_on(quiet=quiet)
    out = None if out is None else expanded(out, "--out")
    requirements = eval_requirements(
        require or [], drift=bool(text_tokens), generate=generate, references=references is not None
    )
    _check_out(out, overwrite=overwrite)
    text = _checked_text(TextSource(corpus=corpus, field=field), text_tokens, seed, progress)
    reference_texts = read_reference_texts(references, generate=generate)
    file = _read_facts(facts, format=format, limit=limit, skip_bad=skip_bad)
    # The evaluation has the patch's warning among its own.
    choice = ModelChoice(model=model, device=device, dtype=dtype, revision=revision)
    lm, opened = open_patched(expanded(patch, "PATCH"), choice, progress, warn=False)
    from errata.jobs.eval_job import evaluate_patch
    from errata.reports.evaluation_report import evaluation_text, save_evaluation

    assert opened is not None
    evaluation = evaluate_patch(
        lm, opened, opened.facts[:limit] if file is None else file.without_problems,
        generation=GenerationConfig(seed=seed) if generate else None, references=reference_texts, skip_bad=skip_bad,
        progress=progress, corpus=text, text_tokens=text_tokens, seed=seed,
    )  # fmt: skip
    if file is not None:
        evaluation.info["skipped"][:0] = [str(problem) for problem in file.errors]
    evaluation.info["required"] = evaluation.judged(requirements)
    typer.echo(evaluation_text(evaluation))
    if out is not None:
        typer.echo(f"\nResults: {save_evaluation(evaluation, out, overwrite=overwrite)}")
    end_with(None, evaluation.info["required"])


def _check_out(out: Path | None, *, overwrite: bool) -> None:
    from errata.reports.evaluation_report import FILES
    from errata.store.run_folder import check_out

    if out is not None:
        check_out(out, overwrite=overwrite, ours=FILES)
    elif overwrite:
        raise ConfigError("--overwrite replaces what lies in --out, which is not given.")


def _checked_text(text: TextSource, text_tokens: int, seed: int, progress: ProgressSink) -> Corpus | None:
    if text_tokens < 0 or text_tokens == 1:
        raise ConfigError(f"--text-tokens must be 0 (no drift) or at least 2, found {text_tokens}.")
    if seed < 0:
        raise ConfigError(f"--seed must not be negative, found {seed}.")
    if text.corpus is not None and not text_tokens:
        raise ConfigError("--corpus is the text drift is measured on, and --text-tokens 0 asks for no drift.")
    return check_settings({}, text, progress)


def _read_facts(path: Path | None, *, format: str, limit: int | None, skip_bad: bool) -> FactFile | None:
    """The facts of --facts; None for the patch's own."""
    if path is not None:
        return read_fact_file(expanded(path, "--facts"), format=format, limit=limit, skip_bad=skip_bad)
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit must be at least 1, found {limit}.")
    return None
