"""Fine-tuning against torch's Adam on the model's own parameters, on every family; and what it leaves behind."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from edit_helpers import FACTS, REAL_FACTS, InterruptingSink, relative

from errata import edit_facts
from errata.edit.lookup import settings_for
from errata.edit.method import EditTask
from errata.edit.methods import fine_tuning
from errata.edit.methods.fine_tuning import FT, FT_L, FT_W
from errata.edit.registry import METHODS, presets_of
from errata.edit.settings import training_config
from errata.edit.settings.training_config import FineTuningConfig
from errata.edit.training import checkpoint, descent
from errata.errors import ConfigError, NumericsError
from errata.models import Place, matrices, mlp_matrices, weight_of
from errata.patches import Patch
from reference import fine_tuning as reference
from tiny import VARIANTS, fresh_model, tiny_model
from type_checks import without_type_checks

FORMS = {
    "ft": {},
    "ft-l": {"linf": 4e-3, "matrices": "down", "loss": "prompt_last"},
    "ft-w": {"weight_decay": 0.05},
}
SMALL = {"layers": (2,), "learning_rate": 2e-3, "epochs": 4, "facts_a_step": 3}


def bits(lm):
    return {name: tensor.clone() for name, tensor in lm.hf.state_dict().items()}


def edit(lm, method="ft", facts=FACTS, **options):
    return edit_facts(lm, facts, method=method, evaluate=False, **{**SMALL, **options})


def expect_reference(lm, method, tolerance=1e-4, facts=FACTS, **options):
    """The patched model is the one that the reference tunes, parameter by parameter."""
    before, digest = bits(lm), lm.digest()
    result = edit(lm, method, facts, **options)
    assert lm.digest() == digest
    assert not any(p.requires_grad for p in lm.hf.parameters())
    with result.patch.applied(lm):
        found = bits(lm)
    assert lm.digest() == digest
    config = settings_for(lm, method=method, **{**SMALL, **options}).config
    epochs = reference.fine_tune_(lm, facts, config)
    expected = bits(lm)
    changed = [name for name in before if not torch.equal(before[name], expected[name])]
    assert [name for name in before if not torch.equal(before[name], found[name])] == changed
    for name in changed:
        assert relative(found[name] - before[name], expected[name] - before[name]) < tolerance, name
    assert result.report["epoch_losses"] == pytest.approx(epochs, rel=1e-4)
    losses = [float(reference.fact_nll(lm, fact, config.loss).mean()) for fact in facts]
    assert result.report["final_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    return result


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", FORMS)
def test_it_is_adam_on_the_parameters_themselves(variant, method):
    """In float64: Adam turns a gradient that is only rounding noise into a step of full length."""
    lm = fresh_model(variant, dtype=torch.float64)
    result = expect_reference(lm, method, **FORMS[method])
    names = {"ft": mlp_matrices(lm.family), "ft-l": ("down",), "ft-w": matrices(lm.family)}[method]
    assert set(result.patch.updates) == {Place(2, name) for name in names}
    if method == "ft-l":
        update = result.patch.updates[Place(2, "down")].matrix()
        assert float(update.abs().max()) == pytest.approx(4e-3)
        assert int((update.abs() > 3.999e-3).sum()) > 20, "the bound must be met for the test to mean something"


@pytest.mark.parametrize("variant", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize(
    "options",
    [
        {"layers": (0,)},
        {"layers": (3,), "matrices": "block"},
        {"facts_a_step": 0},
        {"facts_a_step": 1, "seed": 5, "epochs": 3},
        {"loss": "prompt_last", "weight_decay": 0.5},
        {
            "stop_loss": 3.5,
            "facts_a_step": 1,
            "epochs": 30,
            "learning_rate": 5e-3,
        },  # steps are left out, and it ends early
    ],
)
def test_every_option_means_what_the_reference_does(variant, options):
    result = expect_reference(fresh_model(variant, bos=True, dtype=torch.float64), "ft", **options)
    if "stop_loss" in options:
        assert result.report["epochs"] < 30
        assert result.report["steps"] < result.report["epochs"] * len(FACTS)
        assert result.report["stop_loss_reached"]


def test_in_float32_and_with_packs_of_any_size(monkeypatch):
    lm = fresh_model("llama")
    one = edit(lm, facts_a_step=0)
    monkeypatch.setattr(descent, "_AT_ONCE", 20)
    other = edit(lm, facts_a_step=0)
    for place, update in one.patch.updates.items():
        assert relative(other.patch.updates[place].matrix(), update.matrix()) < 1e-2
    assert other.report["epoch_losses"] == pytest.approx(one.report["epoch_losses"], rel=1e-4)


@pytest.mark.parametrize("variant", ["llama", "phi3", "bloom"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_learns_as_much(variant, dtype):
    """Steps of 1e-4 are below half a unit of most weights' last digit in bfloat16: they add up in float32 alone."""
    lm, whole = fresh_model(variant, dtype=dtype), fresh_model(variant)
    whole.hf.load_state_dict(lm.hf.state_dict())
    before = lm.digest()
    options = {"learning_rate": 1e-4, "epochs": 50, "weight_decay": 0.0}
    result, expected = edit(lm, "ft-w", **options), edit(whole, "ft-w", **options)
    assert lm.digest() == before
    losses, wide = result.report["epoch_losses"], expected.report["epoch_losses"]
    assert wide[-1] < 0.95 * wide[0]
    assert losses[0] - losses[-1] == pytest.approx(wide[0] - wide[-1], rel=0.1)
    with result.patch.applied(lm), torch.no_grad():
        after = [float(reference.fact_nll(lm, fact, "teacher_forced").mean()) for fact in FACTS]
    assert sum(after) / len(after) == pytest.approx(result.report["final_loss"], rel=0.05)


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    lm = fresh_model("llama")
    ids = [edit(lm, facts_a_step=1, seed=seed).patch.id for seed in (0, 0, 1)]
    assert ids[0] == ids[1]
    results = [edit(lm, facts_a_step=1, seed=seed).patch.updates[Place(2, "down")].matrix() for seed in (0, 0, 1)]
    assert torch.equal(results[0], results[1])
    assert relative(results[2], results[0]) > 1e-3


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("flag", [False, True])
def test_an_interruption_leaves_the_exact_bits(error, flag, tmp_path):
    lm = fresh_model("phi3")
    lm.hf.requires_grad_(flag)
    lm.hf.lm_head.weight.requires_grad_(False)
    asked = [p.requires_grad for p in lm.hf.parameters()]
    before, during = lm.digest(), []

    def look():
        during.append((lm.digest(), sum(p.requires_grad for p in lm.hf.parameters())))

    config = FineTuningConfig(**SMALL, matrices="block")
    sink = InterruptingSink(5, error, before=look)
    task = EditTask(lm, tuple(FACTS), config, ("",), None, 32, tmp_path, sink, lambda _: nullcontext())
    with pytest.raises(error):
        FT.edit(task)
    assert during[0][0] != before, "the interruption must come while the model is tuned"
    assert during[0][1] == 4, "the fused maps, o and down are trained and nothing else"
    assert lm.digest() == before
    assert [p.requires_grad for p in lm.hf.parameters()] == asked
    assert all(p.grad is None for p in lm.hf.parameters())


class Recording(InterruptingSink):
    """Interrupts as its base does, in fine-tuning alone, and keeps how much of it was done before it began."""

    done = 0

    @contextmanager
    def stage(self, what, total, unit, *, done=0):
        self.done = done if what.startswith("fine-tuning") else self.done
        with super().stage(what, total, unit, done=done) as advance:
            yield advance if what.startswith("fine-tuning") else lambda amount: None  # noqa: ARG005


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(dtype, tmp_path, monkeypatch):
    lm = fresh_model("phi3", dtype=dtype)
    options = {"cache": tmp_path, "epochs": 6, "facts_a_step": 1, "weight_decay": 0.01}
    expected = edit(lm, **options)
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        edit(lm, **options, progress=Recording(4 * len(FACTS) - 1))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    other = Recording(10**6)
    edit(lm, **{**options, "seed": 1}, progress=other)
    assert other.done == 0, "another training must not take it up"
    sink = Recording(10**6)
    found = edit(lm, **options, progress=sink)
    assert sink.done == 3 * len(FACTS)
    assert found.report["epoch_losses"] == expected.report["epoch_losses"]
    assert found.patch.id == expected.patch.id
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_short_runs_write_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        edit(tiny_model("llama"), cache=tmp_path, progress=Recording(5))
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("rate", [1e37, 1e18])
def test_a_loss_that_is_not_finite_is_an_error_and_leaves_the_exact_bits(rate):
    lm = fresh_model("llama")
    before = lm.digest()
    with pytest.raises(NumericsError, match=r"not finite"):
        edit(lm, learning_rate=rate)
    assert lm.digest() == before


def test_what_did_not_end_is_said():
    lm = tiny_model("llama")
    report = edit(lm, epochs=1).report
    assert not report["stop_loss_reached"]
    assert any("not below stop_loss=0.01" in text and "epochs (now 1)" in text for text in report["warnings"])
    assert [row["id"] for row in report["not_converged"]] == [fact.id for fact in FACTS]
    mean = sum(row["loss"] for row in report["not_converged"]) / len(FACTS)
    assert mean == pytest.approx(report["final_loss"])
    bound = edit(lm, "ft-l", epochs=1, linf=1e-5).report
    assert any("linf=1e-05 may be too tight" in text for text in bound["warnings"])
    done = edit(lm, facts=FACTS[:1], epochs=200, learning_rate=5e-3, stop_loss=3.0).report
    assert done["stop_loss_reached"]
    assert done["epochs"] < 200
    assert not any("stop_loss" in text for text in done["warnings"])


def test_norms_of_the_report_are_those_of_the_patch():
    lm = tiny_model("bloom")
    result = edit(lm, "ft-w", weight_decay=0.1)
    norms = {Place(row["layer"], row["matrix"]): row["relative_norm"] for row in result.report["matrices"]}
    assert set(norms) == set(result.patch.updates)
    for place, update in result.patch.updates.items():
        expected = float(update.matrix().norm() / weight_of(lm, place).norm())
        assert norms[place] == pytest.approx(expected, rel=1e-5)


def test_the_patch_is_saved_loaded_applied_and_comes_off(tmp_path):
    lm = fresh_model("falcon")
    before = bits(lm)
    result = edit_facts(lm, FACTS, method="ft-w", **{**SMALL, "epochs": 40, "learning_rate": 5e-3})
    assert result.after is not None
    assert result.before is not None
    assert result.report["after"]["accuracy"] == 100
    assert result.report["before"]["accuracy"] < 100
    assert result.report["method"] == "ft-w"
    patch = Patch.load(result.patch.save(tmp_path / "patch"))
    assert patch.id == result.patch.id
    with patch.applied(lm), torch.no_grad():
        losses = [float(reference.fact_nll(lm, fact, "teacher_forced").mean()) for fact in FACTS]
    assert sum(losses) / len(losses) == pytest.approx(result.report["final_loss"], rel=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.hf.state_dict().items())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layers": (1, 2)}, "one layer"), ({"learning_rate": 0.0}, "positive"), ({"epochs": 0}, "1–10000"),
        ({"stop_loss": -1.0}, "stop_loss"), ({"linf": -1.0}, "linf"), ({"weight_decay": -1.0}, "weight_decay"),
        ({"facts_a_step": -1}, "facts_a_step"), ({"matrices": "attention"}, "'down' or 'mlp' or 'block'"),
        ({"loss": "last"}, "'teacher_forced' or 'prompt_last'"), ({"clamp": 1.0}, "Unknown Fine-tuning field"),
        ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_bad_settings(fields, words):
    with pytest.raises(ConfigError, match=words):
        without_type_checks(training_config).FineTuningConfig(layers=(1,)).replace(**fields)


def test_the_published_settings():
    xl, gptj = ({row.name: row.config for row in presets_of("ft")}[name] for name in ("GPT-2 XL", "GPT-J 6B"))
    assert (xl.layers, gptj.layers, xl.matrices, xl.linf, xl.weight_decay) == ((1,), (21,), "down", 0, 0)
    assert (xl.learning_rate, xl.epochs, xl.stop_loss, xl.facts_a_step) == (5e-4, 25, 1e-2, 64)
    published = {
        name: [row for row in presets_of(name) if row.source in ("ROME", "MEMIT")] for name in ("ft-l", "ft-w")
    }
    bounds = {row.name: (row.config.layers, row.config.linf) for row in published["ft-l"]}
    assert bounds == {
        "GPT-2 medium": ((0,), 2e-3), "GPT-2 large": ((0,), 1e-3), "GPT-2 XL": ((0,), 5e-4), "GPT-J 6B": ((0,), 5e-5),
    }  # fmt: skip
    decays = [(row.least_facts, row.config.weight_decay) for row in published["ft-w"]]
    assert decays == [(0, 1.17), (10, 0.158), (100, 0.0212), (1000, 0.00286), (10_000, 0.000386)]
    assert {(row.config.layers, row.config.matrices) for row in published["ft-w"]} == {((21,), "block")}


def test_guesses_say_so_and_follow_the_published_rows():
    lm = tiny_model("llama")
    found = {name: settings_for(lm, method=name) for name in ("ft", "ft-l", "ft-w")}
    assert all(one.is_guess for one in found.values())
    assert (found["ft"].config.layers, found["ft"].config.matrices) == ((3,), "mlp")
    assert (found["ft-w"].config.layers, found["ft-w"].config.matrices) == ((3,), "block")
    assert found["ft-w"].config.weight_decay > 0
    assert (found["ft-l"].config.layers, found["ft-l"].config.linf) == ((0,), 2e-3)
    assert not settings_for(lm, method="ft", layers=(1,), learning_rate=1e-3).is_guess
    assert settings_for(lm, method="ft-l", layers=(1,), learning_rate=1e-3).is_guess
    assert not any(METHODS[name].uses_moments(found[name].config) for name in found)
    assert "|ΔW| ≤ 0.002" in FT_L.plan(found["ft-l"].config)
    assert "weight decay" in FT_W.plan(found["ft-w"].config)


@pytest.mark.parametrize("row", presets_of("ft-l"), ids=lambda row: row.name)
def test_the_guessed_bound_is_near_the_published_ones(row):
    guess_linf = without_type_checks(fine_tuning).guess_linf
    assert 0.5 < guess_linf(SimpleNamespace(d_model=row.d_model)) / row.config.linf < 2


@pytest.mark.parametrize("method", ["ft", "ft-w"])
def test_on_the_embedded_model_the_guess_lands_a_fact(smollm2, method):
    digest = smollm2.digest()
    for fact in REAL_FACTS[:2]:
        result = edit_facts(smollm2, [fact], method=method, evaluate=False)
        assert result.report["stop_loss_reached"]
        with result.patch.applied(smollm2), torch.no_grad():
            ids, start = reference.tokens_of(smollm2, fact)
            said = smollm2.hf(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1].argmax(-1)
        assert said.tolist() == ids[start:]
        assert smollm2.digest() == digest


def test_on_the_embedded_model_it_equals_the_reference(smollm2):
    """Few steps: in float32 Adam makes much of rounding where gradients are small."""
    config = FineTuningConfig(layers=(27,), matrices="block", epochs=2)
    before = bits(smollm2)
    result = edit_facts(smollm2, REAL_FACTS[:2], method="ft", evaluate=False, layers=(27,), matrices="block", epochs=2)
    try:
        epochs = reference.fine_tune_(smollm2, REAL_FACTS[:2], config)
        assert result.report["epoch_losses"] == pytest.approx(epochs, rel=1e-3)
        expected = smollm2.down_weight(27) - before["model.layers.27.mlp.down_proj.weight"].T
    finally:
        smollm2.hf.load_state_dict(before)
    assert relative(result.patch.updates[Place(27, "down")].matrix(), expected) < 0.02
