"""AlphaEdit, EMMET, PMET and sequential MEMIT against their published forms on every family, and on the real model."""

import math

import pytest
import torch
from edit_helpers import FACTS, PREFIXES, REAL_FACTS, as_second_moments, random_moments, relative
from hypothesis import given, settings
from hypothesis import strategies as st

from errata import edit_facts
from errata.core.linalg import cholesky, equality_adjoint, null_space, null_space_adjoint, ridge_adjoint
from errata.core.updates import WeightUpdate, add_
from errata.edit.lookup import settings_for
from errata.edit.methods.alphaedit import AlphaEditConfig, NullSpaceRule
from errata.edit.methods.emmet import EmmetConfig, EqualityRule
from errata.edit.methods.memit import MemitConfig, RidgeRule
from errata.edit.values.layer_loop import LayerEdit, Solution, solve
from errata.edit.values.targets import TargetValues
from errata.edit.values.value_report import diagnose
from errata.errors import ConfigError, SingularSystemError
from errata.facts import Fact
from errata.models import Place, weights_restored
from errata.stats import SecondMoments
from reference import kin
from reference import memit as reference
from tiny import LAYERS, VARIANTS, proportioned_model, tiny_model

EMMET = EmmetConfig(layers=(0, 1, LAYERS - 1), moment_scale=3.0, softness=0.7)
ALPHA = AlphaEditConfig(layers=(0, 1, LAYERS - 1), threshold=0.8, ridge=0.5)


def _wanted(lm, layer, site="block"):
    states = torch.stack([reference.residual_state(lm, fact, layer, site) for fact in FACTS])
    noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
    return states + noise * states.norm(dim=1, keepdim=True) / lm.d_model**0.5


def _expect_reference(lm, config, rule, slow_rule, *, site="block", spread="even", moments=None):
    moments = moments or random_moments(lm, config.layers)
    values = _wanted(lm, config.layers[-1], site)
    found = solve(
        lm,
        FACTS,
        values,
        rule(as_second_moments(moments)),
        config.layers,
        PREFIXES,
        passes=config.passes,
        spread=spread,
        reads=site,
    )
    with weights_restored(lm, [Place(i, "down") for i in config.layers]):
        left = (lambda n: n) if spread == "even" else math.sqrt
        updates, _ = reference.edit_(lm, FACTS, config, PREFIXES, moments, values, slow_rule, left, site)
        left_over = reference.missing_of(lm, FACTS, config.layers[-1], values, site).norm(dim=1)
    for edit in found.layers:
        assert relative(edit.update.matrix(), updates[edit.layer]) < 1e-4
        assert float(updates[edit.layer].norm()) > 1e-3
    assert (found.end_residual - left_over).norm() < 1e-4 * found.start_residual.norm()


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_emmet_equals_the_reference(variant, passes):
    config = EMMET.replace(passes=passes)
    _expect_reference(proportioned_model(variant), config, lambda m: EqualityRule(m, config), kin.emmet_rule(config))


@pytest.mark.parametrize("variant", VARIANTS)
def test_alphaedit_equals_its_published_form(variant):
    rule = lambda moments: NullSpaceRule(moments, ALPHA, {})  # noqa: E731
    _expect_reference(proportioned_model(variant), ALPHA, rule, kin.alphaedit_rule(ALPHA))


def test_a_share_of_the_directions():
    lm, config = tiny_model("llama"), ALPHA.replace(threshold=0.5, threshold_unit="share")
    moments = as_second_moments(random_moments(lm, config.layers))
    rule = NullSpaceRule(moments, config, {})
    for layer, basis in rule.bases.items():
        assert basis.shape == (lm.d_mlp, lm.d_mlp // 2)
        inside = torch.linalg.eigvalsh(basis.T @ moments[layer] @ basis)
        assert torch.allclose(inside, torch.linalg.eigvalsh(moments[layer])[: lm.d_mlp // 2])


def test_a_threshold_that_the_user_gives_is_in_the_published_unit():
    lm = tiny_model("llama")
    guessed = settings_for(lm, method="alphaedit").config
    assert (guessed.threshold, guessed.threshold_unit) == (0.6, "share")
    given = settings_for(lm, method="alphaedit", threshold=0.02).config
    assert (given.threshold, given.threshold_unit) == (0.02, "absolute")
    both = settings_for(lm, method="alphaedit", threshold=0.3, threshold_unit="share").config
    assert (both.threshold, both.threshold_unit) == (0.3, "share")
    other = settings_for(lm, method="alphaedit", ridge=1.0).config
    assert (other.threshold, other.threshold_unit) == (0.6, "share")


def test_alphaedit_protects_earlier_facts_as_published():
    lm, config = tiny_model("llama"), ALPHA.replace(layers=(1,))
    past = torch.randn(5, lm.d_mlp, generator=torch.Generator().manual_seed(3))
    rule = lambda moments: NullSpaceRule(moments, config, {1: past})  # noqa: E731
    _expect_reference(lm, config, rule, kin.alphaedit_rule(config, past.double()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_pmet_s_loop_equals_the_reference(variant):
    config = MemitConfig(layers=(0, 1, LAYERS - 1), prior_weight=3.0)
    rule = lambda moments: RidgeRule(moments, config.prior_weight)  # noqa: E731
    _expect_reference(proportioned_model(variant), config, rule, None, site="mlp", spread="root")


@pytest.mark.parametrize("variant", ["llama", "gpt2-square", "gemma2", "gptj", "granite", "opt"])
def test_pmet_as_a_whole_equals_the_reference(variant, tmp_path):
    """From the facts to the updates: joint optimisation of both shifts, the MLP alone written, 1/√ shares."""
    lm, layers = tiny_model(variant), (0, 1, 2)
    moments = random_moments(lm, layers)
    fields = {
        "layers": layers, "prior_weight": 3.0, "value_steps": 6, "prefixes": 1, "clamp": 4.0, "learning_rate": 0.3,
        "retries": 0, "passes": 1, "enough": 0.0,
    }  # fmt: skip
    result = edit_facts(
        lm, FACTS, method="pmet", moments=SecondMoments(moments, 500, 500, 1, "random", "x", lm.digest()),
        cache=tmp_path, evaluate=False, **fields,
    )  # fmt: skip
    config = settings_for(lm, method="pmet", **fields).config
    assert result.report["guard"]["given_up"] == []
    updates, values = kin.pmet_updates(lm, FACTS, config, result.patch.info["prefixes"], moments)
    assert result.patch.values is not None
    assert relative(result.patch.values, values) < 1e-4
    for layer in layers:
        assert relative(result.patch.updates[Place(layer, "down")].matrix(), updates[layer]) < 1e-3
    # Were attention's shift left out of the optimisation, the values would be others (granite's hardly, 6e-4).
    alone = [reference.target_value(lm, fact, config, result.patch.info["prefixes"], ("mlp",))[0] for fact in FACTS]
    assert relative(torch.stack(alone), values) > max(2e-4, 5 * relative(result.patch.values, values))


def test_sequential_memit_adds_past_keys_to_the_system():
    lm, config = tiny_model("gpt2"), MemitConfig(layers=(1,), prior_weight=3.0)
    past = torch.randn(6, lm.d_mlp, generator=torch.Generator().manual_seed(3))

    def slow(moment, keys, residuals):
        gram = keys.T @ keys + past.double().T @ past.double()
        return torch.linalg.solve(3.0 * moment + gram, keys.T @ residuals)

    _expect_reference(lm, config, lambda moments: RidgeRule(moments, 3.0, {1: past}), slow)


# The algebra, on systems of any shape.


def _system(seed, facts, size, extra=3):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(facts, size, generator=generator, dtype=torch.float64)
    rows = torch.randn(size + extra, size, generator=generator, dtype=torch.float64)
    scales = torch.logspace(-2, 1, size, dtype=torch.float64)
    rows = rows * scales
    return keys, rows.T @ rows / len(rows)


SHAPES = {"seed": st.integers(0, 10_000), "facts": st.integers(1, 12), "size": st.integers(4, 16)}


@settings(max_examples=40, deadline=None)
@given(**SHAPES, softness=st.floats(1e-3, 10), scale=st.floats(0.1, 100))
def test_emmet_is_memit_with_lambda_alpha_s(seed, facts, size, softness, scale):
    keys, moment = _system(seed, facts, size)
    emmet = equality_adjoint(keys, cholesky(scale * moment), softness=softness).adjoint
    memit = ridge_adjoint(keys, moment, prior_weight=softness * scale, form="primal").adjoint
    assert relative(emmet, memit) < 1e-6


@settings(max_examples=40, deadline=None)
@given(**SHAPES)
def test_hard_constraints_map_every_key_onto_its_value(seed, facts, size):
    facts = min(facts, size - 1)
    keys, moment = _system(seed, facts, size)
    values = torch.randn(facts, 5, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    update = equality_adjoint(keys, cholesky(moment), softness=0.0).adjoint.T @ values
    assert relative(keys @ update, values) < 1e-6


@settings(max_examples=40, deadline=None)
@given(**SHAPES, ridge=st.floats(1e-2, 10), past=st.integers(0, 4))
def test_alphaedit_s_reduced_form_is_the_published_one_and_stays_in_the_null_space(seed, facts, size, ridge, past):
    keys, moment = _system(seed, facts, size)
    below = float(torch.linalg.eigvalsh(moment)[size // 2]) * 1.0001
    basis = null_space(*torch.linalg.eigh(moment), below=below)
    earlier = torch.randn(past, size, generator=torch.Generator().manual_seed(seed + 2), dtype=torch.float64)
    reduced = null_space_adjoint(keys, basis, ridge=ridge, past_keys=earlier).adjoint
    projector = basis @ basis.T
    system = projector @ (keys.T @ keys + earlier.T @ earlier) + ridge * torch.eye(size, dtype=torch.float64)
    published = torch.linalg.solve(system, projector @ keys.T).T
    assert relative(reduced, published) < 1e-8
    outside = torch.eye(size, dtype=torch.float64) - projector
    assert float((reduced @ outside).norm()) < 1e-9 * max(1.0, float(reduced.norm()))


@settings(max_examples=40, deadline=None)
@given(**SHAPES, kind=st.sampled_from(["equal", "scaled", "sum", "zero", "float32 noise", "too many"]))
def test_keys_that_depend_on_each_other_cannot_all_be_met(seed, facts, size, kind):
    facts = min(facts, size - 1)
    keys, moment = _system(seed, facts, size)
    noise = 1e-8 * torch.randn(1, size, generator=torch.Generator().manual_seed(seed + 3), dtype=torch.float64)
    more = {
        "equal": keys[:1], "scaled": -1e3 * keys[:1], "sum": keys.sum(0, keepdim=True), "zero": 0 * keys[:1],
        "float32 noise": keys[:1] + noise, "too many": _system(seed + 4, size, size)[0],
    }[kind]  # fmt: skip
    made, keys = cholesky(moment), torch.cat([keys, more])
    with pytest.raises(SingularSystemError, match=r"depend on each other.* softness above 0"):
        equality_adjoint(keys, made, softness=0.0)
    soft = equality_adjoint(keys, made, softness=1e-3)
    assert torch.isfinite(soft.adjoint).all()
    assert soft.jitter == 0


def test_keys_that_are_not_finite_are_no_matter_of_softness():
    keys, moment = _system(0, 3, 8)
    keys[1, 2] = float("nan")
    with pytest.raises(SingularSystemError, match="not finite"):
        equality_adjoint(keys, cholesky(moment), softness=0.0)


def test_emmet_refuses_hard_constraints_on_two_facts_with_one_key(tmp_path):
    lm = tiny_model("llama")
    moments = SecondMoments(random_moments(lm, (1,)), 500, 500, 1, "random", "x", lm.digest())
    facts = [*FACTS, Fact(subject="France", prompt="France is the", target_new="Paris")]
    options = {"layers": (1,), "moments": moments, "cache": tmp_path, "value_steps": 2, "prefixes": 0}
    with pytest.raises(SingularSystemError, match="number 5 on those before it"):
        edit_facts(lm, facts, method="emmet", softness=0.0, evaluate=False, **options)
    report = edit_facts(lm, facts, method="emmet", softness=0.1, evaluate=False, **options).report
    assert not [text for text in report["warnings"] if "jitter" in text]


# What was singular, on systems whose elimination is exact: a pivot is 0, and no rounding hides it.

_ALIKE = torch.tensor(4 * [[1.0, 1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
_EYE = torch.eye(5, dtype=torch.float64)
_DEAD = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64))
_WEAK = {
    "equality": lambda moment: equality_adjoint(_ALIKE, cholesky(moment), softness=1e-20),
    "dual": lambda moment: ridge_adjoint(_ALIKE, moment, prior_weight=1e-20),
    "primal": lambda moment: ridge_adjoint(_ALIKE, moment, prior_weight=1e-20, form="primal"),
}
_STRONG = {
    "equality": lambda moment: equality_adjoint(_ALIKE, cholesky(moment), softness=1.0),
    "dual": lambda moment: ridge_adjoint(_ALIKE, moment, prior_weight=1.0),
    "primal": lambda moment: ridge_adjoint(_ALIKE, moment, prior_weight=1.0, form="primal"),
}


@pytest.mark.parametrize("form", _WEAK)
def test_a_weak_prior_s_jitter_is_not_the_second_moment_s(form):
    solved = _WEAK[form](_EYE)
    assert solved.form == form
    assert 0 == solved.moment_jitter < solved.jitter


@pytest.mark.parametrize("form", _STRONG)
def test_a_singular_second_moment_s_jitter_is_told_apart(form):
    assert _STRONG[form](_EYE).jitter == 0
    solved = _STRONG[form](_DEAD)
    assert 0 < solved.moment_jitter == solved.jitter


def test_the_null_space_has_no_second_moment_in_its_system():
    solved = null_space_adjoint(_ALIKE, _EYE, ridge=1e-20)
    assert 0 == solved.moment_jitter < solved.jitter


@pytest.mark.parametrize(
    ("jitter", "moment_jitter", "said"),
    [
        (0.0, 0.0, []),
        (1e-9, 1e-9, ["second moment is singular (it needed jitter 1e-09); use more moment_tokens"]),
        (1e-9, 0.0, ["system needed jitter 1e-09: softness=0.1 is too small beside its keys; raise it"]),
        (1e-9, 1e-12, ["second moment is singular (it needed jitter 1e-12)", "system needed jitter 1e-09"]),
    ],
)
def test_the_warning_of_jitter_names_what_was_singular(jitter, moment_jitter, said):
    edit = LayerEdit(
        layer=4, update=WeightUpdate(dense=torch.zeros(2, 2)), keys=torch.zeros(1, 2), residual=1.0,
        relative_norm=0.1, form="dual", jitter=jitter, moment_jitter=moment_jitter,
    )  # fmt: skip
    one = torch.zeros(1)
    values = TargetValues(
        value=torch.zeros(1, 2), shift_norm=one, start_norm=one, first_nll=one, short_nll=one, nll=one, kl=one,
        loss=one, updates=one.long(), converged=one.long(),
    )  # fmt: skip
    found = diagnose(values, Solution((edit,), torch.ones(1), torch.zeros(1)), "softness=0.1")
    assert len(found) == len(said)
    assert all(part in text and "Layer 4" in text for part, text in zip(said, found, strict=True))


# As a user has them.

METHODS = ["memit", "alphaedit", "emmet", "pmet"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", ["llama", "gpt2", "gemma2", "bloom"])
def test_through_the_job(method, variant, tmp_path):
    lm = tiny_model(variant)
    moments = SecondMoments(random_moments(lm, (0, 1, 2)), 500, 500, 1, "random", "x", lm.digest())
    layers = (1,) if method == "emmet" else (0, 1)
    result = edit_facts(
        lm, FACTS, method=method, layers=layers, moments=moments, cache=tmp_path, value_steps=4, prefixes=1,
        evaluate=False,
    )  # fmt: skip
    assert [place.layer for place in result.patch.updates] == list(layers)
    assert result.patch.info["method"] == method
    assert result.report["residual"]["end"] < result.report["residual"]["start"]
    digest = lm.digest()
    with result.patch.applied(lm):
        assert lm.digest() != digest
    assert lm.digest() == digest


def test_methods_that_differ_in_their_solve_share_target_values(tmp_path):
    lm = tiny_model("llama")
    moments = SecondMoments(random_moments(lm, (1, 2)), 500, 500, 1, "random", "x", lm.digest())
    # Second tries, of which each method may need others, have values of their own.
    common = {
        "moments": moments, "cache": tmp_path, "value_steps": 4, "prefixes": 1, "evaluate": False, "retries": 0,
    }  # fmt: skip
    for method in METHODS:
        edit_facts(lm, FACTS, method=method, layers=(2,), **common)
        kept = len(list((tmp_path / "values").rglob("*.safetensors")))
        # PMET's are values of another place.
        assert kept == (2 * len(FACTS) if method == "pmet" else len(FACTS))


def test_a_threshold_below_every_eigenvalue_is_refused():
    lm = tiny_model("llama")
    moments = SecondMoments(random_moments(lm, (1,)), 500, 500, 1, "random", "x", lm.digest())
    with pytest.raises(ConfigError, match="nowhere to write"):
        edit_facts(
            lm, FACTS, method="alphaedit", layers=(1,), threshold=1e-12, moments=moments, value_steps=2, prefixes=0,
            evaluate=False,
        )  # fmt: skip


@pytest.mark.parametrize("method", ["alphaedit", "emmet", "pmet"])
def test_on_the_real_model(smollm2, method, tmp_path):
    lm, layers = smollm2, (9,) if method == "emmet" else (7, 8, 9)
    extra = {"threshold": 0.6, "threshold_unit": "share", "ridge": 1.0} if method == "alphaedit" else {}
    extra |= {"prior_weight": 100.0} if method == "pmet" else {}
    moments = _quick_moments(lm, layers)
    result = edit_facts(
        lm, REAL_FACTS, method=method, layers=layers, moments=moments, cache=tmp_path, prefixes=1, clamp=1.0, **extra
    )
    assert result.before is not None
    assert result.after is not None
    assert result.before.summary.accuracy.value == 0
    assert result.after.summary.accuracy.value == 100


def _quick_moments(lm, layers):
    """Second moments over a few hundred tokens, made well-conditioned: enough for three facts."""
    from errata.models import pad_right, run_layers

    text = "The city of Paris is in France. Water boils at a hundred degrees. Music is played by people. " * 12
    ids, mask = pad_right([tuple(lm.tokenizer(text)["input_ids"])], device=lm.device)
    keys = run_layers(lm, ids, mask, tap_down=layers, stop=layers[-1] + 1).down_inputs
    found = {}
    for layer in layers:
        rows = keys[layer][0].detach().double()
        gram = rows.T @ rows / len(rows)
        found[layer] = gram + 0.05 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    return SecondMoments(found, len(ids[0]), len(ids[0]), 1, "a text", "x", lm.digest())


def test_an_update_is_what_the_patch_adds():
    lm, config = tiny_model("llama"), EMMET.replace(layers=(1,), softness=0.0)
    moments, values = random_moments(lm, (1,)), _wanted(lm, 1)
    found = solve(lm, FACTS, values, EqualityRule(as_second_moments(moments), config), (1,), [""])
    with weights_restored(lm, [Place(1, "down")]):
        add_(lm.down_weight(1), found.layers[0].update)
        states = torch.stack([reference.residual_state(lm, fact, 1) for fact in FACTS])
    # With hard constraints and the bare prompt alone as context, one layer lands every value.
    assert relative(states, values) < 1e-4
