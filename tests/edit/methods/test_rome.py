"""ROME and r-ROME against one fact at a time with dense systems, on every family; and on the real model."""

import pytest
import torch
from edit_helpers import FACTS, REAL_FACTS, random_moments, relative
from hypothesis import given, settings
from hypothesis import strategies as st

from errata import edit_facts
from errata.core.linalg import cholesky
from errata.core.updates import add_
from errata.edit.lookup import settings_for
from errata.edit.methods import rome
from errata.edit.methods.rome import RomeConfig, directions_of
from errata.facts import Fact
from errata.models import Place, weights_restored
from errata.stats import SecondMoments
from proportions import PROPORTIONS
from reference import kin
from reference import memit as reference
from tiny import VARIANTS, proportioned_model, tiny_model


def _moments(lm, layer=1):
    return SecondMoments(random_moments(lm, (layer,)), 500, 500, 1, "random", "x", lm.digest())


def _edit(lm, facts, tmp_path, *, method="rome", **fields):
    return edit_facts(
        lm, facts, method=method, layers=(1,), moments=_moments(lm), cache=tmp_path, evaluate=False,
        **{"value_steps": 5, "clamp": 0.5, "learning_rate": 0.1, "prefixes": 2, "short_prefixes": 1, **fields},
        retries=0,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["rome", "r-rome"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_reference(variant, method, tmp_path):
    lm, rate = proportioned_model(variant), 0.1 * PROPORTIONS[variant].written
    result = _edit(lm, FACTS, tmp_path, method=method, learning_rate=rate)
    config = settings_for(
        lm, method=method, layers=(1,), value_steps=5, clamp=0.5, learning_rate=rate, prefixes=2, short_prefixes=1
    ).config
    assert config.one_key == (method == "r-rome")
    prefixes = result.patch.info["prefixes"]
    assert len(prefixes) == 3
    expected = torch.zeros(lm.d_mlp, lm.d_model, dtype=torch.float64)
    for fact in FACTS:
        value, _, _ = reference.target_value(lm, fact, config, prefixes, ("mlp",))
        expected += kin.rome_update(lm, fact, config, prefixes, _moments(lm)[1], value)
    assert relative(result.patch.updates[Place(1, "down")].matrix(), expected) < 1e-3


@pytest.mark.parametrize("variant", ["llama", "gpt2", "opt", "granite"])
@pytest.mark.parametrize("method", ["rome", "r-rome"])
def test_the_update_gives_the_value_at_its_key(variant, method, tmp_path):
    """v* = (W + ΔW)k: at the bare prompt for ROME, at the averaged key for r-ROME."""
    lm, fact = tiny_model(variant), FACTS[1]
    result = _edit(lm, [fact], tmp_path, method=method)
    assert result.patch.values is not None
    with weights_restored(lm, [Place(1, "down")]):
        add_(lm.down_weight(1), result.patch.updates[Place(1, "down")])
        if method == "rome":
            written = reference.residual_state(lm, fact, 1, "mlp")
        else:
            written = lm.down(1)(result.patch.keys[1])[0].detach()
    assert relative(written, result.patch.values[0]) < 1e-4


def _random_keys(seed, facts, size):
    """Two keys a fact, and a second moment."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2 * size, size, generator=generator, dtype=torch.float64)
    means, bare = torch.randn(2, facts, size, generator=generator, dtype=torch.float64)
    return means, bare, rows.T @ rows / len(rows)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), facts=st.integers(1, 5), size=st.integers(2, 20))
def test_the_denominator_of_one_key_cannot_vanish(seed, facts, size):
    means, _, moment = _random_keys(seed, facts, size)
    directions, denominators = directions_of(means, means, cholesky(moment).factor)
    solved = torch.linalg.solve(moment, means.T).T
    torch.testing.assert_close(directions, solved / solved.norm(dim=1, keepdim=True), rtol=1e-7, atol=1e-9)
    eigenvalues = torch.linalg.eigvalsh(moment)
    assert bool((denominators >= 0.999 * means.norm(dim=1) * eigenvalues[0] / eigenvalues[-1]).all())


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), facts=st.integers(1, 5), size=st.integers(2, 20))
def test_the_denominator_of_another_key_may_vanish(seed, facts, size):
    means, bare, moment = _random_keys(seed, facts, size)
    factor = cholesky(moment).factor
    directions, denominators = directions_of(means, bare, factor)
    for key, direction, denominator in zip(bare, directions, denominators, strict=True):
        assert float(denominator) == pytest.approx(float(key @ direction), abs=1e-12)
    across = bare - denominators[:, None] * directions  # what of the bare key is orthogonal to u
    again, vanished = directions_of(means, across, factor)
    assert torch.equal(again, directions)
    assert float(vanished.abs().max()) < 1e-12


def test_a_small_denominator_is_a_warning(tmp_path, monkeypatch):
    lm = tiny_model("llama")
    monkeypatch.setattr(rome, "_SMALL_DENOMINATOR", 0.0)
    assert not any("orthogonal" in text for text in _edit(lm, FACTS, tmp_path).report["warnings"])
    monkeypatch.setattr(rome, "_SMALL_DENOMINATOR", 1e9)
    warned = _edit(lm, FACTS, tmp_path).report
    assert any("4 of 4 facts" in text and "r-rome" in text for text in warned["warnings"])
    assert warned["smallest_denominator"] > 0
    assert _edit(lm, FACTS, tmp_path, method="r-rome").report["smallest_denominator"] == pytest.approx(1)


def test_short_prefixes_are_half_as_long():
    assert RomeConfig(layers=(1,)).prefix_lengths == [5] * 10 + [10] * 10
    assert RomeConfig(layers=(1,), prefixes=3, short_prefixes=0, prefix_tokens=7).prefix_lengths == [7] * 3


def test_facts_at_once_are_the_sum_of_single_edits(tmp_path):
    lm = tiny_model("qwen2")
    together = _edit(lm, FACTS, tmp_path).patch.updates[Place(1, "down")].matrix()
    alone = sum(_edit(lm, [fact], tmp_path).patch.updates[Place(1, "down")].matrix() for fact in FACTS)
    assert relative(together, alone) < 1e-4


@pytest.mark.parametrize("method", ["rome", "r-rome"])
def test_on_the_real_model(smollm2, method, tmp_path):
    layer = 7
    moments = SecondMoments(random_moments(smollm2, (layer,)), 500, 500, 1, "random", "x", smollm2.digest())
    fact = Fact(**{name: getattr(REAL_FACTS[0], name) for name in ("subject", "prompt", "target_new")})
    result = edit_facts(
        smollm2, [fact], method=method, layers=(layer,), moments=moments, cache=tmp_path, prefixes=2, short_prefixes=1
    )
    assert result.before is not None
    assert result.after is not None
    assert (result.before.summary.accuracy.value, result.after.summary.accuracy.value) == (0, 100)
