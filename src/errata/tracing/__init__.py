"""Causal tracing: which states of a prompt carry its answer (Meng et al. 2022)."""

from errata.tracing.average import AverageTrace
from errata.tracing.config import CORRUPTIONS, KINDS, SEVERED, Kind, TraceConfig
from errata.tracing.layers import LayerRange, propose_layers
from errata.tracing.prompt_trace import config_of, positions_run, restored_positions, trace, trace_prompt
from errata.tracing.result import Trace

__all__ = [
    "CORRUPTIONS",
    "KINDS",
    "SEVERED",
    "AverageTrace",
    "Kind",
    "LayerRange",
    "Trace",
    "TraceConfig",
    "config_of",
    "positions_run",
    "propose_layers",
    "restored_positions",
    "trace",
    "trace_prompt",
]
