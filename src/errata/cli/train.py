"""The command `errata train mend`: options in, an editor's file out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from errata.cli.lens import expanded
from errata.cli.run import check_cheaply, command, overrides_of, read_fact_file
from errata.errors import ConfigError
from errata.jobs.progress import duration, progress_on
from errata.views.shell import program, shell_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from errata.facts.readers import Format


def run_train_mend(
    facts_file: Path,
    out: Path,
    *,
    load: dict[str, Any],
    options: dict[str, Any],
    settings: Sequence[str],
    seed: int | None,
    format: Format,
    limit: int | None,
    quiet: bool,
) -> None:
    """Train an editor on the facts of a file and print how good it is. ConfigError for a seed given twice."""
    from errata.jobs.train_job import check_editor_out, check_limits

    out = expanded(out, "--out")
    progress = progress_on(quiet=quiet)
    check_limits(**{name: options[name] for name in ("steps", "minutes", "valid")})
    check_editor_out(out, overwrite=options["overwrite"])
    overrides = overrides_of("mend", settings)
    if seed is not None:
        if "seed" in overrides:
            raise ConfigError("The seed is given twice (--seed and --set seed=...); give it once.")
        overrides["seed"] = seed
    corpus = check_cheaply(
        overrides, options["corpus"], field=options.pop("field"), method="mend", load=load, progress=progress
    )
    found = read_fact_file(facts_file, format=format, limit=limit, skip_bad=options["skip_bad"])
    with command(load, progress) as lm:
        from errata.jobs.train_job import train_mend

        result = train_mend(
            lm, found.without_problems, out, progress=progress, **{**options, "corpus": corpus}, **overrides
        )
    typer.echo(
        f"Best editor, of step {result.best_step:,} of {result.steps:,} ({duration(result.seconds)}), on "
        f"{result.validation.facts:,} held-out facts, each edited alone:\n{result.validation.line()}\n\n"
        f"Editor: {out}\n"
        f"Edit:   {program()} edit FACTS --method mend --set editor={shell_word(str(out))} --out FOLDER"
    )
