"""Robustness of target values against full forwards; that it comes with the values; what it tells on the real model."""

import pytest
import torch
from edit_helpers import FACTS, PREFIXES, REAL_FACTS, as_second_moments, relative

from errata.edit.methods.memit import MemitConfig, RidgeRule
from errata.edit.values.layer_loop import solve
from errata.edit.values.robustness import REACH, robustness
from errata.edit.values.targets import target_values
from errata.evaluate import measure
from errata.models import Place, updates_applied
from reference import memit as reference
from tiny import VARIANTS, tiny_model

CONFIG = MemitConfig(layers=(1, 2), value_steps=6, learning_rate=0.1, clamp=0.4)
SITES = {"block": "block", "mlp": "mlp", "attention and mlp": "mlp"}


def _expect_reference(lm, facts, config, prefixes, site="block", tolerance=1e-4):
    layer = config.layers[-1]
    values = target_values(lm, facts, config, prefixes, site=site)
    found = robustness(lm, facts, values.value, layer, prefixes, site=site)
    for i, fact in enumerate(facts):
        expected = reference.short_loss(lm, fact, values.value[i], layer, prefixes, REACH, SITES[site])
        assert float(found[i]) == pytest.approx(expected, rel=tolerance, abs=1e-5)
    # The values bring it along, from the same passes.
    assert relative(values.short_nll, found) < tolerance
    return values, found


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_reference(variant):
    _expect_reference(tiny_model(variant), FACTS, CONFIG, PREFIXES)


@pytest.mark.parametrize("site", ["mlp", "attention and mlp"])
@pytest.mark.parametrize("variant", ["llama", "gpt2", "gemma2", "granite", "falcon"])
def test_of_what_matrices_write_equals_the_reference(variant, site):
    _expect_reference(tiny_model(variant), FACTS, CONFIG, PREFIXES, site)


def test_the_ends_are_the_unedited_loss_and_the_optimised_one():
    lm = tiny_model("llama")
    values = target_values(lm, FACTS, CONFIG, PREFIXES)
    nothing, whole = (robustness(lm, FACTS, values.value, 2, PREFIXES, reach=reach) for reach in (0.0, 1.0))
    assert relative(nothing, values.first_nll) < 1e-5
    assert relative(whole, values.nll) < 1e-5


def test_facts_that_finished_early_are_looked_at_too():
    lm = tiny_model("llama")
    config = CONFIG.replace(learning_rate=0.3, clamp=4.0, value_steps=12)
    losses = target_values(lm, FACTS, config.replace(stop_loss=0.0), PREFIXES).loss.sort().values
    config = config.replace(stop_loss=float(losses[1] + losses[2]) / 2)
    values, _ = _expect_reference(lm, FACTS, config, PREFIXES)
    assert 0 < int(values.converged.sum()) < len(FACTS)


def test_tells_the_layers_that_hold_from_one_that_does_not(smollm2):
    """Last layers 5 and 9 both hold, in the measure as in an edit that lands; 24 is too high for either.

    (An edit at layers 1-5 was once seen to fail with a target loss as good as this: λ was 15,000, and a third of the
    change had landed. That is no weakness of the values, and no measure of them shows it.)
    """
    prefixes, told = ["", "The weather is fine. "], {}
    for layer in (5, 9, 24):
        config = MemitConfig(layers=(layer,), clamp=1.0)
        values, found = _expect_reference(smollm2, REAL_FACTS, config, prefixes, tolerance=1e-2)
        rule = RidgeRule(as_second_moments({layer: torch.eye(smollm2.d_mlp, dtype=torch.float64)}), 1e-3)
        (edit,) = solve(smollm2, REAL_FACTS, values.value, rule, (layer,), prefixes, passes=2).layers
        with updates_applied(smollm2, {Place(layer, "down"): edit.update}):
            scores = measure(smollm2, REAL_FACTS).facts
        told[layer] = float(found.mean()), sum(score.prompt.new.nll for score in scores) / len(scores)
    for layer in (5, 9):
        assert max(told[layer]) < 0.5, told
    assert min(told[24]) > 1.0, told
