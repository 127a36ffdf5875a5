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

from errata.evaluate.metrics import Metric, Tally, harmonic_mean


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
        """As plain JSON, with what follows from the fields."""
        stored = {field.name: getattr(self, field.name) for field in fields(self)}
        return stored | {"nll": self.nll, "probability": self.probability, "correct": self.correct}


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScore:
    """One prompt with the new target and, where there is one, with the true answer: for a neighbour, its own.

    `first`: the token id that the model likes best right after the prompt.  `runs_on`: of a fact's own prompt where the
    new answer is the model's first choice, what it adds to the answer's last word or number (endings.py); "" elsewhere.
    """

    text: str
    new: TargetScore
    true: TargetScore | None = None
    first: int | None = None
    runs_on: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        true = self.true.to_json() if self.true else None
        stored = {"text": self.text, "first": self.first, "new": self.new.to_json(), "true": true}
        return {**stored, "runs_on": self.runs_on} if self.runs_on else stored


@dataclass(frozen=True, slots=True, kw_only=True)
class FactScore:
    """A fact's prompt, paraphrases and neighbours, scored."""

    id: str
    prompt: PromptScore
    paraphrases: tuple[PromptScore, ...] = ()
    neighbours: tuple[PromptScore, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "id": self.id,
            "prompt": self.prompt.to_json(),
            "paraphrases": [score.to_json() for score in self.paraphrases],
            "neighbours": [score.to_json() for score in self.neighbours],
        }


class _Metrics:
    """Metrics as JSON: the values by name, their intervals and counts beside them."""

    __slots__ = ()

    def metrics(self) -> dict[str, Metric]:
        """The means by name, without the Score, which is none."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return {name: found for name, found in named if isinstance(found, Metric)}

    def to_json(self) -> dict[str, Any]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        metrics = self.metrics()
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


def fact_values(fact: FactScore) -> dict[str, float]:
    """What one fact adds to each metric of CounterFact and zsRE, by its key in METRICS; in shares of 1."""
    values: dict[str, float] = {}
    for key, (prompts, value) in _PER_FACT.items():
        numbers = [number for score in prompts(fact) if (number := value(score)) is not None]
        if numbers:
            values[key] = statistics.fmean(numbers)
    return values


def tallied(facts: Iterable[FactScore]) -> Tally:
    """The numbers of all facts."""
    tally = Tally()
    for fact in facts:
        tally.add(fact_values(fact))
    return tally


def summarize(facts: Sequence[FactScore]) -> Summary:
    """The metrics of CounterFact over facts; success and magnitude need true answers."""
    return summary_of(tallied(facts))


def summarize_zsre(facts: Sequence[FactScore]) -> ZsreSummary:
    """The metrics of zsRE over facts."""
    return zsre_summary_of(tallied(facts))


def summary_of(tally: Tally) -> Summary:
    """The metrics of CounterFact from what each fact adds to them."""
    metrics = {field.name: tally.metric(field.name) for field in fields(Summary) if field.name != "score"}
    score = harmonic_mean(*(metrics[key].value for key in ("es", "ps", "ns")))
    return Summary(score=score, **metrics)


def zsre_summary_of(tally: Tally) -> ZsreSummary:
    """The metrics of zsRE from what each fact adds to them."""
    metrics = {name: tally.metric(f"zsre_{name}") for name in ("efficacy", "paraphrase", "specificity")}
    return ZsreSummary(score=harmonic_mean(*(found.value for found in metrics.values())), **metrics)


def all_metrics(summary: Summary, zsre: ZsreSummary) -> dict[str, Metric]:
    """Every metric of both by its key in METRICS; a Score counts the facts of its scarcest part and has no interval."""
    found = summary.metrics() | {f"zsre_{name}": metric for name, metric in zsre.metrics().items()}
    scores = {"score": (summary.score, (summary.es, summary.ps, summary.ns))}
    scores["zsre_score"] = (zsre.score, (zsre.efficacy, zsre.paraphrase, zsre.specificity))
    for key, (value, parts) in scores.items():
        found[key] = Metric(value, None, min(part.count for part in parts))
    return found


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


def _correct(score: TargetScore | None) -> float | None:
    return float(score.correct) if score else None


_Prompts = Callable[[FactScore], Sequence[PromptScore]]
_Value = Callable[[PromptScore], float | None]
_PER_FACT: dict[str, tuple[_Prompts, _Value]] = {
    "es": (_own, _new_wins),
    "ps": (_paraphrases, _new_wins),
    "ns": (_neighbours, _true_wins),
    "em": (_own, _new_margin),
    "pm": (_paraphrases, _new_margin),
    "nm": (_neighbours, _true_margin),
    "accuracy": (_own, lambda score: _correct(score.new)),
    "paraphrase_accuracy": (_paraphrases, lambda score: _correct(score.new)),
    "neighbour_accuracy": (_neighbours, lambda score: _correct(score.true)),
    "zsre_efficacy": (_own, lambda score: _share(score.new)),
    "zsre_paraphrase": (_paraphrases, lambda score: _share(score.new)),
    "zsre_specificity": (_neighbours, lambda score: _share(score.true)),
}
