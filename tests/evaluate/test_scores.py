"""Metrics from log-probabilities, against values worked out by hand."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.evaluate import FactScore, Metric, PromptScore, TargetScore, harmonic_mean, summarize, summarize_zsre
from errata.evaluate.metrics import metric


def target(x, tokens=1, right=0):
    """A target with mean NLL `x`."""
    return TargetScore(target="t", log_prob=-x * tokens, tokens=tokens, right=right)


def prompt(new, true, *, new_right=0, true_right=0, tokens=1):
    answer = None if true is None else target(true, tokens, true_right)
    return PromptScore(text="p", new=target(new, tokens, new_right), true=answer)


FACTS = [
    FactScore(
        id="a",
        prompt=prompt(1.0, 2.0, new_right=2, tokens=2),
        paraphrases=(prompt(1.0, 0.5), prompt(0.25, 3.0, new_right=1)),
        neighbours=(prompt(2.0, 1.0, true_right=2, tokens=4), prompt(1.0, 1.5), prompt(4.0, 1.0, true_right=1)),
    ),
    FactScore(id="b", prompt=prompt(3.0, 2.0, new_right=1, tokens=2), paraphrases=(prompt(0.1, 0.2),)),
    FactScore(id="c", prompt=prompt(0.5, None, new_right=1), neighbours=(prompt(0.5, None), prompt(2.0, 0.125))),
    FactScore(id="d", prompt=prompt(1.0, 1.0)),
]


def test_counterfact_by_hand():
    found = summarize(FACTS)
    e = math.exp
    assert found.es == metric([1, 0, 0])  # equal likelihoods are no success
    assert found.em == metric([e(-1) - e(-2), e(-3) - e(-2), 0])
    assert found.ps == metric([(0 + 1) / 2, 1])
    assert found.pm == metric([(e(-1) - e(-0.5) + e(-0.25) - e(-3)) / 2, e(-0.1) - e(-0.2)])
    assert found.ns == metric([2 / 3, 1])
    assert found.nm == metric([(e(-1) - e(-2) + e(-1.5) - e(-1) + e(-1) - e(-4)) / 3, e(-0.125) - e(-2)])
    assert found.accuracy == metric([1, 0, 1, 0])
    assert found.paraphrase_accuracy == metric([1 / 2, 0])
    assert found.neighbour_accuracy == metric([1 / 3, 0])
    assert found.score == pytest.approx(3 / (1 / (100 / 3) + 1 / 75 + 1 / (500 / 6)))


def test_zsre_by_hand():
    found = summarize_zsre(FACTS)
    assert found.efficacy == metric([1, 1 / 2, 1, 0])
    assert found.paraphrase == metric([1 / 2, 0])
    assert found.specificity == metric([(2 / 4 + 0 + 1) / 3, 0])
    assert found.score == pytest.approx(3 / (1 / 62.5 + 1 / 25 + 1 / 25))


def test_mean_and_interval():
    found = metric([0.2, 0.4, 0.9])
    assert found.value == pytest.approx(50)
    # s = √(((20−50)² + (40−50)² + (90−50)²)/2) = √1300
    assert found.interval == pytest.approx(1.96 * math.sqrt(1300 / 3))
    assert found.count == 3
    assert metric([0.5]) == Metric(50.0, None, 1)
    assert metric([1, 1, 1]) == Metric(100.0, 0.0, 3)
    assert metric([]) == Metric(None, None, 0)


def test_what_is_missing_is_none_and_counted():
    bare = FactScore(id="a", prompt=prompt(1.0, None))
    found = summarize([bare])
    assert found.es == found.ps == found.ns == Metric(None, None, 0)
    assert found.score is None
    assert found.accuracy == Metric(0.0, None, 1)
    assert summarize_zsre([bare]).score is None
    assert summarize(FACTS).es.count == 3
    assert summarize(FACTS).ns.count == 2
    assert summarize([]).accuracy == Metric(None, None, 0)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=4))
def test_harmonic_mean(values):
    found = harmonic_mean(*values)
    if 0 in values:
        assert found == 0
    else:
        assert found == pytest.approx(len(values) / sum(1 / value for value in values))
    assert harmonic_mean(*values, None) is None


def test_json():
    found = json.loads(json.dumps(summarize(FACTS).to_json(), allow_nan=False))
    assert found["es"] == pytest.approx(100 / 3)
    counts = {"es": 3, "ps": 2, "ns": 2, "em": 3, "pm": 2, "nm": 2}
    accuracies = {"accuracy": 4, "paraphrase_accuracy": 2, "neighbour_accuracy": 2}
    assert found["counts"] == counts | accuracies
    assert found["interval_95"]["es"] == summarize(FACTS).es.interval
    assert json.loads(json.dumps(summarize([]).to_json(), allow_nan=False))["score"] is None
    fact = FACTS[0].to_json()
    stored = {"target": "t", "log_prob": -2.0, "tokens": 2, "right": 2}
    assert fact["prompt"]["new"] == stored | {"nll": 1.0, "probability": math.exp(-2), "correct": True}
    assert [entry["text"] for entry in fact["neighbours"]] == ["p"] * 3
    assert replace(FACTS[0].prompt, first=7).to_json() == fact["prompt"] | {"first": 7}
    assert FACTS[2].to_json()["prompt"]["true"] is None
