"""From log-probabilities to the metrics of CounterFact and zsRE, in percent.

x is a target's negative log-probability divided by its number of tokens, in nats. A fact with several paraphrases or
neighbours counts once: its prompts are averaged first, then the facts, as in the code of ROME and MEMIT. A fact that
lacks what a metric needs is left out of that metric, whose count says how many were not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetScore:
    """What a model gives to one target after one prompt.

    `log_prob`: of the whole target, in nats. `right`: how many of its `tokens` are the model's first choice, given the
    prompt and the target's tokens before.
    """

    target: str
    log_prob: float
    tokens: int
    right: int

    @property
    def nll(self) -> float:
        """x: the negative log-probability per token, in nats."""
        return -self.log_prob / self.tokens

    @property
    def probability(self) -> float:
        """Of the whole target."""
        return math.exp(self.log_prob)

    @property
    def correct(self) -> bool:
        """Whether every token is the model's first choice."""
        return self.right == self.tokens

    def to_json(self) -> dict[str, Any]:
        stored = {field.name: getattr(self, field.name) for field in fields(self)}
        return stored | {"nll": self.nll, "probability": self.probability, "correct": self.correct}


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScore:
    """One prompt with the new target and, where there is one, with the true answer: for a neighbour, its own."""

    text: str
    new: TargetScore
    true: TargetScore | None = None

    def to_json(self) -> dict[str, Any]:
        true = self.true.to_json() if self.true else None
        return {"text": self.text, "new": self.new.to_json(), "true": true}


@dataclass(frozen=True, slots=True, kw_only=True)
class FactScore:
    """A fact's prompt, paraphrases and neighbours, scored."""

    id: str
    prompt: PromptScore
    paraphrases: tuple[PromptScore, ...] = ()
    neighbours: tuple[PromptScore, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "prompt": self.prompt.to_json(),
            "paraphrases": [score.to_json() for score in self.paraphrases],
            "neighbours": [score.to_json() for score in self.neighbours],
        }


@dataclass(frozen=True, slots=True)
class Metric:
    """A mean over `count` facts in percent, and half the width of its 95 % interval; None where nothing was measured.

    The interval is 1.96·s/√N with s the sample standard deviation over facts: unknown for a single fact.
    """

    value: float | None
    interval: float | None
    count: int


class _Metrics:
    """Metrics as JSON: the values by name, their intervals and counts beside them."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        metrics = {name: metric for name, metric in named.items() if isinstance(metric, Metric)}
        return {
            **{name: found.value if isinstance(found, Metric) else found for name, found in named.items()},
            "interval_95": {name: metric.interval for name, metric in metrics.items()},
            "counts": {name: metric.count for name, metric in metrics.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(_Metrics):
    """Meng et al. 2022: efficacy (E), paraphrase (P) and neighbourhood (N) success (S) and magnitude (M), in percent.

    Success is the share of prompts where the target that should be is the likelier one: x_true > x_new, for neighbours
    x_true < x_new. Magnitude is how much likelier: the mean difference of e^(−x). Accuracy is the share of prompts
    where every token of the target that should be is the model's first choice. `score`: harmonic mean of ES, PS, NS.
    """

    score: float | None
    es: Metric
    ps: Metric
    ns: Metric
    em: Metric
    pm: Metric
    nm: Metric
    accuracy: Metric
    paraphrase_accuracy: Metric
    neighbour_accuracy: Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class ZsreSummary(_Metrics):
    """Mitchell et al. 2021: share of target tokens that are the model's first choice, teacher-forced, in percent.

    Of the new target after the prompt (efficacy) and its paraphrases, of the neighbour's answer (specificity).
    `score`: harmonic mean of the three.
    """

    score: float | None
    efficacy: Metric
    paraphrase: Metric
    specificity: Metric


def summarize(facts: Sequence[FactScore]) -> Summary:
    """The metrics of CounterFact over facts; success and magnitude need true answers."""
    es, em = _mean(facts, _own, _new_wins), _mean(facts, _own, _new_margin)
    ps, pm = _mean(facts, _paraphrases, _new_wins), _mean(facts, _paraphrases, _new_margin)
    ns, nm = _mean(facts, _neighbours, _true_wins), _mean(facts, _neighbours, _true_margin)
    return Summary(
        score=harmonic_mean(es.value, ps.value, ns.value),
        es=es,
        ps=ps,
        ns=ns,
        em=em,
        pm=pm,
        nm=nm,
        accuracy=_mean(facts, _own, lambda score: float(score.new.correct)),
        paraphrase_accuracy=_mean(facts, _paraphrases, lambda score: float(score.new.correct)),
        neighbour_accuracy=_mean(facts, _neighbours, lambda score: float(score.true.correct) if score.true else None),
    )


def summarize_zsre(facts: Sequence[FactScore]) -> ZsreSummary:
    """The metrics of zsRE over facts."""
    efficacy = _mean(facts, _own, lambda score: _share(score.new))
    paraphrase = _mean(facts, _paraphrases, lambda score: _share(score.new))
    specificity = _mean(facts, _neighbours, lambda score: _share(score.true))
    return ZsreSummary(
        score=harmonic_mean(efficacy.value, paraphrase.value, specificity.value),
        efficacy=efficacy,
        paraphrase=paraphrase,
        specificity=specificity,
    )


def harmonic_mean(*values: float | None) -> float | None:
    """Zero where a value is zero, None where one is missing."""
    known = [value for value in values if value is not None]
    return float(statistics.harmonic_mean(known)) if known and len(known) == len(values) else None


def metric(values: Iterable[int | float]) -> Metric:
    """Mean and interval, in percent, of one value for each fact."""
    percents = [100.0 * value for value in values]
    count = len(percents)
    if not count:
        return Metric(None, None, 0)
    interval = 1.96 * statistics.stdev(percents) / math.sqrt(count) if count > 1 else None
    return Metric(statistics.fmean(percents), interval, count)


def _mean(
    facts: Sequence[FactScore],
    prompts: Callable[[FactScore], Sequence[PromptScore]],
    value: Callable[[PromptScore], float | None],
) -> Metric:
    found = ([number for score in prompts(fact) if (number := value(score)) is not None] for fact in facts)
    return metric(statistics.fmean(numbers) for numbers in found if numbers)


def _own(fact: FactScore) -> tuple[PromptScore, ...]:
    return (fact.prompt,)


def _paraphrases(fact: FactScore) -> tuple[PromptScore, ...]:
    return fact.paraphrases


def _neighbours(fact: FactScore) -> tuple[PromptScore, ...]:
    return fact.neighbours


def _new_wins(score: PromptScore) -> float | None:
    return float(score.true.nll > score.new.nll) if score.true else None


def _true_wins(score: PromptScore) -> float | None:
    return float(score.true.nll < score.new.nll) if score.true else None


def _new_margin(score: PromptScore) -> float | None:
    return math.exp(-score.new.nll) - math.exp(-score.true.nll) if score.true else None


def _true_margin(score: PromptScore) -> float | None:
    return math.exp(-score.true.nll) - math.exp(-score.new.nll) if score.true else None


def _share(score: TargetScore | None) -> float | None:
    return score.right / score.tokens if score else None
