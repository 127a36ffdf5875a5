"""The command `errata tune`: options in, a folder with a preset out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from errata.cli.lens import expanded
from errata.cli.run import check_cheaply, check_layers, command, overrides_of
from errata.core.words import counted
from errata.errors import ConfigError
from errata.jobs.progress import progress_on
from errata.views.shell import program, shell_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from errata.facts.readers import Format

# CounterFact holds 20,000 records, of which a tuning looks at a few hundred: reading them all would take longer.
_RECORDS = 5_000


def run_tune(
    facts_file: Path,
    out: Path,
    *,
    options: dict[str, Any],
    settings: Sequence[str],
    sources: dict[str, Any],
    load: dict[str, Any],
    format: Format,
    quiet: bool,
) -> None:
    """Tune a method on the facts of a file and print the preset's path. ConfigError for a seed among `settings`."""
    from errata.facts import read_facts, require
    from errata.jobs.tune.job import drawn
    from errata.jobs.tune.options import TuneOptions, parse_ranges
    from errata.jobs.tune.store import check_tune_folder

    out, progress = expanded(out, "--out"), progress_on(quiet=quiet)
    fields = overrides_of(options["method"], settings)
    if "seed" in fields:
        raise ConfigError("--set seed=... is what --seed is for; give that.")
    parsed = TuneOptions(**{**options, "layers": parse_ranges(options["layers"]), "fields": fields})
    check_tune_folder(out)
    check_cheaply(fields, sources["corpus"], field=sources["field"], method=parsed.method)
    check_layers(parsed.layers, load)
    found = read_facts(facts_file.expanduser(), format=format, limit=parsed.first + _RECORDS)
    facts = require(found, skip_bad=True)
    if found.bad_records:
        progress.note(f"{counted(found.bad_records, 'record')} of {facts_file} cannot be used and are left out.")
    drawn(facts, parsed)
    with command(load, progress) as lm:
        from errata.jobs.tune.job import tune
        from errata.reports.tune_report import write_tuning

        result = tune(lm, facts, out, options=parsed, progress=progress, **sources)
        typer.echo(write_tuning(result))
        preset = shell_word(str(out / "preset.json"))
        typer.echo(f"Preset: {out / 'preset.json'}\nUse it: {program()} edit FACTS --preset {preset} --out FOLDER")
