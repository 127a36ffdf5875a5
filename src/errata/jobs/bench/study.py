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
    """How well the features, a row a record, tell failures from others; None where there are too few of either.

    A feature that no record has is left out.
    """
    labels = np.array(failures, dtype=bool)
    share, count = float(labels.mean()) if len(labels) else 0.0, len(labels)
    if min(labels.sum(), (~labels).sum()) < _LEAST:
        return Prediction(failure, share, count, None, None, {}, {})
    known = [i for i in range(len(names)) if not np.isnan(features[:, i]).all()]
    rows, kept = features[:, known], [names[i] for i in known]
    scores = _out_of_fold(rows, labels, seed)
    every = _standardised(rows, rows)
    single = {name: auc(labels, every[:, i]) for i, name in enumerate(kept)}
    weights = dict(zip(kept, map(float, _fit(every, labels).coef_[0]), strict=True))
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


def _standardised(rows: Array, seen: Array) -> Array:
    """Rows in units of the records `seen`: zero mean, unit variance; a missing number is their mean."""
    present = ~np.isnan(seen)
    counts = np.maximum(present.sum(axis=0), 1)
    mean = np.where(present, seen, 0.0).sum(axis=0) / counts
    spread = np.sqrt(np.where(present, (seen - mean) ** 2, 0.0).sum(axis=0) / counts)
    filled = np.where(np.isnan(rows), mean, rows)
    return (filled - mean) / np.where(spread > 0, spread, 1.0)


def _out_of_fold(rows: Array, labels: NDArray[np.bool_], seed: int) -> Array:
    scores = np.zeros(len(labels))
    for held in _folds(labels, seed):
        rest = np.setdiff1d(np.arange(len(labels)), held)
        fitted = _fit(_standardised(rows[rest], rows[rest]), labels[rest])
        scores[held] = fitted.decision_function(_standardised(rows[held], rows[rest]))
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
    aucs = []
    while len(aucs) < _DRAWS:
        chosen = draw.integers(0, len(labels), len(labels))
        if 0 < labels[chosen].sum() < len(labels):
            aucs.append(auc(labels[chosen], scores[chosen]))
    low, high = np.quantile(aucs, [0.025, 0.975])
    return float(low), float(high)
