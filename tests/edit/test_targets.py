"""Target values against one fact at a time through full forwards and autograd."""

import pytest
import torch
from edit_helpers import FACTS, PREFIXES, REAL_FACTS, relative, uneven_model

from errata.edit.methods.memit import MemitConfig
from errata.edit.values.collect import collect_values
from errata.edit.values.targets import learning_rates, target_values
from errata.errors import NumericsError
from errata.facts import Fact
from errata.models import projection
from proportions import PROPORTIONS
from reference import memit as reference
from tiny import LAYERS, VARIANTS, fresh_model, proportioned_model, tiny_model

CONFIG = MemitConfig(layers=(1, 2), value_steps=6, learning_rate=0.1, clamp=0.4)


SITES = {"block": ("block",), "mlp": ("mlp",), "attention and mlp": ("attention", "mlp")}


def _expect_reference(lm, facts, config, prefixes, tolerance=1e-4, site="block", every_channel=True):
    found = target_values(lm, facts, config, prefixes, site=site)
    for i, fact in enumerate(facts):
        value, updates, loss = reference.target_value(lm, fact, config, prefixes, SITES[site])
        start = reference.residual_state(lm, fact, config.layers[-1], SITES[site][-1])
        assert int(found.updates[i]) == updates, fact
        assert bool(found.converged[i]) == (loss < config.stop_loss)
        assert float(found.loss[i]) == pytest.approx(loss, rel=10 * tolerance, abs=1e-5 if tolerance < 1e-3 else 1e-3)
        assert float(found.start_norm[i]) == pytest.approx(float(start.norm()), rel=tolerance)
        if not every_channel:
            # Where a channel has next to no gradient, Adam makes full steps of its rounding; most have one.
            difference = (found.value[i] - value).abs()
            assert float(difference.median()) < tolerance * float((value - start).abs().max()), fact
            continue
        assert relative(found.value[i], value) < tolerance, fact
        if float((value - start).norm()) > 0.01 * float(start.norm()):  # else float32 holds little of it
            assert relative(found.value[i] - start, value - start) < 10 * tolerance, fact
        assert float(found.shift_norm[i]) == pytest.approx(float((value - start).norm()), rel=1e-2, abs=1e-4)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_reference(variant):
    """On models of real scales, at a rate that gets somewhere in a stream of that size."""
    config = CONFIG.replace(learning_rate=0.05 * PROPORTIONS[variant].stream)
    _expect_reference(proportioned_model(variant), FACTS, config, PREFIXES)


@pytest.mark.parametrize("site", ["mlp", "attention and mlp"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_shifts_of_what_matrices_write_equal_the_reference(variant, site):
    config = CONFIG.replace(learning_rate=0.05 * PROPORTIONS[variant].written)
    _expect_reference(proportioned_model(variant), FACTS, config, PREFIXES, site=site)


@pytest.mark.parametrize("site", ["mlp", "attention and mlp"])
def test_shifts_of_what_matrices_write_at_the_first_layer_and_without_prefixes(site):
    _expect_reference(tiny_model("llama"), FACTS, CONFIG.replace(layers=(0,)), PREFIXES, site=site)
    _expect_reference(tiny_model("gpt2", bos=True), FACTS, CONFIG, [""], site=site)


RELATIVE = CONFIG.replace(value_unit="start", learning_rate=0.05, weight_decay=0.1)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("variant", ["llama", "gpt2", "olmo2"])
def test_rates_clamps_and_decays_relative_to_the_start_equal_the_reference(variant, site):
    lm, exact = tiny_model(variant), variant != "olmo2"
    found, clamped = (
        _expect_reference(
            lm, FACTS, RELATIVE.replace(clamp=clamp), PREFIXES, 1e-4 if exact else 1e-3, site, every_channel=exact
        )
        for clamp in (RELATIVE.clamp, 0.05)
    )
    assert float(clamped.shift_norm.mean()) < float(found.shift_norm.mean())


@pytest.mark.parametrize("variant", ["gemma2", "gemma3_text", "olmo2"])
def test_behind_uneven_gains_a_shift_of_the_stream_is_measured_in_them(variant):
    _expect_reference(uneven_model(variant), FACTS, RELATIVE, PREFIXES, tolerance=1e-2, every_channel=False)


def test_relative_settings_know_no_scale():
    """The same model with a stream a thousand times as large: every shift is as much larger, every loss the same."""
    lm, large = tiny_model("llama"), fresh_model("llama")
    with torch.no_grad():
        large.embed_tokens.weight *= 1000
        for layer in range(LAYERS):
            for matrix in ("o", "down"):
                projection(large, layer, matrix).weight.mul_(1000)
    large.hf.lm_head.weight.data.copy_(lm.hf.lm_head.weight)  # in case the two are tied
    config = RELATIVE.replace(learning_rate=0.1)
    one, other = (target_values(model, FACTS, config, PREFIXES) for model in (lm, large))
    assert relative(other.value / 1000, one.value) < 1e-2
    assert relative(other.nll, one.nll) < 1e-2
    absolute = CONFIG.replace(value_unit="absolute")
    one, other = (target_values(model, FACTS, absolute, PREFIXES) for model in (lm, large))
    assert relative(other.shift_norm / other.start_norm, one.shift_norm / one.start_norm) > 0.9


def test_two_shifts_have_a_clamp_each():
    lm, config = tiny_model("llama"), CONFIG.replace(clamp=0.05, learning_rate=0.5)
    found = _expect_reference(lm, FACTS, config, PREFIXES, site="attention and mlp")
    assert float((found.shift_norm / found.start_norm).max()) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "gemma3_text", "bloom", "opt"])
def test_equals_the_reference_with_bos(variant):
    _expect_reference(tiny_model(variant, bos=True), FACTS, CONFIG, PREFIXES)


@pytest.mark.parametrize("variant", ["llama", "mistral", "gpt2"])
def test_finished_facts_leave_the_batch_and_the_others_go_on(variant):
    lm = tiny_model(variant)
    config = CONFIG.replace(learning_rate=0.3, clamp=4.0, value_steps=12)
    free = target_values(lm, FACTS, config.replace(stop_loss=0.0), PREFIXES)
    # Between the losses that the facts reach: some get below it, some never do.
    losses = free.loss.sort().values
    found = _expect_reference(lm, FACTS, config.replace(stop_loss=float(losses[1] + losses[2]) / 2), PREFIXES)
    assert 0 < int(found.converged.sum()) < len(FACTS)
    assert len(set(found.updates.tolist())) > 1
    assert int(found.updates[found.converged == 0].min()) == config.value_steps - 1


def test_a_stop_loss_that_all_facts_are_below_at_once_takes_no_update():
    lm = tiny_model("llama")
    found = _expect_reference(lm, FACTS, CONFIG.replace(stop_loss=1000.0), PREFIXES)
    assert found.updates.tolist() == [0] * len(FACTS)
    assert float(found.shift_norm.max()) == 0
    assert torch.equal(found.first_nll, found.nll)


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_the_value_layer_may_be_the_last_one(variant):
    # Nothing above the last layer moves a shift to a later position: the subject must stand right before the target.
    facts = [FACTS[2], Fact(subject="Bill Gates", prompt="Microsoft was founded by Bill Gates", target_new="French")]
    found = _expect_reference(tiny_model(variant), facts, CONFIG.replace(layers=(0, LAYERS - 1)), PREFIXES)
    assert float(found.shift_norm.min()) > 0


@pytest.mark.parametrize("variant", ["llama", "qwen2", "gptj"])
@pytest.mark.parametrize("bos", [False, True])
def test_the_bare_prompt_alone_is_enough(variant, bos):
    _expect_reference(tiny_model(variant, bos=bos), FACTS, CONFIG, [""])


@pytest.mark.parametrize("variant", ["llama", "granite"])
def test_one_fact_whose_value_layer_is_the_first(variant):
    _expect_reference(tiny_model(variant), FACTS[:1], CONFIG.replace(layers=(0,)), PREFIXES)


@pytest.mark.parametrize("changed", [{"kl_factor": 0.0}, {"kl_factor": 2.0}, {"weight_decay": 0.0}, {"clamp": 0.05}])
def test_every_term_of_the_loss_is_the_reference_s(changed):
    lm = tiny_model("llama")
    found = _expect_reference(lm, FACTS, CONFIG.replace(**changed), PREFIXES)
    plain = target_values(lm, FACTS, CONFIG, PREFIXES)
    assert relative(found.value, plain.value) > 1e-4
    limit = changed.get("clamp", CONFIG.clamp) * found.start_norm
    assert bool((found.shift_norm <= limit * (1 + 1e-5)).all())


@pytest.mark.parametrize("variant", ["llama", "gpt2", "falcon-alibi", "gemma3_text"])
def test_company_order_and_padding_change_nothing(variant):
    lm = tiny_model(variant, bos=True)
    together = target_values(lm, FACTS, CONFIG, PREFIXES)
    backwards = target_values(lm, FACTS[::-1], CONFIG, PREFIXES)
    long = Fact(
        subject="China",
        prompt="Because I said so, you know. Therefore the answer is here. The Great Wall is in China",
        target_new="Canada and Italy and Japan and France and Paris",
    )
    padded = target_values(lm, [long, *FACTS], CONFIG, PREFIXES)
    for i, fact in enumerate(FACTS):
        alone = target_values(lm, [fact], CONFIG, PREFIXES)
        for other in (alone.value[0], backwards.value[-1 - i], padded.value[1 + i]):
            assert relative(other, together.value[i]) < 1e-5
    assert torch.equal(backwards.updates.flip(0), together.updates)


def test_the_same_inputs_give_the_same_bits_and_leave_the_weights_alone():
    lm = tiny_model("llama")
    before = lm.digest()
    first, second = (target_values(lm, FACTS, CONFIG, PREFIXES) for _ in range(2))
    assert all(torch.equal(tensor, second.tensors()[name]) for name, tensor in first.tensors().items())
    assert lm.digest() == before
    assert all(parameter.grad is None for parameter in lm.hf.parameters())


def test_the_optimization_lowers_the_loss():
    found = target_values(tiny_model("llama"), FACTS, CONFIG.replace(value_steps=20, clamp=4.0), PREFIXES)
    assert bool((found.nll < found.first_nll).all())


def test_equals_the_reference_on_the_real_model(smollm2):
    config = MemitConfig(layers=(7, 8, 9), value_steps=6)
    found = _expect_reference(smollm2, REAL_FACTS, config, ["", "The weather is fine. "], tolerance=1e-3)
    assert bool((found.nll < found.first_nll).all())


def test_numbers_that_are_not_finite_are_an_error_and_nothing_is_kept(tmp_path):
    lm = fresh_model("llama")
    with torch.no_grad():
        lm.layers[3].mlp.up_proj.weight.fill_(float("nan"))
    with pytest.raises(NumericsError, match="not finite"):
        target_values(lm, FACTS, CONFIG, PREFIXES)
    with pytest.raises(NumericsError, match="not finite"):
        collect_values(lm, FACTS, CONFIG, PREFIXES, cache=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_fast_schedule_never_takes_more_updates():
    for steps in range(2, 30):
        fast = learning_rates(CONFIG.replace(value_steps=steps, schedule="fast"))
        assert len(fast) <= len(learning_rates(CONFIG.replace(value_steps=steps)))
        assert all(rate > 0 for rate in fast)
