"""Hyperparameters: what is refused and in which words, and where defaults come from."""

import dataclasses

import numpy as np
import pytest
import torch

from errata.edit.lookup import find_preset, settings_for
from errata.edit.methods import memit as memit_module
from errata.edit.methods.alphaedit import AlphaEditConfig
from errata.edit.methods.memit import guess
from errata.edit.methods.rome import RomeConfig
from errata.edit.registry import METHODS, find_method, presets_of
from errata.edit.settings.method_config import parse_override
from errata.errors import ConfigError
from tiny import LAYERS, fresh_model, tiny_model
from type_checks import without_type_checks

MemitConfig = without_type_checks(memit_module).MemitConfig

ROWS = [(method, row) for method in METHODS for row in presets_of(method)]
BAD_FIELDS = [
    ({"layers": ()}, "at least one layer"),
    ({"layers": (3, 2)}, "ascending"),
    ({"layers": (2, 2)}, "ascending"),
    ({"layers": (-1, 2)}, "≥ 0"),
    ({"layers": [1, 2]}, "tuple of layer numbers"),
    ({"layers": (1.0,)}, "tuple of layer numbers"),
    ({"layers": (True,)}, "tuple of layer numbers"),
    ({"layers": "7-9"}, "tuple of layer numbers"),
    ({"value_steps": 1}, "2–1000"),
    ({"value_steps": 1001}, "2–1000"),
    ({"value_steps": 20.0}, "whole number"),
    ({"value_steps": True}, "whole number"),
    ({"value_steps": "20"}, "whole number"),
    ({"learning_rate": 0.0}, "positive"),
    ({"learning_rate": -1.0}, "positive"),
    ({"learning_rate": float("nan")}, "finite"),
    ({"learning_rate": None}, "finite"),
    ({"clamp": 0}, "clamp must be positive"),
    ({"clamp": float("inf")}, "finite"),
    ({"weight_decay": -0.1}, "≥ 0"),
    ({"kl_factor": -0.1}, "≥ 0"),
    ({"stop_loss": -0.1}, "≥ 0"),
    ({"prior_weight": 0}, "positive"),
    ({"prior_weight": "15000"}, "finite number"),
    ({"clamp": 10**400}, "finite"),
    ({"passes": 0}, "1–100"),
    ({"passes": 101}, "1–100"),
    ({"passes": 1.5}, "whole number"),
    ({"moment_tokens": 99}, "at least 100"),
    ({"prefixes": -1}, "0–100"),
    ({"prefixes": 101}, "0–100"),
    ({"prefix_tokens": 1}, "2–200"),
    ({"prefix_top_k": 0}, "at least 1"),
    ({"schedule": "slow"}, "'published' or 'fast'"),
    ({"schedule": 3}, "'published' or 'fast'"),
    ({"past_keys": 1}, "True or False"),
    ({"seed": -1}, "seed"),
    ({"seed": 1 << 32}, "seed"),
]


@pytest.mark.parametrize(("fields", "words"), BAD_FIELDS)
def test_bad_values_are_refused_by_name(fields, words):
    with pytest.raises(ConfigError, match=words) as caught:
        MemitConfig(**{"layers": (1, 2), **fields})
    assert next(iter(fields)) in str(caught.value)


@pytest.mark.parametrize(
    ("config_type", "fields", "words"),
    [
        (AlphaEditConfig, {"threshold": 0.0}, "threshold must be positive"),
        (AlphaEditConfig, {"ridge": 0.0}, "ridge must be positive"),
        (RomeConfig, {"layers": (1, 2)}, "one layer"),
        (RomeConfig, {"short_prefixes": 21}, "0–prefixes"),
        (RomeConfig, {"moment_tokens": 1}, "at least 100"),
    ],
)
def test_bad_values_of_other_methods(config_type, fields, words):
    with pytest.raises(ConfigError, match=words):
        config_type(**{"layers": (1,), **fields})


def test_all_bad_values_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        MemitConfig(layers=(1,), clamp=-1.0, prefixes=-1, seed=-1)
    assert all(name in str(caught.value) for name in ("clamp", "prefixes", "seed"))


def test_the_configuration_is_frozen_and_replace_checks_again():
    config = MemitConfig(layers=(1, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.clamp = 3.0  # type: ignore[misc]
    assert config.replace(layers=[0, 3], clamp=1).layers == (0, 3)
    with pytest.raises(ConfigError, match="clamp"):
        config.replace(clamp=-1)
    with pytest.raises(ConfigError, match="'prior_weight'"):
        config.replace(prior_wieght=3)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MEMITT", "memit"), ("FT", "ft"), ("R-ROME", "r-rome"), ("Memit", "memit"), ("memitt", "memit")],
)
def test_a_method_s_name_in_other_capitals_or_misspelt_is_answered_with_the_nearest(name, meant):
    with pytest.raises(ConfigError, match=f"Unknown method '{name}'; did you mean '{meant}'"):
        find_method(name)


@pytest.mark.parametrize("layers", [np.array([0, 3]), torch.tensor([0, 3]), [np.int32(0), 3], range(0, 4, 3)])
def test_layers_are_integers_of_any_kind(layers):
    config = MemitConfig(layers=(1, 2)).replace(layers=layers)
    assert config.layers == (0, 3)
    assert {type(layer) for layer in config.layers} == {int}


@pytest.mark.parametrize("layers", [5, np.array(5), np.array([5.0]), np.array([[5]] * 2), [True], None, "7-9"])
def test_what_is_no_layer_number_is_refused_in_words(layers):
    with pytest.raises(ConfigError, match="layers must be a tuple of layer numbers"):
        MemitConfig(layers=(1, 2)).replace(layers=layers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prior_weight=300", ("prior_weight", 300.0)),
        (" prior-weight = 3e2 ", ("prior_weight", 300.0)),
        ("value_steps=12", ("value_steps", 12)),
        ("layers=7-9", ("layers", (7, 8, 9))),
        ("layers=1, 3-4,8", ("layers", (1, 3, 4, 8))),
        ("schedule=fast", ("schedule", "fast")),
        ("seed=0", ("seed", 0)),
        ("moment_tokens=500", ("moment_tokens", 500)),
        ("kl_factor=0", ("kl_factor", 0.0)),
        ("past_keys=true", ("past_keys", True)),
        ("past-keys=False", ("past_keys", False)),
    ],
)
def test_overrides_are_converted_to_the_field_s_type(text, expected):
    name, value = parse_override(MemitConfig, text)
    assert (name, value) == expected
    assert type(value) is type(expected[1])
    assert getattr(MemitConfig(layers=(1,)).replace(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "name=value"), ("clamp", "name=value"), ("clamp=", "name=value"), ("=3", "Unknown MEMIT field"),
        ("clamps=3", "did you mean 'clamp'"), ("lambda=3", "known:"), ("value_steps=2.5", "value_steps='2.5'"),
        ("value_steps=many", "whole number"), ("clamp=wide", "is not a number"), ("seed=0x1", "whole number"),
        ("past_keys=1", "neither true nor false"),
        ("layers=a", "7,8,9 or 7-9"),
        ("layers=1;2", "7,8,9 or 7-9"), ("layers=-1", "7,8,9 or 7-9"), ("layers=1,,2", "7,8,9 or 7-9"),
        ("layers=1-", "7,8,9 or 7-9"), ("layers=1-2-3", "7,8,9 or 7-9"), ("layers=٣", "7,8,9 or 7-9"),
        ("layers=0-99999999999", "more layers"), ("layers=" + "9" * 5000, "more layers"),
        ("layers=" + "0-9999," * 3 + "1", "more layers"), ("layers=²", "7,8,9 or 7-9"),
    ],
)  # fmt: skip
def test_bad_overrides_are_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_override(MemitConfig, text)


@pytest.mark.parametrize(
    "text", ["clamp=nan", "clamp=inf", "clamp=-1", "layers=9-7", "layers=3,1", "schedule=slow", "seed=-1"]
)
def test_overrides_outside_the_domain_are_refused_by_the_configuration(text):
    name, value = parse_override(MemitConfig, text)
    with pytest.raises(ConfigError, match=name):
        MemitConfig(layers=(1,)).replace(**{name: value})


@pytest.mark.parametrize(("method", "row"), ROWS, ids=lambda value: getattr(value, "name", value))
def test_every_preset_can_be_found_by_its_shape(method, row):
    assert type(row.config) is METHODS[method].config_type
    shape = (row.family, row.num_layers, row.d_model)
    found = [p for p in presets_of(method) if (p.family, p.num_layers, p.d_model) == shape]
    places = [(p.d_vocab, p.least_facts) for p in found]
    assert len(set(places)) == len(places), "two rows for one shape"
    vocabularies = {p.d_vocab for p in found}
    assert len(vocabularies) == 1 or None not in vocabularies, "a row without a vocabulary would hide another"
    assert max(row.config.layers) < row.num_layers


def test_a_registered_method_without_presets_is_guessed(monkeypatch):
    toy = dataclasses.replace(METHODS["sgd"], name="toy", title="A toy", presets=())
    monkeypatch.setitem(METHODS, "toy", toy)
    lm = tiny_model("llama")
    assert presets_of("toy") == ()
    assert find_preset(lm, method="toy") is None
    settings = settings_for(lm, method="toy")
    assert settings.is_guess
    assert settings.config == toy.guess(lm)


def test_the_published_hyperparameters():
    rows = {row.name: row.config for row in presets_of("memit")}
    gptj = rows["GPT-J 6B"]
    assert (gptj.layers, gptj.clamp, gptj.value_steps, gptj.prior_weight) == ((3, 4, 5, 6, 7, 8), 0.75, 25, 15000)
    assert (gptj.learning_rate, gptj.weight_decay, gptj.kl_factor) == (0.5, 0.5, 0.0625)
    xl, neox = rows["GPT-2 XL"], rows["GPT-NeoX 20B"]
    assert (xl.layers, xl.value_steps, xl.prior_weight) == ((13, 14, 15, 16, 17), 20, 20000)
    assert (neox.layers, neox.clamp, neox.prior_weight) == ((6, 7, 8, 9, 10), 0.3, 20000)
    llama3, llama2 = rows["Llama-3-8B"], rows["Llama-2-7B"]
    assert (llama3.clamp, llama3.value_steps, llama3.learning_rate, llama3.weight_decay) == (0.75, 25, 0.1, 0.5)
    assert (llama2.clamp, llama2.value_steps, llama2.learning_rate, llama2.weight_decay) == (4, 25, 0.5, 1e-3)


def test_the_embedded_model_has_a_measured_preset(smollm2):
    settings = settings_for(smollm2)
    assert not settings.is_guess
    assert "SmolLM2" in settings.source
    assert settings.config.layers == (6, 7, 8)
    # What docs/tuning-smollm2.md and docs/results.md measure.
    found = [settings_for(smollm2, count).config for count in (1, 100, 299, 300, 1000)]
    assert [(c.prior_weight, c.passes, c.clamp) for c in found] == [(3000, 2, 0.75)] * 3 + [(10_000, 3, 1)] * 2
    assert [(c.layers[0], c.layers[-1], c.schedule) for c in found] == [(6, 8, "published")] * 3 + [(5, 9, "fast")] * 2
    assert settings_for(smollm2, layers=(3, 4), clamp=2.0).config.layers == (3, 4)
    with pytest.raises(ConfigError, match="30 layers, 0–29"):
        settings_for(smollm2, layers=(7, 30))


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"mend"}))
def test_every_method_has_a_measured_preset_for_the_embedded_model(smollm2, method):
    settings = settings_for(smollm2, method=method)
    assert not settings.is_guess
    assert "SmolLM2" in settings.source
    assert "measured" in settings.source


def test_a_rate_of_ones_own_takes_the_place_of_a_presets_margin(smollm2):
    assert settings_for(smollm2, method="shift").config.margin > 0
    assert settings_for(smollm2, method="shift", learning_rate=0.1).config.margin == 0
    assert settings_for(smollm2, method="shift", value="target").config.margin > 0


def test_a_model_that_nobody_measured_gets_a_guess_that_says_so():
    lm = tiny_model("llama")
    assert find_preset(lm) is None
    settings = settings_for(lm)
    assert settings.is_guess
    assert "guess" in settings.source
    assert settings.config == guess(lm)
    assert settings_for(lm, prior_weight=3.0).is_guess
    assert not settings_for(lm, prior_weight=3.0, layers=(1,)).is_guess


def test_a_number_of_ones_own_is_in_the_published_unit():
    """A guess counts λ in the facts' keys and rates in the start; who gives a number means what papers mean."""
    lm = tiny_model("llama")
    guessed = settings_for(lm).config
    assert (guessed.prior_unit, guessed.value_unit) == ("keys", "start")
    assert guessed.passes > 1
    assert guessed.enough > 0
    own = settings_for(lm, prior_weight=300.0).config
    assert (own.prior_weight, own.prior_unit, own.value_unit) == (300.0, "tokens", "start")
    own = settings_for(lm, learning_rate=0.1).config
    assert (own.learning_rate, own.weight_decay, own.value_unit, own.prior_unit) == (0.1, 0.5, "absolute", "keys")
    own = settings_for(lm, learning_rate=0.1, value_unit="start").config
    assert (own.learning_rate, own.weight_decay, own.value_unit) == (0.1, guessed.weight_decay, "start")
    assert settings_for(lm, clamp=0.5).config.value_unit == "start"
    assert settings_for(lm, method="emmet", softness=0.2).config.softness_unit == "absolute"
    assert settings_for(lm, method="alphaedit", ridge=0.2).config.ridge_unit == "absolute"


def test_what_a_preset_says_beside_a_number_of_ones_own_stays(smollm2):
    preset = settings_for(smollm2).config
    assert settings_for(smollm2, learning_rate=0.1).config == preset.replace(learning_rate=0.1)


def test_fields_that_came_later_are_told_only_where_they_say_something():
    plain = MemitConfig(layers=(1, 2))
    assert plain.recorded()["layers"] == [1, 2]
    assert not MemitConfig.later & set(plain.recorded())
    told = plain.replace(prior_unit="keys", prior_weight=0.3, enough=0.1).recorded()
    assert (told["prior_unit"], told["enough"]) == ("keys", 0.1)
    assert MemitConfig(**{**told, "layers": tuple(told["layers"])}).recorded() == told


@pytest.mark.parametrize("name", METHODS)
def test_a_guess_is_said_where_it_is_not_the_default(name):
    method, differing = METHODS[name], set()
    for lm in (tiny_model("llama"), tiny_model("gpt2")):
        for field in dataclasses.fields(config := method.guess(lm)):
            if field.default is not dataclasses.MISSING and getattr(config, field.name) != field.default:
                differing.add(field.name)
    assert differing <= {"layers", *method.guessed}
    assert method.guessed <= {field.name for field in dataclasses.fields(method.config_type)}
    assert method.guessed == differing - {"layers"}


@pytest.mark.parametrize("num_hidden_layers", [1, 2, 3, 4])
def test_a_guess_fits_even_the_shallowest_model(num_hidden_layers):
    lm = fresh_model("llama", num_hidden_layers=num_hidden_layers)
    config = guess(lm)
    config.check_layers(lm.num_layers, lm.name)
    assert config.prior_weight > 0


def test_layers_beyond_the_model_are_refused():
    with pytest.raises(ConfigError, match=f"{LAYERS} layers, 0–{LAYERS - 1}"):
        settings_for(tiny_model("llama"), layers=(1, LAYERS))
