"""Sums of outer products against the plain float64 product."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.core import moments


def _rows(count, size, seed=0, dtype=torch.float32):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _sum(parts, size):
    panels = moments.zero_panels(size)
    for part in parts:
        moments.add_products_(panels, part)
    return moments.dense(panels)


@given(st.integers(1, 420), st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_equals_the_plain_product_in_any_partition(size, counts, seed):
    parts = [_rows(count, size, seed + i) for i, count in enumerate(counts)]
    plain = torch.cat(parts).double()
    expected = plain.T @ plain
    found = _sum(parts, size)
    assert found.dtype == torch.float64
    assert torch.equal(found, found.T)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("size", [1, 127, 128, 129, 768, 1536, 1537])
def test_panels_cover_the_upper_triangle_once(size):
    panels = moments.zero_panels(size)
    assert sum(panel.shape[0] for panel in panels) == size
    kept = sum(panel.numel() for panel in panels)
    assert size * (size + 1) / 2 <= kept
    assert size < 768 or kept < 0.61 * size**2


def test_many_rows_keep_float32_accuracy_where_one_float32_sum_would_not():
    rows = _rows(60_000, 4).abs() + 1  # positive products: rounding errors of a running float32 sum add up
    expected = rows.double().T @ rows.double()
    running = torch.zeros(4, 4)
    for row in rows[:, :, None]:
        running += row @ row.T
    error = (_sum([rows], 4) - expected).norm() / expected.norm()
    assert error < 5e-7
    assert error < (running - expected).norm() / expected.norm() / 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype):
    rows = _rows(300, 40, dtype=dtype)
    expected = rows.double().T @ rows.double()
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    assert (_sum([rows], 40) - expected).norm() <= tolerance * expected.norm()


def test_the_same_rows_give_the_same_bits():
    rows = _rows(5000, 200)
    assert torch.equal(_sum([rows], 200), _sum([rows], 200))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("column", [0, 150, 199])
def test_the_diagonal_shows_what_is_not_finite(bad, column):
    panels = moments.zero_panels(200)
    moments.add_products_(panels, _rows(3, 200))
    assert torch.isfinite(moments.panel_diagonal(panels)).all()
    rows = _rows(3, 200)
    rows[1, column] = bad
    moments.add_products_(panels, rows)
    assert not torch.isfinite(moments.panel_diagonal(panels)[column])
