"""Evaluation: what a model says about facts, in the field's metrics."""

from errata.evaluate.measure import Measurement, check_measurable, measure
from errata.evaluate.scores import (
    FactScore,
    Metric,
    PromptScore,
    Summary,
    TargetScore,
    ZsreSummary,
    harmonic_mean,
    summarize,
    summarize_zsre,
)

__all__ = [
    "FactScore",
    "Measurement",
    "Metric",
    "PromptScore",
    "Summary",
    "TargetScore",
    "ZsreSummary",
    "check_measurable",
    "harmonic_mean",
    "measure",
    "summarize",
    "summarize_zsre",
]
