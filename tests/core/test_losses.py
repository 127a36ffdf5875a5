"""Closed-form losses and gradients against torch's own and autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.core.log_losses import kl_and_gradient, nll_and_gradient


def _logits(rows, vocabulary, seed, scale=3.0):
    return scale * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 5), st.integers(2, 40), st.integers(0, 99), st.sampled_from([0.1, 3.0, 50.0]))
@settings(max_examples=60, deadline=None)
def test_nll_equals_cross_entropy_and_its_gradient(rows, vocabulary, seed, scale):
    logits = _logits(rows, vocabulary, seed, scale)
    targets = torch.randint(vocabulary, (rows,), generator=torch.Generator().manual_seed(seed))
    reference = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(reference, targets, reduction="none")
    expected.sum().backward()
    nll, gradient = nll_and_gradient(logits.clone(), targets)
    assert torch.allclose(nll.double(), expected, rtol=1e-5, atol=1e-4)
    assert torch.allclose(gradient.double(), reference.grad, atol=1e-5)


@given(st.integers(1, 5), st.integers(2, 40), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_kl_equals_torch_s_and_its_gradient(rows, vocabulary, seed):
    logits, before = _logits(rows, vocabulary, seed), _logits(rows, vocabulary, seed + 1).log_softmax(-1)
    reference = logits.double().requires_grad_()
    log_probs = reference.log_softmax(-1)
    # kl_div(q, p) is KL(p ‖ q).
    expected = torch.nn.functional.kl_div(before.double(), log_probs, log_target=True, reduction="none").sum(-1)
    expected.sum().backward()
    kl, gradient = kl_and_gradient(logits.clone(), before)
    assert torch.allclose(kl.double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(gradient.double(), reference.grad, atol=1e-4)
    assert bool((kl > -1e-6).all())


def test_kl_to_itself_and_its_gradient_are_exactly_zero():
    """Not rounding noise: where no other loss has a gradient, Adam would make full steps of it."""
    logits = _logits(4, 1000, 0)
    kl, gradient = kl_and_gradient(logits, logits.log_softmax(-1))
    assert float(kl.abs().max()) == 0
    assert float(gradient.abs().max()) == 0


def test_the_gradients_of_a_row_sum_to_zero():
    logits, before = _logits(3, 500, 0), _logits(3, 500, 1).log_softmax(-1)
    assert kl_and_gradient(logits.clone(), before)[1].sum(-1).abs().max() < 1e-5
    assert nll_and_gradient(logits.clone(), torch.tensor([0, 7, 499]))[1].sum(-1).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_read_in_float32_and_not_overwritten(dtype):
    logits = _logits(2, 300, 0).to(dtype)
    kept = logits.clone()
    targets = torch.tensor([5, 299])
    nll, gradient = nll_and_gradient(logits, targets)
    assert nll.dtype == gradient.dtype == torch.float32
    expected = torch.nn.functional.cross_entropy(kept.float(), targets, reduction="none")
    assert torch.allclose(nll, expected, rtol=1e-6)
    kl, _ = kl_and_gradient(logits, kept.float().log_softmax(-1))
    assert float(kl.abs().max()) == 0
    assert torch.equal(logits, kept)


def test_huge_logits_stay_finite():
    logits = torch.tensor([[1e30, 0.0, -1e30], [0.0, 80.0, -80.0]])
    nll, gradient = nll_and_gradient(logits.clone(), torch.tensor([0, 1]))
    assert torch.allclose(nll, torch.zeros(2), atol=1e-6)
    assert bool(torch.isfinite(gradient).all())


def test_no_rows_give_no_losses():
    nll, gradient = nll_and_gradient(torch.zeros(0, 7), torch.zeros(0, dtype=torch.long))
    assert (nll.shape, gradient.shape) == ((0,), (0, 7))
