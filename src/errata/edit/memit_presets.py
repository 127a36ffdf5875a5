"""MEMIT's known settings: one table, a row for each model that somebody measured, and guesses for all others."""

from typing import Any

from errata.edit.config import MemitConfig
from errata.edit.method import Preset
from errata.models import LanguageModel


def _row(
    name: str,
    source: str,
    shape: tuple[str, int, int, int | None],
    layers: range,
    *,
    least_facts: int = 0,
    **fields: Any,
) -> Preset:
    family, num_layers, d_model, d_vocab = shape
    return Preset(
        name=name,
        source=source,
        family=family,
        num_layers=num_layers,
        d_model=d_model,
        d_vocab=d_vocab,
        least_facts=least_facts,
        config=MemitConfig(layers=tuple(layers), **fields),
    )


_EASYEDIT = {"clamp": 4.0, "value_steps": 25, "weight_decay": 1e-3, "prior_weight": 15000.0}

_SMOLLM2 = ("llama", 30, 576, 49152)
_MEASURED = {"clamp": 1.0, "passes": 2, "moment_tokens": 10_000}

PRESETS: tuple[Preset, ...] = (
    _row("SmolLM2-135M", "measured with 100 facts", _SMOLLM2, range(7, 10), prior_weight=100.0, **_MEASURED),
    # With a thousand keys for 1,536 neurons a small λ gives up everything else to land them.
    _row(
        "SmolLM2-135M, from 300 facts on",
        "measured with 1,000 facts",
        _SMOLLM2,
        range(7, 10),
        least_facts=300,
        prior_weight=3000.0,
        **_MEASURED,
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


def guess(lm: LanguageModel) -> MemitConfig:
    """Settings for a model nobody measured: layers at the relative depth of the measured presets, λ grown with d_mlp.

    λ goes through 300 at d_mlp = 1,536, within what works for SmolLM2-135M (100 to 3,000), and 15,000 at 16,384
    (GPT-J).
    """
    first = round(0.2 * lm.num_layers)
    # Never the last layer: nothing above it carries what is written at the subject to where the answer is read.
    last = min(max(first + 2, round(0.3 * lm.num_layers)), max(lm.num_layers - 2, 0))
    prior_weight = 300.0 * (lm.d_mlp / 1536) ** 1.65
    return MemitConfig(layers=tuple(range(min(first, last), last + 1)), prior_weight=round(prior_weight, 1))
