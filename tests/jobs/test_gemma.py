"""The opt-in second model: a norm behind every MLP, a stream thirty times SmolLM2's, gains from 0 to 700."""

import pytest
import torch

from errata import Fact, Neighbour, edit_facts
from errata.edit import find_method
from errata.facts import read_facts
from errata.models import contributed, gains, run_layers, to_write

pytestmark = pytest.mark.gemma

RECORDS = 16
FACTS = [
    Fact(
        subject="Eiffel Tower",
        prompt="The Eiffel Tower is in the city of",
        target_new="Rome",
        target_true="Paris",
        neighbours=(Neighbour(prompt="The Brandenburg Gate is in the city of", answer="Berlin"),),
    ),
    Fact(subject="Microsoft", prompt="Microsoft was founded by", target_new="Walt Disney", target_true="Bill Gates"),
]


@pytest.fixture(scope="module")
def gemma():
    """ModelNotFoundError, with the way out and the terms, where its packages are not installed."""
    from errata.models import load

    return load("gemma3-270m")


def test_it_is_loaded_and_knows_something(gemma):
    assert (gemma.family.name, gemma.num_layers, gemma.d_model) == ("gemma3_text", 18, 640)
    ids = gemma.tokenizer("The capital of France is the city of", return_tensors="pt")["input_ids"]
    hidden = run_layers(gemma, ids, torch.ones_like(ids)).hidden
    assert hidden is not None
    assert gemma.tokenizer.decode([int(gemma.logits(hidden[0, -1]).argmax())]) == " Paris"


def test_its_proportions_are_what_the_tests_of_tiny_models_assume(gemma):
    """Raw output : contribution : stream, and gains that no division survives."""
    ids = gemma.tokenizer("The Eiffel Tower", return_tensors="pt")["input_ids"]
    run = run_layers(gemma, ids, torch.ones_like(ids), stop=7, tap_down=[6])
    assert run.hidden is not None
    written = gemma.down(6)(run.down_inputs[6][0, -1:])
    contribution, stream = contributed(gemma, 6, written), run.hidden[0, -1]
    assert 100 < float(contribution.norm() / written.norm()) < 1000
    assert 500 < float(stream.norm() / written.norm()) < 5000
    gain = gains(gemma, 6)
    assert gain is not None
    assert float(gain.max()) > 50 * float(gain.median())
    asked = 0.3 * contribution.roll(1, 1)
    assert bool(to_write(gemma, 6, written, asked).residual.isfinite().all())


def guessed(gemma, **fields):
    """Every field of the guess, so that no preset is taken."""
    return {**vars(find_method("memit").guess(gemma)), **fields}


def test_two_facts_by_guessed_settings(gemma, tmp_path):
    result = edit_facts(gemma, FACTS, cache=tmp_path, **guessed(gemma, moment_tokens=6000))
    assert result.report["guard"]["said"] == len(FACTS)
    assert result.report["failed"] is None
    assert all(layer["relative_norm"] < 1 for layer in result.report["layers"])


def test_sixteen_records_by_guessed_settings(gemma, data_dir, tmp_path):
    """ES ≥ 95, ≥ 90 % said, NS at most 10 lower: the guess was chosen on other records (docs/results.md)."""
    facts = read_facts(data_dir / "counterfact.json").facts[5000 : 5000 + RECORDS]
    corpus = data_dir / "wikipedia_paragraphs.jsonl"
    result = edit_facts(gemma, facts, corpus=corpus, cache=tmp_path, **guessed(gemma))
    before, after = result.report["before"], result.report["after"]
    assert after["es"] >= 95
    assert result.report["guard"]["said"] >= 0.9 * RECORDS
    assert after["ns"] >= before["ns"] - 10
    assert result.report["failed"] is None
