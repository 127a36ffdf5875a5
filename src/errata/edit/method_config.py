"""What the configuration of every editing method shares: frozen, checked by type and domain, changed by name."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar

from errata.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound="MethodConfig")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Hyperparameters of one method. `layers`: those that are written, ascending, 0-based.

    A subclass adds its fields, its `title` for messages, and `domain_checks`.
    """

    title: ClassVar[str] = "Method"

    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        checks = [*_layer_checks(self.layers), *self.domain_checks()] if not _type_reasons(self) else []
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
            overrides["layers"] = tuple(overrides["layers"])
        return dataclasses.replace(self, **overrides)

    def check_layers(self, num_layers: int, name: str) -> None:
        """ConfigError where a layer is outside a model of `num_layers` layers."""
        beyond = [layer for layer in self.layers if layer >= num_layers]
        if beyond:
            raise ConfigError(
                f"layers={list(self.layers)}: {name} has {num_layers} layers, 0–{num_layers - 1}; choose among those."
            )


def check_field_names(config_type: type[MethodConfig], overrides: Mapping[str, Any]) -> None:
    """ConfigError, with the nearest known name, for a field that this method does not have."""
    known = [field.name for field in dataclasses.fields(config_type)]
    for name in overrides:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
            raise ConfigError(f"Unknown {config_type.title} field {name!r}; {hint}")


def parse_override(config_type: type[MethodConfig], text: str) -> tuple[str, Any]:
    """`name=value` from a command line, the value converted to the field's type; ConfigError where it cannot be.

    Layers are written 7,8,9 or 7-9.
    """
    name, equals, raw = text.partition("=")
    name, raw = name.strip().replace("-", "_"), raw.strip()
    if not equals or not raw:
        raise ConfigError(f"{text!r} is not name=value (for example prior_weight=300 or layers=7-9).")
    check_field_names(config_type, {name: raw})
    kind = str(next(field.type for field in dataclasses.fields(config_type) if field.name == name))
    try:
        if name == "layers":
            return name, parse_layers(raw)
        if "int" in kind:
            return name, int(raw)
        return name, float(raw) if "float" in kind else raw
    except ValueError:
        raise ConfigError(f"{name}={raw!r} is not a {'whole ' if 'int' in kind else ''}number.") from None


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


def _type_reasons(config: MethodConfig) -> list[str]:
    reasons = []
    if not isinstance(config.layers, tuple) or not all(type(layer) is int for layer in config.layers):
        reasons.append(f"layers must be a tuple of layer numbers, found {config.layers!r}")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        kind = str(field.type)
        if "int'" in kind + "'" and field.name != "layers" and type(value) is not int:
            reasons.append(f"{field.name} must be a whole number, found {value!r}")
        if "float" in kind and (type(value) not in (int, float) or not abs(value) <= sys.float_info.max):
            reasons.append(f"{field.name} must be a finite number, found {value!r}")
    return reasons


def _layer_checks(layers: tuple[int, ...]) -> list[tuple[str, bool]]:
    return [
        ("layers must name at least one layer", not layers),
        (
            f"layers must be ascending and ≥ 0, found {list(layers)}",
            list(layers) != sorted({*layers}) or min(layers, default=0) < 0,
        ),
    ]
