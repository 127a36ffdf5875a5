"""A trace as plain JSON and back, to the last bit."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from errata.tracing.config import TraceConfig
from errata.tracing.result import Trace

_PLAIN = ("model", "prompt", "subject", "answer", "answer_id", "own", "own_id", "std", "clean")
_LISTS = ("subject_tokens", "ids", "tokens", "samples", "notes")


def trace_record(trace: Trace) -> dict[str, Any]:
    """The whole trace; cells that were not run are null."""
    return {
        **{name: getattr(trace, name) for name in _PLAIN},
        **{name: list(getattr(trace, name)) for name in _LISTS},
        "segments": {name: list(places) for name, places in trace.segments.items()},
        "config": {**asdict(trace.config), "kinds": list(trace.config.kinds)},
        "restored": {kind: _plain(cells) for kind, cells in trace.restored.items()},
        "attribution": {kind: _plain(cells) for kind, cells in trace.attribution.items()},
    }


def trace_from(record: Mapping[str, Any]) -> Trace:
    """The trace of a record."""
    fields: dict[str, Any] = {name: record[name] for name in _PLAIN}
    fields |= {name: tuple(record[name]) for name in _LISTS}
    return Trace(
        **fields,
        segments={name: tuple(places) for name, places in record["segments"].items()},
        config=TraceConfig(**{**record["config"], "kinds": tuple(record["config"]["kinds"])}),
        restored={kind: _cells(cells) for kind, cells in record["restored"].items()},
        attribution={kind: _cells(cells) for kind, cells in record["attribution"].items()},
    )


def _plain(cells: Float64[Tensor, "layer pos"]) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in cells.tolist()]


def _cells(cells: list[list[float | None]]) -> Float64[Tensor, "layer pos"]:
    return torch.tensor([[math.nan if value is None else value for value in row] for row in cells], dtype=torch.float64)
