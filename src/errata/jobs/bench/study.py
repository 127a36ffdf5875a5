"""What predicts that an edit fails: each outcome against what could be measured before, on records not fitted."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from errata.jobs.bench.outcomes import Outcome

Array = NDArray[np.float64]

# What counts as a failure of one fact.
FAILURES = {
    "prompt": "the prompt's first choice is not the new target",
    "paraphrase": "on half of the paraphrases or more, the old answer is still likelier",
    "neighbour": "a neighbour's own answer, likelier before the edit, no longer is",
}
_FOLDS = 5
_LEAST = 10  # of either outcome, for a statement
_DRAWS = 500


@dataclass(frozen=True)
class Prediction:
    """AUC of telling failed edits from others: 0.5 is chance, below it the feature points the other way.

    auc, interval: of a logistic regression on all features, each record predicted by a fit without it (5 folds); the
    interval is the 95 % bootstrap over records.  single: of each feature alone (no fit).  weights: of the regression on
    all records, features standardised.  share: of failures.
    """

    failure: str
    share: float
    count: int
    auc: float | None
    interval: tuple[float, float] | None
    single: dict[str, float]
    weights: dict[str, float]


def failed(outcome: Outcome, failure: str) -> bool | None:
    """Whether an edit failed in this way; None where the fact cannot tell."""
    values, before = outcome["values"], outcome["before"]
    if failure == "prompt":
        return values["accuracy"] < 1
    if failure == "paraphrase":
        return values["ps"] <= 0.5 if "ps" in values else None
    return values["ns"] < before["ns"] if "ns" in values and "ns" in before else None


def predict(names: Sequence[str], features: Array, failures: Sequence[bool], *, failure: str, seed: int) -> Prediction:
    """How well the features, a row a record, tell failures from others. Raises nothing: too few of either give None."""
    labels = np.array(failures, dtype=bool)
    share, count = float(labels.mean()) if len(labels) else 0.0, len(labels)
    if min(labels.sum(), (~labels).sum()) < _LEAST:
        return Prediction(failure, share, count, None, None, {}, {})
    rows = _standardised(features)
    scores = _out_of_fold(rows, labels, seed)
    single = {name: auc(labels, rows[:, i]) for i, name in enumerate(names)}
    weights = dict(zip(names, map(float, _fit(rows, labels).coef_[0]), strict=True))
    return Prediction(failure, share, count, auc(labels, scores), _bootstrap(labels, scores, seed), single, weights)


def auc(labels: NDArray[np.bool_], scores: Array) -> float:
    """Chance that a failure's score exceeds another record's; ties count half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def rows_of(prediction: Prediction, method: str, facts: str) -> dict[str, Any]:
    """One row of a table."""
    low, high = prediction.interval or (None, None)
    return {
        "method": method, "facts": facts, "failure": prediction.failure, "share": prediction.share,
        "count": prediction.count, "auc": prediction.auc, "auc_low": low, "auc_high": high,
        **{f"auc_{name}": value for name, value in prediction.single.items()},
        **{f"weight_{name}": value for name, value in prediction.weights.items()},
    }  # fmt: skip


def _standardised(features: Array) -> Array:
    """Zero mean, unit variance; a missing number becomes the mean, a constant feature zero."""
    mean = np.nanmean(features, axis=0)
    filled = np.where(np.isnan(features), mean, features)
    spread = filled.std(axis=0)
    return (filled - mean) / np.where(spread > 0, spread, 1.0)


def _out_of_fold(rows: Array, labels: NDArray[np.bool_], seed: int) -> Array:
    scores = np.zeros(len(labels))
    for held in _folds(labels, seed):
        rest = np.setdiff1d(np.arange(len(labels)), held)
        scores[held] = _fit(rows[rest], labels[rest]).decision_function(rows[held])
    return scores


def _folds(labels: NDArray[np.bool_], seed: int) -> Iterator[NDArray[np.int64]]:
    """Folds with an even share of failures in each."""
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda i: bool(labels[i]))
    for fold in range(_FOLDS):
        yield np.array(order[fold::_FOLDS])


def _fit(rows: Array, labels: NDArray[np.bool_]) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0, max_iter=1000).fit(rows, labels)


def _bootstrap(labels: NDArray[np.bool_], scores: Array, seed: int) -> tuple[float, float]:
    draw = np.random.default_rng(seed)
    found = []
    while len(found) < _DRAWS:
        chosen = draw.integers(0, len(labels), len(labels))
        if 0 < labels[chosen].sum() < len(labels):
            found.append(auc(labels[chosen], scores[chosen]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
