"""Evaluation: what a model says about facts, in the field's metrics."""

from errata.evaluate.changes import Changes, changes
from errata.evaluate.measure import Measurement, check_measurable, measure
from errata.evaluate.metrics import METRICS, Metric, MetricInfo, Tally, harmonic_mean, metric, metric_info
from errata.evaluate.scores import (
    FactScore,
    PromptScore,
    Summary,
    TargetScore,
    ZsreSummary,
    summarize,
    summarize_zsre,
)

__all__ = [
    "METRICS",
    "Changes",
    "FactScore",
    "Measurement",
    "Metric",
    "MetricInfo",
    "PromptScore",
    "Summary",
    "Tally",
    "TargetScore",
    "ZsreSummary",
    "changes",
    "check_measurable",
    "harmonic_mean",
    "measure",
    "metric",
    "metric_info",
    "summarize",
    "summarize_zsre",
]
