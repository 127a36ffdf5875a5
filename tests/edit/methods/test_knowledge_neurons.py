"""Knowledge Neurons against full forwards, one fact, context and step at a time, on every family; and for real."""

from dataclasses import replace

import pytest
import torch
from edit_helpers import FACTS, REAL_FACTS, relative

from errata import edit_facts
from errata.edit.lookup import settings_for
from errata.edit.methods.knowledge_neurons.knowledge_neurons import KnowledgeNeuronsConfig
from errata.edit.registry import METHODS
from errata.errors import ConfigError
from errata.models import encode_targets, mlp_matrices
from reference import knowledge_neurons as reference
from tiny import LAYERS, VARIANTS, fresh_model, proportioned_model, tiny_model

# One with a true answer of several tokens, others without any; subjects at the start, in the middle and at the end.
ASKED = [
    replace(FACTS[0], target_true="Paris in France", id=""),
    FACTS[1],
    replace(FACTS[3], target_true="Paris", id=""),
]
SETTINGS = {"layers": (0, 2), "steps": 2, "prefixes": 2, "prefix_tokens": 6}


def edit(lm, facts, cache, **overrides):
    return edit_facts(lm, facts, method="kn", evaluate=False, cache=cache, **{**SETTINGS, **overrides})


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_reference(variant, tmp_path):
    lm = proportioned_model(variant)
    digest = lm.digest()
    result = edit(lm, ASKED, tmp_path)
    assert lm.digest() == digest
    config = KnowledgeNeuronsConfig(**SETTINGS, signed="gate" in mlp_matrices(lm.family))
    expected, neurons = reference.edit(lm, ASKED, config, result.patch.info["prefixes"])
    assert {place.layer for place in result.patch.updates} == {layer for found in neurons for layer, _ in found or ()}
    for place, update in result.patch.updates.items():
        assert relative(update.matrix(), expected[place.layer]) < 1e-4
    assert result.report["already_known"] == neurons.count(None)
    counts = [len(found) for found in neurons if found is not None]
    assert result.report["mean_neurons"] == pytest.approx(sum(counts) / len(counts))
    assert {missed["id"] for missed in result.report["not_converged"]} == {
        fact.id for fact, found in zip(ASKED, neurons, strict=True) if found == {}
    }


@pytest.mark.parametrize(
    "overrides", [{"max_neurons": 1}, {"share": 1.0}, {"threshold": 0.6}, {"strength": 5.0}, {"signed": True}]
)
def test_every_setting_reaches_the_edit(overrides, tmp_path):
    lm = tiny_model("gpt2")
    plain, result = edit(lm, ASKED, tmp_path), edit(lm, ASKED, tmp_path, **overrides)
    config = KnowledgeNeuronsConfig(**SETTINGS, **overrides)
    expected, _ = reference.edit(lm, ASKED, config, result.patch.info["prefixes"])
    matrices = [{place.layer: u.matrix() for place, u in one.patch.updates.items()} for one in (plain, result)]
    nothing = torch.zeros(lm.d_mlp, lm.d_model)
    for layer, matrix in expected.items():
        assert torch.allclose(matrices[1].get(layer, nothing).double(), matrix, atol=1e-5)
    assert any(not torch.equal(matrices[0].get(i, nothing), matrices[1].get(i, nothing)) for i in expected)


def test_the_update_is_low_rank_and_on_the_neurons_alone(tmp_path):
    result = edit(tiny_model("llama"), ASKED, tmp_path, max_neurons=2)
    for update in result.patch.updates.values():
        assert update.left is not None
        assert sorted(set(update.left.flatten().tolist())) == [0.0, 1.0]
        assert update.left.sum(1).tolist() == [1.0] * len(update.left)
        assert update.left.sum(0).max() == 1.0


def test_in_half_precision_nearly_the_same_neurons_are_found(tmp_path):
    lm = fresh_model("gpt2")
    places = []
    for dtype in (torch.float32, torch.bfloat16):
        lm.hf.to(dtype)
        updates = edit(lm, ASKED[:1], tmp_path, steps=8).patch.updates
        places.append({(p.layer, int(n)) for p, u in updates.items() for n in u.matrix().abs().sum(1).nonzero()})
    assert len(places[0] & places[1]) > 0.7 * len(places[0] | places[1])


def test_what_facts_have_in_common_is_summed(tmp_path):
    lm = tiny_model("llama")
    alone = [edit(lm, [fact], tmp_path).patch.updates for fact in ASKED]
    together = edit(lm, ASKED, tmp_path).patch.updates
    for place, update in together.items():
        parts = [updates[place].matrix() for updates in alone if place in updates]
        assert relative(update.matrix(), torch.stack(parts).sum(0)) < 1e-6


def test_known_facts_and_answers_that_begin_alike_are_left(tmp_path):
    lm = fresh_model("phi")  # its head has a bias, which settles what it says
    ((row, _),) = encode_targets(lm.tokenizer, [(FACTS[0].text, FACTS[0].target_new)])
    with torch.no_grad():
        lm.lm_head.bias[row.target_ids[0]] = 100
    alike = replace(FACTS[1], target_true="English", id="")
    result = edit(lm, [FACTS[0], alike], tmp_path)
    assert dict(result.patch.updates) == {}
    assert result.report["already_known"] == 1
    assert [missed["id"] for missed in result.report["not_converged"]] == [alike.id]
    assert "begins with the other" in result.report["not_converged"][0]["reason"]
    assert any("1 fact" in text and "begins with the other" in text for text in result.report["warnings"])


def test_without_a_true_answer_the_model_s_own_is_attributed_and_said(tmp_path):
    lm = tiny_model("gpt2")
    own = lm.tokenizer.decode([reference.own_answer(lm, reference.prompt_ids(lm, FACTS[1].text))])
    result = edit(lm, [FACTS[1]], tmp_path)
    assert result.report["own_answers"] == 1
    assert any("target_true" in line for line in result.report["summary"])
    if own.startswith(" "):
        told = edit(lm, [replace(FACTS[1], target_true=own.strip())], tmp_path)
        assert told.report["own_answers"] == 0
        for place, update in result.patch.updates.items():
            assert torch.equal(told.patch.updates[place].matrix(), update.matrix())


def test_a_norm_behind_the_mlp_is_warned_of(tmp_path):
    warned = [
        any("norm behind" in text for text in edit(tiny_model(variant), ASKED[:1], tmp_path).report["warnings"])
        for variant in ("gemma2", "llama")
    ]
    assert warned == [True, False]


def test_defaults_are_the_published_ones_and_a_guess_searches_everywhere():
    assert settings_for(tiny_model("llama"), method="kn").config.signed
    settings = settings_for(tiny_model("gpt2"), method="kn")
    config = settings.config
    assert (config.steps, config.threshold, config.share, config.strength) == (20, 0.2, 0.5, 2.0)
    assert config.layers == tuple(range(LAYERS))
    assert not config.signed
    assert settings.is_guess
    assert METHODS["kn"].uses_prefixes
    assert not METHODS["kn"].uses_moments(config)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"steps": 0}, "steps must be 1–1000"), ({"threshold": 1.0}, "below 1"), ({"share": 0.0}, "above 0"),
     ({"strength": 0.0}, "positive"), ({"max_neurons": 0}, "at least 1"), ({"prefixes": -1}, "0–100"),
     ({"layers": (LAYERS,)}, "0–3"), ({"clamp": 1.0}, "Unknown Knowledge Neurons field")],
)  # fmt: skip
def test_bad_settings(fields, words):
    with pytest.raises(ConfigError, match=words):
        settings_for(tiny_model("llama"), method="kn", **fields)


def test_on_the_embedded_model(smollm2, tmp_path):
    """Layers near the top, one context: the old answer loses to the new one, and all comes off to the bit."""
    digest = smollm2.digest()
    fact = replace(REAL_FACTS[0], target_true="Paris", id="")
    result = edit_facts(
        smollm2, [fact], method="kn", layers=(26, 27, 28, 29), steps=10, prefixes=0, evaluate=False, cache=tmp_path
    )
    ids = torch.tensor([smollm2.tokenizer(fact.text)["input_ids"]])
    old, new = (smollm2.tokenizer(" " + answer)["input_ids"][0] for answer in ("Paris", "Rome"))

    def gap():
        with torch.no_grad():
            logits = smollm2.hf(input_ids=ids).logits[0, -1]
        return float(logits[new] - logits[old])

    before = gap()
    with result.patch.applied(smollm2):
        after = gap()
    assert before < 0 < after
    assert smollm2.digest() == digest
    assert 1 <= result.report["mean_neurons"] <= 20
