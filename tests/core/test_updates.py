"""Weight updates: factors while they are smaller, and adding them to weights of any dtype and orientation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.core.updates import WeightUpdate, add_


def _factors(rank, d_mlp, d_model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rank, width, generator=generator, dtype=torch.float64) for width in (d_mlp, d_model))


@given(st.integers(1, 20), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_whatever_is_smaller_is_kept_and_means_the_same(rank, d_mlp, d_model):
    left, right = _factors(rank, d_mlp, d_model)
    update = WeightUpdate.from_factors(left, right)
    numbers = sum(tensor.numel() for tensor in update.tensors().values())
    assert numbers == min(rank * (d_mlp + d_model), d_mlp * d_model)
    assert all(tensor.dtype == torch.float32 for tensor in update.tensors().values())
    assert torch.allclose(update.matrix().double(), left.T @ right, rtol=1e-4, atol=1e-5)
    assert set(update.tensors()) in ({"left", "right"}, {"dense"})


def test_at_the_break_even_the_factors_stay():
    assert WeightUpdate.from_factors(*_factors(2, 4, 4)).dense is None
    assert WeightUpdate.from_factors(*_factors(3, 4, 4)).dense is not None


def test_the_product_of_many_factors_is_rounded_once():
    left, right = _factors(500, 6, 5)
    assert torch.equal(WeightUpdate.from_factors(left, right).matrix(), (left.T @ right).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transposed", [False, True])
def test_adding_rounds_once_and_writes_into_the_weight_itself(dtype, transposed):
    stored = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    stored = stored.T.contiguous() if transposed else stored
    weight = stored.T if transposed else stored
    update = WeightUpdate.from_factors(*_factors(2, 5, 6))
    expected = (weight.float() + update.matrix()).to(dtype)
    add_(weight, update)
    assert torch.equal(weight, expected)
    assert torch.equal(stored.T if transposed else stored, expected)


def test_a_parameter_that_wants_gradients_can_be_written_to():
    parameter = torch.nn.Parameter(torch.zeros(5, 6))
    update = WeightUpdate.from_factors(*_factors(2, 5, 6))
    add_(parameter, update)
    assert torch.equal(parameter.detach(), update.matrix())
    assert parameter.grad_fn is None


def test_the_same_update_adds_the_same_bits_every_time():
    update = WeightUpdate.from_factors(*_factors(7, 64, 32))
    one, other = (torch.ones(64, 32) for _ in range(2))
    add_(one, update)
    add_(other, update)
    assert torch.equal(one, other)
