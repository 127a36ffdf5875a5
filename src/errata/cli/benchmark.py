"""What `errata bench` does once its options are parsed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from errata.cli.run import check_layers, command
from errata.errors import ConfigError, FactsError
from errata.jobs.progress import progress_on

if TYPE_CHECKING:
    from errata.edit import PresetFile


def run_bench_command(
    data: Path | None,
    out: Path,
    *,
    options: dict[str, Any],
    sources: dict[str, Any],
    references: Path | None,
    load: dict[str, Any],
    quiet: bool,
) -> None:
    """Run a benchmark and print its summary. ConfigError, before any work, for options that do not go together."""
    from errata.jobs.bench.options import BenchOptions, parse_counts, parse_settings
    from errata.jobs.bench.records import read_records
    from errata.jobs.bench.store import check_folder
    from errata.stats import open_corpus

    progress = progress_on(quiet=quiet)
    parsed = BenchOptions(**{
        **options,
        "methods": tuple(name.strip() for name in options["methods"].split(",")),
        "counts": parse_counts(options["counts"]),
        "settings": parse_settings(options["settings"]),
        "presets": _presets(options["presets"]),
        "mixed": _pair(options["mixed"]),
    })  # fmt: skip
    check_folder(out.expanduser())
    if sources["text"] is not None and not parsed.text_tokens:
        raise ConfigError("--text is what drift is measured on, and --text-tokens 0 asks for no drift.")
    found = _data(data, parsed.dataset)
    read_records(found, parsed)
    for name in ("corpus", "text"):
        if sources[name] is not None:
            open_corpus(sources[name], field=sources["field"])
    check_layers([fields["layers"] for fields in parsed.settings.values() if "layers" in fields], load)
    texts = None
    if references is not None and not parsed.generate:
        raise ConfigError("--references are what generations are compared with: add --generate.")
    if references is not None:
        from errata.evaluate.references import read_references

        texts = read_references(references)
    with command(load, progress) as lm:
        from errata.jobs.bench.job import run_bench
        from errata.reports.bench.bench_report import write_bench

        result = run_bench(lm, found, out, options=parsed, references=texts, progress=progress, **sources)
        typer.echo(write_bench(result))
        typer.echo(f"Tables and figures: {result.out}")


def _presets(paths: list[Path]) -> dict[str, PresetFile]:
    """Preset files by their method; ConfigError where two are of one method."""
    from errata.edit import read_preset

    found: dict[str, PresetFile] = {}
    for path in paths:
        preset = read_preset(path)
        if preset.method in found:
            raise ConfigError(f"Two --preset files are of {preset.method}; give one of them.")
        found[preset.method] = preset
    return found


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
    found = Path(folder).expanduser() / name
    if not found.is_file():
        raise FactsError(f"There is no {name} in {folder} ($ERRATA_DATA). {way_out}")
    return found
