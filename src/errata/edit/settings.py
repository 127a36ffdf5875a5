"""Which settings a run takes: a preset that somebody measured, or a guess that says so, and single fields on top."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from errata.edit.method import Method, Preset
from errata.edit.methods.alphaedit import ALPHAEDIT
from errata.edit.methods.emmet import EMMET
from errata.edit.methods.fine_tuning import FT, FT_L, FT_W
from errata.edit.methods.knowledge_neurons import KNOWLEDGE_NEURONS
from errata.edit.methods.memit import MEMIT
from errata.edit.methods.mend import MEND
from errata.edit.methods.pmet import PMET
from errata.edit.methods.rome import R_ROME, ROME
from errata.edit.methods.shift import SHIFT
from errata.edit.methods.single_step import ADAM, SGD
from errata.edit.presets import PRESETS
from errata.errors import ConfigError
from errata.models import LanguageModel

_ALL = (
    *(MEMIT, ALPHAEDIT, EMMET, PMET, ROME, R_ROME, KNOWLEDGE_NEURONS, SHIFT),
    *(MEND, SGD, ADAM, FT, FT_L, FT_W),
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


@dataclass(frozen=True)
class Settings:
    """A configuration with where it came from; `is_guess` where nobody measured it on this model."""

    config: Any  # the method's own configuration, a MethodConfig
    source: str
    is_guess: bool


def find_method(name: str) -> Method:
    """The method of this name; ConfigError, with the nearest known one, where there is none."""
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(METHODS)}."
        raise ConfigError(f"Unknown method {name!r}; {hint}")
    return METHODS[name]


def find_preset(lm: LanguageModel, num_facts: int = 1, *, method: str = "memit") -> Preset | None:
    """The preset measured for models of this shape and so many facts at once, if there is one."""
    shape = (lm.family.name, lm.num_layers, lm.d_model)
    rows = [
        row
        for row in PRESETS[find_method(method).name]
        if (row.family, row.num_layers, row.d_model) == shape
        and row.d_vocab in (None, lm.d_vocab)
        and row.least_facts <= num_facts
    ]
    return max(rows, key=lambda row: row.least_facts, default=None)


def _defaults(method: Method, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of fields whose companions the user gave."""
    if not method.together & set(overrides):
        return {}
    fields = {field.name: field.default for field in dataclasses.fields(method.config_type)}
    return {name: fields[name] for name in method.together - set(overrides)}


def settings_for(lm: LanguageModel, num_facts: int = 1, *, method: str = "memit", **overrides: Any) -> Settings:
    """The method's preset for this model and so many facts at once, or a guess, with `overrides` of single fields.

    Raises ConfigError for an unknown method, unknown fields, bad values, and layers that the model does not have.
    """
    found = find_method(method)
    preset = find_preset(lm, num_facts, method=method)
    base = preset.config if preset else found.guess(lm)
    config = base.replace(**_defaults(found, overrides), **overrides)
    config.check_layers(lm.num_layers, lm.name)
    config, source = found.settle(lm, config, frozenset(overrides))
    if source:
        return Settings(config, source, False)
    if preset:
        return Settings(config, f"preset {preset.name} ({preset.source})", False)
    return Settings(config, "guessed from the model's size", not found.certain <= set(overrides))
