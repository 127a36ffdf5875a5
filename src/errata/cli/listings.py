"""The commands `errata methods` and `errata models`."""

from __future__ import annotations

import textwrap
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated

import typer

from errata.cli.screen import screen_width
from errata.core.words import counted

if TYPE_CHECKING:
    from errata.edit import Method, MethodConfig


def models() -> None:
    """List supported families, known settings, and what is installed."""
    from errata.edit import METHODS
    from errata.models.families.embedded import EMBEDDED_MODELS
    from errata.models.families.rows import FAMILIES
    from errata.views.text_tables import text_table

    typer.echo("Families (dense decoders of any size):")
    typer.echo(text_table(["family", "for example"], [[row.name, row.example] for row in FAMILIES.values()]))
    typer.echo("\nKnown settings (any other model gets guesses, with a warning; hyperparameters: `errata methods`):")
    rows = [
        [method.name, p.name, _layers_of(p.config), _settings_of(p.config), p.source]
        for method in METHODS.values()
        for p in method.presets
    ]
    typer.echo(text_table(["method", "model", "layers", "other than the default", "source"], rows))
    typer.echo("\nInstalled:")
    for name, embedded in EMBEDDED_MODELS.items():
        installed = _installed(embedded.requirements[0].partition("==")[0])
        typer.echo(f"  model {name}: {installed or f'missing; run make {embedded.target}'}")
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


def methods(
    name: Annotated[str | None, typer.Argument(help="One method: what it writes, its settings and presets.")] = None,
) -> None:
    """List the editing methods, their hyperparameters and defaults; or tell all about one."""
    from errata.edit import METHODS, find_method

    if name is not None:
        typer.echo(_method_page(find_method(name), width=min(100, screen_width())))
        return
    for method in METHODS.values():
        typer.echo(_method_table(method) + "\n")
    typer.echo("errata methods NAME says what a method writes and what its settings mean.")


def _method_table(method: Method) -> str:
    from errata.views.text_tables import text_table

    preset_models = {row.name.partition(",")[0] for row in method.presets}
    number = counted(len(preset_models), "model") if preset_models else "no model"
    rows = [[name, value, "guessed" * guessed] for name, value, guessed in _settings(method)]
    table = text_table(["--set NAME", "published default", "without a preset"], rows)
    return f"{method.name}: {method.title}; settings known for {number}.\n{table}"


def _method_page(method: Method, *, width: int) -> str:
    from errata.edit.settings.descriptions import field_meanings

    meanings = field_meanings(method.config_type)
    said = [f"{method.name}: {method.title}", ""]
    said += textwrap.wrap(method.writes, width) + textwrap.wrap(f"Paper: {method.paper}.", width)
    said += ["", "Settings (--set NAME=VALUE), with their published defaults:"]
    for name, value, guessed in _settings(method):
        shown = value or ('""' if name != "layers" else "the preset's, or guessed")
        guess = ", guessed from the model where no preset is known" if guessed and name != "layers" else ""
        said += ["", f"  {name} = {shown}{guess}"]
        said += textwrap.wrap(meanings.get(name, ""), width, initial_indent="      ", subsequent_indent="      ")
    said += ["", f"Presets{', taken where the model has that shape:' if method.presets else ': none.'}"]
    for row in method.presets:
        others = _settings_of(row.config) or "the defaults"
        line = f"{row.name}: layers {_layers_of(row.config)}; {others} ({row.source})"
        said += textwrap.wrap(line, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    use = f"errata edit facts.jsonl --out runs/{method.name} --method {method.name}"
    return "\n".join([*said, "", f"Use: {use}" + " --set editor=editor.safetensors" * (method.name == "mend")])


def _settings(method: Method) -> list[tuple[str, str, bool]]:
    """Each field, its default as `--set` takes it, and whether a guess chooses it by the model."""
    from dataclasses import MISSING, fields

    guessed = {"layers", *method.guessed}
    every = [(f.name, "" if f.default is MISSING else _value(f.default)) for f in fields(method.config_type)]
    return [(name, value, name in guessed) for name, value in every]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
