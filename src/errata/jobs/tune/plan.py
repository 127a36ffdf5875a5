"""How much can be tried in the time there is: a pure function from measured costs to rungs.

Successive halving with two kinds of work. A fact's target value (or what else is costly) is needed once for each group
of settings; an edit of facts whose values are known, with its evaluation, is cheap. So every rung gives each group's
values to more facts, and tries a few settings of the group on them.

What the first rungs decide is only what the costly part depends on: few facts in many neurons are too easy to tell how
strong a prior must be for many of them. Strength, range and passes are decided in the last rung, with all facts.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from errata.core.words import counted
from errata.jobs.terminal_progress import duration

# Of the budget, what is left to be spent on what no estimate sees (loading kept moments, files, figures).
_RESERVE = 0.04
_MOST_TRIALS = 24


@dataclass(frozen=True)
class Costs:
    """Seconds: of one fact's costly part, of editing and evaluating it once that is known."""

    value: float
    edit: float


@dataclass(frozen=True)
class Task:
    """What the plan is for: `count` facts in the end, `held` held out; `depths` last layers; `variations` of each one's
    costly fields; `probes` settings tried of a group in each early rung, and at least so many in the last.
    """

    count: int
    held: int
    depths: int
    variations: int
    probes: int


@dataclass(frozen=True)
class Rung:
    """`groups` groups are tried on `facts` facts, of which `known` have their values already."""

    groups: int
    facts: int
    known: int

    def seconds(self, costs: Costs, probes: int) -> float:
        """How long it takes, with `probes` settings tried of each group."""
        return self.groups * ((self.facts - self.known) * costs.value + probes * self.facts * costs.edit)


@dataclass(frozen=True)
class Rest:
    """From a state on: more rungs, `finalists` groups on all facts with `trials` edits in all, then held-out facts.

    known: facts whose values the finalists have before the last rung.
    """

    rungs: tuple[Rung, ...]
    finalists: int
    known: int
    trials: int
    held: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """depths: groups of the first rung, on `start` facts.  best_depths × variations: those of the second, on as
    many.
    """

    start: int
    depths: int
    best_depths: int
    variations: int
    rest: Rest
    seconds: float

    @property
    def groups(self) -> int:
        return self.depths + self.best_depths * self.variations


def plan(task: Task, costs: Costs, seconds: float) -> Plan | None:
    """The most thorough plan that fits into the seconds, or None where none does."""
    return next((found for found in _plans(task, costs, seconds) if found.seconds <= seconds * (1 - _RESERVE)), None)


def least_seconds(task: Task, costs: Costs) -> float:
    """What the least plan takes, with the reserve."""
    return min(found.seconds for found in _plans(task, costs, 0.0)) / (1 - _RESERVE)


def rest(task: Task, costs: Costs, seconds: float, *, groups: int, facts: int) -> Rest | None:
    """The most thorough way on from `groups` groups tried on `facts` facts, or None where none fits."""
    budget = seconds * (1 - _RESERVE)
    return next((one for one in _rests(task, costs, budget, groups, facts) if one.seconds <= budget), None)


def least_rest(task: Task, costs: Costs, *, groups: int, facts: int) -> Rest:
    """The shortest way on."""
    return min(_rests(task, costs, 0.0, groups, facts), key=lambda found: found.seconds)


# Facts of the first rung, whether all depths, best depths that are varied, share of the variations.
_STARTS = (
    (32, True, 3, 1.0), (24, True, 3, 1.0), (16, True, 3, 1.0), (16, True, 2, 1.0), (16, True, 2, 0.5),
    (12, True, 2, 0.5), (12, True, 1, 0.5), (8, True, 2, 0.5), (8, True, 1, 0.5), (8, True, 0, 0.0),
    (4, True, 1, 0.5), (4, True, 0, 0.0), (4, False, 0, 0.0),
)  # fmt: skip
# Whether rungs come between, finalists, and the share of the held-out facts.
_ENDS = (
    (True, 3, 1.0), (True, 2, 1.0), (True, 1, 1.0), (False, 2, 1.0), (False, 1, 1.0), (False, 1, 0.5), (False, 1, 0.25),
)  # fmt: skip
_FEW_DEPTHS = 3


def _plans(task: Task, costs: Costs, seconds: float) -> Iterator[Plan]:
    """Every plan, the most thorough first: the share of the time that goes into the last rung is kept in balance."""
    for start, every_depth, best, share in _STARTS:
        facts = min(start, task.count)
        depths = task.depths if every_depth else min(task.depths, _FEW_DEPTHS)
        best, variations = min(best, depths), math.ceil(share * task.variations)
        groups = depths + best * variations
        first = Rung(groups, facts, 0).seconds(costs, task.probes)
        left = seconds * (1 - _RESERVE) - first
        for one in _rests(task, costs, left, groups, facts):
            yield Plan(facts, depths, best, variations, one, first + one.seconds)


def _rests(task: Task, costs: Costs, budget: float, groups: int, facts: int) -> Iterator[Rest]:
    for between, finalists, share in _ENDS:
        finalists = min(finalists, groups)
        rungs = tuple(_halvings(groups, facts, task.count, finalists)) if between else ()
        known = rungs[-1].facts if rungs else facts
        held = max(1, math.ceil(share * task.held))
        fixed = sum(rung.seconds(costs, task.probes) for rung in rungs)
        fixed += finalists * (task.count - known) * costs.value
        # The base is tried on all facts in any case, and beside the chosen setting on those held out.
        fixed += task.count * costs.value + 2 * held * (costs.value + costs.edit)
        least = 1 + finalists * task.probes
        fitting = int(max(0.0, budget - fixed) / max(task.count * costs.edit, 1e-9))
        trials = min(max(fitting, least), max(least, _MOST_TRIALS))
        yield Rest(rungs, finalists, known, trials, held, fixed + trials * task.count * costs.edit)


def _halvings(groups: int, facts: int, count: int, finalists: int) -> Iterator[Rung]:
    """Half of the groups on twice the facts, until few enough are left or the facts are all there are."""
    while True:
        groups = math.ceil(groups / 2)
        if groups <= finalists or 2 * facts >= count:
            return
        yield Rung(groups, 2 * facts, facts)
        facts *= 2


def described(chosen: Plan, task: Task, seconds: float, spent: float) -> list[str]:
    """What will be done, and how long it will take."""
    varied, way = chosen.best_depths * chosen.variations, chosen.rest
    return [
        f"Plan: {counted(chosen.depths, 'last layer')} on {counted(chosen.start, 'fact')}"
        + (f", {varied} variations of the best {chosen.best_depths}" if varied else "")
        + "".join(f", the best {rung.groups} on {rung.facts}" for rung in way.rungs)
        + f"; {counted(way.finalists, 'finalist')} and about {counted(way.trials, 'edit')} of all {task.count} "
        f"facts; the chosen setting and the one begun with on {way.held} held-out facts.",
        f"About {duration(chosen.seconds)} from here on, {duration(spent)} used, of {duration(seconds)}.",
    ]


def plan_of(held: Mapping[str, Any]) -> Plan:
    """A plan from its JSON."""
    return Plan(**{**held, "rest": rest_of(held["rest"])})


def rest_of(held: Mapping[str, Any]) -> Rest:
    """The way on from its JSON."""
    return Rest(**{**held, "rungs": tuple(Rung(**rung) for rung in held["rungs"])})
