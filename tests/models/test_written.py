"""What a down projection must write for a wanted contribution: against an eigenvalue problem and against the norms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.models import FAMILIES, contributed, direction_to_write, gains, to_write, usual_contribution
from reference import written as reference
from tiny import fresh_model, tiny_model

POST_NORMED = [name for name, family in FAMILIES.items() if family.post_norm]
LAYER = 2


def uneven(variant):
    lm = fresh_model(variant)
    norm = lm.layers[LAYER].get_submodule(lm.family.mlp_post_norm)
    gain = 8 * torch.exp(torch.randn(lm.d_model, generator=torch.Generator().manual_seed(3)))
    gain[0], gain[1], gain[2] = 0.0, -3.0, 600.0
    with torch.no_grad():
        norm.weight.copy_(gain - (0.0 if variant == "olmo2" else 1.0))
    return lm


@pytest.fixture(scope="module", params=[(name, flat) for name in POST_NORMED for flat in (True, False)])
def lm(request):
    variant, flat = request.param
    return tiny_model(variant) if flat else uneven(variant)


def vectors(lm, seed, size=1.0, count=3):
    return size * torch.randn(count, lm.d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_there_are_families_with_a_norm_behind_the_mlp():
    assert POST_NORMED == ["gemma2", "gemma3_text", "olmo2"]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000), written=st.sampled_from([1e-3, 1.0, 100.0]), asked=st.sampled_from([0.01, 1.0, 30.0])
)
def test_equals_the_reference(lm, seed, written, asked):
    now = vectors(lm, seed, written).float()
    wanted = vectors(lm, seed + 1, asked) * usual_contribution(lm, LAYER)
    found = to_write(lm, LAYER, now, wanted)
    for fact in range(len(now)):
        expected = reference.to_write(lm, LAYER, now[fact], wanted[fact])
        assert float((found.residual[fact] - expected).norm() / expected.norm()) < 1e-4


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), asked=st.sampled_from([0.01, 0.3, 3.0]))
def test_what_is_lost_is_what_the_norm_itself_says_and_the_root_mean_square_stays(lm, seed, asked):
    now = vectors(lm, seed).float()
    wanted = vectors(lm, seed + 1, asked) * usual_contribution(lm, LAYER)
    found = to_write(lm, LAYER, now, wanted)
    then = now.double() + found.residual
    torch.testing.assert_close(then.norm(dim=1), now.double().norm(dim=1), rtol=1e-5, atol=0.0)
    given_ = contributed(lm, LAYER, then) - contributed(lm, LAYER, now)
    lost = (given_ - wanted).norm(dim=1) / wanted.norm(dim=1)
    torch.testing.assert_close(found.lost, lost, rtol=1e-3, atol=1e-3)
    # Never further from the wish than doing nothing, and nothing random of that length is nearer.
    assert float(found.lost.max()) < 1
    other = vectors(lm, seed + 2, count=200)
    other *= now[0].double().norm() / other.norm(dim=1, keepdim=True)
    elsewhere = (contributed(lm, LAYER, other) - contributed(lm, LAYER, now[:1]) - wanted[:1]).norm(dim=1)
    assert float(elsewhere.min() / wanted[0].norm()) > float(found.lost[0])


def test_a_contribution_that_can_be_had_is_had(lm):
    """Of another output of the same length all is reached but for the channels with next to no gain."""
    now, other = vectors(lm, 0).float(), vectors(lm, 1)
    other *= now.double().norm(dim=1, keepdim=True) / other.norm(dim=1, keepdim=True)
    found = to_write(lm, LAYER, now, contributed(lm, LAYER, other) - contributed(lm, LAYER, now))
    assert float(found.lost.max()) < 0.05


@pytest.mark.parametrize("variant", POST_NORMED)
def test_a_residual_of_the_stream_asked_of_the_raw_output_would_miss(variant):
    """On a toy whose outputs, gains and stream are all near 1 it would not: here they are as uneven as Gemma's."""
    lm = uneven(variant)
    now = vectors(lm, 0, 0.1).float()
    wanted = vectors(lm, 1, 0.3) * usual_contribution(lm, LAYER)
    naive = contributed(lm, LAYER, now.double() + wanted) - contributed(lm, LAYER, now)
    found = to_write(lm, LAYER, now, wanted)
    assert float(found.lost.mean()) < 0.5 * float(((naive - wanted).norm(dim=1) / wanted.norm(dim=1)).mean())


@pytest.mark.parametrize("variant", ["llama", "gpt2", "granite"])
def test_without_a_norm_it_is_the_wish_itself_over_the_residual_multiplier(variant):
    lm = tiny_model(variant)
    now, wanted = vectors(lm, 0).float(), vectors(lm, 1)
    found = to_write(lm, LAYER, now, wanted)
    assert torch.equal(found.residual, wanted / lm.residual_scale)
    assert not bool(found.lost.any())
    assert gains(lm, LAYER) is None
    assert usual_contribution(lm, LAYER) is None
    torch.testing.assert_close(contributed(lm, LAYER, now), lm.residual_scale * now.double())


@pytest.mark.parametrize("variant", POST_NORMED)
def test_gains_are_the_norm_s_own(variant):
    lm = uneven(variant)
    expected, eps = reference.gains_and_eps(lm, LAYER)
    torch.testing.assert_close(gains(lm, LAYER), expected, rtol=1e-5, atol=1e-5)
    assert 0 < eps < 1e-4


def test_a_step_along_a_direction_is_the_limit_of_a_small_wish(lm):
    now, along = vectors(lm, 0).float(), vectors(lm, 1) * usual_contribution(lm, LAYER)
    step = direction_to_write(lm, LAYER, now, along)
    for fact in range(len(now)):
        expected = reference.direction(lm, LAYER, now[fact], along[fact])
        assert float((step[fact] - expected).norm() / expected.norm()) < 1e-3
    tiny = 1e-3 * now.double().norm() / step.norm()
    moved = contributed(lm, LAYER, now.double() + tiny * step) - contributed(lm, LAYER, now)
    # The stream moves along it, but for what only a longer output could give.
    assert float(torch.nn.functional.cosine_similarity(moved, along).min()) > 0.5


def test_nothing_asked_is_nothing_written(lm):
    now = vectors(lm, 0).float()
    found = to_write(lm, LAYER, now, torch.zeros_like(now, dtype=torch.float64))
    assert float(found.residual.abs().max()) < 1e-6
