"""Which settings a run takes: a preset that somebody measured, or a guess that says so, and single fields on top."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.edit.method import Method
from errata.edit.preset_file import PresetFile, read_preset
from errata.edit.registry import find_method, presets_of
from errata.edit.settings.method_config import MethodConfig
from errata.edit.settings.presets import Preset
from errata.errors import ConfigError
from errata.models import LanguageModel, takes_model


@dataclass(frozen=True)
class Settings:
    """A configuration with where it came from; `is_guess` where nobody measured it on this model."""

    config: Any  # the method's own configuration, a MethodConfig
    source: str
    is_guess: bool
    warnings: tuple[str, ...] = ()


def find_preset(lm: LanguageModel, num_facts: int = 1, *, method: str = "memit") -> Preset | None:
    """The preset measured for models of this shape and so many facts at once, if there is one."""
    shape = (lm.family.name, lm.num_layers, lm.d_model)
    rows = [
        row
        for row in presets_of(find_method(method).name)
        if (row.family, row.num_layers, row.d_model) == shape
        and row.d_vocab in (None, lm.d_vocab)
        and row.least_facts <= num_facts
    ]
    return max(rows, key=lambda row: row.least_facts, default=None)


def _defaults(method: Method, base: MethodConfig, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of fields whose companions the user gave; and of a unit, where the user gave what counts in it."""
    fields = {field.name: field.default for field in dataclasses.fields(method.config_type)}
    given = set(overrides)
    reset = method.together - given if method.together & given else set()
    for unit, counted in method.units.items():
        if unit not in given and counted & given and getattr(base, unit) != fields[unit]:
            reset |= {unit, *counted} - given
    return {name: fields[name] for name in reset}


def method_of(method: str | None, preset: PresetFile | None) -> Method:
    """The method asked for, else the preset's, else MEMIT; ConfigError where the two are at odds."""
    if preset is not None and method not in (None, preset.method):
        raise ConfigError(f"The preset is of {preset.method}, and {method} is asked for; leave one of them out.")
    return find_method(method or (preset.method if preset is not None else "memit"))


def opened_preset(preset: PresetFile | str | Path | None) -> PresetFile | None:
    """A preset as it is, or from its file."""
    return preset if preset is None or isinstance(preset, PresetFile) else read_preset(preset)


@takes_model
def settings_for(
    lm: LanguageModel,
    num_facts: int = 1,
    *,
    method: str | None = None,
    preset: PresetFile | str | Path | None = None,
    **overrides: Any,
) -> Settings:
    """The method's settings for this model and so many facts at once, with `overrides` of single fields.

    They are those of `preset` (a preset file, or what was read from one) where it is given, else the table's for this
    model, else a guess. `method` is the preset's where none is named, else MEMIT. Raises ConfigError for an unknown
    method, unknown fields, bad values, layers that the model does not have, and a preset for another shape.
    """
    opened = opened_preset(preset)
    chosen = method_of(method, opened)
    if opened is not None:
        opened.check_model(lm)
    row = find_preset(lm, num_facts, method=chosen.name) if opened is None else opened
    base = row.config if row else chosen.guess(lm)
    config = base.replace(**_defaults(chosen, base, overrides), **overrides)
    config.check_layers(lm.num_layers, lm.name)
    config, source = chosen.resolve(lm, config, frozenset(overrides))
    warnings = () if opened is None else opened.warnings(num_facts)
    if source:
        return Settings(config, source, False, warnings)
    if row:
        kind = "preset" if opened is None else "preset file for"
        return Settings(config, f"{kind} {row.name}, {row.source}", False, warnings)
    return Settings(config, "guessed from the model's size", not chosen.certain <= set(overrides))
