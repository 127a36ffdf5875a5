"""Traces of many facts, averaged over the parts of their prompts: where, on average, an answer comes from."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Float64
from torch import Tensor

from errata.core.words import counted, points
from errata.errors import InputError
from errata.tracing.config import SEVERED, Kind, TraceConfig
from errata.tracing.result import Trace

if TYPE_CHECKING:
    from errata.views.grid import Grid

SEGMENTS = ("first subject", "middle subject", "last subject", "first after", "further", "last")
LAST_SUBJECT = "last subject"


class Mean(NamedTuple):
    """A mean over facts, half the width of its 95 % interval (1.96·std/√N, NaN for one fact), and N."""

    value: float
    interval: float
    count: int


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and interval of numbers, in float64; NaN where there are none."""
    count = len(values)
    if not count:
        return Mean(math.nan, math.nan, 0)
    value = math.fsum(values) / count
    if count < 2:
        return Mean(value, math.nan, count)
    variance = math.fsum((x - value) ** 2 for x in values) / (count - 1)
    return Mean(value, 1.96 * math.sqrt(variance / count), count)


@dataclass(frozen=True)
class FactTrace:
    """What is kept of one fact's trace: its probabilities, and its effects by kind and segment, [layer].

    Of a segment of several tokens the mean over them. correlations: Pearson's and Spearman's of the attribution.
    """

    id: str
    prompt: str
    answer: str
    clean: float
    corrupted: float
    effects: Mapping[tuple[Kind, str], tuple[float, ...]]
    attributions: Mapping[tuple[Kind, str], tuple[float, ...]]
    correlations: Mapping[Kind, tuple[float, float]]
    notes: tuple[str, ...] = ()


def fact_trace(fact_id: str, trace: Trace) -> FactTrace:
    """The part of a trace that averages are made of."""
    shared = set(trace.restored) & set(trace.attribution)
    return FactTrace(
        id=fact_id,
        prompt=trace.prompt,
        answer=trace.answer,
        clean=trace.clean,
        corrupted=trace.corrupted,
        effects=_by_segment(trace, {kind: trace.effect(kind) for kind in trace.restored}),
        attributions=_by_segment(trace, trace.attribution),
        correlations={kind: trace.correlation(kind) for kind in trace.kinds if kind in shared},
        notes=trace.notes,
    )


def _by_segment(
    trace: Trace, values: Mapping[Kind, Float64[Tensor, "layer pos"]]
) -> dict[tuple[Kind, str], tuple[float, ...]]:
    found = {}
    for kind, cells in values.items():
        for name in SEGMENTS:
            places = list(trace.segments[name])
            # A severed state that was run at the subject's last token alone belongs to no other segment.
            if places and not bool(cells[:, places].isnan().any()) and (kind not in SEVERED or name == LAST_SUBJECT):
                found[kind, name] = tuple(cells[:, places].mean(1).tolist())
    return found


@dataclass(frozen=True)
class Unknown:
    """A fact that was set aside: the model says something else."""

    id: str
    prompt: str
    answer: str
    says: str


@dataclass(frozen=True, eq=False, repr=False)
class AverageTrace:
    """Traces of the facts that a model knows, averaged. `unknown`: the facts whose answer it does not give."""

    model: str
    config: TraceConfig
    std: float
    num_layers: int
    facts: tuple[FactTrace, ...]
    unknown: tuple[Unknown, ...] = ()
    notes: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def restored(self) -> tuple[Kind, ...]:
        return self.config.restored if self.config.exact else ()

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments that some fact has, in the order of a prompt."""
        return tuple(
            name for name in SEGMENTS if any(place == name for one in self.facts for _, place in one.attributions)
        )

    @property
    def total_effect(self) -> Mean:
        """Mean of clean − corrupted probability."""
        return mean_of([one.clean - one.corrupted for one in self.facts])

    def mean(self, kind: Kind, segment: str, *, of: str = "effects") -> list[Mean]:
        """The mean over the facts that have the segment, for every layer; `of`: "effects" or "attributions".

        Raises InputError for another `of`.
        """
        if of not in ("effects", "attributions"):
            raise InputError(f"of={of!r}: choose 'effects' or 'attributions'.")
        rows = [found for one in self.facts if (found := getattr(one, of).get((kind, segment))) is not None]
        columns = zip(*rows, strict=True) if rows else [()] * self.num_layers
        return [mean_of(column) for column in columns]

    def effects(self, kind: Kind, segment: str = LAST_SUBJECT) -> list[float]:
        """Mean indirect effect by layer; NaN where no fact has the segment."""
        return [one.value for one in self.mean(kind, segment)]

    def intervals(self, kind: Kind, segment: str = LAST_SUBJECT) -> list[float]:
        """Half the widths of the 95 % intervals of `effects`."""
        return [one.interval for one in self.mean(kind, segment)]

    def attributions(self, kind: Kind, segment: str = LAST_SUBJECT) -> list[float]:
        """Mean attributed effect by layer."""
        return [one.value for one in self.mean(kind, segment, of="attributions")]

    def peak(self, kind: Kind, segment: str = LAST_SUBJECT, *, of: str = "effects") -> tuple[int, Mean] | None:
        """The layer of the largest mean (`of` as in `mean`), and that mean; None where there is none."""
        means = [(layer, one) for layer, one in enumerate(self.mean(kind, segment, of=of)) if one.count]
        return max(means, key=lambda pair: pair[1].value) if means else None

    def correlation(self, kind: Kind) -> tuple[Mean, Mean]:
        """Mean over facts of Pearson's and Spearman's correlation of attribution and effect over a fact's cells."""
        pairs = [one.correlations[kind] for one in self.facts if kind in one.correlations]
        first, second = ([pair[i] for pair in pairs if not math.isnan(pair[i])] for i in (0, 1))
        return mean_of(first), mean_of(second)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One record for each kind, segment and layer."""
        for kind in self.restored or self.config.kinds:
            for segment in self.segments:
                exact, by_gradient = self.mean(kind, segment), self.mean(kind, segment, of="attributions")
                for layer, (effect, attributed) in enumerate(zip(exact, by_gradient, strict=True)):
                    if effect.count or attributed.count:
                        yield {
                            "kind": kind,
                            "segment": segment,
                            "layer": layer,
                            "effect": _known(effect.value),
                            "interval": _known(effect.interval),
                            "attribution": _known(attributed.value),
                            "attribution_interval": _known(attributed.interval),
                            "facts": max(effect.count, attributed.count),
                        }

    def grid(self) -> "Grid":
        """Segments × layers, for the views."""
        from errata.reports.trace_grid import average_grid

        return average_grid(self)

    def __repr__(self) -> str:
        aside = f", {len(self.unknown):,} more set aside as not known" if self.unknown else ""
        effect = f"; total effect {points(self.total_effect.value, 1)} points" if self.facts else ""
        return (
            f"AverageTrace of {counted(len(self.facts), 'fact')} in {self.model}{aside}{effect}.\n"
            f"{counted(self.num_layers, 'layer')}; {'restored' if self.restored else 'attributed'}: "
            f"{', '.join(self.restored or self.config.kinds)}."
        )

    def _repr_html_(self) -> str:
        from errata.views.html import notebook

        return notebook(self.grid())


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
