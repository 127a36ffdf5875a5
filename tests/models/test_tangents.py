"""Tangents through a block against a finite difference, where gate and up are two modules and where they are one."""

import pytest
import torch

from errata.models import mlp_matrices, projection, run_layers
from errata.models.run.hooks import After, hooked
from errata.models.run.tangents import outputs_moved_by_tangents, tangent_of
from tiny import tiny_model


@pytest.mark.parametrize("family", ["llama", "phi3", "opt"])
def test_tangents_are_what_small_moves_do(family):
    lm, layer = tiny_model(family, dtype=torch.float64), 1
    entering = torch.randn(1, 4, lm.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 4, dtype=torch.long)
    one = projection(lm, layer, mlp_matrices(lm.family)[0])
    shift = torch.randn(4, lm.d_mlp, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def activations() -> torch.Tensor:
        with torch.no_grad():
            run = run_layers(lm, entering, mask, first=layer, stop=layer + 1, tap_down=[layer], end_at_down=True)
        return run.down_inputs[layer][0]

    def move(_entering: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        moved = output.clone()
        one.part(moved).add_(1e-6 * shift.reshape(*output.shape[:-1], -1))
        return moved

    before = activations()
    with hooked([After(one.module, move)]):
        expected = (activations() - before) / 1e-6
    with outputs_moved_by_tangents(lm, {one.place: shift}):
        run = run_layers(lm, entering, mask, first=layer, stop=layer + 1, tap_down=[layer], end_at_down=True)
        tangent = tangent_of(run.down_inputs[layer])[0]
        assert torch.equal(run.down_inputs[layer][0], before)
    assert torch.allclose(tangent, expected, rtol=1e-4, atol=1e-6)


def test_what_depends_on_nothing_moved_has_no_tangent():
    lm = tiny_model("llama")
    with outputs_moved_by_tangents(lm, {}), pytest.raises(AssertionError):
        tangent_of(torch.ones(2))
