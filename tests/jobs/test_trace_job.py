"""Tracing many facts: what is known, resuming to the same bytes, averages beside single traces, odd files."""

import hashlib
import json
from contextlib import contextmanager

import pytest

from errata.core.progress import SILENT
from errata.errors import FactsError
from errata.facts import Fact
from errata.jobs import trace_job
from errata.jobs.trace_job import TraceRun, trace_facts
from errata.models import wrap
from errata.reports.trace_report import write_traces
from errata.tracing import trace_prompt
from errata.tracing.config import TraceConfig
from errata.tracing.corruption import subject_std
from errata.tracing.prompts import traced_fact
from tiny import knowing_hf, tiny_tokenizer

OPTIONS = {"samples": 2, "window": 2}
TEXTS = [
    ("Eiffel Tower", "I think that the {} is in the city of", "Paris"),
    ("Toyota", "{} builds cars in", "Japan"),
    ("Danielle Darrieux", "{} speaks", "French"),
    ("Great Wall", "You know that the {} is in", "Rome"),
]


@pytest.fixture(scope="module")
def facts():
    """Four facts, the last unknown to the model."""
    return [
        Fact(id=f"f{i}", subject=subject, prompt=prompt, target_new="Peru", target_true=answer)
        for i, (subject, prompt, answer) in enumerate(TEXTS)
    ]


@pytest.fixture(scope="module")
def lm(facts):
    answers = {fact.text: fact.target_true for fact in facts[:3]}
    return wrap(knowing_hf(answers), tiny_tokenizer(), name="tiny-knowing")


def run(lm, facts, out, **options):
    config = TraceConfig(**{**OPTIONS, **options})
    one = TraceRun.of(lm, facts, config, out / "records", {}, False, SILENT)
    return write_traces(out, one.average(SILENT), one.traces())


def digests(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def test_only_known_facts_are_traced_and_the_others_named(lm, facts, tmp_path):
    notes = []

    class Sink(type(SILENT)):
        def note(self, text):
            notes.append(text)

    average = trace_facts(lm, facts, out=tmp_path, progress=Sink(), **OPTIONS)
    assert [one.id for one in average.facts] == ["f0", "f1", "f2"]
    (unknown,) = average.unknown
    assert (unknown.id, unknown.answer) == ("f3", "Rome")
    assert unknown.says != "Rome"
    assert "knows 3 of 4 facts" in notes[0]
    std = subject_std(lm, [traced_fact(lm, fact) for fact in facts])
    assert average.std == std  # of all subjects, known or not
    alone = trace_prompt(lm, traced_fact(lm, facts[1]), average.config, std=std)
    assert average.facts[1].corrupted == alone.corrupted
    assert average.facts[1].effects["hidden", "last"] == tuple(alone.effect("hidden")[:, -1].tolist())


def test_a_run_that_was_killed_goes_on_and_gives_the_same_bytes(lm, facts, tmp_path, monkeypatch):
    run(lm, facts, tmp_path / "whole")
    traced = []

    def killed(lm, one, config, **keywords):
        traced.append(one.text)
        if len(traced) == 2:
            raise KeyboardInterrupt
        return trace_prompt(lm, one, config, **keywords)

    monkeypatch.setattr(trace_job, "trace_prompt", killed)
    with pytest.raises(KeyboardInterrupt):
        run(lm, facts, tmp_path / "killed")
    assert len(list((tmp_path / "killed" / "records").iterdir())) == 1
    run(lm, facts, tmp_path / "killed")
    assert len(traced) == 4  # the first fact was not traced again
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


class Counted(type(SILENT)):
    """Counts what a stage announces and what it advances by."""

    @contextmanager
    def stage(self, what, total, unit, *, done=0):
        assert (what, unit) == ("traces of 3 facts", "positions")
        self.total, self.done, self.steps = total, done, []
        yield self.steps.append


def test_progress_counts_what_takes_the_time(lm, facts, tmp_path):
    """A restoration runs its token and all later ones: of a prompt with n tokens from the subject on, n(n + 1)/2."""
    sink = Counted()
    config = TraceConfig(**OPTIONS)
    whole = [sum(range(1, len(one.ids) - one.first + 1)) for one in (traced_fact(lm, fact) for fact in facts[:3])]
    TraceRun.of(lm, facts, config, tmp_path, {}, False, SILENT).average(sink)
    assert (sink.total, sink.done, sum(sink.steps)) == (sum(whole), 0, sum(whole))
    assert len(sink.steps) == sum(len(one.ids) - one.first for one in (traced_fact(lm, fact) for fact in facts[:3]))
    TraceRun.of(lm, facts, config, tmp_path, {}, False, SILENT).average(sink)
    assert (sink.total, sink.done, sink.steps) == (sum(whole), sum(whole), [])


def test_a_damaged_record_is_made_again(lm, facts, tmp_path):
    run(lm, facts[:1], tmp_path)
    whole = digests(tmp_path)
    (record,) = (tmp_path / "records").iterdir()
    record.write_text(record.read_text()[:-40])
    run(lm, facts[:1], tmp_path)
    assert digests(tmp_path) == whole


def test_what_is_written(lm, facts, tmp_path):
    from pyarrow import parquet

    summary = run(lm, facts, tmp_path)
    assert "| total effect" in summary
    assert "8.7 at layer 15" in summary
    assert "Set aside" in summary
    for name in ("effects", "effects_hidden", "effects_mlp", "last_subject", "attributed_hidden"):
        assert (tmp_path / "figures" / f"{name}.pdf").stat().st_size > 1000
        assert (tmp_path / "figures" / f"{name}.png").exists()
    cells = parquet.read_table(tmp_path / "tables" / "cells.parquet").to_pylist()
    assert {row["fact"] for row in cells} == {"f0", "f1", "f2"}
    segments = parquet.read_table(tmp_path / "tables" / "segments.parquet").to_pylist()
    one = next(r for r in segments if (r["kind"], r["segment"], r["layer"]) == ("hidden", "last", 3))
    own = [r["effect"] for r in cells if r["kind"] == "hidden" and r["layer"] == 3 and r["segment"] == "last"]
    assert one["effect"] == pytest.approx(sum(own) / len(own))
    info = json.loads((tmp_path / "run.json").read_text())
    assert (info["facts_known"], info["facts_unknown"]) == (3, 1)
    assert "Average indirect effect" in (tmp_path / "average.html").read_text()


def test_a_run_with_other_options_leaves_no_figures_of_the_first(lm, facts, tmp_path):
    run(lm, facts, tmp_path / "twice")
    (tmp_path / "twice" / "figures" / "effects of mine.txt").write_text("kept")
    summary = run(lm, facts[:3], tmp_path / "twice", exact=False, kinds=("hidden",))
    run(lm, facts[:3], tmp_path / "once", exact=False, kinds=("hidden",))
    for part in ("figures", "tables"):
        names = [{path.name for path in (tmp_path / out / part).iterdir()} for out in ("twice", "once")]
        assert names[0] - {"effects of mine.txt"} == names[1]
    assert (tmp_path / "twice" / "figures" / "effects of mine.txt").exists()
    assert "largest mean attribution" in summary
    assert "hidden state, last token" in summary


def test_attribution_only(lm, facts, tmp_path):
    summary = run(lm, facts, tmp_path, exact=False)
    assert "total effect" in summary
    assert not (tmp_path / "figures" / "effects.pdf").exists()
    assert (tmp_path / "figures" / "attributed_mlp.pdf").exists()


def test_a_swap_draws_on_the_other_subjects_of_the_run(lm, facts, tmp_path):
    other = Fact(id="s", subject="Tower Eiffel", prompt="The {} is in", target_new="Peru", target_true="Rome")
    average = trace_facts(lm, [*facts, other], out=tmp_path, corruption="swap", **OPTIONS)
    assert "f0" in [one.id for one in average.facts]
    assert any("left out" in note for note in average.notes) == (len(average.facts) < 3)


def test_nothing_known_is_an_error_that_says_what_the_model_says(lm, facts, tmp_path):
    with pytest.raises(FactsError, match=r"knows none of the 1 fact(.|\n)*f3: .* is answered by"):
        trace_facts(lm, facts[3:], out=tmp_path, **OPTIONS)


def test_facts_that_cannot_be_run_are_named_together(lm, facts, tmp_path):
    long = Fact(id="long", subject="Rome", prompt="{} " + "is in " * 200, target_new="Peru", target_true="Paris")
    with pytest.raises(FactsError, match=r"1 of 2 facts(.|\n)*\[long\](.|\n)*tokens long"):
        trace_facts(lm, [facts[0], long], out=tmp_path, **OPTIONS)
    average = trace_facts(lm, [facts[0], long], out=tmp_path, skip_bad=True, **OPTIONS)
    assert [one.id for one in average.facts] == ["f0"]
