"""Every number that a report gives: what it is called, what it means, and means over facts with their intervals.

`METRICS` is the one list of names. Success (ES, PS, NS) compares two answers, magnitude (EM, PM, NM) says by how much,
accuracy asks for the model's first choice: three different questions, so no two of them share a label.
"""

from __future__ import annotations

import math
import statistics
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """A mean over `count` facts, and half the width of its 95 % interval; None where nothing was measured.

    In percent or in the unit that `METRICS` names. The interval is 1.96·s/√N with s the sample standard deviation over
    facts: unknown for a single fact.
    """

    value: float | None
    interval: float | None
    count: int


_LARGE = 1e5


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInfo:
    """A metric as a report names it.

    group: what it is measured on ("counterfact", "zsre", "generation", "drift", "changes").  higher_is_better: None
    where neither is.  digits: after the point, in a table.
    """

    key: str
    label: str
    meaning: str
    group: str
    unit: str = "%"
    higher_is_better: bool | None = True
    digits: int = 1

    def shown(self, value: float | None) -> str:
        """A value of it as tables show it, without the unit; a dash for None."""
        if value is None:
            return "–"
        # A wrecked model's perplexity may have fifty digits.
        return f"{value:.3g}" if abs(value) >= _LARGE else f"{value:.{self.digits}f}"


METRICS = (
    MetricInfo(key="score", label="Score", group="counterfact", meaning="harmonic mean of ES, PS and NS"),
    MetricInfo(
        key="es",
        label="ES",
        group="counterfact",
        meaning="success: prompts where the new target is likelier than the old",
    ),
    MetricInfo(key="ps", label="PS", group="counterfact", meaning="success: paraphrases where it is"),
    MetricInfo(
        key="ns",
        label="NS",
        group="counterfact",
        meaning="success: neighbours whose own answer is likelier than the new target",
    ),
    MetricInfo(
        key="em",
        label="EM",
        group="counterfact",
        meaning="magnitude: probability of the new target minus that of the old, prompts",
    ),
    MetricInfo(key="pm", label="PM", group="counterfact", meaning="magnitude: the same, paraphrases"),
    MetricInfo(
        key="nm", label="NM", group="counterfact", meaning="magnitude: own answer minus the new target, neighbours"
    ),
    MetricInfo(
        key="accuracy",
        label="prompt accuracy",
        group="counterfact",
        meaning="prompts whose first choice is the whole new target",
    ),
    MetricInfo(
        key="paraphrase_accuracy",
        label="paraphrase accuracy",
        group="counterfact",
        meaning="paraphrases for which it is",
    ),
    MetricInfo(
        key="neighbour_accuracy",
        label="neighbour accuracy",
        group="counterfact",
        meaning="neighbours whose first choice is their whole own answer",
    ),
    MetricInfo(key="zsre_score", label="zsRE Score", group="zsre", meaning="harmonic mean of the next three"),
    MetricInfo(
        key="zsre_efficacy",
        label="zsRE efficacy",
        group="zsre",
        meaning="tokens of the new target that are first choice, prompts",
    ),
    MetricInfo(key="zsre_paraphrase", label="zsRE paraphrase", group="zsre", meaning="the same, paraphrases"),
    MetricInfo(
        key="zsre_specificity", label="zsRE specificity", group="zsre", meaning="tokens of their own answer, neighbours"
    ),
    MetricInfo(
        key="ge",
        label="GE",
        group="generation",
        unit="bit × 100",
        meaning="generation entropy of word pairs and triples; it falls when texts repeat themselves",
    ),
    MetricInfo(
        key="rs",
        label="RS",
        group="generation",
        meaning="TF-IDF cosine of generations with reference texts of the new target",
    ),
    MetricInfo(
        key="perplexity",
        label="perplexity",
        group="drift",
        unit="",
        higher_is_better=False,
        digits=3,
        meaning="of held-out text",
    ),
    MetricInfo(
        key="kl_drift",
        label="KL drift",
        group="drift",
        unit="nat",
        higher_is_better=False,
        digits=5,
        meaning="KL(before ‖ after) of next-token distributions on held-out text",
    ),
    MetricInfo(
        key="tokens_changed",
        label="changed tokens",
        group="drift",
        higher_is_better=False,
        digits=2,
        meaning="positions of held-out text whose first choice changed",
    ),
    MetricInfo(
        key="prompts_changed",
        label="changed prompts",
        group="changes",
        higher_is_better=None,
        meaning="prompts whose first choice of the next token changed",
    ),
    MetricInfo(
        key="paraphrases_changed",
        label="changed paraphrases",
        group="changes",
        higher_is_better=None,
        meaning="paraphrases for which it changed",
    ),
    MetricInfo(
        key="neighbours_changed",
        label="changed neighbours",
        group="changes",
        higher_is_better=False,
        meaning="neighbours for which it changed",
    ),
)
_BY_KEY = {info.key: info for info in METRICS}


def metric_info(key: str) -> MetricInfo:
    """The row of `METRICS`; KeyError for another key."""
    return _BY_KEY[key]


def harmonic_mean(*values: float | None) -> float | None:
    """Zero where a value is zero, None where one is missing."""
    known = [value for value in values if value is not None]
    return float(statistics.harmonic_mean(known)) if known and len(known) == len(values) else None


def metric(values: Iterable[int | float], *, scale: float = 100.0) -> Metric:
    """Mean and interval, times `scale` (in percent), of one value for each fact."""
    scaled = [scale * value for value in values]
    count = len(scaled)
    if not count:
        return Metric(None, None, 0)
    interval = 1.96 * statistics.stdev(scaled) / math.sqrt(count) if count > 1 else None
    return Metric(statistics.fmean(scaled), interval, count)


class Tally:
    """One number a fact for each metric, added as facts are measured: totals of a run too long to hold its prompts."""

    def __init__(self) -> None:
        self._values: dict[str, array[float]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """The numbers of one fact, by metric; a metric that the fact lacks is left out."""
        for key, value in values.items():
            self._values.setdefault(key, array("d")).append(value)

    def metric(self, key: str) -> Metric:
        """The mean of what was added under `key`, times 100."""
        return metric(self._values.get(key, ()))
