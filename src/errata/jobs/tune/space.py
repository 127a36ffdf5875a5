"""What is tried of each method: one table. A method that is to be tuned is a new row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from errata.edit import find_method
from errata.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The fields of a method's configuration that are varied, by what they cost and by what they depend on.

    depths: where the last layer may lie, in shares of the model's layers.  widths: how many layers a range has.
    dear: values of fields that the costly part of an edit depends on (target values, training), each in place of the
    base's and the likeliest gain first; chosen with few facts.
    strength: the field that holds the update small, varied by powers of ten-odd around the base's.
    What it should be depends on how many facts share a layer's neurons, so with few facts it is only bracketed.
    late: factors of other fields that are chosen at the full number of facts.
    """

    depths: tuple[float, ...]
    widths: tuple[int, ...] = (1,)
    dear: tuple[tuple[str, Any], ...] = ()
    strength: str | None = None
    late: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


_AROUND_A_THIRD = (0.15, 0.23, 0.3, 0.38, 0.47, 0.6)
_VALUES: tuple[tuple[str, Any], ...] = (
    ("clamp", 1.0), ("learning_rate", 0.25), ("clamp", 0.75), ("value_steps", 25), ("clamp", 2.0),
    ("learning_rate", 0.1), ("clamp", 0.5), ("clamp", 4.0), ("value_steps", 20),
)  # fmt: skip
_PASSES = {"passes": (2.0, 0.5)}


def _mass(**fields: Any) -> SearchSpace:
    late = {**_PASSES, **fields.pop("late", {})}
    return SearchSpace(depths=_AROUND_A_THIRD, widths=(3, 5, 1, 7), dear=_VALUES, late=late, **fields)


_TRAINED: tuple[tuple[str, Any], ...] = (("learning_rate", 1e-4), ("learning_rate", 2e-3), ("learning_rate", 5e-4))
_EVERYWHERE = (0.0, 0.17, 0.3, 0.47, 0.75)

SPACES: dict[str, SearchSpace] = {
    "memit": _mass(strength="prior_weight"),
    "pmet": _mass(strength="prior_weight"),
    "emmet": _mass(strength="softness"),
    "alphaedit": _mass(strength="ridge", late={"threshold": (0.7, 1.4)}),
    "ft": SearchSpace(depths=_EVERYWHERE, dear=_TRAINED),
    "ft-l": SearchSpace(depths=_EVERYWHERE, dear=(*_TRAINED, ("linf", 5e-4), ("linf", 2e-3), ("linf", 5e-3))),
}


def space_of(method: str) -> SearchSpace:
    """The method's row; ConfigError for a method without one."""
    find_method(method)
    if method not in SPACES:
        raise ConfigError(
            f"What to try of {method} is not known; errata tune knows {', '.join(SPACES)}. (One row in "
            "jobs/tune/space.py makes another.)"
        )
    return SPACES[method]
