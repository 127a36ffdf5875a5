"""What the configuration of every editing method shares: frozen, checked by type and domain, changed by name."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from operator import index
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from errata.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound="MethodConfig")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Hyperparameters of one method. `layers`: those that are written, ascending, 0-based.

    A subclass adds its fields, its `title` for messages, and `domain_checks`. Types (int, float, bool, str, a Literal
    of words) are checked here, and so is the seed's range.
    """

    title: ClassVar[str] = "Method"
    one_layer: ClassVar[bool] = False

    # Fields that came after patches had been made: at their defaults they are not told, so that equal edits keep their
    # ids.
    later: ClassVar[frozenset[str]] = frozenset(
        {"value_unit", "prior_unit", "softness_unit", "ridge_unit", "enough", "retries"}
    )

    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        checks = [*_common_checks(self), *self.domain_checks()] if not _type_reasons(self) else []
        reasons = _type_reasons(self) or [reason for reason, bad in checks if bad]
        if reasons:
            raise ConfigError(f"{self.title} configuration: " + "; ".join(reasons) + ".")

    def domain_checks(self) -> list[tuple[str, bool]]:
        """What must hold of the fields, each with whether it is broken."""
        return []

    def replace(self: ConfigT, **overrides: Any) -> ConfigT:
        """A copy with some fields changed; ConfigError for an unknown field or a bad value."""
        check_field_names(type(self), overrides)
        if "layers" in overrides:
            overrides["layers"] = _layer_numbers(overrides["layers"])
        return dataclasses.replace(self, **overrides)

    def recorded(self) -> dict[str, Any]:
        """The fields as plain JSON, as a patch and its report keep them."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in plain.items() if name not in self.later or value != defaults[name]}

    def check_layers(self, num_layers: int, name: str) -> None:
        """ConfigError where a layer is outside a model of `num_layers` layers."""
        beyond = [layer for layer in self.layers if layer >= num_layers]
        if beyond:
            raise ConfigError(
                f"layers={list(self.layers)}: {name} has {num_layers} layers, 0–{num_layers - 1}; choose among those."
            )


def check_field_names(config_type: type[MethodConfig], overrides: Mapping[str, Any]) -> None:
    """ConfigError, with the nearest known name, for a field that this method does not have."""
    names = [field.name for field in dataclasses.fields(config_type)]
    for name in overrides:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}."
            raise ConfigError(f"Unknown {config_type.title} field {name!r}; {hint}")


def parse_override(config_type: type[MethodConfig], text: str) -> tuple[str, Any]:
    """`name=value` from a command line, the value converted to the field's type; ConfigError where it cannot be.

    Layers are written 7,8,9 or 7-9; yes and no as true and false.
    """
    name, equals, raw = text.partition("=")
    name, raw = name.strip().replace("-", "_"), raw.strip()
    if not equals or not raw:
        raise ConfigError(f"{text!r} is not name=value (for example prior_weight=300 or layers=7-9).")
    check_field_names(config_type, {name: raw})
    kind = _kinds(config_type)[name]
    if name == "layers":
        return name, parse_layers(raw)
    if kind is bool:
        if raw.lower() not in ("true", "false"):
            raise ConfigError(f"{name}={raw!r} is neither true nor false.")
        return name, raw.lower() == "true"
    if kind not in (int, float):
        return name, raw
    try:
        return name, kind(raw)
    except ValueError:
        raise ConfigError(f"{name}={raw!r} is not a {'whole ' if kind is int else ''}number.") from None


def parse_layers(text: str) -> tuple[int, ...]:
    """`7,8,9`, `7-9` or a mixture, as layer numbers; ConfigError for anything else."""
    layers: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isascii() or not low.isdigit() or (dash and not (high.isascii() and high.isdigit())):
            raise ConfigError(f"layers={text!r}: write layer numbers as 7,8,9 or 7-9.")
        # Before the range is made: a mistyped bound would fill the memory.
        if max(len(low), len(high)) > 4 or len(layers) > 10_000:
            raise ConfigError(f"layers={text[:40]!r}: more layers than any model has.")
        layers += range(int(low), int(high or low) + 1)
    return tuple(layers)


def _layer_numbers(layers: Any) -> Any:
    """Layers as a tuple of Python's integers where they are integers of any kind (NumPy's, say), else as given."""
    try:
        # True has an index too, and is no layer.
        return tuple(layer if isinstance(layer, bool) else index(layer) for layer in layers)
    except TypeError:
        return layers


def _kinds(config_type: type[MethodConfig]) -> dict[str, Any]:
    """The type of each field."""
    hints = get_type_hints(config_type)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_type)}


def _type_reasons(config: MethodConfig) -> list[str]:
    reasons = []
    for name, kind in _kinds(type(config)).items():
        value = getattr(config, name)
        if name == "layers" and (not isinstance(value, tuple) or not all(type(layer) is int for layer in value)):
            reasons.append(f"layers must be a tuple of layer numbers, found {value!r}")
        elif kind is int and type(value) is not int:
            reasons.append(f"{name} must be a whole number, found {value!r}")
        elif kind is float and not (isinstance(value, (int, float)) and _is_finite(value)):
            reasons.append(f"{name} must be a finite number, found {value!r}")
        elif kind is bool and type(value) is not bool:
            reasons.append(f"{name} must be True or False, found {value!r}")
        elif kind is str and type(value) is not str:
            reasons.append(f"{name} must be text, found {value!r}")
        elif get_origin(kind) is Literal and value not in get_args(kind):
            options = " or ".join(repr(option) for option in get_args(kind))
            reasons.append(f"{name} must be {options}, found {value!r}")
    return reasons


def _is_finite(value: float | int) -> bool:
    return not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _common_checks(config: MethodConfig) -> list[tuple[str, bool]]:
    layers, seed, tokens = list(config.layers), getattr(config, "seed", 0), getattr(config, "moment_tokens", 100)
    ascending = layers == sorted({*layers}) and min(layers, default=0) >= 0
    return [
        ("layers must name at least one layer", not layers),
        (f"layers must be ascending and ≥ 0, found {layers}", not ascending),
        (f"layers must name one layer, found {layers}", config.one_layer and len(layers) > 1),
        (f"seed must be 0–2³²−1, found {seed}", not 0 <= seed < 1 << 32),
        (f"moment_tokens must be at least 100, found {tokens}", tokens < 100),
    ]
