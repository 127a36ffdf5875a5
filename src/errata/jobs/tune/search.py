"""The search: successive halving over what is costly, then strength, range and passes at the full number of facts.

What few facts can decide. A few dozen keys in thousands of neurons leave room for everything: nearly any strength of
the prior serves them, and one that must serve N facts is another. So the early rungs bracket the strength (a group of
settings counts by the best of three, 30 times apart) and choose only what target values depend on: last layer, clamp,
rate, steps. Strength, range of layers and passes are chosen among edits of all N facts, and the setting that the
search began with is always among them.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from errata.core.progress import ProgressSink
from errata.core.words import counted
from errata.errors import ConfigError, NumericsError
from errata.facts import Fact, facts_digest
from errata.jobs.terminal_progress import duration
from errata.jobs.tune.candidates import Candidates, value_key
from errata.jobs.tune.plan import (
    Costs,
    Plan,
    Rest,
    Task,
    described,
    least_rest,
    least_seconds,
    plan,
    plan_of,
    rest,
    rest_of,
)
from errata.jobs.tune.trials import LAST, Group, Trial, by_drift, named
from errata.jobs.tune.tune_folder import TuneFolder
from errata.jobs.tune.worker import Row, Worker

# Target values whose NLL (nats) a little way back is above this, and so many times that of the best group, are weak.
_WEAK_NLL, _WEAK_TIMES = 1.0, 2.0
# Scores this close together are ties: with 100 facts one of them is a point.
_TIE = 0.5
_PROBE_FACTS = 8
# A field that helped is followed so many steps further at most.
_MOST_STEPS = 3
# What may be spent of the budget before a further trial is not begun.
_FULL = 0.97


@dataclass
class Search:
    """One tuning. seconds: the budget.  facts: those tuned on, then `held` to compare on in the end."""

    worker: Worker
    folder: TuneFolder
    candidates: Candidates
    facts: Sequence[Fact]
    held: Sequence[Fact]
    seconds: float
    progress: ProgressSink
    spent: float = 0.0
    trials: list[Trial] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    _value: tuple[float, int] = (0.0, 0)
    _edit: tuple[float, int] = (0.0, 0)

    def run(self) -> "Chosen":
        """Search, and compare the choice with the base on held-out facts. ConfigError where the budget is too small."""
        task, costs = self._task(), self._probe()
        schedule = self._planned(task, costs)
        for line in described(schedule, task, self.seconds, self.spent):
            self.progress.note(line)
        first = self._rung("first", self.candidates.groups[: schedule.depths], schedule.start)
        varied = [one for group in first[: schedule.best_depths] for one in self.candidates.variations(group.config)]
        wanted = varied[: schedule.best_depths * schedule.variations] if schedule.variations else []
        pool = [*first, *(self._rung("varied", wanted, schedule.start) if wanted else [])]
        way, pool, facts = self._halved(task, pool, schedule.start)
        for group in pool[way.finalists :]:
            group.out = group.out or f"beaten on {counted(facts, 'fact')}"
        self._last(pool[: way.finalists], way)
        chosen = self._choice()
        for group in self.groups:
            for trial in group.trials:
                trial.out = trial.out or (group.out if trial.stage != LAST else "")
        return self._compared(chosen, way)

    def _task(self) -> Task:
        variations = len(self.candidates.variations(self.candidates.base))
        probes = len(self.candidates.bracket(self.candidates.base))
        return Task(len(self.facts), len(self.held), len(self.candidates.groups), variations, probes)

    def _probe(self) -> Costs:
        """The base on a few facts, to know what a fact costs."""
        group, count = self._group(self.candidates.base), min(_PROBE_FACTS, len(self.facts))
        self._values(group, count)
        self._tried("first", group, group.config, count)
        return self._costs()

    def _planned(self, task: Task, costs: Costs) -> Plan:
        left = self.seconds - self.spent
        if plan(task, costs, left) is None and "plan" not in self.folder.decided:
            least = (self.spent + least_seconds(task, costs)) / 60
            raise ConfigError(
                f"--budget {self.seconds / 60:g} minutes are too few: target values take {costs.value:.2g} s a fact "
                f"here, an edit with its evaluation {costs.edit:.2g} s a fact. The least that would do is "
                f"{least * 1.02 + 0.05:.1f} minutes with {counted(task.count, 'fact')}; a smaller --n needs less. "
                f"What was "
                "measured is kept."
            )
        return plan_of(self.folder.decide("plan", lambda: asdict(plan(task, costs, left))))  # type: ignore[arg-type]

    def _halved(self, task: Task, pool: list[Group], facts: int) -> tuple[Rest, list[Group], int]:
        """Rungs, each planned anew from what the ones before cost, until the finalists are left."""
        for step in range(100):
            pool = sorted((group for group in pool if not group.out), key=lambda group: group.best(facts).rank)
            way = self._way(f"way {step}", task, len(pool), facts)
            if not way.rungs:
                return way, pool, facts
            rung = way.rungs[0]
            for group in pool[rung.groups :]:
                group.out = f"beaten on {counted(facts, 'fact')}"
            facts = rung.facts
            pool = self._rung("rung", [group.config for group in pool[: rung.groups]], facts)
        raise AssertionError("halving ends")

    def _way(self, name: str, task: Task, groups: int, facts: int) -> Rest:
        costs, left = self._costs(), self.seconds - self.spent

        def make() -> Row:
            return asdict(
                rest(task, costs, left, groups=groups, facts=facts)
                or least_rest(task, costs, groups=groups, facts=facts)
            )

        way = rest_of(self.folder.decide(name, make))
        over = "" if way.seconds <= left else " (more than is left: the machine became slower, or facts longer)"
        self.progress.note(
            f"{duration(self.spent)} used; still to do with {counted(groups, 'group')} of settings: "
            f"about {duration(way.seconds)}{over}."
        )
        return way

    def _rung(self, stage: str, configs: Sequence[Any], facts: int) -> list[Group]:
        """Give every group its values, drop those that do not hold, try a bracket of the others; best first."""
        groups = [self._group(config) for config in configs]
        with self.progress.stage(
            f"{_STAGES[stage]}, target values of {counted(facts, 'fact')}", len(groups), "groups"
        ) as advance:
            for group in groups:
                self._values(group, facts)
                advance(1)
        self._drop_weak(groups)
        with self.progress.stage(
            f"{_STAGES[stage]}, edits of {counted(facts, 'fact')}", len(groups), "groups"
        ) as advance:
            for group in groups:
                for config in self.candidates.bracket(group.config) if not group.out else []:
                    self._tried(stage, group, config, facts)
                advance(1)
        kept = sorted((group for group in groups if not group.out), key=lambda group: group.best(facts).rank)
        for group in kept[:1]:
            best = group.best(facts)
            self.progress.note(f"Best so far on {counted(facts, 'fact')}: {named(best.config)}: {best.objective:.1f}")
        return kept

    def _drop_weak(self, groups: Sequence[Group]) -> None:
        # Beside those still in the race: a beaten group's values may be the best ones, and its edits were not.
        means = [mean for group in self.groups if not group.out and (mean := group.mean("short_nll")) is not None]
        limit = max(_WEAK_NLL, _WEAK_TIMES * min(means, default=0.0))
        for group in groups:
            mean = group.mean("short_nll")
            diverged = next((row["mark"] for row in group.values if "mark" in row), "")
            if diverged or (mean is not None and mean > limit):
                group.out = diverged or f"target values do not hold: {mean:.2f} nat where 80 % is reached"
                self.trials.append(
                    Trial("values", group.config, group.known, {"seconds": 0.0}, self._told(group), group.out)
                )
        if all(group.out for group in self.groups):
            why = next((group.out for group in groups if group.out), self.groups[0].out)
            raise NumericsError(f"No setting that is left gave usable target values; the first: {why}")

    def _last(self, finalists: Sequence[Group], way: Rest) -> None:
        """The base, a bracket of each finalist, then what varies around the best, while there is time."""
        count = len(self.facts)
        with self.progress.stage(f"edits of {counted(count, 'fact')}", way.trials, "edits") as advance:
            base = self._group(self.candidates.base)
            self._values(base, count)
            self._tried(LAST, base, base.config, count, advance)
            for place, group in enumerate(finalists):
                if place and not self._time_for(group, way.held):
                    break
                self._values(group, count)
                for config in self.candidates.bracket(group.config):
                    self._tried(LAST, group, config, count, advance)
            ranked = [group for group in self.groups if any(t.stage == LAST for t in group.trials)]
            for group in sorted(ranked, key=lambda group: group.best(count).rank):
                if not self._refined(group, way.held, advance):
                    return

    def _refined(self, group: Group, held: int, advance: Callable[[int], None]) -> bool:
        """One field after another around the best so far, each until it helps no more; whether the time sufficed."""
        count, fields, again = len(self.facts), 0, 0
        while True:
            current = group.best(count)
            lists = list(self.candidates.refined(current.config))
            if fields == len(lists):
                return True
            for config in lists[fields]:
                if group.has(config, count, LAST):
                    continue
                if not self._time_for(None, held):
                    return False
                self._tried(LAST, group, config, count, advance)
            helped = group.best(count) is not current
            fields, again = (fields, again + 1) if helped and again < _MOST_STEPS else (fields + 1, 0)

    def _time_for(self, group: Group | None, held: int) -> bool:
        """Whether one more edit of all facts, after a group's missing values, leaves time for the held-out facts."""
        costs, count = self._costs(), len(self.facts)
        needed = count * costs.edit + 2 * held * (costs.value + costs.edit)
        if group is not None:
            needed += (count - group.known) * costs.value + (
                len(self.candidates.bracket(group.config)) - 1
            ) * count * costs.edit
        name = f"time for {'an edit' if group is None else 'another group'} after {counted(len(self.trials), 'trial')}"
        return self.folder.decide(name, lambda: self.spent + needed <= _FULL * self.seconds)

    def _choice(self) -> Trial:
        """The best Score on all facts; among ties the smallest drift, then the smallest update."""
        last = [trial for trial in self.trials if trial.stage == LAST and trial.objective >= 0]
        if not last:
            reason = next((trial.out for trial in self.trials if trial.stage == LAST), "none was made")
            raise NumericsError(f"Every edit of all {counted(len(self.facts), 'fact')} failed; the first: {reason}")
        best = max(trial.objective for trial in last)
        chosen = min((trial for trial in last if trial.objective >= best - _TIE), key=by_drift)
        for trial in last:
            if trial is not chosen:
                close = "as good, but it moves more" if trial.objective >= best - _TIE else "beaten"
                trial.out = f"{close} on {counted(trial.facts, 'fact')}"
        return chosen

    def _compared(self, chosen: Trial, way: Rest) -> "Chosen":
        """The choice and the base on facts that the search never saw."""
        costs = self._costs()
        fitting = (self.seconds - self.spent) / (2 * (costs.value + costs.edit))
        count = self.folder.decide(
            "held", lambda: max(min(4, len(self.held)), min(way.held, len(self.held), int(fitting)))
        )
        facts = self.held[:count]
        configs = [chosen.config, *([self.candidates.base] if self.candidates.base != chosen.config else [])]
        trials = []
        with self.progress.stage(f"held-out facts ({count})", len(configs), "edits") as advance:
            for config in configs:
                values = self._work("values", config, facts, lambda c=config: self.worker.values(c, facts))
                edit = self._work("edit", config, facts, lambda c=config: self.worker.edit(c, facts, drift=True), True)
                trials.append(Trial("held out", config, count, edit, values, edit.get("mark", "")))
                advance(1)
        unedited = self._kept("unedited", None, facts, lambda: self.worker.unedited(facts))
        return Chosen(chosen, trials[0], trials[-1], unedited, count)

    def _group(self, config: Any) -> Group:
        key = value_key(config, self.candidates.space)
        for group in self.groups:
            if value_key(group.config, self.candidates.space) == key:
                return group
        self.groups.append(Group(config))
        return self.groups[-1]

    def _values(self, group: Group, count: int) -> None:
        """The costly part for the facts up to `count` that lack it."""
        facts = self.facts[group.known : count]
        if facts:
            row = self._work("values", group.config, facts, lambda: self.worker.values(group.config, facts))
            group.values.append({**row, "facts": len(facts)})
            group.known = count
            self._value = _recent(self._value, row["seconds"], len(facts))

    def _tried(
        self, stage: str, group: Group, config: Any, count: int, advance: Callable[[int], None] = lambda _: None
    ) -> None:
        if group.has(config, count, stage):
            advance(1)
            return
        facts, drift = self.facts[:count], stage == LAST
        row = self._work("edit", config, facts, lambda: self.worker.edit(config, facts, drift=drift), drift)
        self._edit = _recent(self._edit, row["seconds"], count)
        group.trials.append(Trial(stage, config, count, row, self._told(group), row.get("mark", "")))
        self.trials.append(group.trials[-1])
        advance(1)

    def _told(self, group: Group) -> Row:
        return {
            "nll": group.mean("nll"),
            "short_nll": group.mean("short_nll"),
            "seconds": sum(r["seconds"] for r in group.values),
        }

    def _work(self, what: str, config: Any, facts: Sequence[Fact], work: Callable[[], Row], more: Any = None) -> Row:
        """A piece of work, now or by an earlier run; its time counts either way."""
        key = value_key(config, self.candidates.space) if what == "values" else [type(config).__name__, asdict(config)]
        return self._kept(what, [key, more], facts, work)

    def _kept(self, what: str, depends_on: Any, facts: Sequence[Fact], work: Callable[[], Row]) -> Row:
        row = self.folder.keep(what, [depends_on, facts_digest(facts)], work)
        self.spent += row["seconds"]
        return row

    def _costs(self) -> Costs:
        value, edit = self._value, self._edit
        return Costs(value[0] / max(1, value[1]), edit[0] / max(1, edit[1]))


@dataclass(frozen=True)
class Chosen:
    """The best trial, and what it gives on `count` held-out facts, beside the base and the unedited model."""

    trial: Trial
    held: Trial
    base: Trial
    unedited: Row
    count: int


_STAGES = {"first": "depths", "varied": "variations", "rung": "the better half"}


def _recent(before: tuple[float, int], seconds: float, facts: int) -> tuple[float, int]:
    """Running sums that forget: what was measured last, with most facts, tells best what the next will take."""
    return before[0] / 2 + seconds, before[1] // 2 + facts
