"""What a function of ours takes as its model: ours, or a transformers model with its tokenizer; else a clear word."""

import inspect

import pytest
import torch

import errata
from errata.models import given_model, takes_model
from errata.models.families.given import expect_wrapped
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
        (None, ["not a NoneType."]),
        (
            torch.nn.DataParallel(tiny_hf("llama")),
            ["not a DataParallel (DataParallel and its kin); hand over the model in it: name_of(it.module, ...)."],
        ),
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


def half_trained():
    """A model in the midst of training: some parts frozen, one in eval mode, the rest as training wants them."""
    hf = tiny_hf("llama").train()
    hf.model.embed_tokens.requires_grad_(False)
    hf.model.layers[1].eval()
    return hf


def flags(hf):
    return [module.training for module in hf.modules()], [weight.requires_grad for weight in hf.parameters()]


def test_a_transformers_model_is_as_it_was_afterwards_also_after_an_error():
    hf = half_trained()
    before, during = flags(hf), []

    @takes_model
    def look(lm, error=None):
        during.append(flags(lm.hf))
        if error:
            raise error

    look(hf, tokenizer=tiny_tokenizer())
    assert flags(hf) == before
    with pytest.raises(KeyError):
        look(lm=hf, tokenizer=tiny_tokenizer(), error=KeyError())
    assert flags(hf) == before
    assert not any(flag for found in during for part in found for flag in part)
    lm = errata.wrap(hf, tiny_tokenizer())
    look(lm)
    assert not hf.training  # wrap is asked to freeze it, and what it made stays so


def test_lenses_that_are_made_one_by_one_freeze_the_model_only_meanwhile():
    hf, asked = half_trained(), (["Toyota builds cars in", "The tower is in"], [" Japan", " Paris"])
    before = flags(hf)
    lenses = errata.backward_lenses(hf, *asked, batch_size=1, tokenizer=tiny_tokenizer())
    expected = errata.backward_lenses(tiny_model("llama"), *asked, batch_size=1)
    for one, other in zip(lenses, expected, strict=True):
        assert flags(hf) == before
        assert torch.equal(one.gradient(1, "down"), other.gradient(1, "down"))
    assert flags(hf) == before


def test_what_was_given_back_works_on_a_model_that_trains_again(tmp_path):
    hf, lm = half_trained(), tiny_model("llama")
    before = flags(hf)
    one = errata.backward_lens(hf, "Toyota builds cars in", " Japan", tokenizer=tiny_tokenizer())
    other = errata.backward_lens(lm, "Toyota builds cars in", " Japan")
    assert one._repr_html_().replace(one.lm.name, lm.name) == other._repr_html_()
    assert torch.equal(one.forward("mlp").top_ids, other.forward("mlp").top_ids)
    assert torch.equal(one.neurons(1).top_overlap, other.neurons(1).top_overlap)
    assert one.neuron_tokens(1, "down", [3]) == other.neuron_tokens(1, "down", [3])
    for place, shift in one.predict_shift("The tower is in").items():
        assert torch.equal(shift, other.predict_shift("The tower is in")[place])
    facts = [{"subject": "Toyota", "prompt": "Toyota builds cars in", "target_new": "China", "ground_truth": "Japan"}]
    options = {"method": "sgd", "layers": (1,), "cache": tmp_path}
    patch = errata.edit_facts(hf, facts, tokenizer=tiny_tokenizer(), **options).patch
    assert patch.id == errata.edit_facts(lm, facts, **options).patch.id
    assert flags(hf) == before
    assert not any(tensor.requires_grad for update in patch.updates.values() for tensor in update.tensors().values())
    with patch.applied(one.lm):
        assert errata.measure(one.lm, facts) != errata.measure(lm, facts)
    patch.save(tmp_path / "patch")
    assert flags(hf) == before
