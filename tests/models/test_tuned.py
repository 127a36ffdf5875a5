"""Weights while they are trained: gradients in the standard view, what is written, and that all of it is undone."""

import pytest
import torch

from errata.core.updates import WeightUpdate
from errata.models import Place, add_to_weight_, matrices, tuned, weight_of
from tiny import VARIANTS, fresh_model

IDS = torch.arange(5, 13)[None]


def loss(lm):
    return lm.hf(input_ids=IDS, use_cache=False).logits.square().mean()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gradient_is_how_the_loss_moves_with_the_weight(variant):
    """By a finite difference along the gradient itself, matrix by matrix, fused or not, up to curvature."""
    lm = fresh_model(variant, dtype=torch.float64)
    places = [Place(1, name) for name in matrices(lm.family)]
    with tuned(lm, places) as weights, torch.enable_grad():
        assert sum(p.requires_grad for p in lm.hf.parameters()) == len(weights.parameters)
        gradients = weights.gradients(loss(lm))
        assert set(gradients) == set(places)
        for place, gradient in gradients.items():
            assert gradient.shape == weight_of(lm, place).shape
            values = []
            for sign in (1, -1):
                weights.updates[place].copy_(sign * 1e-3 * gradient / gradient.norm())
                weights.write_()
                values.append(float(loss(lm).detach()))
            weights.updates[place].zero_()
            slope = (values[0] - values[1]) / 2e-3
            assert slope == pytest.approx(float(gradient.norm()), rel=0.02), place


@pytest.mark.parametrize("variant", ["llama", "phi3", "bloom", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_what_the_patch_will_write(variant, dtype):
    lm, other = fresh_model(variant, dtype=dtype), fresh_model(variant, dtype=dtype)
    places = [Place(2, name) for name in matrices(lm.family)]
    before, generator = lm.digest(), torch.Generator().manual_seed(0)
    with tuned(lm, places) as weights:
        for update in weights.updates.values():
            update.copy_(0.01 * torch.randn(update.shape, generator=generator))
        weights.write_()
        during = lm.digest()
        updates = weights.weight_updates()
    assert lm.digest() == before
    for place, update in updates.items():
        assert isinstance(update, WeightUpdate)
        add_to_weight_(other, place, update)
    assert other.digest() == during != before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_bits_and_flags_come_back_whatever_happens(error):
    lm = fresh_model("falcon")
    lm.lm_head.requires_grad_(True)
    before, asked = lm.digest(), [p.requires_grad for p in lm.hf.parameters()]
    during = []

    def fail():
        with tuned(lm, [Place(0, "k"), Place(3, "up")]) as weights:
            during.append([p.requires_grad for p in lm.lm_head.parameters()])
            for update in weights.updates.values():
                update.fill_(1.0)
            weights.write_()
            during.append(lm.digest())
            raise error

    with pytest.raises(error):
        fail()
    assert during[0] == [False]
    assert during[1] != before
    assert lm.digest() == before
    assert [p.requires_grad for p in lm.hf.parameters()] == asked
