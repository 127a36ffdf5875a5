"""The plan, a pure function: it keeps within the budget and always ends with an edit of all facts."""

from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.jobs.tune.plan import (
    Costs,
    Task,
    described,
    least_rest,
    least_seconds,
    plan,
    plan_of,
    rest,
    rest_of,
)  # fmt: skip

tasks = st.builds(
    Task, count=st.integers(4, 2000), held=st.integers(1, 2000), depths=st.integers(1, 12),
    variations=st.integers(0, 10), probes=st.integers(1, 3),
)  # fmt: skip
costs_of = st.builds(Costs, value=st.floats(0, 20), edit=st.floats(1e-3, 5))
SMALL = Task(count=100, held=100, depths=7, variations=8, probes=3)


def cost_by_steps(task, costs, found):
    """What a plan takes, adding up every fact of every group and trial."""
    seconds, known = 0.0, {}
    groups = list(range(found.depths + found.best_depths * found.variations))
    steps = [(groups, found.start), *((groups[: rung.groups], rung.facts) for rung in found.rest.rungs)]
    for members, facts in steps:
        for group in members:
            seconds += (facts - known.get(group, 0)) * costs.value + task.probes * facts * costs.edit
            known[group] = facts
    for group in groups[: found.rest.finalists]:
        seconds += (task.count - known[group]) * costs.value
    seconds += task.count * costs.value + found.rest.trials * task.count * costs.edit
    return seconds + 2 * found.rest.held * (costs.value + costs.edit)


@settings(deadline=None, max_examples=60)
@given(tasks, costs_of, st.floats(0, 1e5))
def test_never_more_than_the_budget_and_always_a_finalist(task, costs, seconds):
    found = plan(task, costs, seconds)
    if found is None:
        assert least_seconds(task, costs) > seconds * 0.999
        return
    assert found.seconds <= seconds
    assert found.seconds == pytest.approx(cost_by_steps(task, costs, found), rel=1e-9, abs=1e-9)
    assert found.rest.finalists >= 1
    assert found.rest.trials >= 1 + task.probes * found.rest.finalists
    assert 1 <= found.depths <= task.depths
    assert 1 <= found.rest.held <= task.held
    sizes = [found.start, *(rung.facts for rung in found.rest.rungs)]
    groups = [found.groups, *(rung.groups for rung in found.rest.rungs), found.rest.finalists]
    assert sizes == sorted(set(sizes))
    assert groups == sorted(groups, reverse=True)
    assert sizes[-1] <= task.count


@settings(deadline=None, max_examples=60)
@given(tasks, costs_of, st.floats(1, 1e5), st.integers(1, 100))
def test_the_way_on_keeps_within_what_is_left(task, costs, seconds, groups):
    facts = min(8, task.count)
    found = rest(task, costs, seconds, groups=groups, facts=facts)
    least = least_rest(task, costs, groups=groups, facts=facts)
    if found is None:
        assert least.seconds > seconds * 0.95
    else:
        assert found.seconds <= seconds
        assert least.seconds <= found.seconds + 1e-6
    assert least.finalists == 1
    assert not least.rungs


@settings(deadline=None, max_examples=60)
@given(tasks, costs_of)
def test_the_least_is_enough_and_hardly_more_than_needed(task, costs):
    least = least_seconds(task, costs)
    assert plan(task, costs, least * 1.0001) is not None
    assert plan(task, costs, least * 0.99) is None


def test_more_time_makes_a_more_thorough_plan():
    costs = Costs(value=0.7, edit=0.3)
    short, usual, long = (plan(SMALL, costs, 60 * minutes) for minutes in (12.0, 30.0, 120.0))
    assert short is not None
    assert usual is not None
    assert long is not None
    assert short.groups < usual.groups <= long.groups
    assert usual.variations
    assert usual.start >= 16
    assert usual.seconds > 0.75 * 60 * 30
    assert plan(SMALL, costs, 60.0) is None


def test_what_is_said_and_what_is_kept():
    found = plan(SMALL, Costs(value=0.7, edit=0.3), 1800.0)
    assert found is not None
    text = " ".join(described(found, SMALL, 1800.0, 20.0))
    for part in (f"{found.depths} last layers on {found.start} facts", "all 100 facts", "held-out", "of 30 min 00 s"):
        assert part in text
    assert plan_of(asdict(found)) == found
    assert rest_of(asdict(found.rest)) == found.rest
