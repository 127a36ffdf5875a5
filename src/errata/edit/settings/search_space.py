"""What is tried of a method when it is tuned."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The fields of a method's configuration that are varied, by what they cost and by what they depend on.

    depths: where the last layer may lie, in shares of the model's layers.  widths: how many layers a range has.
    costly: values of fields that the costly part of an edit depends on (target values, training), each in place of the
    base's and the likeliest gain first; chosen with few facts.
    strength: the field that holds the update small, varied by powers of ten-odd around the base's.
    What it should be depends on how many facts share a layer's neurons, so with few facts it is only bracketed.
    late: factors of other fields that are chosen at the full number of facts.
    """

    depths: tuple[float, ...]
    widths: tuple[int, ...] = (1,)
    costly: tuple[tuple[str, Any], ...] = ()
    strength: str | None = None
    late: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
