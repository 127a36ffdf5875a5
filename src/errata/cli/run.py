"""What each command does once its options are parsed: check everything cheap first, then work, then print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from errata.errors import ConfigError, FactsError
from errata.jobs.progress import progress_on

if TYPE_CHECKING:
    from errata.core.progress import ProgressSink
    from errata.facts import Fact
    from errata.models import LanguageModel


def run_edit(
    facts_file: Path,
    out: Path,
    *,
    load: dict[str, Any],
    options: dict[str, Any],
    settings: Sequence[str],
    limit: int | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    from errata.jobs.results import check_out

    progress = progress_on(quiet=quiet)
    check_out(out, overwrite=overwrite)
    facts, skipped = _facts(facts_file, limit=limit, skip_bad=options["skip_bad"])
    overrides = _overrides(settings)
    with _command(load, progress) as lm:
        from errata.jobs.edit_job import edit_facts
        from errata.jobs.results import save_run
        from errata.jobs.summary import summary

        result = edit_facts(lm, facts, progress=progress, **options, **overrides)
        result.report["skipped"] = [str(problem) for problem in skipped]
        save_run(result, out, overwrite=overwrite)
        typer.echo(summary(result))
        example = f"errata ask {_quoted(result.patch.facts[0].text)} --patch {_quoted(str(out))}"
        typer.echo(f"\nPatch and report: {out}\nTry it:           {example}")


def run_demo(out: Path, *, model: str, device: str, dtype: str, quiet: bool) -> None:
    progress = progress_on(quiet=quiet)
    with _command({"model": model, "device": device, "dtype": dtype, "revision": None}, progress) as lm:
        from errata.jobs.demo_job import run_demo as demo

        typer.echo(demo(lm, out, progress=progress))


def run_stats_command(
    load: dict[str, Any],
    *,
    layers: str | None,
    tokens: int | None,
    corpus: str | None,
    field: str,
    seed: int,
    quiet: bool,
) -> None:
    progress = progress_on(quiet=quiet)
    with _command(load, progress) as lm:
        from errata.edit import settings_for
        from errata.edit.config import parse_layers
        from errata.jobs.stats_job import run_stats

        overrides: dict[str, Any] = {} if layers is None else {"layers": parse_layers(layers)}
        config = settings_for(lm, **overrides).config
        count = config.moment_tokens if tokens is None else tokens
        moments = run_stats(lm, config.layers, tokens=count, corpus=corpus, field=field, seed=seed, progress=progress)
        for layer in moments.layers:
            trace = float(moments[layer].diagonal().sum())
            typer.echo(f"layer {layer:3d}  d_mlp {lm.d_mlp:,}  mean ‖k‖² {trace:.4g}  over {moments.tokens:,} tokens")
        typer.echo(f"source {moments.source}  digest {moments.digest[:12]}")


def run_ask(
    prompts: Sequence[str],
    *,
    patch_folder: Path | None,
    model: str | None,
    tokens: int,
    top: int,
    device: str,
    dtype: str | None,
    revision: str | None,
) -> None:
    if tokens < 1 or top < 1:
        raise ConfigError(f"--tokens and --top must be at least 1, found {tokens} and {top}.")
    patch = None
    if patch_folder is not None:
        from errata.edit import Patch

        patch = Patch.load(patch_folder)
        made_on = patch.info["model"]
        model, dtype, revision = model or made_on["name"], dtype or made_on["dtype"], revision or made_on["revision"]
    load = {"model": model or "smollm2", "device": device, "dtype": dtype or "float32", "revision": revision}
    with _command(load, progress_on(quiet=True)) as lm:
        from errata.jobs.ask_job import ask
        from errata.jobs.summary import answers

        before = ask(lm, prompts, new_tokens=tokens, top=top)
        after = ask(lm, prompts, patch=patch, new_tokens=tokens, top=top) if patch else None
        typer.echo(answers(before, after, None if patch is None else patch.id))


def run_models() -> None:
    from errata.edit.presets import PRESETS
    from errata.jobs.tables import text_table
    from errata.models.embedded import EMBEDDED_MODELS
    from errata.models.families import FAMILIES

    typer.echo("Families (dense decoders of any size):")
    typer.echo(text_table(["family", "for example"], [[row.name, row.example] for row in FAMILIES.values()]))
    typer.echo("\nKnown settings (any other model gets guesses, with a warning):")
    rows = [
        [
            p.name,
            p.family,
            f"{p.config.layers[0]}–{p.config.layers[-1]}",
            f"{p.config.prior_weight:g}",
            f"{p.config.clamp:g}",
            p.source,
        ]
        for p in PRESETS
    ]
    typer.echo(text_table(["model", "family", "layers", "λ", "clamp", "source"], rows, right=(2, 3, 4)))
    typer.echo("\nInstalled:")
    for name, embedded in EMBEDDED_MODELS.items():
        typer.echo(
            f"  model {name}: {_installed(embedded.requirement.partition('==')[0]) or 'missing; run make setup'}"
        )
    for package in ("errata", "torch", "transformers", "safetensors", "datasets"):
        typer.echo(f"  {package} {_installed(package) or '(not installed)'}")


@contextmanager
def _command(load: dict[str, Any], progress: ProgressSink) -> Iterator[LanguageModel]:
    """The model a command works on, in a process of our own (so its allocator may be tuned)."""
    from errata.core.allocator import keep_freed_memory
    from errata.models import load as load_model
    from errata.models.embedded import quiet_transformers

    keep_freed_memory()
    with quiet_transformers():
        lm = load_model(
            load["model"], device=load["device"], dtype=load["dtype"], revision=load["revision"], notify=progress.note
        )
    yield lm


def _facts(path: Path, *, limit: int | None, skip_bad: bool) -> tuple[tuple[Fact, ...], list[Any]]:
    from errata.facts import format_problems, read_facts, require

    if limit is not None and limit < 1:
        raise FactsError(f"--limit must be at least 1, found {limit}.")
    found = read_facts(path, limit=limit)
    facts = require(found, skip_bad=skip_bad)
    if found.problems:
        typer.echo(f"errata: {path}:\n{format_problems(found.problems)}", err=True)
        if found.errors:
            skipped = f"{found.bad_records:,} records were skipped"
            typer.echo(f"errata: going on with {len(facts):,} facts; {skipped}.", err=True)
    return facts, list(found.errors)


def _overrides(settings: Sequence[str]) -> dict[str, Any]:
    from errata.edit.config import parse_override

    overrides: dict[str, Any] = {}
    for text in settings:
        name, value = parse_override(text)
        if name in overrides:
            raise ConfigError(f"{name} is set twice (--set {name}=...); give it once.")
        overrides[name] = value
    return overrides


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
