"""The ridge solve against one naive solve, in both forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.core.linalg import cholesky, ridge_adjoint
from errata.errors import SingularSystemError


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _moment(size, rows, seed=0):
    keys = _random(rows, size, seed=1000 + seed)
    return keys.T @ keys / rows


def _naive(keys, moment, prior_weight):
    return torch.linalg.solve(prior_weight * moment + keys.T @ keys, keys.T).T


@given(st.integers(1, 12), st.integers(1, 12), st.floats(1e-3, 1e5), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_primal_dual_and_naive_solve_agree(facts, size, prior_weight, seed):
    keys, moment = _random(facts, size, seed=seed), _moment(size, 4 * size + 4, seed)
    expected = _naive(keys, moment, prior_weight)
    for form in ("primal", "dual", "auto"):
        ridge = ridge_adjoint(keys, moment, prior_weight=prior_weight, form=form)
        assert ridge.adjoint.dtype == torch.float64
        assert (ridge.adjoint - expected).norm() <= 1e-7 * expected.norm()
        assert ridge.jitter == 0
        assert ridge.form == (form if form != "auto" else "dual" if facts < size else "primal")


@given(st.integers(1, 8), st.integers(2, 8), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_the_update_is_the_minimum_of_what_it_minimizes(facts, size, seed):
    """λ·tr(ΔᵀCΔ) + ‖KΔ − R‖² has no descent direction at ΔW = AᵀR."""
    keys, moment, residuals = _random(facts, size, seed=seed), _moment(size, 40, seed), _random(facts, 3, seed=seed + 7)
    adjoint = ridge_adjoint(keys, moment, prior_weight=2.0).adjoint
    update = (adjoint.T @ residuals).requires_grad_()
    objective = 2.0 * (update.T @ moment @ update).trace() + (keys @ update - residuals).square().sum()
    objective.backward()
    assert update.grad.norm() <= 1e-8 * (1 + residuals.norm() * keys.norm())


def test_a_given_factor_of_the_moment_is_used_and_changes_nothing():
    keys, moment = _random(4, 9), _moment(9, 50)
    plain = ridge_adjoint(keys, moment, prior_weight=5.0)
    factor = cholesky(moment)
    assert torch.equal(ridge_adjoint(keys, moment, prior_weight=5.0, moment_cholesky=factor).adjoint, plain.adjoint)
    # With another moment's factor the answer is that moment's: it is the factor that is used.
    other = _moment(9, 50, seed=3)
    found = ridge_adjoint(keys, moment, prior_weight=5.0, form="dual", moment_cholesky=cholesky(other))
    assert torch.allclose(found.adjoint, _naive(keys, other, 5.0))


def test_equal_keys_share_their_adjoint():
    keys = _random(3, 8)
    keys = torch.cat([keys, keys[:1]])
    adjoint = ridge_adjoint(keys, _moment(8, 40), prior_weight=1.0).adjoint
    assert torch.allclose(adjoint[0], adjoint[3], atol=1e-12)


def test_float32_input_is_solved_in_float64():
    keys, moment = _random(5, 40).float(), _moment(40, 200).float()
    # Close to singular: a float32 solve would lose everything.
    moment = moment * torch.logspace(0, -6, 40)[:, None].sqrt() * torch.logspace(0, -6, 40).sqrt()
    for form in ("primal", "dual"):
        found = ridge_adjoint(keys, moment, prior_weight=1e4, form=form)
        expected = _naive(keys.double(), moment.double(), 1e4)
        assert (found.adjoint - expected).norm() <= 1e-8 * expected.norm()


@pytest.mark.parametrize("size", [1, 2, 7])
def test_cholesky_of_a_positive_matrix_needs_no_jitter(size):
    moment = _moment(size, 30)
    found = cholesky(moment.float())
    assert found.jitter == 0
    assert found.factor.dtype == torch.float64
    assert torch.allclose(found.factor @ found.factor.T, moment.float().double())
    assert torch.equal(found.factor, found.factor.tril())


def test_a_neuron_that_never_fires_costs_jitter_that_is_reported():
    moment = _moment(6, 40)
    moment[2], moment[:, 2] = 0, 0
    found = cholesky(moment)
    assert 0 < found.jitter <= 1e-6
    assert torch.allclose(found.factor @ found.factor.T, moment, atol=2e-6 * float(moment.diagonal().mean()))
    keys = _random(3, 6)
    keys[:, 2] = 0
    ridge = ridge_adjoint(keys, moment, prior_weight=3.0)
    assert ridge.jitter == found.jitter
    alive = [0, 1, 3, 4, 5]
    expected = _naive(keys[:, alive], moment[alive][:, alive], 3.0)
    assert torch.allclose(ridge.adjoint[:, alive], expected, rtol=1e-5, atol=1e-7)
    assert float(ridge.adjoint[:, 2].abs().max()) == 0


def test_a_moment_of_fewer_tokens_than_neurons_is_solved_with_jitter():
    moment = _moment(30, 10)
    primal = ridge_adjoint(_random(40, 30), moment, prior_weight=1.0, form="primal")
    assert primal.jitter == 0, "enough facts make the system definite"
    dual = ridge_adjoint(_random(5, 30), moment, prior_weight=1.0)
    assert 0 < dual.jitter <= 1e-6
    assert bool(torch.isfinite(dual.adjoint).all())


def _negative(size):
    matrix = torch.eye(size, dtype=torch.float64)
    matrix[0, 0] = -1e-3
    return matrix


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [(0, 0), (1, 2)])
def test_values_that_are_not_finite_are_an_error(value, place):
    matrix = torch.eye(4)
    matrix[place] = value
    with pytest.raises(SingularSystemError, match="finite"):
        cholesky(matrix)


@pytest.mark.parametrize("matrix", [torch.zeros(3, 3), -torch.eye(3)], ids=["zero", "negative"])
def test_no_positive_diagonal_is_an_error(matrix):
    with pytest.raises(SingularSystemError, match="second moments"):
        cholesky(matrix)


def test_an_indefinite_matrix_is_an_error_that_names_the_ways_out():
    with pytest.raises(SingularSystemError, match=r"more tokens.*prior_weight"):
        cholesky(_negative(5))


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_bad_systems_are_errors_in_both_forms(form):
    good = _moment(6, 40)
    nan = _random(3, 6)
    nan[1, 1] = float("nan")
    with pytest.raises(SingularSystemError):
        ridge_adjoint(nan, good, prior_weight=1.0, form=form)
    with pytest.raises(SingularSystemError):
        ridge_adjoint(_random(3, 6) * 1e-9, _negative(6), prior_weight=1.0, form=form)
    with pytest.raises(SingularSystemError):
        ridge_adjoint(torch.zeros(3, 6), torch.zeros(6, 6), prior_weight=1.0, form=form)
