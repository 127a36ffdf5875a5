"""Forward pass shifting against the formula on one fact at a time, on every family; and on the embedded model."""

import pytest
import torch
from edit_helpers import FACTS, REAL_FACTS, random_moments, relative

from errata import edit_facts
from errata.edit.lookup import settings_for
from errata.edit.methods.shift import shift_config
from errata.edit.methods.shift.shift_config import ShiftConfig
from errata.edit.methods.shift.shift_rates import LADDER, Writing, choose_rates, leads
from errata.edit.registry import METHODS, presets_of
from errata.errors import ConfigError
from errata.models import Place, encode_targets
from errata.stats import SecondMoments
from reference import shift as reference
from tiny import LAYERS, VARIANTS, fresh_model, proportioned_model, tiny_model
from type_checks import without_type_checks


def published_edit(lm, layer, *, margin=0.0, value="target", **options):
    """What a guess for an unknown model would choose otherwise is said."""
    return edit_facts(lm, FACTS, method="shift", layers=(layer,), margin=margin, value=value, evaluate=False, **options)


def by_hand(lm, fact, config, second_moment=None):
    """lr · kᵀv of one fact, from a whole forward; None where the model says the target already."""
    found = reference.factors(lm, fact, config, second_moment)
    return found and config.learning_rate * torch.outer(*found)


def moments_of(lm, layer):
    return SecondMoments(
        layers=random_moments(lm, [layer]), tokens=100, requested_tokens=100, documents=1, source="random",
        digest="0" * 64, model_digest=lm.digest(),
    )  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", [{}, {"key": "subject", "value": "contrastive"}, {"whitened": True}])
def test_it_is_the_sum_of_one_fact_at_a_time(variant, options):
    lm = proportioned_model(variant)
    layer = 2
    moments = moments_of(lm, layer) if options.get("whitened") else None
    config = ShiftConfig(layers=(layer,), **options)
    result = published_edit(lm, layer, moments=moments, **options)
    parts = [by_hand(lm, fact, config, moments[layer] if moments else None) for fact in FACTS]
    expected = sum(part for part in parts if part is not None)
    assert list(result.patch.updates) == [Place(layer, "down")]
    assert relative(result.patch.updates[Place(layer, "down")].matrix(), expected) < 1e-4
    assert result.report["already_known"] == sum(part is None for part in parts)


OPTIONS = [
    {"margin": 2.0},
    {"line_search": True},
    {"margin": 1.0, "line_search": True},
    {"margin": 1.0, "line_search": True, "key": "subject", "value": "contrastive", "whitened": True},
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_rates_equal_those_of_really_edited_weights(variant, options):
    """One fact, one rate at a time; of several facts the sum of what each would write alone."""
    lm = tiny_model(variant)
    digest, layer = lm.digest(), 2
    moments = moments_of(lm, layer) if options.get("whitened") else None
    config = ShiftConfig(layers=(layer,), **options)
    result = published_edit(lm, layer, moments=moments, **options)
    assert lm.digest() == digest
    expected, missed = torch.zeros(lm.d_mlp, lm.d_model, dtype=torch.float64), set()
    for fact in FACTS:
        found = reference.factors(lm, fact, config, moments[layer] if moments else None)
        if found is None:
            continue
        update = torch.outer(*found)
        rate, good = reference.rate_of(lm, fact, config, update, LADDER)
        expected += rate * update
        missed |= set() if good else {fact.id}
    assert relative(result.patch.updates[Place(layer, "down")].matrix(), expected) < 1e-3
    assert {one["id"] for one in result.report["not_converged"]} == missed


def test_the_tests_see_facts_that_flip_and_facts_that_do_not():
    """Otherwise the one above might only ever look at one end of the ladder."""
    rates, missed = [], 0
    for variant in VARIANTS:
        lm = tiny_model(variant)
        report = published_edit(lm, 2, line_search=True).report
        rates += list(report["rates"].values())
        missed += len(report["not_converged"])
    assert missed
    assert len({rate / 0.24 for rate in rates if rate < 0.24 * max(LADDER)}) > 5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("key", ["last", "subject"])
def test_the_slope_is_the_derivative_with_respect_to_the_rate(variant, key):
    lm = tiny_model(variant)
    config = ShiftConfig(layers=(1,), key=key)
    asked = [(fact, found) for fact in FACTS if (found := reference.factors(lm, fact, config))]
    prompts, targets = zip(*(reference.target_of(lm, fact) for fact, _ in asked), strict=True)
    keys, values = (torch.stack(column).float() for column in zip(*(found for _, found in asked), strict=True))
    found = leads(lm, Writing(1, [tuple(ids) for ids in prompts], torch.tensor(targets), keys, values))
    expected = torch.tensor([reference.slope(lm, fact, 1, torch.outer(*factors)) for fact, factors in asked])
    assert relative(found[0], expected[:, 0]) < 1e-4
    assert relative(found[1], expected[:, 1]) < 1e-4


@pytest.mark.parametrize("margin", [0.01, 0.03])
def test_where_little_is_missing_the_margin_is_what_was_asked_for(margin):
    lm, fact = fresh_model("phi"), FACTS[0]  # its head has a bias, which says how much is missing
    ids, target = reference.target_of(lm, fact)
    with torch.no_grad():
        lm.lm_head.bias[target] -= reference.lead(reference.next_logits(lm, ids), target) + 0.01
    result = edit_facts(lm, [fact], method="shift", layers=(2,), margin=margin, evaluate=False)
    with result.patch.applied(lm):
        assert float(reference.lead(reference.next_logits(lm, ids), target)) == pytest.approx(margin, rel=0.1)
    assert result.report["not_converged"] == []


def test_a_fact_that_no_rate_helps_keeps_the_given_one_and_is_reported():
    lm = fresh_model("llama")
    ids, target = reference.target_of(lm, FACTS[0])
    row = torch.tensor(lm.lm_head.weight[target].tolist())
    (writing,) = [Writing(2, [tuple(ids)], torch.tensor([target]), torch.zeros(1, lm.d_mlp), row[None])]
    rates = choose_rates(lm, writing, learning_rate=0.5, margin=1.0)
    assert (rates.rates.tolist(), rates.backwards.tolist()) == ([0.5], [True])
    searched = choose_rates(lm, writing, learning_rate=0.5, margin=1.0, line_search=True)
    assert searched.rates.tolist() == [0.5 * max(LADDER)]
    assert searched.unanswered.tolist() == [True]


@pytest.mark.parametrize("variant", ["llama", "gpt2", "phi3"])
def test_rates_of_a_model_in_half_precision(variant):
    """What a search on rounded activations finds holds for rounded weights too, but for a fact at the very edge."""
    lm = fresh_model(variant)
    lm.hf.to(torch.bfloat16)
    held = []
    for fact in FACTS:
        result = edit_facts(lm, [fact], method="shift", layers=(2,), margin=0.5, line_search=True, evaluate=False)
        if result.report["already_known"] or result.report["not_converged"]:
            continue
        ids, target = reference.target_of(lm, fact)
        with result.patch.applied(lm):
            held.append(int(reference.next_logits(lm, ids).argmax()) == target)
    assert len(held) >= 2
    assert all(held)


@pytest.mark.parametrize("at_once", [1, 200])
def test_how_many_run_together_changes_nothing(at_once, monkeypatch):
    lm, options = tiny_model("gpt2"), {"layers": (2,), "margin": 1.0, "line_search": True, "evaluate": False}
    expected = edit_facts(lm, FACTS, method="shift", **options)
    monkeypatch.setattr("errata.edit.methods.shift.shift_rates._AT_ONCE", at_once)
    found = edit_facts(lm, FACTS, method="shift", **options)
    place = Place(2, "down")
    assert relative(found.patch.updates[place].matrix(), expected.patch.updates[place].matrix()) < 1e-4


def test_the_last_layer_with_a_subject_key_is_warned_of():
    lm = tiny_model("llama")
    warned = [
        any("no attention above" in text for text in edit_facts(
            lm, FACTS[:1], method="shift", layers=(layer,), key=key, evaluate=False
        ).report["warnings"])
        for layer, key in ((LAYERS - 1, "subject"), (LAYERS - 1, "last"), (1, "subject"))
    ]  # fmt: skip
    assert warned == [True, False, False]


def test_an_update_out_of_proportion_is_warned_of():
    lm = tiny_model("llama")
    for rate, warned in ((0.01, False), (1e4, True)):
        report = edit_facts(lm, FACTS, method="shift", layers=(2,), learning_rate=rate, evaluate=False).report
        assert any("out of proportion" in text for text in report["warnings"]) == warned


def test_the_published_settings_have_a_row():
    (row,) = (row for row in presets_of("shift") if row.name == "GPT-2 XL")
    assert row.config == ShiftConfig(layers=(35,), learning_rate=0.24)


def test_a_fact_that_is_known_is_left_as_it_is():
    lm = fresh_model("phi")  # its head has a bias, which settles what it says
    ((row, _),) = encode_targets(lm.tokenizer, [(FACTS[0].text, FACTS[0].target_new)])
    with torch.no_grad():
        lm.lm_head.bias[row.target_ids[0]] = 100
    result = edit_facts(lm, FACTS[:1], method="shift", evaluate=False)
    assert result.report["already_known"] == 1
    assert dict(result.patch.updates) == {}
    digest = lm.digest()
    with result.patch.applied(lm):
        assert lm.digest() == digest


def test_the_published_form_is_the_default_and_a_guess_is_free_of_its_scale():
    published = ShiftConfig(layers=(1,))
    assert (published.learning_rate, published.key, published.value, published.margin) == (0.24, "last", "target", 0)
    guess = settings_for(tiny_model("llama"), method="shift")
    assert guess.is_guess
    assert (guess.config.margin, guess.config.value) == (0.5, "contrastive")
    assert not METHODS["shift"].uses_moments(guess.config)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"layers": (1, 2)}, "one layer"), ({"learning_rate": 0.0}, "positive"), ({"margin": -1.0}, "margin must be ≥ 0"),
     ({"key": "first"}, "'last' or 'subject'"),
     ({"value": "mean"}, "'target' or 'contrastive'"), ({"clamp": 1.0}, "Unknown Shift field")],
)  # fmt: skip
def test_bad_settings(fields, words):
    config_type = without_type_checks(shift_config).ShiftConfig if set(fields) <= {"key", "value"} else ShiftConfig
    with pytest.raises(ConfigError, match=words):
        config_type(layers=(1,)).replace(**fields)
    with pytest.raises(ConfigError, match="did you mean 'shift'"):
        settings_for(tiny_model("llama"), method="shfit")


def test_on_the_embedded_model_one_fact_takes(smollm2):
    """The largest layer's depth of the paper, a rate found to be enough; it comes off to the bit."""
    digest = smollm2.digest()
    fact = REAL_FACTS[0]
    result = edit_facts(smollm2, [fact], method="shift", layers=(22,), learning_rate=1.0, evaluate=False)
    with result.patch.applied(smollm2), torch.no_grad():
        ids = torch.tensor([smollm2.tokenizer(fact.text)["input_ids"]])
        said = smollm2.tokenizer.decode([int(smollm2.hf(input_ids=ids).logits[0, -1].argmax())])
    assert said == " Rome"
    assert smollm2.digest() == digest
    assert result.report["second_moments"] is None


def test_on_the_embedded_model_each_fact_gets_a_rate_that_is_enough(smollm2):
    """The line search finds what the fixed rate misses or overshoots; alone, each fact is answered."""
    for fact in REAL_FACTS:
        options = {"layers": (22,), "margin": 1.0, "line_search": True, "value": "target"}
        result = edit_facts(smollm2, [fact], method="shift", evaluate=False, **options)
        ids, target = reference.target_of(smollm2, fact)
        assert result.report["not_converged"] == []
        with result.patch.applied(smollm2):
            logits = reference.next_logits(smollm2, ids)
        assert float(reference.lead(logits, target)) > 1.0 - 1e-3
