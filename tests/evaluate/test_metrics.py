"""The one list of metrics: complete, without two rows that could be taken for each other; and tallies."""

import pytest

from errata.evaluate import METRICS, Metric, MetricInfo, Summary, Tally, metric, metric_info
from errata.evaluate.changes import Changes


def test_keys_and_labels_name_one_thing_each():
    for names in ([i.key for i in METRICS], [i.label for i in METRICS]):
        assert len(set(names)) == len(names)
    keys = {info.key for info in METRICS}
    assert keys >= set(Summary.__dataclass_fields__) | set(Changes.__dataclass_fields__)
    assert keys >= {"ge", "rs", "perplexity", "kl_drift", "tokens_changed", "zsre_score", "zsre_efficacy"}


def test_success_magnitude_and_accuracy_say_what_they_are():
    by_word = {
        word: {info.key for info in METRICS if word in f"{info.meaning} {info.label}"}
        for word in ("success", "magnitude", "accuracy")
    }
    assert by_word["success"] == {"es", "ps", "ns"}
    assert by_word["magnitude"] == {"em", "pm", "nm"}
    assert by_word["accuracy"] == {"accuracy", "paraphrase_accuracy", "neighbour_accuracy"}


def test_a_row_shows_values_with_its_digits():
    assert metric_info("es").shown(12.345) == "12.3"
    assert metric_info("kl_drift").shown(0.00123) == "0.00123"
    assert metric_info("es").shown(None) == "–"
    assert [metric_info("perplexity").shown(value) for value in (99_999.0, 1.8e50)] == ["99999.000", "1.8e+50"]
    assert MetricInfo(key="a", label="A", meaning="", group="drift", digits=0).shown(2.6) == "3"
    with pytest.raises(KeyError):
        metric_info("nothing")


def test_a_tally_is_the_metric_of_its_values():
    tally = Tally()
    for values in ({"a": 1.0, "b": 0.25}, {"a": 0.0}, {"a": 0.5}):
        tally.add(values)
    assert tally.metric("a") == metric([1.0, 0.0, 0.5])
    assert tally.metric("b") == metric([0.25])
    assert tally.metric("c") == Metric(None, None, 0)
    assert metric([2.0, 4.0], scale=1.0).value == 3.0
