"""Ranges of layers that tracing proposes to a tuning."""

import io
from dataclasses import replace

import torch

from errata.core.progress import SILENT
from errata.facts import Fact
from errata.jobs.terminal_progress import LineProgress
from errata.jobs.trace_job import trace_facts
from errata.jobs.tune.proposals import traced_ranges
from errata.jobs.tune.tune_job import tune
from errata.jobs.tune.tune_options import TuneOptions
from errata.reports.tune_report import write_tuning
from errata.tracing import propose_layers
from tiny import tiny_model


def known(lm, facts):
    """The facts with the model's own next token as what they say."""
    found = []
    for fact in facts:
        ids = torch.tensor([lm.tokenizer(fact.text)["input_ids"]])
        with torch.no_grad():
            token = int(lm.hf(input_ids=ids).logits[0, -1].argmax())
        answer = lm.tokenizer.decode([token])
        if answer.startswith(" ") and answer.strip():
            found.append(replace(fact, target_true=answer.strip()))
    return found


def test_the_best_range_of_each_last_layer_from_known_facts_alone(facts, tmp_path):
    lm = tiny_model("llama")
    true = known(lm, facts)
    assert len(true) >= 3
    found = traced_ranges(lm, [*facts, *true], tmp_path / "one", most=3, seed=1, progress=SILENT)
    chosen = true[:3]
    average = trace_facts(lm, chosen, out=tmp_path / "two", kinds=("hidden",), tokens="last subject", samples=5, seed=1)
    expected = propose_layers(average)
    assert found[0] == expected[0]
    assert all(one in expected for one in found)
    assert len({one.last for one in found}) == len(found) <= 3


def test_a_model_that_knows_nothing_and_subjects_that_end_their_prompts(facts, tmp_path):
    stream = io.StringIO()
    told = LineProgress(stream)
    lm = tiny_model("llama")
    unknown = [replace(fact, target_true="Danielle Darrieux") for fact in facts]
    assert traced_ranges(lm, unknown, tmp_path, most=3, seed=0, progress=told) == []
    ending = known(lm, [Fact(subject=one, prompt="I like {}", target_new="China") for one in ("Paris", "Rome")])
    if ending:
        assert traced_ranges(lm, ending, tmp_path, most=3, seed=0, progress=told) == []
    assert "tracing cannot propose layers" in stream.getvalue()


def test_a_tuning_begins_with_what_tracing_proposes(facts, tmp_path, corpus):
    lm = tiny_model("llama")
    true = {fact.id: fact for fact in known(lm, facts)}
    given = [true.get(fact.id, fact) for fact in facts]
    fields = {"moment_tokens": 200, "value_steps": 3, "prefixes": 0}
    options = TuneOptions(count=12, minutes=50.0, fields=fields, text_tokens=0, traced=3)
    result = tune(lm, given, tmp_path / "out", options=options, corpus=corpus)
    assert "Causal tracing proposed layers" in write_tuning(result)
    assert list((tmp_path / "out" / "traces").rglob("trace-*.json"))
