"""MEMIT's hyperparameters: frozen, validated, one set whatever the model."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from errata.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MemitConfig:
    """Hyperparameters of MEMIT (Meng et al. 2023), in the published code's meaning under this project's names.

    layers: MLP layers that are written, ascending, 0-based; the target value is optimised at the last of them.
    value_steps: loss evaluations for each target value; updates are one fewer (the last evaluation only reports).
    learning_rate: Adam's.  clamp: the value shift's norm stays within clamp · ‖h₀‖.
    weight_decay: factor of ‖shift‖/‖h₀‖² in the loss.  kl_factor: factor of KL(p_shift ‖ p₀) at the subject.
    stop_loss: a fact is done when its total loss (nats) is below this.
    prior_weight: λ; the second moment counts as that many corpus tokens *of this model's own statistics*.
    passes: how often the layer loop runs; 1 is published, each further pass corrects what the ones before left. λ then
    weighs the increment of each pass, not their sum.
    moment_tokens: corpus tokens behind the second moments.
    prefixes, prefix_tokens, prefix_top_k: sampled context prefixes: how many, their length in tokens, and the sampling.
    schedule: "published" is exact; "fast" takes fewer, larger first updates and is an approximation (opt-in).
    seed: for the prefixes and for self-sampled corpora.
    """

    layers: tuple[int, ...]
    value_steps: int = 20
    learning_rate: float = 0.5
    clamp: float = 0.75
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    stop_loss: float = 0.05
    prior_weight: float = 15000.0
    passes: int = 1
    moment_tokens: int = 100_000
    prefixes: int = 5
    prefix_tokens: int = 10
    prefix_top_k: int = 5
    schedule: Literal["published", "fast"] = "published"
    seed: int = 0

    def __post_init__(self) -> None:
        reasons = _type_reasons(self) or [reason for reason, bad in _domain_checks(self) if bad]
        if reasons:
            raise ConfigError("MEMIT configuration: " + "; ".join(reasons) + ".")

    def replace(self, **overrides: Any) -> "MemitConfig":
        """A copy with some fields changed; ConfigError for an unknown field or a bad value."""
        check_field_names(overrides)
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

    def value_fields(self) -> dict[str, Any]:
        """What a target value depends on (and so what its cache key covers): not λ, passes or the corpus."""
        ignored = {"layers", "prior_weight", "passes", "moment_tokens"}
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in ignored}
        return {**fields, "value_layer": self.layers[-1]}


def check_field_names(overrides: Mapping[str, Any]) -> None:
    """ConfigError, with the nearest known name, for a field that MemitConfig does not have."""
    known = [field.name for field in dataclasses.fields(MemitConfig)]
    for name in overrides:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
            raise ConfigError(f"Unknown MEMIT field {name!r}; {hint}")


def parse_override(text: str) -> tuple[str, Any]:
    """`name=value` from a command line, the value converted to the field's type; ConfigError where it cannot be.

    Layers are written 7,8,9 or 7-9.
    """
    name, equals, raw = text.partition("=")
    name, raw = name.strip().replace("-", "_"), raw.strip()
    if not equals or not raw:
        raise ConfigError(f"{text!r} is not name=value (for example prior_weight=300 or layers=7-9).")
    check_field_names({name: raw})
    kind = str(next(field.type for field in dataclasses.fields(MemitConfig) if field.name == name))
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


def _type_reasons(config: MemitConfig) -> list[str]:
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


def _domain_checks(c: MemitConfig) -> list[tuple[str, bool]]:
    return [
        ("layers must name at least one layer", not c.layers),
        (
            f"layers must be ascending and ≥ 0, found {list(c.layers)}",
            list(c.layers) != sorted({*c.layers}) or min(c.layers, default=0) < 0,
        ),
        (f"value_steps must be 2–1000, found {c.value_steps}", not 2 <= c.value_steps <= 1000),
        (f"learning_rate must be positive, found {c.learning_rate}", c.learning_rate <= 0),
        (f"clamp must be positive, found {c.clamp}", c.clamp <= 0),
        (f"weight_decay must be ≥ 0, found {c.weight_decay}", c.weight_decay < 0),
        (f"kl_factor must be ≥ 0, found {c.kl_factor}", c.kl_factor < 0),
        (f"stop_loss must be ≥ 0, found {c.stop_loss}", c.stop_loss < 0),
        (f"prior_weight must be positive, found {c.prior_weight}", c.prior_weight <= 0),
        (f"passes must be 1–100, found {c.passes}", not 1 <= c.passes <= 100),
        (f"moment_tokens must be at least 100, found {c.moment_tokens}", c.moment_tokens < 100),
        (f"prefixes must be 0–100, found {c.prefixes}", not 0 <= c.prefixes <= 100),
        (f"prefix_tokens must be 2–200, found {c.prefix_tokens}", not 2 <= c.prefix_tokens <= 200),
        (f"prefix_top_k must be at least 1, found {c.prefix_top_k}", c.prefix_top_k < 1),
        (f"schedule must be 'published' or 'fast', found {c.schedule!r}", c.schedule not in ("published", "fast")),
        (f"seed must be 0–2³²−1, found {c.seed}", not 0 <= c.seed < 1 << 32),
    ]
