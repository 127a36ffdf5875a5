"""The benchmark: its figures against single runs of the editing job, resumption, and what goes wrong in one cell."""

import csv
import json
import statistics
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from errata import edit_facts, measure
from errata.core.updates import WeightUpdate
from errata.edit import METHODS, Edit
from errata.errors import ConfigError, FactsError, InputError, NumericsError
from errata.facts import read_facts
from errata.jobs.bench import bench_options as options
from errata.jobs.bench.bench_job import run_bench
from errata.jobs.bench.bench_options import BenchOptions, parse_counts, parse_settings
from errata.models import Place
from errata.reports.bench.bench_report import write_bench
from errata.reports.bench.cell_metrics import figures_of
from tiny import tiny_model
from type_checks import without_type_checks

VALUES = {"value_steps": 4, "prefixes": 1, "clamp": 20.0, "weight_decay": 0.0, "moment_tokens": 200, "retries": 0}
SETTINGS = {
    "memit": {"layers": (1, 2), **VALUES},
    "rome": {"layers": (1,), "short_prefixes": 0, **VALUES},
    "shift": {"layers": (2,), "learning_rate": 0.05},
}
OPTIONS = BenchOptions(methods=("memit", "rome", "shift"), counts=(1, 4), singles=3, settings=SETTINGS, text_tokens=60)


@pytest.fixture
def bench(data, corpus, text, tmp_path):
    def run(out="out", options=OPTIONS, **more):
        sources = {"corpus": corpus, "text": text, **more}
        return run_bench(tiny_model("llama"), data, tmp_path / out, options=options, **sources)

    return run


def summary_of(result):
    """The report of a run, written now."""
    text = write_bench(result)
    assert (result.out / "summary.md").read_text() == text
    return text


def of(method, **changes):
    """The options with one method alone."""
    return replace(OPTIONS, methods=(method,), settings={method: SETTINGS[method]}, **changes)


def counted(method, monkeypatch):
    """The tasks that a method is given from now on."""
    calls, edit = [], METHODS[method].edit
    monkeypatch.setitem(
        METHODS, method, replace(METHODS[method], edit=lambda task: (calls.append(task), edit(task))[1])
    )
    return calls


def by_name(result):
    return {(cell.method, cell.label): one for cell, one in result.cells}


def test_figures_are_those_of_the_editing_job(bench, data, corpus):
    lm, facts = tiny_model("llama"), read_facts(data).facts
    before = lm.digest()
    found = by_name(bench())
    assert lm.digest() == before
    assert list(found) == [
        (m, n) for m in ("unedited", "memit", "rome", "shift") for n in ("3 single edits", "4 edits")
    ]
    unedited = measure(lm, facts[:4]).summary
    assert figures_of(found["unedited", "4 edits"])["ps"].value == unedited.ps.value
    assert found["unedited", "4 edits"].extras["kl_drift"][0] == 0
    for method, settings in SETTINGS.items():
        together = edit_facts(lm, facts[:4], method=method, corpus=corpus, **settings)
        assert together.after is not None
        ours = figures_of(found[method, "4 edits"])
        for key, metric in together.after.summary.metrics().items():
            assert ours[key].value == pytest.approx(metric.value, abs=1e-3), (method, key)
            assert ours[key].count == metric.count
        singles = [edit_facts(lm, [fact], method=method, corpus=corpus, **settings) for fact in facts[:3]]
        ours = figures_of(found[method, "3 single edits"])
        for key in ("es", "em", "ns", "accuracy"):
            values = [getattr(one.after.summary, key).value for one in singles if one.after]
            assert ours[key].value == pytest.approx(statistics.fmean(values), abs=1e-3), (method, key)
        assert found[method, "4 edits"].extras["kl_drift"][0] > 0
        norms = [layer["relative_norm"] for layer in together.report["layers"]]
        assert found[method, "4 edits"].relative_norm == pytest.approx(max(norms), rel=1e-3)


def test_what_is_written(bench, tmp_path):
    result = bench()
    out = tmp_path / "out"
    text = summary_of(result)
    for part in ("## 3 single edits", "## 4 edits", "Published figures", "GPT-J 6B", "## Settings", "KL drift"):
        assert part in text
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    for name in ("tables/cells.csv", "tables/relations.csv", "figures/scaling_score.pdf",
                 "figures/scaling_ns.png", "figures/relations_es.png", "bench.json"):  # fmt: skip
        assert name in names
    cells = list(csv.DictReader((out / "tables" / "cells.csv").open()))
    assert [(row["method"], row["facts"]) for row in cells][:2] == [
        ("unedited", "3 single edits"),
        ("memit", "3 single edits"),
    ]
    prompts = pq.read_table(out / "prompts").to_pylist()
    assert len(prompts) == 4 * (3 + 4) * 3  # methods × facts × (prompt, paraphrase, neighbour)
    assert len(list((out / "prompts").iterdir())) == 4 * 2
    assert {"before_nll_new", "after_nll_new", "after_first", "kind", "relation"} <= set(prompts[0])
    assert {row["relation"] for row in prompts} == {"{} is in", "{} speaks"}
    about = json.loads((out / "bench.json").read_text())
    assert about["settings"]["memit, 4 edits"]["config"]["layers"] == [1, 2]


def test_a_finished_benchmark_is_not_run_again(bench, monkeypatch):
    first = summary_of(bench())
    for name in SETTINGS:
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], edit=lambda _: pytest.fail("edited again")))
    monkeypatch.setattr("errata.jobs.bench.cells.measure", lambda *_, **__: pytest.fail("measured again"))
    assert summary_of(bench()) == first


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_killed_benchmark_goes_on_and_ends_with_the_same_figures(bench, monkeypatch, tmp_path, at):
    whole = by_name(bench("whole", cache=tmp_path / "cache"))  # the killed one finds nothing of it
    calls = []

    def interrupted(task, edit):
        calls.append(task)
        if len(calls) == at:
            raise KeyboardInterrupt
        return edit(task)

    with monkeypatch.context() as patched:
        for name in SETTINGS:
            edit = METHODS[name].edit
            method = replace(METHODS[name], edit=lambda task, edit=edit: interrupted(task, edit))
            patched.setitem(METHODS, name, method)
        with pytest.raises(KeyboardInterrupt):
            bench()
    done_before = len(calls) - 1
    calls.clear()
    for name in SETTINGS:
        edit = METHODS[name].edit
        monkeypatch.setitem(
            METHODS, name, replace(METHODS[name], edit=lambda t, edit=edit: (calls.append(t), edit(t))[1])
        )
    resumed = by_name(bench())
    assert len(calls) == 3 * (3 + 1) - done_before
    for name, result in whole.items():
        assert resumed[name].outcomes == result.outcomes
        assert resumed[name].extras == result.extras


def test_a_damaged_cell_is_run_again(bench, tmp_path):
    first = bench()
    for path in (tmp_path / "out" / "cells").iterdir():
        path.write_text(path.read_text().replace('"mark":""', '"mark":"x"'))
    again = bench()
    assert [one.outcomes for _, one in again.cells] == [one.outcomes for _, one in first.cells]
    assert not any(one.mark for _, one in again.cells)


def test_a_method_that_diverges_is_marked_and_the_rest_go_on(bench, monkeypatch):
    calls = []

    def diverging(task):
        calls.append(task)
        if len(task.facts) == 1 and len(calls) > 1:
            return memit(task)
        raise NumericsError("the loss is not finite")

    memit = METHODS["memit"].edit
    monkeypatch.setitem(METHODS, "memit", replace(METHODS["memit"], edit=diverging))
    nan = Edit({Place(1, "down"): WeightUpdate(dense=torch.full((80, 32), float("nan")))}, {})
    monkeypatch.setitem(METHODS, "rome", replace(METHODS["rome"], edit=lambda _: nan))
    huge = Edit({Place(1, "down"): WeightUpdate(dense=torch.full((80, 32), 1e3))}, {})
    monkeypatch.setitem(METHODS, "shift", replace(METHODS["shift"], edit=lambda _: huge))
    lm = tiny_model("llama")
    before = lm.digest()
    result = bench()
    found = by_name(result)
    assert lm.digest() == before
    assert found["memit", "4 edits"].mark == "diverged: the loss is not finite"
    assert found["memit", "4 edits"].outcomes == []
    assert found["memit", "3 single edits"].mark.startswith("1 of 3 single edits left out")
    assert len(found["memit", "3 single edits"].outcomes) == 2
    assert found["shift", "3 single edits"].mark.startswith(
        "3 of 3 single edits counted all the same; the first exploded"
    )
    assert "down of layer 1" in found["rome", "4 edits"].mark
    assert "exploded" in found["shift", "4 edits"].mark
    assert len(found["shift", "4 edits"].outcomes) == 4
    assert "Marked with *" in summary_of(result)
    assert "diverged: the loss is not finite" in summary_of(result)


def test_texts_for_entropy_and_reference_score(bench):
    from errata.evaluate.references import References

    options = of("shift", counts=(1, 2), text_tokens=0)
    plain = by_name(bench("plain", options=options, text=None))
    assert plain["shift", "2 edits"].extras == {}
    texts = {("{} is in", "China"): ("The Great Wall is in China.",), ("{} speaks", "French"): ("I am",)}
    found = by_name(bench(options=replace(options, generate=True), references=References(texts), text=None))
    for name in (("unedited", "2 edits"), ("shift", "2 edits")):
        assert found[name].extras["ge"][0] > 0
        assert found[name].extras["ge"][2] == 2
        assert 0 <= found[name].extras["rs"][0] <= 100
    assert found["shift", "3 single edits"].extras == {}
    entropy = by_name(bench("ge", options=replace(options, generate=True), text=None))
    assert entropy["shift", "2 edits"].extras["ge"] == found["shift", "2 edits"].extras["ge"]


def test_one_fact_without_target_value_costs_no_other_single_edit(bench, monkeypatch):
    def prepare(_task):
        raise NumericsError("one fact's value is not finite")

    monkeypatch.setitem(METHODS, "memit", replace(METHODS["memit"], prepare=prepare))
    found = by_name(bench(options=of("memit", counts=(1,))))
    assert found["memit", "3 single edits"].mark == ""
    assert len(found["memit", "3 single edits"].outcomes) == 3


def test_more_single_edits_take_those_that_are_done(bench, monkeypatch):
    few = by_name(bench(options=of("memit", counts=(1,), singles=2)))
    calls = []
    counted = replace(
        METHODS["memit"], edit=lambda task, edit=METHODS["memit"].edit: (calls.append(task), edit(task))[1]
    )
    monkeypatch.setitem(METHODS, "memit", counted)
    more = by_name(bench(options=of("memit", counts=(1,), singles=4, in_batches=2)))
    assert len(calls) == 2
    assert more["memit", "4 single edits"].outcomes[:2] == few["memit", "2 single edits"].outcomes


def test_times_count_what_an_earlier_cell_made(bench, monkeypatch):
    known = METHODS["memit"]
    slow = replace(known, edit=lambda task: replace(known.edit(task), kept_seconds=1000.0))
    monkeypatch.setitem(METHODS, "memit", slow)
    found = by_name(bench(options=of("memit", counts=(1, 4))))
    assert 1000 < found["memit", "4 edits"].seconds["edit"] < 1100
    assert 3000 < found["memit", "3 single edits"].seconds["edit"] < 3100


def test_other_settings_of_the_model_are_another_benchmark(bench, monkeypatch):
    bench(options=of("shift", counts=(2,)))
    calls = []
    counted = replace(
        METHODS["shift"], edit=lambda task, edit=METHODS["shift"].edit: (calls.append(task), edit(task))[1]
    )
    monkeypatch.setitem(METHODS, "shift", counted)
    bench(options=of("shift", counts=(2,)))
    assert not calls
    monkeypatch.setattr(tiny_model("llama").hf.config, "rms_norm_eps", 1e-3)
    bench(options=of("shift", counts=(2,)))
    assert len(calls) == 1


def test_text_that_the_second_moments_are_taken_of_is_not_held_out(bench, corpus):
    with pytest.raises(ConfigError, match="leave that very text alone"):
        bench(text=corpus)


def test_mixed_relations_against_their_separate_runs(bench, data):
    options = of("memit", counts=(2, 4), mixed=("{} is in", "{} speaks"))
    result = bench(options=options)
    found = by_name(result)
    facts = read_facts(data).facts
    halves = [[f for f in facts if f.template == name][:2] for name in ("{} is in", "{} speaks")]
    both = found["memit", "4: both"]
    assert [outcome["id"] for outcome in both.outcomes] == [f.id for f in (*halves[0], *halves[1])]
    assert [o["id"] for o in found["memit", "4: second"].outcomes] == [f.id for f in halves[1]]
    assert both.outcomes != [*found["memit", "4: first"].outcomes, *found["memit", "4: second"].outcomes]
    counts = {cell.label: cell.count for cell, _ in result.cells if cell.study == "mixed"}
    assert counts["4: first"] == counts["4: both"] == 4  # the settings of four facts for all three
    assert "## Mixed relations" in summary_of(result)
    with pytest.raises(FactsError, match=r"0 records of that relation, and 2 needed. Try '\{\}"):
        bench("other", options=replace(options, mixed=("{} is in", "{} sings")))


def test_batches_and_one_after_another(bench, tmp_path):
    at_once = by_name(bench(options=of("memit", counts=(4,))))
    run = bench("b", options=of("memit", counts=(4,), in_batches=1))
    result = by_name(run)["memit", "4 edits"]
    text = summary_of(run)
    assert result.outcomes != at_once["memit", "4 edits"].outcomes
    assert [batch["facts"] for batch in result.told["batches"]] == [1] * 4
    assert "es" in result.told["batches"][0]["immediately"]
    rows = list(csv.DictReader((tmp_path / "b" / "tables" / "batches.csv").open()))
    assert [row["count"] for row in rows] == ["1"] * 4
    assert "Right after each batch" in text


def test_the_study_says_when_there_is_too_little(bench):
    text = summary_of(bench(options=replace(OPTIONS, study=True)))
    assert "What predicts failure" in text
    assert "Too few of either outcome" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ()}, "at least one method"), ({"methods": ("memitt",)}, "did you mean 'memit'"),
        ({"methods": ("memit", "memit")}, "twice"), ({"counts": (1, 1)}, "twice"), ({"counts": (0,)}, "--n"),
        ({"dataset": "wiki"}, "Unknown data set"), ({"first": -1}, "first"), ({"singles": 0}, "singles"),
        ({"in_batches": 0}, "in_batches"), ({"text_tokens": -1}, "text_tokens"),
        ({"counts": (1,), "generate": True}, "--generate"), ({"counts": (1,), "mixed": ("a", "b")}, "--mixed"),
        ({"settings": {"ft": {}}}, "ft is not among the methods"),
        ({"settings": {"memit": {"prior_weight": -1.0}}}, "prior_weight must be positive"),
    ],
)  # fmt: skip
def test_bad_options(changes, said):
    plain = {name: getattr(OPTIONS, name) for name in ("methods", "counts")} | changes
    with pytest.raises(ConfigError, match=said):
        without_type_checks(options).BenchOptions(**plain)


def test_options_as_text():
    assert parse_counts("1,10, 100") == (1, 10, 100)
    assert parse_settings(["memit.prior_weight=3", "memit.layers=7-9", "shift.whitened=true"]) == {
        "memit": {"prior_weight": 3.0, "layers": (7, 8, 9)},
        "shift": {"whitened": True},
    }
    for text in ("1,x", "", "1,,2"):
        with pytest.raises(ConfigError, match="1,10,100"):
            parse_counts(text)
    with pytest.raises(ConfigError, match="METHOD"):
        parse_settings(["prior_weight=3"])
    with pytest.raises(ConfigError, match="prior_weight"):
        parse_settings(["memit.prior_wieght=3"])
    with pytest.raises(ConfigError, match="set twice"):
        parse_settings(["memit.prior_weight=3", "memit.prior_weight=4"])


def test_too_few_records_and_folders_that_are_not_ours(bench, tmp_path):
    with pytest.raises(FactsError, match="holds 8 usable facts"):
        bench(options=replace(OPTIONS, counts=(9,)))
    with pytest.raises(FactsError, match="ask for 9"):
        bench(options=replace(OPTIONS, first=5))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="other things"):
        bench("mine")
    assert not (tmp_path / "out").exists()
