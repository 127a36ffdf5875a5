"""The command `errata eval`: a patch and facts in, a table on the terminal and a folder of results out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from errata.cli.lens import expanded
from errata.cli.run import check_cheaply, read_fact_file, with_patch
from errata.cli.verdict import end_with, eval_requirements
from errata.errors import ConfigError
from errata.jobs.progress import progress_on

if TYPE_CHECKING:
    from errata.evaluate.references import References
    from errata.facts.readers import Format


def run_eval(
    patch_folder: Path,
    *,
    facts_file: Path | None,
    out: Path | None,
    limit: int | None,
    skip_bad: bool,
    format: Format,
    generate: bool,
    references_file: Path | None,
    text: dict[str, Any],
    overwrite: bool,
    require: Sequence[str],
    load: dict[str, Any],
    quiet: bool,
) -> None:
    """Measure a patch, print the tables, save them where `out` is given.

    Raises ConfigError where the facts are the patch's own and `limit` is below 1.
    """
    from errata.evaluate.generation import GenerationConfig

    progress = progress_on(quiet=quiet)
    out = None if out is None else expanded(out, "--out")
    requirements = eval_requirements(
        require, drift=bool(text["text_tokens"]), generate=generate, references=references_file is not None
    )
    references = _checked(references_file, generate, text, out, overwrite)
    found = None
    if facts_file is not None:
        found = read_fact_file(expanded(facts_file, "--facts"), format=format, limit=limit, skip_bad=skip_bad)
    elif limit is not None and limit < 1:
        raise ConfigError(f"--limit must be at least 1, found {limit}.")
    # The evaluation has the patch's warning among its own.
    with with_patch(expanded(patch_folder, "PATCH"), load, progress, warn=False) as (lm, patch):
        from errata.jobs.eval_job import evaluate_patch
        from errata.reports.evaluation_report import evaluation_text, save_evaluation

        assert patch is not None
        evaluation = evaluate_patch(
            lm, patch, patch.facts[:limit] if found is None else found.without_problems,
            generation=GenerationConfig(seed=text["seed"]) if generate else None, references=references,
            skip_bad=skip_bad, progress=progress, **text,
        )  # fmt: skip
        if found is not None:
            evaluation.info["skipped"][:0] = [str(problem) for problem in found.errors]
        evaluation.info["required"] = evaluation.judged(requirements)
        typer.echo(evaluation_text(evaluation))
        if out is not None:
            typer.echo(f"\nResults: {save_evaluation(evaluation, out, overwrite=overwrite)}")
    end_with(None, evaluation.info["required"])


def _checked(
    references_file: Path | None, generate: bool, text: dict[str, Any], out: Path | None, overwrite: bool
) -> References | None:
    """What can be judged without the model, and the reference texts."""
    from errata.evaluate.references import read_references
    from errata.reports.evaluation_report import FILES
    from errata.store.run_folder import check_out

    if out is not None:
        check_out(out, overwrite=overwrite, ours=FILES)
    elif overwrite:
        raise ConfigError("--overwrite replaces what lies in --out, which is not given.")
    if text["text_tokens"] < 0 or text["text_tokens"] == 1:
        raise ConfigError(f"--text-tokens must be 0 (no drift) or at least 2, found {text['text_tokens']}.")
    if text["seed"] < 0:
        raise ConfigError(f"--seed must not be negative, found {text['seed']}.")
    if text["corpus"] is not None and not text["text_tokens"]:
        raise ConfigError("--corpus is the text drift is measured on, and --text-tokens 0 asks for no drift.")
    if references_file is not None and not generate:
        raise ConfigError("--references are what generations are compared with: add --generate.")
    text["corpus"] = check_cheaply({}, text["corpus"], field=text.pop("field"))
    return None if references_file is None else read_references(expanded(references_file, "--references"))
