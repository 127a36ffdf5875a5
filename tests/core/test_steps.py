"""Steps of SGD and Adam against torch's optimisers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.core.outer import OuterSum
from errata.core.steps import Adam, RowAdam, adam_first_step, sgd_step


def _factors(rows, d_in, d_out, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return OuterSum(torch.randn(rows, d_in, generator=generator), torch.randn(rows, d_out, generator=generator))


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.floats(1e-4, 10))
@settings(max_examples=50, deadline=None)
def test_a_step_of_sgd_is_torch_s(rows, d_in, d_out, lr):
    gradient = _factors(rows, d_in, d_out)
    parameter = torch.nn.Parameter(torch.zeros(d_in, d_out))
    parameter.grad = gradient.dense()
    torch.optim.SGD([parameter], lr=lr).step()
    torch.testing.assert_close(sgd_step(gradient, lr).matrix(), parameter.detach(), rtol=1e-4, atol=1e-5 * lr)


def test_positions_without_a_gradient_take_no_room():
    gradient = _factors(5, 40, 30)
    gradient.vjps[1:4] = 0
    update = sgd_step(gradient, 0.5)
    assert update.left is not None
    assert len(update.left) == 2
    torch.testing.assert_close(update.matrix(), -0.5 * gradient.dense(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-12])  # far above ε, at it, and below
def test_the_first_step_of_adam_is_torch_s(scale):
    gradient = scale * _factors(3, 7, 5).dense()
    gradient[2] = 0
    parameter = torch.nn.Parameter(torch.zeros(7, 5))
    parameter.grad = gradient.clone()
    torch.optim.Adam([parameter], lr=0.3).step()
    torch.testing.assert_close(adam_first_step(gradient, 0.3).matrix(), parameter.detach(), rtol=1e-5, atol=0)
    value = torch.zeros(7, 5)
    Adam([value], 0.3).step_([gradient])
    torch.testing.assert_close(value, parameter.detach(), rtol=1e-5, atol=0)


def test_many_steps_of_adam_are_torch_s():
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (5,), (2, 2, 2)]
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    parameters = [torch.nn.Parameter(value.clone()) for value in values]
    own, theirs = Adam(values, 0.01), torch.optim.Adam(parameters, lr=0.01)
    for step in range(60):
        gradients = [torch.randn(shape, generator=generator) * 10.0 ** (-step % 5) for shape in shapes]
        own.step_(gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        theirs.step()
    for value, parameter in zip(values, parameters, strict=True):
        torch.testing.assert_close(value, parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_rows_that_stop_are_each_torch_s(betas):
    """Row i takes 3 · (i + 1) steps; each is compared with an optimiser of its own, in its own unit."""
    generator = torch.Generator().manual_seed(0)
    value, unit = torch.randn(4, 2, 3, generator=generator), torch.tensor([1.0, 0.1, 5.0, 1.0])[:, None, None]
    rows = [torch.nn.Parameter(row / scale) for row, scale in zip(value.clone(), unit, strict=True)]
    theirs = [torch.optim.Adam([row], lr=0.05, betas=betas) for row in rows]
    own = RowAdam(value, betas)
    for step in range(12):
        active = torch.arange(step // 3, 4)
        gradient = torch.randn(len(active), 2, 3, generator=generator)
        own.step_(gradient, active, lr=0.05, unit=unit[active])
        for i, one in zip(active.tolist(), gradient, strict=True):
            rows[i].grad = one.clone()
            theirs[i].step()
    expected = torch.stack([row.detach() for row in rows]) * unit
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
