"""Causal tracing: which states of a prompt carry its answer (Meng et al. 2022)."""

from errata.tracing.config import CORRUPTIONS, KINDS, SEVERED, Kind, TraceConfig
from errata.tracing.result import Trace
from errata.tracing.trace import config_of, trace, trace_prompt

__all__ = [
    "CORRUPTIONS",
    "KINDS",
    "SEVERED",
    "Kind",
    "Trace",
    "TraceConfig",
    "config_of",
    "trace",
    "trace_prompt",
]
