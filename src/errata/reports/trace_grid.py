"""Traces as grids for the views: a sheet for each thing restored, and one for each thing attributed."""

import math
from collections.abc import Mapping, Sequence

from jaxtyping import Float64
from torch import Tensor

from errata.core.words import counted, visible
from errata.tracing.average import AverageTrace
from errata.tracing.config import describe
from errata.tracing.result import Trace
from errata.views.grid import Grid, ValueSheet

Cells = list[list[float | None]]
PERCENT = 100.0


def trace_grid(trace: Trace) -> Grid:
    """One prompt: effects in percentage points of the answer's probability, tokens × layers."""
    answer = visible(trace.answer)
    facts = {
        f"p({answer}), clean, %": PERCENT * trace.clean,
        f"p({answer}), corrupted, %": PERCENT * trace.corrupted,
    }
    exact = {kind: _cells(PERCENT * trace.effect(kind)) for kind in trace.restored}
    attributed = {kind: _cells(PERCENT * values) for kind, values in trace.attribution.items()}
    restored = {kind: {"restored, %": _cells(PERCENT * values)} for kind, values in trace.restored.items()}
    config = trace.config
    return Grid(
        title=f"{trace.prompt} → {trace.answer.strip()}",
        subtitle=(
            f"{trace.model}; subject “{trace.subject}”; p({answer}) {trace.clean:.1%} clean, {trace.corrupted:.1%} "
            f"corrupted ({describe(config, trace.std, len(trace.samples))})"
        ),
        tokens=trace.tokens,
        layers=list(range(trace.num_layers)),
        texts=[],
        sheets=value_sheets(exact, attributed, restored, facts, config.window),
        vocabulary=0,
        segments={name: places for name, places in trace.segments.items() if places},
        notes=trace.notes,
    )


def average_grid(average: AverageTrace) -> Grid:
    """Means over facts: segments × layers."""
    names = average.segments
    facts = {"mean total effect": PERCENT * average.total_effect.value}
    exact = {kind: _stacked(average, kind, "effects") for kind in average.restored}
    attributed = {kind: _stacked(average, kind, "attributions") for kind in average.config.kinds}
    intervals = {
        kind: {"± (95 %)": _stacked(average, kind, "intervals")} for kind in average.restored
    }  # fmt: skip
    return Grid(
        title=f"Average indirect effect over {counted(len(average.facts), 'fact')}",
        subtitle=(
            f"{average.model}; mean total effect {average.total_effect.value:.1%} "
            f"({describe(average.config, average.std, average.config.samples)})"
        ),
        tokens=names,
        layers=list(range(average.num_layers)),
        texts=[],
        sheets=value_sheets(exact, attributed, intervals, facts, average.config.window),
        vocabulary=0,
        notes=average.notes,
        labels=True,
    )


def value_sheets(
    exact: Mapping[str, Cells],
    attributed: Mapping[str, Cells],
    details: Mapping[str, Mapping[str, Cells]],
    facts: Mapping[str, float],
    window: int,
) -> list[ValueSheet]:
    """Exact effects on one scale, so that kinds compare; attributions each on their own."""
    limit = max((_largest(cells) for cells in exact.values()), default=0.0)
    sheets = [
        ValueSheet(
            name=sheet_name(kind, window),
            label="indirect effect, points",
            values=cells,
            limit=limit,
            details={**details.get(kind, {}), **({"attributed": attributed[kind]} if kind in attributed else {})},
            facts=facts,
        )
        for kind, cells in exact.items()
    ]
    for kind, cells in attributed.items():
        sheets.append(
            ValueSheet(
                name=f"{sheet_name(kind, window)}, attributed",
                label="attributed effect, points",
                values=cells,
                limit=_largest(cells),
                details={"indirect effect": exact[kind]} if kind in exact else {},
                facts=facts,
            )
        )
    return sheets


def sheet_name(kind: str, window: int) -> str:
    """What is restored, in words."""
    if kind == "hidden":
        return "hidden state"
    if kind.endswith("severed"):
        return f"hidden state, {'MLPs' if kind.startswith('mlp') else 'attention'} severed"
    return f"{'MLPs' if kind == 'mlp' else 'attention'}, window of {window}"


def _stacked(average: AverageTrace, kind: str, what: str) -> Cells:
    columns: Sequence[Sequence[float]] = [getattr(average, what)(kind, name) for name in average.segments]
    return [[_number(PERCENT * column[layer]) for column in columns] for layer in range(average.num_layers)]


def _cells(values: Float64[Tensor, "layer pos"]) -> Cells:
    return [[_number(value) for value in row] for row in values.tolist()]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _largest(cells: Cells) -> float:
    return max((abs(value) for row in cells for value in row if value is not None), default=0.0)
