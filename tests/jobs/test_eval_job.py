"""The evaluation job as a library: its numbers are those of measure, drift and generations; nothing is done twice."""

import json
from dataclasses import replace

import pytest
import torch
from pyarrow import parquet

import errata
from errata import Fact, Neighbour, Patch, evaluate_patch, measure
from errata.core.updates import WeightUpdate
from errata.errors import ConfigError, CorpusError, FactsError, PatchError, PatchMismatchError
from errata.evaluate import METRICS, changes, metric
from errata.evaluate.drift import Drift
from errata.evaluate.generation import GenerationConfig, generate, generation_entropy
from errata.evaluate.references import References
from errata.facts import FactFile
from errata.jobs import eval_states
from errata.jobs.held_out import held_out
from errata.models import Place, weight_of
from errata.patches import patches_on, provenance
from errata.reports.evaluation_report import evaluation_text, metrics_with_intervals, report, save_evaluation
from errata.stats import Corpus
from tiny import VARIANTS, fresh_model

SUBJECTS = ["France", "Paris", "Toyota", "Microsoft", "Rome"]
FACTS = tuple(
    Fact(
        subject=subject,
        prompt="{} is in",
        target_new="New York",
        target_true=true,
        relation="P1",
        paraphrases=("I know that {} is", "{}, of course, is in")[: i % 3],
        neighbours=tuple(Neighbour(prompt=f"Not {subject}: {j} is in", answer=answer) for j, answer in enumerate(ends)),
        generation_prompts=("The people of {}", "{}")[: i % 2 * 2],
    )
    for i, (subject, true, ends) in enumerate(
        zip(SUBJECTS, ["Japan", None, "Rome", "New", "Italy"], [("Rome", None), (), ("I",), ("you",), ()], strict=True)
    )
)
CORPUS = Corpus.from_texts([f"Tower {i} is in Paris, the capital of France." for i in range(30)])
CONFIG = GenerationConfig(tokens=20, seed=3)
REFERENCES = References({("P1", "New York"): ("The people of New York say that it is in the city.",)})


def patch_of(lm, size=0.1, facts=FACTS):
    generator = torch.Generator().manual_seed(0)
    d_in, d_out = weight_of(lm, Place(1, "down")).shape
    update = WeightUpdate(
        left=size * torch.randn(3, d_in, generator=generator), right=torch.randn(3, d_out, generator=generator)
    )
    return Patch({"method": "test", **provenance(lm), "config": {}}, facts, {Place(1, "down"): update})


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr("errata.jobs.eval_job.chunks_of", lambda facts: eval_states.chunks_of(facts, 2))


@pytest.mark.parametrize("variant", VARIANTS)
def test_its_numbers_are_those_of_its_parts(variant, tmp_path, small_chunks):  # noqa: ARG001
    lm = fresh_model(variant)
    patch, bits = patch_of(lm), lm.digest(fresh=True)
    found = evaluate_patch(
        lm, patch, generation=CONFIG, references=REFERENCES, corpus=CORPUS, text_tokens=120, cache=tmp_path
    )
    assert lm.digest(fresh=True) == bits
    drift = Drift(lm, held_out(lm, corpus=CORPUS, tokens=120).rows())
    before, texts = measure(lm, FACTS), generate(lm, FACTS, CONFIG)
    with patch.applied(lm):
        after, far, texts_after = measure(lm, FACTS), drift.measure(), generate(lm, FACTS, CONFIG)
    one, other = found.metrics()
    for key in before.metrics():
        for mine, expected in ((one, before), (other, after)):
            assert mine[key].value == pytest.approx(expected.metrics()[key].value, rel=1e-4, abs=1e-4), key
            assert mine[key].count == expected.metrics()[key].count
    expected = changes(before, after)
    assert found.changes == expected
    assert found.drift == far
    for mine, made in ((one, texts), (other, texts_after)):
        assert mine["ge"] == metric(generation_entropy(text) for text in made)
        scores = [REFERENCES.score(fact, text) for fact, text in zip(FACTS, made, strict=True)]
        assert mine["rs"] == metric(score for score in scores if score is not None)
    assert set(other) == {info.key for info in METRICS}
    assert far.kl_drift.value > 0


def test_rows_hold_every_prompt(tmp_path, small_chunks):  # noqa: ARG001
    lm = fresh_model("gpt2")
    patch = patch_of(lm)
    found = evaluate_patch(lm, patch, FACTS, text_tokens=0, generation=CONFIG, cache=tmp_path / "cache")
    out = save_evaluation(found, tmp_path / "out", overwrite=False)
    rows = parquet.read_table(out / "results.parquet").to_pylist()
    assert parquet.ParquetFile(out / "results.parquet").num_row_groups == 3, "chunks of two facts, one at a time"
    before = measure(lm, FACTS)
    with patch.applied(lm):
        after = measure(lm, FACTS)
    at = 0
    for fact, *scores in zip(FACTS, before.facts, after.facts, strict=True):
        for kind in ("prompt", "paraphrases", "neighbours"):
            pairs = [[getattr(s, kind)] if kind == "prompt" else getattr(s, kind) for s in scores]
            for number, states in enumerate(zip(*pairs, strict=True), 1):
                row, at = rows[at], at + 1
                assert (row["id"], row["relation"], row["number"]) == (fact.id, "P1", number)
                assert row["kind"] == kind.removesuffix("s")
                assert (row["prompt"], row["target_new"]) == (states[0].text, "New York")
                for name, score in zip(("before", "after"), states, strict=True):
                    assert row[f"{name}_nll_new"] == pytest.approx(score.new.nll, rel=1e-4)
                    assert row[f"{name}_right_new"] == score.new.right
                    assert row["tokens_new"] == score.new.tokens
                    assert row[f"{name}_first_id"] == score.first
                    assert row[f"{name}_first"] == lm.tokenizer.decode([5, score.first]).removeprefix(
                        lm.tokenizer.decode([5])
                    ) or "�" in lm.tokenizer.decode([score.first])
                    if score.true is None:
                        assert row["target_true"] is row[f"{name}_nll_true"] is row[f"{name}_success"] is None
                    else:
                        assert row["target_true"] == score.true.target
                        assert row[f"{name}_nll_true"] == pytest.approx(score.true.nll, rel=1e-4)
                        wins = score.new.nll < score.true.nll
                        assert row[f"{name}_success"] == (not wins if kind == "neighbours" else wins)
    assert at == len(rows)
    texts = parquet.read_table(out / "generations.parquet").to_pylist()
    made = [text for fact_texts in generate(lm, FACTS, CONFIG) for text in fact_texts]
    assert [row["before_text"] for row in texts] == made
    assert [row["number"] for row in texts] == [1, 1, 2, 1, 1, 2, 1]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary == json.loads(json.dumps(report(found)))
    assert summary["before"]["generation"]["ge"]["value"] == found.before.generation["ge"].value
    assert (out / "summary.md").read_text(encoding="utf-8") == evaluation_text(found) + "\n"


def test_nothing_is_measured_twice(tmp_path, small_chunks, monkeypatch):  # noqa: ARG001
    lm = fresh_model("llama")
    patch = patch_of(lm)
    first = evaluate_patch(lm, patch, generation=CONFIG, text_tokens=60, cache=tmp_path)
    measured, real = [], eval_states.measured_rows
    monkeypatch.setattr(eval_states, "measured_rows", lambda lm, facts: measured.append(len(facts)) or real(lm, facts))
    monkeypatch.setattr(eval_states, "generate", lambda *_, **__: pytest.fail("generated"))
    with monkeypatch.context() as patched:
        patched.setattr("errata.jobs.eval_job.Drift", lambda *_: pytest.fail("drift"))
        again = evaluate_patch(lm, patch, generation=CONFIG, text_tokens=60, cache=tmp_path)
    assert measured == []
    assert again.metrics() == first.metrics()
    # Another patch of the same model: only the patched state is new. More facts: the chunks that there are stay.
    evaluate_patch(lm, patch_of(lm, 0.2), text_tokens=0, cache=tmp_path)
    assert measured == [2, 2, 1]
    evaluate_patch(
        lm, patch, [*FACTS, Fact(subject="I", prompt="I am", target_new="here")], text_tokens=0, cache=tmp_path
    )
    assert measured == [2, 2, 1, 2, 2]
    other = fresh_model("llama", seed=5)
    evaluate_patch(other, patch_of(other), text_tokens=0, cache=tmp_path)
    assert measured[5:] == [2, 2, 1, 2, 2, 1]


def test_a_damaged_part_is_made_again(tmp_path, small_chunks):  # noqa: ARG001
    class Sink:
        notes: tuple[str, ...] = ()

        def note(self, text):
            self.notes += (text,)

        stage = staticmethod(errata.core.progress.SILENT.stage)

    lm, sink = fresh_model("llama"), Sink()
    first = evaluate_patch(lm, patch_of(lm), text_tokens=60, cache=tmp_path)
    files = sorted(tmp_path.rglob("*.parquet"))
    assert len(files) == 6
    data = files[0].read_bytes()
    files[0].write_bytes(data[:-20])
    middle = len(data) // 3
    files[1].write_bytes(files[1].read_bytes()[:middle] + b"\0\0\0\0" + files[1].read_bytes()[middle + 4 :])
    files[2].write_bytes(files[3].read_bytes())  # whole, but another one's
    (drift,) = tmp_path.rglob("*.json")
    drift.write_text(drift.read_text().replace("1", "2"))
    again = evaluate_patch(lm, patch_of(lm), text_tokens=60, cache=tmp_path, progress=sink)
    assert again.metrics() == first.metrics()
    assert sum("is damaged; it is made again" in note for note in sink.notes) == 3


def test_ctrl_c_leaves_the_model_as_it_was(tmp_path, small_chunks, monkeypatch):  # noqa: ARG001
    lm = fresh_model("llama")
    bits, calls, real = lm.digest(), [], eval_states.measured_rows

    def stopped(lm, facts):
        calls.append(lm.digest() == bits)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(lm, facts)

    monkeypatch.setattr(eval_states, "measured_rows", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate_patch(lm, patch_of(lm), text_tokens=0, cache=tmp_path)
    assert calls == [True, True, True, False, False]
    assert (lm.digest(fresh=True), len(patches_on(lm))) == (bits, 0)
    found = evaluate_patch(lm, patch_of(lm), text_tokens=0, cache=tmp_path)
    assert len(calls) == 7
    monkeypatch.undo()
    whole = evaluate_patch(lm, patch_of(lm), text_tokens=0, cache=tmp_path / "other")
    assert found.metrics()[0]["es"] == whole.metrics()[0]["es"]


def test_progress_counts_facts(tmp_path, small_chunks):  # noqa: ARG001
    from contextlib import contextmanager

    class Sink:
        def __init__(self):
            self.stages = {}

        @contextmanager
        def stage(self, what, total, unit, *, done=0):
            self.stages[what] = [total, unit, done]
            yield lambda amount: self.stages[what].__setitem__(2, self.stages[what][2] + amount)

        def note(self, text): ...

    lm, sink = fresh_model("llama"), Sink()
    evaluate_patch(lm, patch_of(lm), generation=CONFIG, text_tokens=60, cache=tmp_path, progress=sink)
    facts = {
        f"{what} {state}": [5, "facts", 5] for what in ("evaluation", "generation") for state in ("before", "after")
    }
    texts = {f"held-out text {state}": [1, "texts", 1] for state in ("before", "after")}
    assert sink.stages == facts | texts


def test_bad_input_before_any_work(tmp_path, monkeypatch):
    lm = fresh_model("llama")
    patch = patch_of(lm)
    monkeypatch.setattr(eval_states, "measured_rows", lambda *_: pytest.fail("measured"))
    long = Fact(subject="Rome", prompt="Rome is " + "very " * 300 + "in", target_new="Peru", id="long")
    with pytest.raises(FactsError, match=r"1 of 6 facts cannot be measured(.|\n)*line 9 \[long\]"):
        evaluate_patch(lm, patch, FactFile((*FACTS, long), (), places={"long": "line 9"}), cache=tmp_path)
    wide = replace(FACTS[0], generation_prompts=("very " * 30,), id="wide")
    with pytest.raises(FactsError, match=r"\[wide\].* generation prompt 1 has \d+ tokens"):
        evaluate_patch(lm, patch, [wide], generation=CONFIG, cache=tmp_path)
    with pytest.raises(FactsError, match="no fact to measure"):
        evaluate_patch(lm, patch_of(lm, facts=()), cache=tmp_path)
    with pytest.raises(CorpusError, match=r"holds [\d,]+ tokens, 90,000 of held-out text were asked for"):
        evaluate_patch(lm, patch, corpus=CORPUS, text_tokens=90_000, cache=tmp_path)
    with pytest.raises(ConfigError, match="--generate"):
        evaluate_patch(lm, patch, references=REFERENCES, cache=tmp_path)
    for wrong in ({"text_tokens": 1}, {"text_tokens": -1}, {"seed": -1}):
        with pytest.raises(ConfigError, match="at least 2"):
            evaluate_patch(lm, patch, cache=tmp_path, **wrong)
    with pytest.raises(PatchMismatchError, match="was made on"):
        evaluate_patch(fresh_model("llama", seed=3), patch, cache=tmp_path)
    with patch.applied(lm), pytest.raises(PatchError, match="already on"):
        evaluate_patch(lm, patch, cache=tmp_path)


@pytest.mark.parametrize(
    ("options", "seeds"),
    [
        ({"text_tokens": 20, "seed": 7, "generation": CONFIG}, (7, 3)),
        ({"text_tokens": 20, "seed": 7}, (7, None)),
        ({"text_tokens": 20, "seed": 7, "corpus": CORPUS, "generation": CONFIG}, (None, 3)),
        ({"text_tokens": 0, "seed": 7, "generation": CONFIG}, (None, 3)),
    ],
)
def test_the_report_holds_every_seed_that_had_a_part(tmp_path, options, seeds):
    lm = fresh_model("llama")
    found = evaluate_patch(lm, patch_of(lm), cache=tmp_path, **options)
    held_out_seed, generation = (report(found)[name] for name in ("held_out_seed", "generation"))
    assert (held_out_seed, generation and generation["seed"]) == seeds
    assert ("(seed 7)" in evaluation_text(found)) == (seeds[0] == 7)
    assert (", seed 3." in evaluation_text(found)) == (seeds[1] == 3)


def test_unusable_facts_are_left_out_on_demand(tmp_path):
    lm = fresh_model("llama")
    long = Fact(subject="Rome", prompt="Rome is " + "very " * 300 + "in", target_new="Peru", id="long")
    found = evaluate_patch(lm, patch_of(lm), [long, *FACTS], text_tokens=0, skip_bad=True, cache=tmp_path)
    assert found.info["facts"] == 5
    assert "long" in found.info["skipped"][0]
    assert "Skipped: 1 problem\n" in evaluation_text(found)


def test_lower_precision(tmp_path):
    lm = fresh_model("llama", dtype=torch.bfloat16)
    found = evaluate_patch(lm, patch_of(lm), corpus=CORPUS, text_tokens=60, cache=tmp_path)
    assert found.drift.kl_drift.value > 0
    assert found.info["model"]["dtype"] == "bfloat16"


def test_a_table_has_what_was_measured():
    before, after = (
        {"es": metric([0, 1, 1])},
        {"es": metric([1]), "kl_drift": metric([0.001], scale=1.0), "ps": metric([])},
    )
    lines = metrics_with_intervals(before, after).splitlines()
    assert len(lines) == 4
    assert [cell.strip() for cell in lines[2].split("|")[1:6]] == ["ES", "%", "66.7 ± 65.3", "100.0", "1"]
    assert [cell.strip() for cell in lines[3].split("|")[1:7]] == ["KL drift", "nat", "", "0.00100", "1", "lower"]


def test_on_the_real_model(smollm2, tmp_path):
    facts = FACTS[:2]
    patch = patch_of(smollm2, 0.02, facts)
    found = evaluate_patch(smollm2, patch, generation=GenerationConfig(tokens=12), text_tokens=40, cache=tmp_path)
    before, after = found.metrics()
    assert before["es"].value == measure(smollm2, facts).summary.es.value
    assert 1 < before["perplexity"].value < after["perplexity"].value
    assert found.drift.positions == 40 - found.drift.documents
    assert "KL drift" in evaluation_text(found)


def test_text_that_the_edit_was_told_to_leave_alone_is_no_held_out_text(tmp_path):
    lm = fresh_model("llama")
    patch = patch_of(lm)
    patch = Patch({**patch.info, "second_moments": {"source": CORPUS.name}}, patch.facts, patch.updates)
    found = evaluate_patch(lm, patch, corpus=CORPUS, text_tokens=40, cache=tmp_path)
    assert "says little about other text" in evaluation_text(found)
    assert report(found)["warnings"]
    other = evaluate_patch(
        lm, patch, corpus=Corpus.from_texts(["I am."] * 40, name="b"), text_tokens=40, cache=tmp_path
    )
    assert report(other)["warnings"] == []
