"""Preset files: what is written is read again, what is none is refused in words, and who wins over whom."""

import json

import pytest

from errata.edit import MemitConfig, PresetFile, read_preset, settings_for, write_preset
from errata.edit.methods.alphaedit import AlphaEditConfig
from errata.edit.preset_file import shape_of
from errata.errors import ConfigError, StorageError
from tiny import tiny_model

CONFIG = MemitConfig(layers=(1, 2), prior_weight=7.0, clamp=2.0, passes=3)


def preset_for(lm, config=CONFIG, method="memit", facts=10):
    family, num_layers, d_model, d_vocab = shape_of(lm)
    return PresetFile(
        method=method, name=lm.name, family=family, num_layers=num_layers, d_model=d_model, d_vocab=d_vocab,
        facts=facts, config=config, source="somebody's tuning", tuning="abc",
    )  # fmt: skip


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "preset.json"
    write_preset(path, preset_for(tiny_model("llama")))
    return path


@pytest.mark.parametrize(
    ("method", "config"), [("memit", CONFIG), ("alphaedit", AlphaEditConfig(layers=(0, 2), threshold=0.4))]
)
def test_round_trip(tmp_path, method, config):
    written = preset_for(tiny_model("gpt2"), config, method)
    write_preset(tmp_path / "p.json", written)
    assert read_preset(tmp_path / "p.json") == written
    assert read_preset(str(tmp_path / "p.json")).config == config


def test_settings_come_from_it_and_single_fields_win(path):
    lm = tiny_model("llama")
    for preset in (path, str(path), read_preset(path)):
        found = settings_for(lm, 10, preset=preset)
        assert found.config == CONFIG
        assert not found.is_guess
        assert "somebody's tuning" in found.source
        assert found.warnings == ()
    assert settings_for(lm, 10, preset=path, prior_weight=9.0).config == CONFIG.replace(prior_weight=9.0)
    assert settings_for(lm, 10, preset=path, method="memit").config == CONFIG


def test_it_wins_over_the_table(smollm2, tmp_path):
    write_preset(tmp_path / "p.json", preset_for(smollm2))
    assert settings_for(smollm2, 10, preset=tmp_path / "p.json").config == CONFIG


def test_fields_that_are_left_out_are_defaults_and_whole_numbers_will_do(path):
    held = json.loads(path.read_text())
    held["fields"] = {"layers": [2], "prior_weight": 30}
    del held["tuning"]
    path.write_text(json.dumps(held))
    assert read_preset(path).config == MemitConfig(layers=(2,), prior_weight=30.0)


@pytest.mark.parametrize(("facts", "warned"), [(3, True), (4, False), (30, False), (31, True)])
def test_another_density_is_warned_of(path, facts, warned):
    assert bool(settings_for(tiny_model("llama"), facts, preset=path).warnings) == warned


def test_another_method_is_refused(path):
    with pytest.raises(ConfigError, match="memit, and rome"):
        settings_for(tiny_model("llama"), preset=path, method="rome")


@pytest.mark.parametrize("variant", ["gpt2", "llama-other"])
def test_another_shape_is_refused(tmp_path, variant):
    lm = tiny_model("llama")
    preset = preset_for(tiny_model("gpt2") if variant == "gpt2" else lm)
    if variant != "gpt2":
        preset = PresetFile(**{**vars(preset), "num_layers": 9})
    write_preset(tmp_path / "p.json", preset)
    with pytest.raises(ConfigError, match=f"another shape.*{lm.num_layers} layers"):
        settings_for(lm, preset=tmp_path / "p.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"errata_preset": 2}, "version 2"),
        ({"errata_preset": True}, "version True"),
        ({"errata_preset": None}, "version None"),
        ({"method": "mimet"}, "Unknown method"),
        ({"method": 3}, "method must be text"),
        ({"metod": "x"}, "unknown entry 'metod'.*did you mean 'method'"),
        ({"model": {"family": "llama"}}, "'model.name' is missing"),
        ({"facts": 0}, "at least 1"),
        ({"facts": 1.5}, "whole number"),
        ({"fields": []}, "fields must be an object"),
        ({"fields": {}}, "fields.layers must be a list"),
        ({"fields": {"layers": [1], "clmap": 2.0}}, "did you mean 'clamp'"),
        ({"fields": {"layers": [1], "clamp": -2.0}}, "clamp must be positive"),
        ({"fields": {"layers": ["one"]}}, "list of layer numbers"),
        ({"fields": {"layers": [99]}}, "has 4 layers"),
    ],
)
def test_what_is_no_preset_is_refused_by_name(path, change, words):
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=words) as caught:
        read_preset(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "not JSON"), ("[]", "no preset"), ("{}", "no preset"), ("\x00", "JSON")]
)
def test_other_files(tmp_path, text, words):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_preset(tmp_path / "p.json")


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_preset(tmp_path / "none.json")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        write_preset(tmp_path / "file" / "p.json", preset_for(tiny_model("llama")))
