"""Forward pass shifting against the formula on one fact at a time, on every family; and on the embedded model."""

import pytest
import torch
from edit_helpers import FACTS, REAL_FACTS, random_moments, relative, without_type_checks

from errata import edit_facts
from errata.edit.methods import shift
from errata.edit.methods.shift import ShiftConfig
from errata.edit.settings import METHODS, settings_for
from errata.errors import ConfigError
from errata.models import Place, encode_targets, run_taps
from errata.stats import SecondMoments
from tiny import VARIANTS, fresh_model, tiny_model


def by_hand(lm, fact, config, second_moment=None):
    """lr · kᵀv of one fact, from a whole forward; None where the model says the target already."""
    place = Place(config.layers[0], "down")
    ((row, encoding),) = encode_targets(lm.tokenizer, [(fact.text, fact.target_new)])
    ids = torch.tensor([row.ids[: row.start]])
    inputs, _ = run_taps(lm, ids, torch.ones_like(ids), [place])
    with torch.no_grad():
        logits = lm.hf(input_ids=ids).logits[0, -1, : len(lm.tokenizer)].float()
    if int(logits.argmax()) == row.target_ids[0]:
        return None
    start, end = fact.subject_span
    at = encoding.tokens_over(start, end)[1] if config.key == "subject" else ids.shape[1] - 1
    key, head = inputs[place][0, at].double(), lm.lm_head.weight.double()
    value = head[row.target_ids[0]]
    if config.value == "contrastive":
        value = value - logits.double().softmax(0) @ head[: len(logits)]
    if config.whitened:
        inverse = torch.linalg.inv(second_moment)
        key = inverse @ key * (key @ key) / (key @ inverse @ key)
    return config.learning_rate * torch.outer(key, value)


def moments_of(lm, layer):
    return SecondMoments(
        layers=random_moments(lm, [layer]), tokens=100, requested_tokens=100, documents=1, source="random",
        digest="0" * 64, model_digest=lm.digest(),
    )  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", [{}, {"key": "subject", "value": "contrastive"}, {"whitened": True}])
def test_it_is_the_sum_of_one_fact_at_a_time(variant, options):
    lm = tiny_model(variant)
    layer = 2
    moments = moments_of(lm, layer) if options.get("whitened") else None
    config = ShiftConfig(layers=(layer,), **options)
    result = edit_facts(lm, FACTS, method="shift", layers=(layer,), moments=moments, evaluate=False, **options)
    parts = [by_hand(lm, fact, config, moments[layer] if moments else None) for fact in FACTS]
    expected = sum(part for part in parts if part is not None)
    assert list(result.patch.updates) == [Place(layer, "down")]
    assert relative(result.patch.updates[Place(layer, "down")].matrix(), expected) < 1e-4
    assert result.report["already_known"] == sum(part is None for part in parts)


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


def test_the_published_form_is_the_default():
    config = settings_for(tiny_model("llama"), method="shift")
    assert (config.config.learning_rate, config.config.key, config.config.value) == (0.24, "last", "target")
    assert config.is_guess
    assert not METHODS["shift"].uses_moments(config.config)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"layers": (1, 2)}, "one layer"), ({"learning_rate": 0.0}, "positive"), ({"key": "first"}, "'last' or 'subject'"),
     ({"value": "mean"}, "'target' or 'contrastive'"), ({"clamp": 1.0}, "Unknown Shift field")],
)  # fmt: skip
def test_bad_settings(fields, words):
    config_type = without_type_checks(shift).ShiftConfig if set(fields) <= {"key", "value"} else ShiftConfig
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
