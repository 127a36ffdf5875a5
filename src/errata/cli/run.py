"""What each command does once its options are parsed: check everything cheap first, then work, then print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from errata.errors import ConfigError, FactsError, ModelNotFoundError
from errata.jobs.progress import progress_on

if TYPE_CHECKING:
    from errata.core.progress import ProgressSink
    from errata.edit import MethodConfig, PresetFile
    from errata.facts import FactFile
    from errata.facts.readers import Format
    from errata.models import LanguageModel
    from errata.patches import Patch


def run_edit(
    facts_file: Path,
    out: Path,
    *,
    load: dict[str, Any],
    options: dict[str, Any],
    method: str | None,
    preset: Path | None,
    settings: Sequence[str],
    format: Format,
    limit: int | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    from errata.jobs.results import check_out

    out = out.expanduser()
    progress = progress_on(quiet=quiet)
    check_out(out, overwrite=overwrite)
    found = read_fact_file(facts_file, format=format, limit=limit, skip_bad=options["skip_bad"])
    opened, chosen = chosen_method(method, preset)
    overrides = overrides_of(chosen, settings)
    check_cheaply(overrides, options["corpus"], field=options["field"], method=chosen)
    if options["batch_size"] < 1:
        raise ConfigError(f"--batch-size must be at least 1, found {options['batch_size']}.")
    with command(load, progress) as lm:
        from errata.jobs.edit_job import edit_facts
        from errata.jobs.results import save_run
        from errata.jobs.summary import summary

        result = edit_facts(
            lm,
            found.facts,
            method=chosen,
            preset=opened,
            places=found.places,
            progress=progress,
            **options,
            **overrides,
        )
        result.report["skipped"] = [str(problem) for problem in found.errors] + result.report["skipped"]
        out = save_run(result, out, overwrite=overwrite)
        typer.echo(summary(result))
        example = f"errata ask {quoted(result.patch.facts[0].text)} --patch {quoted(str(out))}"
        typer.echo(f"\nPatch and report: {out}\nTry it:           {example}")


def chosen_method(method: str | None, preset: Path | None) -> tuple[PresetFile | None, str]:
    """The preset in the file, if one is given, and the method: the one asked for, else the preset's, else MEMIT."""
    from errata.edit import method_of, opened_preset

    opened = opened_preset(preset)
    return opened, method_of(method, opened).name


def one_order(*, at_once: bool, in_batches: int | None, one_by_one: bool) -> int | None:
    """How many facts a batch has: None for all at once. ConfigError where more than one order is asked for."""
    if sum([at_once, in_batches is not None, one_by_one]) > 1:
        raise ConfigError("--at-once, --in-batches and --one-by-one exclude each other; give one of them.")
    if in_batches is not None and in_batches < 1:
        raise ConfigError(f"--in-batches must be at least 1, found {in_batches}.")
    return 1 if one_by_one else in_batches


def run_demo(out: Path, *, model: str, device: str, dtype: str, quiet: bool) -> None:
    progress = progress_on(quiet=quiet)
    out = out.expanduser()
    with command({"model": model, "device": device, "dtype": dtype, "revision": None}, progress) as lm:
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
    from errata.edit import parse_layers

    progress = progress_on(quiet=quiet)
    overrides: dict[str, Any] = {} if layers is None else {"layers": parse_layers(layers)}
    check_cheaply(overrides, corpus, field=field)
    with command(load, progress) as lm:
        from errata.edit import settings_for
        from errata.jobs.stats_job import run_stats

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
    from errata.facts.checks import check_prompt

    load = {"model": model, "device": device, "dtype": dtype, "revision": revision}
    for prompt in prompts:
        check_prompt(prompt)
    with with_patch(patch_folder, load) as (lm, patch):
        from errata.jobs.ask_job import ask
        from errata.jobs.summary import answers

        before = ask(lm, prompts, new_tokens=tokens, top=top)
        after = ask(lm, prompts, patch=patch, new_tokens=tokens, top=top) if patch else None
        typer.echo(answers(before, after, None if patch is None else patch.id))


@contextmanager
def with_patch(
    folder: Path | None, load: dict[str, Any], progress: ProgressSink | None = None
) -> Iterator[tuple[LanguageModel, Patch | None]]:
    """The model and, if a folder is given, the patch (not applied), whose model and dtype are then the defaults."""
    patch = None
    if folder is not None:
        from errata.patches import Patch

        patch = Patch.load(folder)
        made_on = patch.info["model"]
        if load["model"] is None:
            load = {**load, "model": made_on["name"], "revision": load["revision"] or made_on["revision"]}
        load = {**load, "dtype": load["dtype"] or made_on["dtype"]}
    defaults = {**load, "model": load["model"] or "smollm2", "dtype": load["dtype"] or "float32"}
    with _model_of(patch), command(defaults, progress or progress_on(quiet=True)) as lm:
        yield lm, patch


@contextmanager
def _model_of(patch: Patch | None) -> Iterator[None]:
    """Say whose model it is that cannot be found."""
    try:
        yield
    except ModelNotFoundError as error:
        if patch is None:
            raise
        made_on = patch.info["model"]["name"]
        raise ModelNotFoundError(
            f"The patch was made on {made_on!r}; say with --model where that model is now. {error}"
        ) from error


def run_models() -> None:
    from errata.edit import PRESETS
    from errata.models.embedded import EMBEDDED_MODELS
    from errata.models.families import FAMILIES
    from errata.views.tables import text_table

    typer.echo("Families (dense decoders of any size):")
    typer.echo(text_table(["family", "for example"], [[row.name, row.example] for row in FAMILIES.values()]))
    typer.echo("\nKnown settings (any other model gets guesses, with a warning; hyperparameters: `errata methods`):")
    rows = [
        [method, p.name, _layers_of(p.config), _settings_of(p.config), p.source]
        for method, presets in PRESETS.items()
        for p in presets
    ]
    typer.echo(text_table(["method", "model", "layers", "other than the default", "source"], rows))
    typer.echo("\nInstalled:")
    for name, embedded in EMBEDDED_MODELS.items():
        found = _installed(embedded.requirements[0].partition("==")[0])
        typer.echo(f"  model {name}: {found or f'missing; run make {embedded.target}'}")
    for package in ("errata", "torch", "transformers", "safetensors", "datasets"):
        typer.echo(f"  {package} {_installed(package) or '(not installed)'}")


def _settings_of(config: MethodConfig) -> str:
    """The fields that are not at their defaults, as `--set` takes them."""
    from dataclasses import fields

    named = [(f.name, f.default, getattr(config, f.name)) for f in fields(config) if f.name != "layers"]
    return " ".join(f"{name}={_value(value)}" for name, default, value in named if value != default)


def _layers_of(config: MethodConfig) -> str:
    first, last = config.layers[0], config.layers[-1]
    return str(first) if first == last else f"{first}–{last}"


def _value(value: object) -> str:
    """As `--set` takes it."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def run_methods() -> None:
    from dataclasses import MISSING, fields

    from errata.edit import METHODS, PRESETS
    from errata.views.tables import text_table

    for method in METHODS.values():
        models = {row.name.partition(",")[0] for row in PRESETS[method.name]}
        known = f"{len(models)} model{'s' * (len(models) != 1)}" if models else "no model"
        typer.echo(f"{method.name}: {method.title}; settings known for {known}.")
        defaults = [[f.name, _value(f.default)] for f in fields(method.config_type) if f.default is not MISSING]
        guessed = {"layers", *method.guessed}
        rows = [[name, value, "guessed" * (name in guessed)] for name, value in [["layers", ""], *defaults]]
        typer.echo(text_table(["--set NAME", "published default", "without a preset"], rows))
        typer.echo("")


@contextmanager
def command(load: dict[str, Any], progress: ProgressSink) -> Iterator[LanguageModel]:
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


def check_cheaply(overrides: dict[str, Any], corpus: str | None, *, field: str, method: str = "memit") -> None:
    """What can be judged without the model, before minutes are spent on loading it."""
    from errata.edit import find_method
    from errata.stats import open_corpus
    from errata.store import home

    find_method(method).config_type(**{"layers": (0,), **overrides})
    home()
    if corpus is not None:
        open_corpus(corpus, field=field)


def read_fact_file(
    path: Path, *, format: Format, limit: int | None, skip_bad: bool, limit_option: str = "--limit", edited: bool = True
) -> FactFile:
    """The facts of a file, or an error with all that is wrong. `edited`: warnings about editing them are of use."""
    from errata.facts import format_problems, read_facts, require

    if limit is not None and limit < 1:
        raise FactsError(f"{limit_option} must be at least 1, found {limit}.")
    found = read_facts(path.expanduser(), format=format, limit=limit)
    facts = require(found, skip_bad=skip_bad)
    if problems := found.problems if edited else found.errors:
        typer.echo(f"errata: {path}:\n{format_problems(problems)}", err=True)
        if found.errors:
            typer.echo(
                f"errata: skipped: {found.bad_records:,}. The model looks at the other {len(facts):,} next.", err=True
            )
    return found


def overrides_of(method: str, settings: Sequence[str]) -> dict[str, Any]:
    from errata.edit import find_method, parse_override

    overrides: dict[str, Any] = {}
    for text in settings:
        name, value = parse_override(find_method(method).config_type, text)
        if name in overrides:
            raise ConfigError(f"{name} is set twice (--set {name}=...); give it once.")
        overrides[name] = value
    return overrides


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def quoted(text: str) -> str:
    import shlex

    from errata.views.tables import printable

    return shlex.quote(printable(text))
