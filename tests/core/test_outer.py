"""Sums of outer products: everything asked of the factors against the dense matrix, whatever their shapes."""

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from errata.core.outer import GradientSum, OuterSum


@st.composite
def sums(draw):
    n, d_in, d_out = (draw(st.integers(1, 9)) for _ in range(3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    inputs = torch.randn(n, d_in, generator=generator, dtype=torch.float64)
    vjps = torch.randn(n, d_out, generator=generator, dtype=torch.float64)
    for row in draw(st.sets(st.integers(0, n - 1))):
        vjps[row] = 0
    if n > 1 and draw(st.booleans()):  # two tokens that say the same
        inputs[1], vjps[1] = inputs[0], vjps[0]
    return OuterSum(inputs, vjps)


@hypothesis.given(sums())
def test_everything_equals_the_dense_matrix(one):
    dense = one.dense()
    assert torch.allclose(dense, sum(torch.outer(x, d) for x, d in zip(one.inputs, one.vjps, strict=True)))
    assert one.norm == pytest.approx(float(dense.norm()), abs=1e-9)
    exact = torch.linalg.svdvals(dense)
    found = one.singular_values
    shared = min(len(found), len(exact))
    assert torch.allclose(found[:shared], exact[:shared], atol=1e-9)
    assert float(exact[shared:].sum()) < 1e-9
    assert float(found[shared:].sum()) < 1e-9
    assert one.rank() == int(torch.linalg.matrix_rank(dense, atol=1e-9, rtol=0.0))
    assert one.rank() <= int(one.vjps.any(dim=1).sum())
    assert torch.allclose(one.bias_gradient(), one.vjps.sum(0))
    for by_input in (True, False):
        expected = dense.norm(dim=1 if by_input else 0)
        assert torch.allclose(one.neuron_norms(by_input=by_input), expected.float(), atol=1e-5)
    if one.norm > 1e-9:
        assert float(one.shares().sum()) == pytest.approx(1)
        assert 1 - 1e-9 <= one.stable_rank() <= one.rank() + 1e-6
        assert one.cosine(one) == pytest.approx(1)
    else:
        assert one.rank() == 0 == one.stable_rank()
        assert not one.shares().any()


@hypothesis.given(sums(), st.integers(0, 100))
def test_inner_products(one, seed):
    generator = torch.Generator().manual_seed(seed)
    other = OuterSum(
        torch.randn(3, one.inputs.shape[1], generator=generator, dtype=torch.float64),
        torch.randn(3, one.vjps.shape[1], generator=generator, dtype=torch.float64),
    )
    assert one.inner(other) == pytest.approx(float((one.dense() * other.dense()).sum()), abs=1e-9)


@hypothesis.given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(2, 9), st.integers(2, 9))
@hypothesis.settings(max_examples=60, deadline=None)
def test_a_growing_sum_is_the_sum_and_never_larger_than_the_matrix(rows, d_in, d_out):
    generator = torch.Generator().manual_seed(len(rows))
    total, expected = GradientSum(), torch.zeros(d_in, d_out, dtype=torch.float64)
    for count in rows:
        part = OuterSum(torch.randn(count, d_in, generator=generator), torch.randn(count, d_out, generator=generator))
        part.vjps[0] = 0  # takes no room
        total.add_(part.nonzero())
        expected += part.inputs.double().T @ part.vjps.double()
        held = sum(one.inputs.numel() + one.vjps.numel() for one in total.parts)
        assert held <= d_in * d_out
    torch.testing.assert_close(total.dense(), expected, rtol=1e-12, atol=1e-12)
    factors, rank = total.factors(), sum(rows) - len(rows)
    assert (factors is None) == (rank * (d_in + d_out) > d_in * d_out)
    if factors is not None:
        torch.testing.assert_close(factors.dense().double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_one_product", [True, False])
def test_factors_and_their_sum_are_the_same_update(in_one_product):
    draws = [(torch.randn(rows, 8), torch.randn(rows, 6)) for rows in (1, 0, 2, 9, 1, 30, 2)]
    for count in range(1, len(draws) + 1):
        total = GradientSum(in_one_product=in_one_product)
        for left, right in draws[:count]:
            total.add_(OuterSum(left, right))
        expected = sum(left.double().T @ right.double() for left, right in draws[:count])
        update = total.update(-2.0)
        torch.testing.assert_close(update.matrix().double(), -2 * expected, rtol=1e-5, atol=1e-5)
        assert (update.dense is None) == (count < 4)
