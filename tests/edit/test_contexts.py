"""Context prefixes: sampled by seed, or errata's own."""

import pytest

from errata.edit import METHODS, MemitConfig, context_prefixes, presets_of
from errata.edit.settings.prefix_config import FIXED_PREFIXES
from errata.errors import ConfigError
from tiny import tiny_model


def test_fixed_prefixes_are_the_same_for_every_model():
    config = MemitConfig(layers=(1,), prefix_source="fixed", prefixes=3)
    found = [context_prefixes(tiny_model(family), config) for family in ("llama", "gpt2")]
    assert found == [("", *FIXED_PREFIXES[:3])] * 2
    assert context_prefixes(tiny_model("llama"), config.replace(seed=5, prefix_tokens=20)) == found[0]


def test_sampled_prefixes_follow_the_seed():
    lm = tiny_model("llama")
    config = MemitConfig(layers=(1,), prefixes=3)
    found = context_prefixes(lm, config)
    assert found == context_prefixes(lm, config)
    assert found != context_prefixes(lm, config.replace(seed=1))
    assert [found[0], *(text[-2:] for text in found[1:])] == ["", ". ", ". ", ". "]


def test_there_are_only_so_many_fixed_ones():
    with pytest.raises(ConfigError, match=f"0–{len(FIXED_PREFIXES)} where they are fixed"):
        MemitConfig(layers=(1,), prefix_source="fixed", prefixes=len(FIXED_PREFIXES) + 1)


def test_what_is_known_of_the_embedded_model_needs_no_sampling():
    configs = [row.config for name in METHODS for row in presets_of(name) if "SmolLM2" in row.name]
    sources = {config.prefix_source for config in configs if getattr(config, "prefixes", 0)}
    assert sources == {"fixed"}
