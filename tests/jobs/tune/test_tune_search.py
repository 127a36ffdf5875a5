"""The search on a made-up model with a clock of its own: budgets, choices, what falls out, going on after a kill."""

from dataclasses import dataclass, field

import pytest

from errata.core.progress import SILENT
from errata.errors import ConfigError, NumericsError
from errata.jobs.tune.candidates import candidates
from errata.jobs.tune.search import Search
from errata.jobs.tune.trials import Trial, objective_name, objective_of, told
from errata.jobs.tune.tune_folder import TuneFolder
from errata.jobs.tune.tune_options import TuneOptions
from errata.reports.tune_report import _warnings
from tiny import tiny_model

BEST = {"last": 1, "clamp": 2.0, "prior_weight": 12.0}


def score(config, facts):
    """Best at BEST; the strength counts only where there are many facts, and then the smaller the further off."""
    away = 3 * abs(config.layers[-1] - BEST["last"]) + abs(config.clamp - BEST["clamp"])
    if facts >= 12:
        away += 10 * abs(config.prior_weight / BEST["prior_weight"] - 1) / (1 + config.prior_weight)
    return max(1.0, 90 - 4 * away)


@dataclass
class FakeWorker:
    """`calls` is what was asked of it; the seconds are its own. die_at: a Ctrl-C in that call."""

    value: float = 1.0
    edit_seconds: float = 0.25
    slower: float = 1.0
    weak_layers: tuple[int, ...] = ()
    broken: bool = False
    die_at: int | None = None
    calls: list = field(default_factory=list)

    def _call(self, *what):
        self.calls.append(what)
        if len(self.calls) == self.die_at:
            raise KeyboardInterrupt

    def values(self, config, facts):
        self._call("values", config, len(facts))
        factor = self.slower if len(self.calls) > 20 else 1.0
        nll = 4.0 if config.layers[-1] in self.weak_layers else 0.1
        return {"seconds": factor * self.value * len(facts), "nll": 0.05, "short_nll": nll}

    def edit(self, config, facts, *, drift):
        self._call("edit", config, len(facts))
        seconds = self.edit_seconds * len(facts)
        if self.broken:
            return {"seconds": seconds, "mark": "failed: not finite"}
        found = score(config, len(facts))
        metrics = {key: [found, 1.0, len(facts)] for key in ("score", "es", "ps", "ns", "accuracy")}
        if drift:
            metrics["kl_drift"] = [config.passes / 10, None, 1]
        return {"seconds": seconds, "metrics": metrics, "relative_norm": 1 / config.prior_weight, "landed": 0.9}

    def unedited(self, facts):
        self._call("unedited", None, len(facts))
        return {"seconds": 0.1, "metrics": {}}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Hundreds of small files a search: whether they outlive a power cut is not what is tested here."""
    monkeypatch.setattr("errata.store.atomic.os.fsync", lambda _: None)


@pytest.fixture
def search(facts, tmp_path):
    def make(worker, minutes=10.0, out="out", method="memit", proposals=(), **fields):
        options = TuneOptions(method=method, minutes=minutes, count=12, fields=fields)
        found = candidates(tiny_model("llama"), options, 12, proposals)
        folder = TuneFolder(tmp_path / out, "model", f"{minutes} {fields} {worker.value}")
        return Search(worker, folder, found, facts[:12], facts[12:], 60 * minutes, SILENT)

    return make


def test_finds_what_is_best_and_compares_it_on_facts_it_never_saw(search):
    worker = FakeWorker()
    one = search(worker)
    found = one.run()
    config = found.trial.config
    assert (config.layers[-1], config.clamp) == (1, 2.0)
    assert abs(found.trial.objective - 90) < 3
    assert found.held.objective > found.base.objective
    assert found.base.config == one.candidates.base
    assert found.count == 12
    assert worker.calls[-1] == ("unedited", None, 12)
    assert config.passes <= one.candidates.base.passes  # of equally good ones, the one that drifts less
    assert one.candidates.base in [trial.config for trial in one.trials if trial.stage == "last"]
    assert all(trial.facts == 12 for trial in one.trials if trial.stage == "last")


@pytest.mark.parametrize("minutes", [2.0, 3.0, 10.0])
def test_keeps_within_the_budget_and_uses_it(search, minutes):
    one = search(FakeWorker(), minutes)
    one.run()
    assert one.spent <= 60 * minutes
    assert any(trial.stage == "last" for trial in one.trials)


def test_more_time_is_used_for_more(search):
    counts = []
    for minutes in (2.0, 3.0, 6.0):
        one = search(FakeWorker(), minutes, f"out{minutes}")
        one.run()
        counts.append(len(one.trials))
    assert counts[0] < counts[1] < counts[2]


def test_a_machine_that_becomes_slower_makes_it_plan_anew(search):
    one = search(FakeWorker(slower=1.6), 6.0)
    one.run()
    assert one.spent <= 1.1 * 360


def test_a_budget_that_is_too_small_names_the_least_that_would_do(search):
    worker = FakeWorker()
    with pytest.raises(ConfigError, match=r"least that would do is ([\d.]+) minutes") as caught:
        search(worker, 0.3).run()
    assert len(worker.calls) == 2  # before long work: one batch of values, one edit
    least = float(str(caught.value).partition("do is ")[2].split()[0])
    search(FakeWorker(), least, "enough").run()


def test_values_are_made_once_for_all_settings_that_share_them(search):
    worker = FakeWorker()
    search(worker).run()
    made = {}
    for what, config, count in worker.calls:
        if what == "values":
            key = (config.layers[-1], config.clamp, config.learning_rate, config.value_steps)
            made[key] = made.get(key, 0) + count
    # At most those tuned on and those held out.
    assert max(made.values()) <= 24
    assert sum(what == "edit" for what, *_ in worker.calls) > 2 * len(made)


def test_target_values_that_do_not_hold_fall_out_before_any_edit(search):
    worker = FakeWorker(weak_layers=(0,))
    one = search(worker)
    one.run()
    assert not [config for what, config, _ in worker.calls if what == "edit" and config.layers[-1] == 0]
    assert [trial.out for trial in one.trials if trial.config.layers[-1] == 0 and "do not hold: 4.00 nat" in trial.out]


def test_where_all_are_weak_the_best_go_on(search):
    one = search(FakeWorker(weak_layers=(0, 1, 2, 3)))
    assert one.run().trial.objective > 0


def test_edits_that_all_fail_are_an_error(search):
    with pytest.raises(NumericsError, match="failed: not finite"):
        search(FakeWorker(broken=True)).run()


@pytest.mark.parametrize("die_at", [1, 9, 30])
def test_killed_and_started_again_it_makes_the_same_choice(search, die_at):
    whole = FakeWorker()
    expected = search(whole, 5.0, "whole").run()
    dying = FakeWorker(die_at=die_at)
    with pytest.raises(KeyboardInterrupt):
        search(dying, 5.0, "stopped").run()
    again = FakeWorker()
    one = search(again, 5.0, "stopped")
    found = one.run()
    assert found.trial.config == expected.trial.config
    # Nothing twice, nothing left out.
    assert dying.calls[:-1] + again.calls == whole.calls


def test_a_finished_one_does_nothing_again_whatever_the_clock_says(search):
    first = search(FakeWorker(), 5.0)
    expected = first.run()
    worker = FakeWorker(edit_seconds=99.0)
    one = search(worker, 5.0)
    assert one.run().trial.config == expected.trial.config
    assert worker.calls == []
    assert [(t.stage, t.config, t.out) for t in one.trials] == [(t.stage, t.config, t.out) for t in first.trials]


def test_fields_that_the_user_holds_are_not_varied(search):
    worker = FakeWorker()
    search(worker, clamp=0.5, prior_weight=7.0).run()
    configs = [config for what, config, _ in worker.calls if what == "edit"]
    assert {config.clamp for config in configs} == {0.5}
    assert {config.prior_weight for config in configs} == {7.0}
    assert len({config.layers for config in configs}) > 3


def test_proposals_are_tried_first_and_bad_ones_are_refused(search):
    one = search(FakeWorker(), proposals=[(0, 2), (1,)])
    lasts = [config.layers for config in one.candidates.groups]
    assert (1,) in lasts
    assert (0, 2) in one.candidates.ranges[2]
    with pytest.raises(ConfigError, match="4 layers"):
        search(FakeWorker(), proposals=[(1, 9)])


@pytest.mark.parametrize("method", ["memit", "alphaedit", "emmet", "pmet", "ft", "ft-l"])
def test_every_method_of_the_table_has_candidates(method):
    found = candidates(tiny_model("gpt2"), TuneOptions(method=method, count=12), 12, ())
    assert len(found.groups) >= 3
    assert found.groups[0] == found.base
    assert found.variations(found.base)
    # Nothing is written at the last layer, where it could reach no later token (fine-tuning may).
    if method not in ("ft", "ft-l"):
        assert max(found.layers) == 2
        strengths = [getattr(one, found.space.strength) for one in found.bracket(found.base)]
        assert max(strengths) / min(strengths) == pytest.approx(900, rel=0.05)
    for changed in found.refined(found.base):
        assert found.base not in changed


def test_emmet_begins_with_the_strength_that_memit_calls_lambda():
    lm = tiny_model("llama")
    memit, emmet = (candidates(lm, TuneOptions(method=m, count=12), 12, ()).base for m in ("memit", "emmet"))
    assert emmet.softness * emmet.moment_scale == memit.prior_weight


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "rome"}, "What to try of rome is not known"),
        ({"method": "mimet"}, "Unknown method"),
        ({"minutes": 0.0}, "--budget"),
        ({"minutes": float("nan")}, "--budget"),
        ({"count": 3}, "at least 4"),
        ({"first": -1}, "first"),
        ({"fields": {"layers": (1,)}}, "--layers"),
        ({"fields": {"clamp": -1.0}}, "clamp"),
        ({"layers": ((3, 2),)}, "ascending"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        TuneOptions(**options)


def test_what_is_maximised_is_named_for_what_it_is():
    def metrics(**known):
        return {key: [known.get(key), None, 4] for key in ("es", "ps", "ns", "accuracy")}

    whole, part, none = metrics(es=90.0, ps=80.0, ns=70.0), metrics(es=90.0, ps=80.0), metrics(accuracy=55.0)
    names = [objective_name({"metrics": one}) for one in (whole, part, none)]
    assert names == ["Score", "harmonic mean of ES and PS", "accuracy"]
    assert objective_of(none) == 55.0
    assert told(Trial("held out", None, 4, {"metrics": none}, {})) == "55.0"
    failed = Trial("held out", None, 4, {"mark": "failed: not finite"}, {}, "failed: not finite")
    assert told(failed) == "failed (failed: not finite)"
    assert objective_name(failed.found) == "Score"


def test_good_values_whose_edit_does_not_hold_are_warned_of_with_and_without_true_answers():
    config = candidates(tiny_model("llama"), TuneOptions(), 12, []).base
    for es, accuracy, word in ((40.0, 90.0, "yet ES 40"), (None, 30.0, "yet accuracy 30"), (95.0, 30.0, "")):
        found = {"metrics": {"es": [es, None, 4], "accuracy": [accuracy, None, 4]}, "landed": 0.9}
        text = _warnings([Trial("rung", config, 4, found, {"short_nll": 0.04})])
        assert word in text
        assert bool(text) == bool(word)
