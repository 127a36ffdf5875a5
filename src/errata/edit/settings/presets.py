"""Known settings of every method: one table, a row for each model that somebody measured; all others are guesses."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from errata.edit.method import Preset
from errata.edit.methods.alphaedit import AlphaEditConfig
from errata.edit.methods.emmet import EmmetConfig
from errata.edit.methods.knowledge_neurons.knowledge_neurons import KnowledgeNeuronsConfig
from errata.edit.methods.mass_editing import GUESSED_VALUES
from errata.edit.methods.memit import GUESSED_PRIOR, MemitConfig
from errata.edit.methods.mend.mend_config import MendConfig
from errata.edit.methods.pmet import PmetConfig
from errata.edit.methods.rome import RomeConfig, RRomeConfig
from errata.edit.methods.shift.shift import ShiftConfig
from errata.edit.methods.single_step import AdamConfig, SgdConfig
from errata.edit.settings.method_config import MethodConfig
from errata.edit.settings.training_config import ConstrainedConfig, DecayedConfig, FineTuningConfig
from errata.stats.default_text import SHIPPED_TOKENS

# Family, layers, d_model, vocabulary (None: whatever it is): what makes a model the one that was measured.
Shape = tuple[str, int, int, int | None]
SMOLLM2: Shape = ("llama", 30, 576, 49152)
GPT2_MEDIUM: Shape = ("gpt2", 24, 1024, None)
GPT2_LARGE: Shape = ("gpt2", 36, 1280, None)
GPT2_XL: Shape = ("gpt2", 48, 1600, None)
GPT_J: Shape = ("gptj", 28, 4096, None)
GPT_NEOX: Shape = ("gpt_neox", 44, 6144, None)
LLAMA_2: Shape = ("llama", 32, 4096, 32000)
LLAMA_3: Shape = ("llama", 32, 4096, 128256)
LLAMA_32: Shape = ("llama", 28, 3072, 128256)
MISTRAL: Shape = ("mistral", 32, 4096, None)
QWEN2: Shape = ("qwen2", 28, 3584, None)
GEMMA3_270M: Shape = ("gemma3_text", 18, 640, 262144)


def _row(name: str, source: str, shape: Shape, config: MethodConfig, *, least_facts: int = 0) -> Preset:
    family, num_layers, d_model, d_vocab = shape
    return Preset(
        name=name, source=source, family=family, num_layers=num_layers, d_model=d_model, d_vocab=d_vocab,
        least_facts=least_facts, config=config,
    )  # fmt: skip


def _memit(layers: range, **fields: Any) -> MemitConfig:
    return MemitConfig(layers=tuple(layers), **fields)


_EASYEDIT = {"clamp": 4.0, "value_steps": 25, "weight_decay": 1e-3, "prior_weight": 15000.0}
# On the embedded model, records from 5,000 on. How: docs/results.md; for a thousand facts docs/tuning-smollm2.md.
_SINGLE, _MANY = "measured with 50 single edits", "measured with 50 single edits and 100 at once"
_MEASURED = {"clamp": 1.0, "passes": 2, "moment_tokens": 10_000, "prefix_source": "fixed"}
# Where target values take half an hour, the schedule that needs half the updates (as good: benchmarks/README.md).
_THOUSAND = {**_MEASURED, "schedule": "fast"}

MEMIT_PRESETS = (
    # Found by errata tune. As good as the one before (7–9, λ 100, clamp 1), with less drift: docs/tuning-smollm2.md.
    _row(
        "SmolLM2-135M",
        "measured with 100 facts",
        SMOLLM2,
        # All of errata's text: PS a little higher and less drift than with the model's own samples (the same page).
        _memit(range(6, 9), prior_weight=3000.0, **{**_MEASURED, "clamp": 0.75, "moment_tokens": SHIPPED_TOKENS}),
    ),
    # With a thousand keys for 1,536 neurons a small λ gives up everything else to land them, and three layers are too
    # few: docs/tuning-smollm2.md.
    _row(
        "SmolLM2-135M, from 300 facts on",
        "measured with 1,000 facts",
        SMOLLM2,
        _memit(range(5, 10), prior_weight=10_000.0, **{**_THOUSAND, "passes": 3}),
        least_facts=300,
    ),
    # The guess, and one layer more below: docs/results.md.
    _row(
        "Gemma-3-270M",
        "measured with 100 facts",
        GEMMA3_270M,
        _memit(range(1, 5), prior_weight=GUESSED_PRIOR, prior_unit="keys", clamp=0.5, **GUESSED_VALUES),
    ),
    _row("GPT-2 XL", "MEMIT", GPT2_XL, _memit(range(13, 18), prior_weight=20000.0)),
    _row("GPT-J 6B", "MEMIT", GPT_J, _memit(range(3, 9), value_steps=25, prior_weight=15000.0)),
    _row("GPT-NeoX 20B", "MEMIT", GPT_NEOX, _memit(range(6, 11), clamp=0.3, prior_weight=20000.0)),
    _row("Llama-3-8B", "AlphaEdit's runs", LLAMA_3, _memit(range(4, 9), value_steps=25, learning_rate=0.1)),
    _row("Llama-2-7B", "EasyEdit", LLAMA_2, _memit(range(4, 9), **_EASYEDIT)),
    _row("Mistral-7B", "EasyEdit", MISTRAL, _memit(range(4, 9), **_EASYEDIT)),
    _row("Llama-3.2-3B", "EasyEdit", LLAMA_32, _memit(range(4, 9), **_EASYEDIT)),
    _row("Qwen2-7B, Qwen2.5-7B", "EasyEdit", QWEN2, _memit(range(4, 9), **_EASYEDIT)),
)


def _alphaedit(layers: range, **fields: Any) -> AlphaEditConfig:
    return AlphaEditConfig(layers=tuple(layers), **fields)


# MEMIT's layers and target values; threshold 2e-2 and ridge 10, the published defaults.
ALPHAEDIT_PRESETS = (
    # SmolLM2's spectrum is flat (the smallest eigenvalue is 0.03–0.11 of the mean): the published threshold frees 60 %
    # of the directions.
    _row("SmolLM2-135M", _MANY, SMOLLM2, _alphaedit(range(7, 10), threshold=0.01, ridge=0.3, **_MEASURED)),
    # A thousand keys need more room than that threshold frees.
    _row(
        "SmolLM2-135M, from 300 facts on",
        "measured with 1,000 facts",
        SMOLLM2,
        _alphaedit(range(5, 10), threshold=0.03, ridge=10.0, **_THOUSAND),
        least_facts=300,
    ),
    _row("Llama-3-8B", "AlphaEdit", LLAMA_3, _alphaedit(range(4, 9), value_steps=25, learning_rate=0.1)),
    _row("GPT-J 6B", "AlphaEdit", GPT_J, _alphaedit(range(3, 9), value_steps=25)),
    _row("GPT-2 XL", "AlphaEdit", GPT2_XL, _alphaedit(range(13, 18))),
)


def _emmet(layer: int, **fields: Any) -> EmmetConfig:
    return EmmetConfig(layers=(layer,), **fields)


# α = 0.1 throughout; their code, too, multiplies the mean second moment by s.
EMMET_PRESETS = (
    # On MEMIT's three layers it is MEMIT, and better by four points of Score.
    _row("SmolLM2-135M", _MANY, SMOLLM2, _emmet(9, softness=300.0, **_MEASURED)),
    _row(
        "SmolLM2-135M, from 300 facts on",
        "MEMIT's λ; not measured with EMMET",
        SMOLLM2,
        _emmet(9, softness=3000.0, **_THOUSAND),
        least_facts=300,
    ),
    _row("GPT-2 XL", "EMMET", GPT2_XL, _emmet(17, moment_scale=1000.0)),
    _row("GPT-J 6B", "EMMET", GPT_J, _emmet(5, value_steps=25, moment_scale=10_000.0)),
    _row("Llama-2-7B", "EMMET", LLAMA_2, _emmet(5, clamp=4.0, value_steps=25, weight_decay=1e-3)),
)

PMET_PRESETS = (
    # λ = 30 gave the same.
    _row("SmolLM2-135M", _MANY, SMOLLM2, PmetConfig(layers=(7, 8, 9), prior_weight=300.0, **_MEASURED)),
    _row(
        "GPT-J 6B",
        "EasyEdit",
        GPT_J,
        PmetConfig(layers=tuple(range(3, 9)), value_steps=30, learning_rate=0.2, kl_factor=1.0, prior_weight=15000.0),
    ),
    _row("Llama-2-7B", "EasyEdit", LLAMA_2, PmetConfig(layers=tuple(range(4, 9)), clamp=1.0, prior_weight=15000.0)),
)


def _rome(layer: int, **fields: Any) -> RomeConfig:
    return RomeConfig(layers=(layer,), **fields)


# Of fewer contexts than published (20, half of them short), for a quarter of the time.
_ROME_SMOLLM2 = {"prefixes": 5, "short_prefixes": 0, "moment_tokens": 10_000, "prefix_source": "fixed"}
# Their runs leave the second moment out (u = k̄); here it is used, as the paper says.
_ROME_EASYEDIT = {"value_steps": 25, "weight_decay": 1e-3}
ROME_PRESETS = (
    _row("SmolLM2-135M", "measured with 25 single edits", SMOLLM2, _rome(5, **_ROME_SMOLLM2)),
    _row("GPT-2 medium", "ROME", GPT2_MEDIUM, _rome(8, clamp=3.0)),
    _row("GPT-2 large", "ROME", GPT2_LARGE, _rome(12)),
    _row("GPT-2 XL", "ROME", GPT2_XL, _rome(17)),
    _row("GPT-J 6B", "ROME", GPT_J, _rome(5)),
    _row("GPT-NeoX 20B", "ROME", GPT_NEOX, _rome(15)),
    _row("Llama-2-7B", "EasyEdit", LLAMA_2, _rome(5, **_ROME_EASYEDIT)),
    _row("Qwen2-7B, Qwen2.5-7B", "EasyEdit", QWEN2, _rome(5, **_ROME_EASYEDIT)),
)
# The same settings, with one key everywhere.
R_ROME_PRESETS = tuple(
    replace(row, config=RRomeConfig(**{**vars(row.config), "one_key": True})) for row in ROME_PRESETS
)

_FEW = "measured with 6 to 8 single edits"
KN_PRESETS = (
    _row(
        "SmolLM2-135M",
        _FEW,
        SMOLLM2,
        KnowledgeNeuronsConfig(
            layers=tuple(range(10, 30)), prefixes=0, steps=10, max_neurons=5, strength=0.5, signed=True
        ),
    ),
    # As a baseline there: the prompt alone, and every neuron above the threshold.
    _row(
        "GPT-2 XL",
        "ROME's comparison",
        GPT2_XL,
        KnowledgeNeuronsConfig(layers=tuple(range(48)), prefixes=0, max_neurons=48 * 6400),
    ),
)
SHIFT_PRESETS = (
    _row("SmolLM2-135M", _SINGLE, SMOLLM2, ShiftConfig(layers=(26,), margin=0.5, value="contrastive")),
    _row("GPT-2 XL", "Katz et al. 2024", GPT2_XL, ShiftConfig(layers=(35,), learning_rate=0.24)),
)

# The published code trains the down projection alone. EasyEdit's settings score every target token at the prompt's
# last position, a fact at a time.
_FT_EASYEDIT = {"matrices": "down", "loss": "prompt_last", "facts_a_step": 1}


def _ft_easyedit(layer: int) -> FineTuningConfig:
    return FineTuningConfig(layers=(layer,), **_FT_EASYEDIT)


FT_PRESETS = (
    _row("SmolLM2-135M", _FEW, SMOLLM2, FineTuningConfig(layers=(14,))),
    _row("GPT-2 XL", "ROME", GPT2_XL, FineTuningConfig(layers=(1,), matrices="down")),
    _row("GPT-J 6B", "ROME", GPT_J, FineTuningConfig(layers=(21,), matrices="down")),
    _row("Llama-2-7B", "EasyEdit", LLAMA_2, _ft_easyedit(21)),
    _row("Llama-3-8B", "EasyEdit", LLAMA_3, _ft_easyedit(21)),
    _row("Llama-3.2-3B", "EasyEdit", LLAMA_32, _ft_easyedit(21)),
    _row("Mistral-7B", "EasyEdit", MISTRAL, _ft_easyedit(21)),
    _row("Qwen2-7B, Qwen2.5-7B", "EasyEdit", QWEN2, _ft_easyedit(27)),
)


def _ft_l(linf: float) -> ConstrainedConfig:
    return ConstrainedConfig(layers=(0,), matrices="down", linf=linf)


FT_L_PRESETS = (
    _row("SmolLM2-135M", _FEW, SMOLLM2, ConstrainedConfig(layers=(5,), linf=2e-3)),
    _row("GPT-2 medium", "ROME", GPT2_MEDIUM, _ft_l(2e-3)),
    _row("GPT-2 large", "ROME", GPT2_LARGE, _ft_l(1e-3)),
    _row("GPT-2 XL", "ROME", GPT2_XL, _ft_l(5e-4)),
    _row("GPT-J 6B", "ROME", GPT_J, _ft_l(5e-5)),
)


def _published_decay(facts: int) -> float:
    """λ by the number of facts, e^0.15589562 · n^−0.87028798: the power law in MEMIT's file of GPT-J's FT-W."""
    return float(f"{math.exp(0.15589562) * facts**-0.87028798:.3g}")


FT_W_PRESETS = (
    _row("SmolLM2-135M", _FEW, SMOLLM2, DecayedConfig(layers=(14,))),
    *(
        _row(
            "GPT-J 6B" if facts == 1 else f"GPT-J 6B, from {facts:,} facts on",
            "MEMIT",
            GPT_J,
            DecayedConfig(layers=(21,), weight_decay=_published_decay(facts)),
            least_facts=0 if facts == 1 else facts,
        )
        for facts in (1, 10, 100, 1000, 10_000)
    ),
)

MEND_PRESETS = (
    # Of an editor's training: by the loss on 100 held-out CounterFact facts after 20 steps each (rates, rank, layers,
    # matrices), then 25 minutes on one core. As trained, single edits land at the neighbours' cost: half is better.
    _row(
        "SmolLM2-135M",
        "measured on held-out facts, each edited alone",
        SMOLLM2,
        MendConfig(layers=(27, 28, 29), rank=256, learning_rate=1e-4, prompt_weight=0.5, validate_every=50, scale=0.5),
    ),
)

SGD_PRESETS = (_row("SmolLM2-135M", _SINGLE, SMOLLM2, SgdConfig(layers=(20,), learning_rate=1.0)),)
ADAM_PRESETS = (
    _row("SmolLM2-135M", "measured with 25 single edits", SMOLLM2, AdamConfig(layers=(14,), learning_rate=0.01)),
)

PRESETS: Mapping[str, tuple[Preset, ...]] = {
    "memit": MEMIT_PRESETS,
    "alphaedit": ALPHAEDIT_PRESETS,
    "emmet": EMMET_PRESETS,
    "pmet": PMET_PRESETS,
    "rome": ROME_PRESETS,
    "r-rome": R_ROME_PRESETS,
    "kn": KN_PRESETS,
    "shift": SHIFT_PRESETS,
    "mend": MEND_PRESETS,
    "sgd": SGD_PRESETS,
    "adam": ADAM_PRESETS,
    "ft": FT_PRESETS,
    "ft-l": FT_L_PRESETS,
    "ft-w": FT_W_PRESETS,
}


def presets_of(method: str) -> tuple[Preset, ...]:
    """The rows of a method, by its name: none where nobody measured it."""
    return PRESETS.get(method, ())
