"""Keys, residuals and updates against full forwards and a plain solve; and that the model is left as it was."""

from contextlib import contextmanager

import pytest
import torch
from edit_helpers import (
    FACTS,
    PREFIXES,
    REAL_FACTS,
    InterruptingSink,
    as_second_moments,
    random_moments,
    relative,
    uneven_model,
)

from errata.core.progress import SILENT
from errata.core.updates import add_
from errata.edit.methods.memit import MemitConfig, RidgeRule
from errata.edit.values.keys import KeyFrontier
from errata.edit.values.layer_loop import solve as solve_by
from errata.edit.values.prompt_rows import key_rows
from errata.errors import NumericsError, SingularSystemError
from errata.facts import Fact
from errata.models import Place, contributed, run_layers, weights_restored
from reference import memit as reference
from tiny import LAYERS, VARIANTS, fresh_model, proportioned_model, tiny_model

# The first layer, a neighbour of it, and the last one.
CONFIG = MemitConfig(layers=(0, 1, LAYERS - 1), prior_weight=3.0)


def solve(lm, facts, values, moments, config, prefixes, progress=SILENT):
    """The layer loop by MEMIT's rule."""
    rule = RidgeRule(as_second_moments(moments), config.prior_weight)
    return solve_by(lm, facts, values, rule, config.layers, prefixes, passes=config.passes, progress=progress)


def _wanted(lm, facts, config):
    states = torch.stack([reference.residual_state(lm, fact, config.layers[-1]) for fact in facts])
    noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    return states + noise * states.norm(dim=1, keepdim=True) / lm.d_model**0.5


def _expect_reference(lm, facts, config, prefixes, tolerance=1e-4):
    values, moments = _wanted(lm, facts, config), random_moments(lm, config.layers)
    before = lm.digest()
    found = solve(lm, facts, values, moments, config, prefixes)
    assert lm.digest() == before
    start = torch.stack([reference.residual_state(lm, fact, config.layers[-1]) for fact in facts])
    with weights_restored(lm, [Place(i, "down") for i in config.layers]):
        updates, keys = reference.edit_(lm, facts, config, prefixes, moments, values)
        end = torch.stack([reference.residual_state(lm, fact, config.layers[-1]) for fact in facts])
    assert [edit.layer for edit in found.layers] == list(config.layers)
    for edit in found.layers:
        assert relative(edit.update.matrix(), updates[edit.layer]) < tolerance
        assert relative(edit.keys, keys[edit.layer]) < tolerance
        norm = float(updates[edit.layer].norm() / lm.down_weight(edit.layer).double().norm())
        assert edit.relative_norm == pytest.approx(norm, rel=1e-3)
        assert edit.jitter == 0
    assert relative(found.start_residual, (values - start).norm(dim=1)) < tolerance
    # What is left is a difference of nearly equal states: its rounding is measured by what there was.
    left = (values - end).norm(dim=1)
    assert (found.end_residual - left).norm() < tolerance * found.start_residual.norm()
    assert found.layers[0].residual == pytest.approx(float(found.start_residual.mean()), rel=1e-5)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_reference(variant):
    _expect_reference(proportioned_model(variant), FACTS, CONFIG, PREFIXES)


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("variant", ["gemma2", "gemma3_text", "olmo2"])
def test_behind_a_norm_of_uneven_gains_equals_the_reference(variant, passes):
    _expect_reference(uneven_model(variant), FACTS, CONFIG.replace(passes=passes), PREFIXES, tolerance=1e-3)


@pytest.mark.parametrize("variant", ["gemma2", "gemma3_text", "olmo2"])
def test_behind_a_norm_what_can_be_written_lands(variant):
    """Values that another output of the last matrix would give; a few passes find it, and nothing is lost."""
    lm, layer = uneven_model(variant), LAYERS - 1
    config = CONFIG.replace(layers=(layer,), prior_weight=1e-9, passes=6)
    states, written = (
        torch.stack([reference.residual_state(lm, fact, layer, site) for fact in FACTS]) for site in ("block", "mlp")
    )
    other = written + 0.5 * written.roll(1, 0)
    values = states + (contributed(lm, layer, other) - contributed(lm, layer, written)).float()
    found = solve(lm, FACTS, values, random_moments(lm, config.layers), config, [""])
    assert float(found.end_residual.max()) < 0.1 * float(found.start_residual.min())
    assert all(edit.relative_norm < 1 for edit in found.layers)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "gemma3_text", "bloom", "opt"])
def test_equals_the_reference_with_bos(variant):
    _expect_reference(tiny_model(variant, bos=True), FACTS, CONFIG, PREFIXES)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("passes", [2, 3])
def test_more_passes_equal_the_reference(variant, passes):
    lm, config = proportioned_model(variant), CONFIG.replace(passes=passes)
    found = _expect_reference(lm, FACTS, config, PREFIXES)
    for edit in found.layers:
        blocks = 1 if edit.layer == 0 else passes  # the first layer's keys stay what they are
        if edit.update.left is not None:
            assert len(edit.update.left) == blocks * len(FACTS)


def test_a_second_pass_lands_more_of_the_residual():
    lm = tiny_model("llama")
    values, moments = _wanted(lm, FACTS, CONFIG), random_moments(lm, CONFIG.layers)
    one, two = (solve(lm, FACTS, values, moments, CONFIG.replace(passes=n), PREFIXES) for n in (1, 2))
    assert float(two.end_residual.mean()) < 0.8 * float(one.end_residual.mean())


def test_passes_end_once_enough_has_landed():
    lm, layers = tiny_model("llama"), CONFIG.layers
    values, moments = _wanted(lm, FACTS, CONFIG), as_second_moments(random_moments(lm, layers))

    def run(passes, enough):
        rule = RidgeRule(moments, CONFIG.prior_weight)
        return solve_by(lm, FACTS, values, rule, layers, PREFIXES, passes=passes, enough=enough)

    left = [float(run(passes, 0.0).end_residual.mean()) for passes in (1, 2, 3)]
    start = float(run(1, 0.0).start_residual.mean())
    assert left[0] > left[1] > left[2] > 0
    found = run(3, (left[0] + left[1]) / 2 / start)
    assert float(found.end_residual.mean()) == left[1]
    assert float(run(3, 1e-9).end_residual.mean()) == left[2]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_prior_in_units_of_the_keys_knows_no_scale(scale):
    """Keys that are so many times as large, with a second moment to match: the update is as many times smaller."""
    lm = tiny_model("llama")
    keys = torch.randn(4, lm.d_mlp, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (moment,) = random_moments(lm, [1]).values()
    moments = [as_second_moments({1: factor**2 * moment}) for factor in (1.0, scale)]
    one, other = (
        RidgeRule(held, 0.3, of_keys=True)(1, factor * keys).adjoint
        for held, factor in zip(moments, (1.0, scale), strict=True)
    )
    assert relative(other * scale, one) < 1e-8
    naive = sum(float(key @ torch.linalg.inv(moment) @ key) for key in keys) / len(keys)
    assert relative(RidgeRule(moments[0], 0.3 * naive)(1, keys).adjoint, one) < 1e-8
    # A fact alone lands 1/(1 + λ) of what it asks.
    alone = RidgeRule(moments[1], 0.3, of_keys=True)(1, scale * keys[:1]).adjoint
    assert float(scale * keys[0] @ alone[0]) == pytest.approx(1 / 1.3)


def test_more_passes_of_dense_updates_equal_the_reference():
    facts = [Fact(subject=f"Tower {i}", prompt=f"Tower {i} is in", target_new="Rome") for i in range(30)]
    found = _expect_reference(tiny_model("llama"), facts, CONFIG.replace(passes=2), ["", "I. "])
    assert all(edit.update.dense is not None for edit in found.layers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_what_is_measured_is_what_the_update_gives(dtype):
    """Adding each pass's part to the weight would round differently from adding their sum."""
    lm = fresh_model("llama")
    lm.hf.to(dtype)
    config = CONFIG.replace(passes=3)
    values = _wanted(lm, FACTS, config).float()
    found = solve(lm, FACTS, values, random_moments(lm, config.layers), config, PREFIXES)
    with weights_restored(lm, [Place(i, "down") for i in config.layers]):
        for edit in found.layers:
            add_(lm.down_weight(edit.layer), edit.update)
        states = KeyFrontier(lm, key_rows(lm, FACTS, PREFIXES), len(FACTS)).advance(0, config.layers[-1])[1]
    assert torch.equal(found.end_residual, (values.double() - states.double()).norm(dim=1).float())


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
@pytest.mark.parametrize("layers", [(0,), (LAYERS - 1,), (1, 2), (0, 1, 2, 3)])
def test_any_choice_of_layers_and_the_bare_prompt_alone(variant, layers):
    _expect_reference(tiny_model(variant), FACTS, CONFIG.replace(layers=layers), [""])


@torch.no_grad()
def _reachable(lm, facts, layer):
    """The stream after `layer` at each subject, were its MLP to write another vector of the same length there."""
    states = []
    for number, fact in enumerate(facts):
        ids, subject = reference.find(lm.tokenizer, fact.text, *fact.subject_span)
        noise = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(number))

        def write(_module, _arguments, output, at=subject[-1], noise=noise):
            rows = output.clone().reshape(-1, lm.d_model)
            rows[at] = noise * rows[at].norm() / noise.norm()
            return rows.reshape(output.shape)

        handle = lm.down(layer).register_forward_hook(write)
        hidden = run_layers(lm, torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long), stop=layer + 1).hidden
        handle.remove()
        states.append(hidden[0, subject[-1]])
    return torch.stack(states)


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_a_weak_prior_one_layer_lands_what_it_can_reach(variant):
    """Also where what the MLP writes is scaled (granite) or normed (gemma) before it joins the residual stream."""
    lm = proportioned_model(variant)
    config = CONFIG.replace(layers=(LAYERS - 1,), prior_weight=1e-9)
    values = _reachable(lm, FACTS, LAYERS - 1)
    found = solve(lm, FACTS, values, random_moments(lm, config.layers), config, [""])
    # Behind a norm, channels that hardly pass it are left where they are.
    left = 0.05 if lm.family.post_norm else 1e-3
    assert float((found.end_residual / found.start_residual).max()) < left


def test_granite_s_residual_scale_is_not_one_here():
    assert proportioned_model("granite").residual_scale == pytest.approx(0.22)
    assert proportioned_model("llama").residual_scale == 1.0


def test_a_strong_prior_freezes_the_weights():
    lm = tiny_model("llama")
    config = CONFIG.replace(prior_weight=1e9)
    found = solve(lm, FACTS, _wanted(lm, FACTS, config), random_moments(lm, config.layers), config, PREFIXES)
    assert relative(found.end_residual, found.start_residual) < 1e-4
    assert all(edit.relative_norm < 1e-5 for edit in found.layers)


@pytest.mark.parametrize(("count", "is_dense", "form"), [(22, False, "dual"), (23, True, "dual"), (81, True, "primal")])
def test_factors_until_they_outgrow_the_matrix(count, is_dense, form):
    # Break-even at 80·32/(80 + 32) = 22.9 facts; the primal form from d_mlp = 80 facts on.
    facts = [Fact(subject=f"Tower {i}", prompt=f"Tower {i} is in", target_new="Rome") for i in range(count)]
    found = _expect_reference(tiny_model("llama"), facts, CONFIG.replace(layers=(1, 2)), ["", "I. "])
    for edit in found.layers:
        assert (edit.update.dense is not None) == is_dense
        assert edit.form == form


def test_equal_token_rows_are_run_once_and_have_one_key():
    lm = tiny_model("llama")
    twin = Fact(subject="France", prompt="France is the", target_new="Paris")
    facts = [FACTS[3], FACTS[0], twin]
    frontier = KeyFrontier(lm, key_rows(lm, facts, PREFIXES), len(facts))
    assert len(frontier.rows) == 2 * len(PREFIXES)
    keys, states = frontier.advance(1, 2)
    assert torch.equal(keys[0], keys[2])
    assert torch.equal(states[0], states[2])
    assert relative(keys[1], keys[0]) > 1e-2
    _expect_reference(lm, facts, CONFIG, PREFIXES)


@pytest.mark.parametrize("chunk_tokens", [1, 20, 50])
def test_chunks_change_nothing(chunk_tokens, monkeypatch):
    monkeypatch.setattr("errata.edit.values.keys._CHUNK_TOKENS", chunk_tokens)
    _expect_reference(tiny_model("llama"), FACTS, CONFIG, PREFIXES)


def test_the_order_of_the_facts_does_not_matter():
    lm = tiny_model("llama")
    values, moments = _wanted(lm, FACTS, CONFIG), random_moments(lm, CONFIG.layers)
    found = solve(lm, FACTS, values, moments, CONFIG, PREFIXES)
    backwards = solve(lm, FACTS[::-1], values.flip(0), moments, CONFIG, PREFIXES)
    for one, other in zip(found.layers, backwards.layers, strict=True):
        assert relative(other.update.matrix(), one.update.matrix()) < 1e-5
        assert relative(other.keys.flip(0), one.keys) < 1e-5


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interrupted_solve_leaves_the_exact_bits(at, error):
    lm = fresh_model("llama")
    before, during = lm.digest(), []
    sink = InterruptingSink(at, error, before=lambda: during.append(lm.digest()))
    values, moments = _wanted(lm, FACTS, CONFIG), random_moments(lm, CONFIG.layers)
    with pytest.raises(error):
        solve(lm, FACTS, values, moments, CONFIG, PREFIXES, sink)
    assert during[0] != before, "the interruption must come while the model is edited"
    assert lm.digest() == before


def test_a_singular_system_is_an_error_and_leaves_the_exact_bits():
    lm = fresh_model("llama")
    before = lm.digest()
    moments = random_moments(lm, CONFIG.layers)
    moments[1] = torch.zeros_like(moments[1])
    with pytest.raises(SingularSystemError):
        solve(lm, FACTS, _wanted(lm, FACTS, CONFIG), moments, CONFIG, PREFIXES)
    assert lm.digest() == before


def test_values_that_are_not_finite_are_an_error_and_leave_the_exact_bits():
    lm = fresh_model("llama")
    before = lm.digest()
    values = _wanted(lm, FACTS, CONFIG)
    values[2, 5] = float("nan")
    with pytest.raises(NumericsError, match="not finite"):
        solve(lm, FACTS, values, random_moments(lm, CONFIG.layers), CONFIG, PREFIXES)
    assert lm.digest() == before


def test_equals_the_reference_on_the_real_model(smollm2):
    config = MemitConfig(layers=(7, 8, 9), prior_weight=30.0)
    prefixes = ["", "The weather is fine. "]
    found = _expect_reference(smollm2, REAL_FACTS, config, prefixes, tolerance=1e-3)
    assert float(found.end_residual.max()) < float(found.start_residual.min())


@pytest.mark.parametrize("layers", [(0, 1, LAYERS - 1), (1, 2), (LAYERS - 1,)])
def test_progress_counts_the_layers_that_the_facts_run_through(layers):
    """So that the time left is right from the first layer on, below which all others are run first."""
    lm = tiny_model("llama")
    config = MemitConfig(layers=layers, prior_weight=3.0, passes=2)
    ran, told = [0], []

    def count(_module, arguments):
        ran[0] += arguments[0].shape[:2].numel()

    class Sink:
        @contextmanager
        def stage(self, what, total, unit, *, done=0):
            assert (what, unit, done) == ("layers", "layer runs", 0)
            yield lambda amount: told.append((amount, ran[0]))
            assert sum(amount for amount, _ in told) == total

        def note(self, text):
            pass

    values = _wanted(lm, FACTS, config)
    handles = [layer.register_forward_pre_hook(count) for layer in lm.layers]
    try:
        solve(lm, FACTS, values, random_moments(lm, layers), config, PREFIXES, progress=Sink())
    finally:
        for handle in handles:
            handle.remove()
    work = [after - before for before, after in zip([0, *(n for _, n in told)], (n for _, n in told), strict=False)]
    speeds = [seconds / amount for (amount, _), seconds in zip(told, work, strict=True)]
    assert max(speeds) < 1.5 * min(speeds), (told, work)
