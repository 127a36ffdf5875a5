"""Known settings: one table, a row for each model that somebody measured; everything else is a guess and says so."""

from dataclasses import dataclass
from typing import Any

from errata.edit.config import MemitConfig
from errata.models import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings measured for one model, found by its shape (fine-tunes share it): family, layers, d_model, d_vocab."""

    name: str
    source: str
    family: str
    num_layers: int
    d_model: int
    d_vocab: int | None = None
    config: MemitConfig


def _row(name: str, source: str, shape: tuple[str, int, int, int | None], layers: range, **fields: Any) -> Preset:
    family, num_layers, d_model, d_vocab = shape
    return Preset(
        name=name,
        source=source,
        family=family,
        num_layers=num_layers,
        d_model=d_model,
        d_vocab=d_vocab,
        config=MemitConfig(layers=tuple(layers), **fields),
    )


_EASYEDIT = {"clamp": 4.0, "value_steps": 25, "weight_decay": 1e-3, "prior_weight": 15000.0}

PRESETS: tuple[Preset, ...] = (
    _row(
        "SmolLM2-135M",
        "measured (benchmarks/README.md)",
        ("llama", 30, 576, 49152),
        range(7, 10),
        clamp=1.0,
        prior_weight=100.0,
        passes=2,
        moment_tokens=10_000,
    ),
    _row("GPT-2 XL", "MEMIT", ("gpt2", 48, 1600, None), range(13, 18), prior_weight=20000.0),
    _row("GPT-J 6B", "MEMIT", ("gptj", 28, 4096, None), range(3, 9), value_steps=25, prior_weight=15000.0),
    _row("GPT-NeoX 20B", "MEMIT", ("gpt_neox", 44, 6144, None), range(6, 11), clamp=0.3, prior_weight=20000.0),
    _row("Llama-3-8B", "AlphaEdit's runs", ("llama", 32, 4096, 128256), range(4, 9), value_steps=25, learning_rate=0.1),
    _row("Llama-2-7B", "EasyEdit", ("llama", 32, 4096, 32000), range(4, 9), **_EASYEDIT),
    _row("Mistral-7B", "EasyEdit", ("mistral", 32, 4096, None), range(4, 9), **_EASYEDIT),
    _row("Llama-3.2-3B", "EasyEdit", ("llama", 28, 3072, 128256), range(4, 9), **_EASYEDIT),
    _row("Qwen2-7B, Qwen2.5-7B", "EasyEdit", ("qwen2", 28, 3584, None), range(4, 9), **_EASYEDIT),
)


@dataclass(frozen=True)
class Settings:
    """A configuration with where it came from; `is_guess` where nobody measured it on this model."""

    config: MemitConfig
    source: str
    is_guess: bool


def find_preset(lm: LanguageModel) -> Preset | None:
    """The preset measured for models of this shape, if there is one."""
    for row in PRESETS:
        same = (row.family, row.num_layers, row.d_model) == (lm.family.name, lm.num_layers, lm.d_model)
        if same and row.d_vocab in (None, lm.d_vocab):
            return row
    return None


def settings_for(lm: LanguageModel, **overrides: Any) -> Settings:
    """The preset for this model or scaled guesses, with `overrides` of single fields.

    Raises ConfigError for unknown fields, bad values, and layers that the model does not have.
    """
    preset = find_preset(lm)
    base = preset.config if preset else guess(lm)
    config = base.replace(**overrides)
    config.check_layers(lm.num_layers, lm.name)
    if preset:
        return Settings(config, f"preset {preset.name} ({preset.source})", False)
    return Settings(config, "guessed from the model's size", not {"layers", "prior_weight"} <= set(overrides))


def guess(lm: LanguageModel) -> MemitConfig:
    """Settings for a model nobody measured: layers at the relative depth of the measured presets, λ grown with d_mlp.

    λ is fitted through the two measured ends: 300 at d_mlp = 1,536 (SmolLM2-135M) and 15,000 at 16,384 (GPT-J).
    """
    first = round(0.2 * lm.num_layers)
    # Never the last layer: nothing above it carries what is written at the subject to where the answer is read.
    last = min(max(first + 2, round(0.3 * lm.num_layers)), max(lm.num_layers - 2, 0))
    prior_weight = 300.0 * (lm.d_mlp / 1536) ** 1.65
    return MemitConfig(layers=tuple(range(min(first, last), last + 1)), prior_weight=round(prior_weight, 1))
