"""Presets as files: the settings somebody found for one model, in plain JSON that may be edited by hand.

    {"errata_preset": 1, "method": "memit",
     "model": {"name": "smollm2", "family": "llama", "num_layers": 30, "d_model": 576, "d_vocab": 49152},
     "facts": 100, "fields": {"layers": [7, 8, 9], "prior_weight": 100.0}, "source": "...", "tuning": "..."}

Fields that are left out are the method's defaults.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from errata.core.words import counted
from errata.edit.registry import find_method
from errata.edit.settings.method_config import MethodConfig, check_field_names
from errata.edit.settings.presets import Preset, Shape
from errata.errors import ConfigError
from errata.models import LanguageModel
from errata.store import atomic_write_text

VERSION = 1
# From so many times more or fewer facts at once on, what was tuned may not serve: λ and layers depend on the density.
_OTHER_DENSITY = 3


@dataclass(frozen=True, kw_only=True)
class PresetFile(Preset):
    """A preset in a file of its own, where it names its method too.

    name: of the model it was found on.  facts: how many were edited at once in finding it.  source: how it was found,
    for people.  tuning: digest of the tuning it comes from; empty where there was none.
    """

    method: str
    facts: int
    tuning: str = ""

    def check_model(self, lm: LanguageModel) -> None:
        """ConfigError for a model of another shape."""
        wanted = (self.family, self.num_layers, self.d_model, self.d_vocab)
        own = shape_of(lm)
        if wanted != own:
            raise ConfigError(
                f"The preset is for models like {self.name} ({_said(wanted)}); {lm.name} has another shape "
                f"({_said(own)}). Settings do not carry over: run errata tune on this model, or leave the preset out."
            )

    def warnings(self, num_facts: int) -> tuple[str, ...]:
        """What is to be said where far more, or far fewer, facts are edited at once than it was tuned with."""
        if self.facts / _OTHER_DENSITY <= num_facts <= self.facts * _OTHER_DENSITY:
            return ()
        return (
            f"The preset was tuned with {counted(self.facts, 'fact')} at once, and {num_facts:,} are edited: layers "
            f"and the "
            "strength of the prior depend on that number. Compare the Score for a few values of them.",
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, the way its file holds it."""
        shape = {"family": self.family, "num_layers": self.num_layers, "d_model": self.d_model, "d_vocab": self.d_vocab}
        return {
            "errata_preset": VERSION,
            "method": self.method,
            "model": {"name": self.name, **shape},
            "facts": self.facts,
            "fields": {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self.config).items()},
            "source": self.source,
            "tuning": self.tuning,
        }


def shape_of(lm: LanguageModel) -> Shape:
    """Family, layers, d_model and vocabulary: what makes a model one that a preset is for."""
    return lm.family.name, lm.num_layers, lm.d_model, lm.d_vocab


def _said(shape: Shape) -> str:
    family, num_layers, d_model, d_vocab = shape
    return f"{family}, {num_layers} layers, d_model {d_model:,}, vocabulary {d_vocab:,}"


def write_preset(path: Path, preset: PresetFile) -> None:
    """Write the file at once. Raises StorageError."""
    atomic_write_text(path, json.dumps(preset.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_preset(path: str | Path) -> PresetFile:
    """The preset in a file. Raises ConfigError, naming the file, for anything that is not one."""
    path = Path(path).expanduser()
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The preset {path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise ConfigError(f"The preset {path} is not JSON: {error}.") from error
    try:
        return _parsed(held)
    except ConfigError as error:
        raise ConfigError(f"The preset {path}: {error}") from error


_KINDS: dict[str, type] = {
    "errata_preset": int, "method": str, "model": dict, "facts": int, "fields": dict, "source": str, "tuning": str,
}  # fmt: skip
_MODEL_KINDS: dict[str, type] = {"name": str, "family": str, "num_layers": int, "d_model": int, "d_vocab": int}
_KIND_NAMES = {int: "a whole number", str: "text", dict: "an object", list: "a list"}


def _parsed(held: Any) -> PresetFile:
    if not isinstance(held, dict) or "errata_preset" not in held:
        raise ConfigError('it has no "errata_preset", so it is no preset; errata tune writes one.')
    if held["errata_preset"] != VERSION or isinstance(held["errata_preset"], bool):
        raise ConfigError(
            f"it is of version {held['errata_preset']!r}, this errata reads version {VERSION}; tune again, or update."
        )
    _check_entries(held, _KINDS, "", optional={"tuning"})
    _check_entries(held["model"], _MODEL_KINDS, "model.")
    if held["facts"] < 1:
        raise ConfigError(f"facts must be at least 1, found {held['facts']}.")
    config = _config(held["method"], held["fields"])
    config.check_layers(held["model"]["num_layers"], held["model"]["name"])
    return PresetFile(
        **held["model"], method=held["method"], facts=held["facts"], config=config, source=held["source"],
        tuning=held.get("tuning", ""),
    )  # fmt: skip


def _check_entries(
    held: Mapping[str, Any], kinds: Mapping[str, type], where: str, *, optional: frozenset[str] | set[str] = frozenset()
) -> None:
    """ConfigError for entries that are unknown, missing or of the wrong kind."""
    for name in held:
        if name not in kinds:
            near = get_close_matches(name, kinds, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(kinds)}."
            raise ConfigError(f"unknown entry {where + name!r}; {hint}")
    for name, kind in kinds.items():
        if name not in held and name not in optional:
            raise ConfigError(f"the entry {where + name!r} is missing.")
        if name in held and type(held[name]) is not kind:
            raise ConfigError(f"{where}{name} must be {_KIND_NAMES[kind]}, found {held[name]!r}.")


def _config(method: str, fields: Mapping[str, Any]) -> MethodConfig:
    config_type = find_method(method).config_type
    check_field_names(config_type, fields)
    layers = fields.get("layers")
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise ConfigError(f"fields.layers must be a list of layer numbers, found {layers!r}.")
    kinds = get_type_hints(config_type)
    # JSON does not tell 30 from 30.0.
    wide = {name: float(value) for name, value in fields.items() if kinds[name] is float and type(value) is int}
    return config_type(**{**fields, **wide, "layers": tuple(layers)})
