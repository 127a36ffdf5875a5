"""What a function of ours takes as its model: ours, or a transformers model with its tokenizer; else a clear word."""

import inspect

import pytest
import torch

import errata
from errata.models import given_model, takes_model
from errata.models.given import expect_wrapped
from tiny import tiny_hf, tiny_model, tiny_tokenizer

# Every public function that works on a model.
TAKING = [
    "edit_facts", "evaluate_patch", "measure", "backward_lens", "backward_lenses", "trace", "trace_facts", "ask",
    "train_mend", "settings_for", "second_moments",
]  # fmt: skip


@takes_model
def name_of(lm, suffix="", *, ending=""):
    return lm.name + suffix + ending


def test_ours_passes_as_it_is():
    lm = tiny_model("llama")
    assert given_model(lm, "ask") is lm
    assert name_of(lm, "a", ending="b") == name_of(lm=lm, suffix="a", ending="b") == lm.name + "ab"


def test_a_transformers_model_is_wrapped():
    hf = tiny_hf("llama").train()
    lm = given_model(hf, "ask", tiny_tokenizer())
    assert (lm.hf, lm.tokenizer) == (hf, tiny_tokenizer())
    assert not hf.training
    assert name_of(hf, tokenizer=tiny_tokenizer()) == name_of(lm=hf, tokenizer=tiny_tokenizer()) == lm.name


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            tiny_hf("llama"),
            ["not a LlamaForCausalLM alone", "errata.wrap(model, tokenizer)", "add tokenizer=tokenizer"],
        ),
        ("smollm2", ["the text 'smollm2': errata.load('smollm2') loads it"]),
        (7, ["errata.load or errata.wrap(model, tokenizer), not an int"]),
        (None, ["not a NoneType"]),
    ],
)
def test_anything_else_is_a_type_error_that_says_what_to_do(model, words):
    with pytest.raises(TypeError) as caught:
        name_of(model)
    assert str(caught.value).startswith("name_of takes a model")
    assert all(part in str(caught.value) for part in words)


def test_a_tokenizer_beside_ours_is_refused():
    with pytest.raises(TypeError, match="has one already; leave it out"):
        name_of(tiny_model("llama"), tokenizer=tiny_tokenizer())


def test_a_patch_needs_a_model_that_keeps_it():
    with pytest.raises(TypeError, match=r"lm = errata.wrap\(model, tokenizer\), then patch.apply_\(lm\)"):
        expect_wrapped(tiny_hf("llama"), "patch.apply_")
    expect_wrapped(tiny_model("llama"), "patch.apply_")


@pytest.mark.parametrize("name", TAKING)
def test_every_function_of_a_model_says_so(name):
    function = getattr(errata, name)
    assert next(iter(inspect.signature(function).parameters)) == "lm"
    with pytest.raises(TypeError, match=rf"^{name} takes a model from errata.load or errata.wrap"):
        function(tiny_hf("llama"))


def test_no_public_function_of_a_model_is_left_out():
    found = {
        name
        for name in errata.__all__
        if inspect.isfunction(function := getattr(errata, name)) and "lm" in inspect.signature(function).parameters
    }
    assert found == set(TAKING)


def test_a_transformers_model_gives_the_same_numbers():
    lm, hf = tiny_model("llama"), tiny_hf("llama")
    facts = [{"subject": "Toyota", "prompt": "Toyota builds cars in", "target_new": "China", "ground_truth": "Japan"}]
    mine, theirs = errata.measure(lm, facts), errata.measure(hf, facts, tokenizer=tiny_tokenizer())
    assert mine.to_json() == theirs.to_json()
    one = errata.backward_lens(hf, "Toyota builds cars in", " Japan", tokenizer=tiny_tokenizer())
    other = errata.backward_lens(lm, "Toyota builds cars in", " Japan")
    assert torch.equal(one.project("down").top_ids, other.project("down").top_ids)
    assert errata.ask(hf, "Toyota builds", tokenizer=tiny_tokenizer()) == errata.ask(lm, "Toyota builds")
