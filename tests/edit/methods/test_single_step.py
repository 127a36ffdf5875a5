"""One step of SGD and of Adam against torch's optimisers on dense gradients, on every family."""

import pytest
import torch
from edit_helpers import FACTS, REAL_FACTS, relative

from errata import edit_facts
from errata.edit.lookup import settings_for
from errata.edit.methods import single_step
from errata.edit.methods.single_step import AdamConfig, SgdConfig
from errata.errors import ConfigError
from errata.facts import Fact
from errata.lens import backward_lens
from errata.models import Place, mlp_matrices
from errata.patches import Patch
from reference import fine_tuning as reference
from tiny import VARIANTS, fresh_model, tiny_model
from type_checks import without_type_checks

OPTIMISERS = {"sgd": (SgdConfig, torch.optim.SGD), "adam": (AdamConfig, torch.optim.Adam)}


def bits(lm):
    return {name: tensor.clone() for name, tensor in lm.hf.state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", OPTIMISERS)
@pytest.mark.parametrize(
    "options",
    [
        {"layers": (2,), "learning_rate": 5e-3},
        {"layers": (1, 3), "matrices": "mlp", "loss": "target", "learning_rate": 0.3},
    ],
)
def test_it_is_one_step_of_the_optimiser(variant, method, options):
    """In float64: Adam's step is as long for a gradient that is rounding noise as for any other."""
    lm = fresh_model(variant, dtype=torch.float64)
    before, digest = bits(lm), lm.digest()
    result = edit_facts(lm, FACTS, method=method, evaluate=False, **options)
    assert lm.digest() == digest
    with result.patch.applied(lm):
        found = bits(lm)
    config_type, optimiser = OPTIMISERS[method]
    config = config_type(**options)
    loss = "first" if config.loss == "first" else "teacher_forced"
    expected_loss = sum(float(reference.fact_nll(lm, fact, loss).sum()) for fact in FACTS) / len(FACTS)
    reference.single_step_(lm, FACTS, config, optimiser)
    names = ("down",) if config.matrices == "down" else mlp_matrices(lm.family)
    assert set(result.patch.updates) == {Place(layer, name) for layer in config.layers for name in names}
    for name, tensor in bits(lm).items():
        if torch.equal(tensor, before[name]):
            assert torch.equal(found[name], before[name]), name
        else:
            assert relative(found[name] - before[name], tensor - before[name]) < 1e-4, name
    assert result.report["mean_loss_before"] == pytest.approx(expected_loss, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_points_the_same_way(dtype):
    place, half = Place(2, "down"), fresh_model("llama", dtype=dtype)
    whole = fresh_model("llama")
    whole.hf.load_state_dict(half.hf.state_dict())
    one, other = (
        edit_facts(lm, FACTS, method="sgd", evaluate=False, layers=(2,)).patch.updates[place].matrix().flatten()
        for lm in (half, whole)
    )
    assert float(torch.cosine_similarity(one, other, dim=0)) > 0.99


def test_a_step_of_one_fact_is_the_lens_s(tmp_path):
    lm = fresh_model("gpt2")
    fact = FACTS[0]
    result = edit_facts(lm, [fact], method="sgd", evaluate=False, layers=(2,), learning_rate=0.3)
    place = Place(2, "down")
    expected = backward_lens(lm, fact.text, fact.target_new).step(0.3, matrices=["down"], layers=[2])
    update = result.patch.updates[place]
    assert relative(update.matrix(), expected.updates[place].matrix()) < 1e-5
    assert update.left is not None, "the rank is that of the tokens, not of the matrix"
    digest = lm.digest()
    patch = Patch.load(result.patch.save(tmp_path / "patch"))
    with patch.applied(lm), torch.no_grad():
        after = float(reference.fact_nll(lm, fact, "first"))
    assert after < result.report["mean_loss_before"]
    assert lm.digest() == digest


def test_factors_until_they_outgrow_the_matrix():
    """22 rows are the most at 80·32/(80 + 32) = 22.9; each prompt has more positions than one."""
    facts = [Fact(subject=f"Tower {i}", prompt=f"Tower {i} is in", target_new="Rome") for i in range(12)]
    lm = tiny_model("llama")
    place = Place(2, "down")
    parts = [edit_facts(lm, [fact], method="sgd", evaluate=False, layers=(2,)).patch.updates[place] for fact in facts]
    assert all(part.left is not None for part in parts)
    whole = edit_facts(lm, facts, method="sgd", evaluate=False, layers=(2,)).patch.updates[place]
    assert whole.dense is not None
    assert relative(whole.matrix(), sum(part.matrix() for part in parts)) < 1e-5


def test_packs_of_any_size_give_the_same(monkeypatch):
    lm = tiny_model("llama")
    one = edit_facts(lm, FACTS, method="sgd", evaluate=False, layers=(1,)).patch.updates[Place(1, "down")].matrix()
    monkeypatch.setattr(single_step, "_AT_ONCE", 10)
    other = edit_facts(lm, FACTS, method="sgd", evaluate=False, layers=(1,)).patch.updates[Place(1, "down")].matrix()
    assert relative(other, one) < 1e-5


def test_settings():
    lm = tiny_model("llama")
    size = float(lm.down_weight(3).square().mean().sqrt())
    for method, rate in (("sgd", 0.7), ("adam", 0.03 * size)):
        found = settings_for(lm, method=method)
        assert found.is_guess
        assert (found.config.layers, found.config.loss) == ((3,), "first")
        assert found.config.learning_rate == pytest.approx(rate, rel=0.05)
    plain = without_type_checks(single_step).SgdConfig
    for fields, words in (
        ({"learning_rate": 0.0}, "positive"),
        ({"loss": "all"}, "'first' or 'target'"),
        ({"matrices": "block"}, "'down' or 'mlp'"),
    ):
        with pytest.raises(ConfigError, match=words):
            plain(**{"layers": (1,), **fields})


@pytest.mark.parametrize(("method", "rate"), [("sgd", 1.0), ("adam", 1e-3)])
def test_on_the_embedded_model_a_step_lowers_the_loss_and_comes_off(smollm2, method, rate):
    digest, fact = smollm2.digest(), REAL_FACTS[0]
    result = edit_facts(smollm2, [fact], method=method, layers=(26,), learning_rate=rate, evaluate=False)
    assert result.report["mean_loss_before"] == pytest.approx(float(reference.fact_nll(smollm2, fact, "first")), 1e-3)
    with result.patch.applied(smollm2), torch.no_grad():
        after = float(reference.fact_nll(smollm2, fact, "first"))
    assert after < 0.8 * result.report["mean_loss_before"]
    assert smollm2.digest() == digest
