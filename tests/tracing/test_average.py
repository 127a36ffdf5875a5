"""Averages over facts: segments, intervals, peaks, rows, grids, and the layers that they propose."""

import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.core.words import points
from errata.errors import InputError
from errata.tracing import TraceConfig, propose_layers, trace
from errata.tracing.average import AverageTrace, FactTrace, fact_trace, mean_of
from tiny import tiny_model

OPTIONS = {"samples": 2, "window": 2}
PROMPTS = [
    ("I think that the Eiffel Tower is in the city of", "Eiffel Tower"),
    ("Toyota builds cars in", "Toyota"),
    ("I am in the Eiffel Tower", "Eiffel Tower"),
]


@pytest.fixture(scope="module")
def traces():
    return [trace(tiny_model("llama"), *pair, **OPTIONS) for pair in PROMPTS]


@pytest.fixture(scope="module")
def average(traces):
    facts = tuple(fact_trace(str(i), one) for i, one in enumerate(traces))
    return AverageTrace(model="tiny", config=traces[0].config, std=0.5, num_layers=4, facts=facts)


def made_up(plain, severed):
    """An average whose effects at the last subject token are these."""
    effects = {("hidden", "last subject"): tuple(plain), ("mlp severed", "last subject"): tuple(severed)}
    fact = FactTrace(
        id="x", prompt="p", answer="a", clean=0.5, corrupted=0.1, effects=effects,
        attributions={("hidden", "last subject"): tuple(plain)}, correlations={},
    )  # fmt: skip
    return AverageTrace(model="m", config=TraceConfig(), std=1.0, num_layers=len(plain), facts=(fact,))


def test_a_mean_is_over_the_facts_that_have_the_segment(traces, average):
    places = traces[0].segments["further"]
    assert len(places) > 1
    own = traces[0].effect("mlp")[2, list(places)].mean()
    others = [one.effect("mlp")[2, list(one.segments["further"])].mean() for one in traces[1:2]]
    found = average.mean("mlp", "further")[2]
    assert found.count == 1 + len(others)  # the third prompt ends with its subject
    assert found.value == pytest.approx(float(sum([own, *others])) / found.count)
    assert average.mean("hidden", "last subject")[0].count == 2
    assert average.mean("hidden", "last")[0].count == 3
    assert average.mean("mlp severed", "last subject")[1].count == 2
    assert average.mean("mlp severed", "last")[1].count == 0
    assert math.isnan(average.effects("mlp severed", "last")[1])


def test_total_effect_and_peak(traces, average):
    assert average.total_effect.value == pytest.approx(sum(one.total_effect for one in traces) / 3)
    layer, mean = average.peak("hidden", "last")
    assert mean.value == max(average.effects("hidden", "last"))
    assert average.effects("hidden", "last")[layer] == mean.value
    assert average.peak("mlp severed", "further") is None
    assert average.correlation("mlp")[0].count == 3


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_intervals_are_those_of_the_formula(values):
    found = mean_of(values)
    assert found.value == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert found.interval == pytest.approx(1.96 * statistics.stdev(values) / len(values) ** 0.5, abs=1e-9)


def test_one_fact_has_no_interval_and_none_no_mean():
    assert math.isnan(mean_of([0.5]).interval)
    assert math.isnan(mean_of([]).value)
    assert mean_of([]).count == 0


def test_rows_and_grid(average):
    rows = list(average.rows())
    assert {row["segment"] for row in rows} == set(average.segments)
    assert "last subject" in average.segments
    one = next(r for r in rows if (r["kind"], r["segment"], r["layer"]) == ("mlp", "last", 3))
    assert one["effect"] == average.effects("mlp", "last")[3]
    assert one["facts"] == 3
    grid = average.grid()
    assert grid.labels
    assert list(grid.tokens) == list(average.segments)
    assert grid.sheets[0].values[1][0] == pytest.approx(100 * average.effects("hidden", average.segments[0])[1])
    assert grid.to_json()
    assert "<iframe" in average._repr_html_()
    with pytest.raises(InputError, match="attributions"):
        average.mean("mlp", "last", of="guesses")


def test_the_layers_with_the_widest_gap_are_proposed():
    # The state needs its MLPs in layers 4, 5 and 6, and a little in the next one.
    plain = [0.01, 0.02, 0.04, 0.06, 0.09, 0.09, 0.09, 0.06, 0.03, 0.01]
    severed = [0.01, 0.02, 0.03, 0.05, 0.03, 0.02, 0.03, 0.03, 0.03, 0.01]
    found = propose_layers(made_up(plain, severed))
    assert found[0].layers == (4, 5, 6)
    assert found[0].gap == pytest.approx(0.19 / 3)
    assert math.isnan(found[0].interval)  # one fact
    assert propose_layers(made_up(plain, severed), widths=[4])[0].layers == (4, 5, 6, 7)


def test_where_severing_takes_nothing_nothing_is_proposed():
    assert propose_layers(made_up([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.4, 0.5])) == []


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=6, max_size=12))
def test_ranges_are_ranked_and_lie_in_the_model(effects):
    plain, severed = zip(*effects, strict=True)
    found = propose_layers(made_up(plain, severed), widths=(3, 5))
    assert [one.gap for one in found] == sorted((one.gap for one in found), reverse=True)
    for one in found:
        assert 0 <= one.first <= one.last < len(effects)
        assert len(one.layers) in (3, 5)
        assert one.gap == pytest.approx(statistics.fmean(plain[i] - severed[i] for i in one.layers))
        assert one.gap > 0


def test_without_severed_effects_there_is_no_proposal(traces, average):
    facts = (fact_trace("0", traces[2]),)
    lonely = AverageTrace(model="tiny", config=traces[0].config, std=0.5, num_layers=4, facts=facts)
    with pytest.raises(InputError, match="severed"):
        propose_layers(lonely)
    with pytest.raises(InputError, match="widths"):
        propose_layers(average, widths=())


def test_printed_it_is_two_lines(average):
    first, second = repr(average).splitlines()
    assert first.startswith(f"AverageTrace of {len(average.facts)} facts in {average.model}")
    assert first.endswith(f"; total effect {points(average.total_effect.value, 1)} points.")
    assert second == f"4 layers; restored: {', '.join(average.restored)}."
    assert repr(replace(average, facts=())).startswith(f"AverageTrace of 0 facts in {average.model}.")
