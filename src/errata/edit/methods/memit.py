"""MEMIT (Meng et al. 2023): thousands of facts written at once into a range of MLP layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Float64
from torch import Tensor

from errata.core.linalg import Cholesky, Ridge, cholesky, mean_leverage, ridge_adjoint
from errata.edit.method import Edit, EditTask, Method
from errata.edit.methods.mass_editing import (
    GUESSED_VALUES,
    MEASURED,
    THOUSAND,
    VALUE_UNITS,
    MassConfig,
    RuleOf,
    edit_by_values,
    guessed_values,
    mass_search_space,
    moment_plan,
    values_of,
)
from errata.edit.settings.presets import (
    GEMMA3_270M,
    GPT2_XL,
    GPT_J,
    GPT_NEOX,
    LLAMA_2,
    LLAMA_3,
    LLAMA_32,
    MISTRAL,
    QWEN2,
    SMOLLM2,
    preset,
)
from errata.models import LanguageModel
from errata.stats import SecondMoments
from errata.stats.default_text import SHIPPED_TOKENS


@dataclass(frozen=True, kw_only=True)
class MemitConfig(MassConfig):
    """Hyperparameters of MEMIT (Meng et al. 2023).

    layers: MLP layers that are written; the target value is optimised at the last of them.
    prior_weight: λ; the second moment counts as that many corpus tokens *of this model's own statistics*.
    prior_unit: of λ. "tokens" as published; or "keys": the mean of kᵀC⁻¹k over the facts' keys at a layer. A fact alone
    then lands 1/(1 + λ) of its residual in a pass, whatever the model and however few tokens C is from.
    past_keys: where facts are edited in batches, the keys of the batches before count in each solve as the corpus's do,
    so that later batches leave them alone; as in the sequential runs of AlphaEdit's paper.
    """

    title: ClassVar[str] = "MEMIT"

    prior_weight: float = 15000.0
    prior_unit: Literal["tokens", "keys"] = "tokens"
    past_keys: bool = False

    def domain_checks(self) -> list[tuple[str, bool]]:
        positive = (f"prior_weight must be positive, found {self.prior_weight}", self.prior_weight <= 0)
        return [*super().domain_checks(), positive]


# Fields that mean something only in the unit that another one names.
PRIOR_UNITS = {"prior_unit": frozenset({"prior_weight"}), **VALUE_UNITS}


class RidgeRule:
    """(λC + K_pᵀK_p + KᵀK)⁻¹Kᵀ of each layer; C's Cholesky, which fewer facts than d_mlp take, is made once.

    λ is `prior_weight` tokens, or with `of_keys` so many times what the keys of a layer, when first seen, amount to in
    tokens.
    """

    def __init__(
        self,
        moments: SecondMoments,
        prior_weight: float,
        past_keys: Mapping[int, Float[Tensor, "past d_mlp"]] | None = None,
        *,
        of_keys: bool = False,
    ) -> None:
        self.moments, self.prior_weight, self.past_keys, self.of_keys = moments, prior_weight, past_keys or {}, of_keys
        self.factored: dict[int, Cholesky] = {}
        self.tokens: dict[int, float] = {}

    def __call__(self, layer: int, keys: Float64[Tensor, "fact d_mlp"]) -> Ridge:
        moment = self.moments[layer].to(keys.device)
        if layer not in self.tokens:
            unit = mean_leverage(keys, self.moments.cholesky(layer)) if self.of_keys else 1.0
            self.tokens[layer] = self.prior_weight * unit
        tokens = self.tokens[layer]
        if layer in self.past_keys:
            past = self.past_keys[layer].to(keys)
            moment = moment + past.T @ past / tokens
        made = self._cholesky(layer, moment) if keys.shape[0] < keys.shape[1] else None
        return ridge_adjoint(keys, moment, prior_weight=tokens, moment_cholesky=made)

    def _cholesky(self, layer: int, moment: Float64[Tensor, "d_mlp d_mlp"]) -> Cholesky:
        if layer not in self.factored:
            made = cholesky(moment) if layer in self.past_keys else self.moments.cholesky(layer)
            self.factored[layer] = Cholesky(made.factor.to(moment.device), made.jitter)
        return self.factored[layer]


def edit_memit(task: EditTask) -> Edit:
    """Target values for all facts (kept in the cache), then the layer loop; with diagnoses as warnings."""
    config: MemitConfig = task.config
    return edit_by_values(task, ridge_rules(task), strength=("prior_weight", config.prior_weight))


def ridge_rules(task: EditTask) -> RuleOf:
    """MEMIT's rule for a λ."""
    config: MemitConfig = task.config
    past = task.past_keys if config.past_keys else None
    return lambda weight: RidgeRule(task.second_moments(), weight, past, of_keys=config.prior_unit == "keys")


def guess_layers(lm: LanguageModel) -> tuple[int, ...]:
    """From an eighth of the way up to a quarter, as published for Llama, Mistral and Qwen (4–8 of 28 and 32).

    On Gemma-3-270M, too, 2–4 of 18 spares more neighbours than the layers above do (docs/results.md).
    """
    first = max(round(lm.num_layers / 8), 1)
    # Never the last layer: nothing above it carries what is written at the subject to where the answer is read.
    last = min(max(first + 2, round(lm.num_layers / 4)), max(lm.num_layers - 2, 0))
    return tuple(range(min(first, last), last + 1))


# λ in units of the facts' own keys: SmolLM2's preset comes to 0.5, and Gemma-3-270M is as good with 0.3 as with 0.03.
GUESSED_PRIOR = 0.3


def guess(lm: LanguageModel) -> MemitConfig:
    """Settings for a model nobody measured: layers at the relative depth of the measured presets, the rest free of
    scale, and as many passes as it takes."""
    return MemitConfig(layers=guess_layers(lm), prior_weight=GUESSED_PRIOR, prior_unit="keys", **guessed_values(lm))


def in_unit(strength: float, unit: str) -> str:
    """A strength as a plan says it."""
    return f"{strength:g}" if unit != "keys" else f"{strength:g} of the facts' own keys"


def _plan(config: MemitConfig) -> str:
    return moment_plan(config, f"λ = {in_unit(config.prior_weight, config.prior_unit)}")


def _memit(layers: range, **fields: Any) -> MemitConfig:
    return MemitConfig(layers=tuple(layers), **fields)


_EASYEDIT = {"clamp": 4.0, "value_steps": 25, "weight_decay": 1e-3, "prior_weight": 15000.0}
MEMIT_PRESETS = (
    # Found by errata tune. As good as the one before (7–9, λ 100, clamp 1), with less drift: docs/tuning-smollm2.md.
    preset(
        "SmolLM2-135M",
        "measured with 100 facts",
        SMOLLM2,
        # All of errata's text: PS a little higher and less drift than with the model's own samples (the same page).
        _memit(range(6, 9), prior_weight=3000.0, **{**MEASURED, "clamp": 0.75, "moment_tokens": SHIPPED_TOKENS}),
    ),
    # With a thousand keys for 1,536 neurons a small λ gives up everything else to land them, and three layers are too
    # few: docs/tuning-smollm2.md.
    preset(
        "SmolLM2-135M, from 300 facts on",
        "measured with 1,000 facts",
        SMOLLM2,
        _memit(range(5, 10), prior_weight=10_000.0, **{**THOUSAND, "passes": 3}),
        least_facts=300,
    ),
    # The guess, and one layer more below: docs/results.md.
    preset(
        "Gemma-3-270M",
        "measured with 100 facts",
        GEMMA3_270M,
        _memit(range(1, 5), prior_weight=GUESSED_PRIOR, prior_unit="keys", clamp=0.5, **GUESSED_VALUES),
    ),
    preset("GPT-2 XL", "MEMIT", GPT2_XL, _memit(range(13, 18), prior_weight=20000.0)),
    preset("GPT-J 6B", "MEMIT", GPT_J, _memit(range(3, 9), value_steps=25, prior_weight=15000.0)),
    preset("GPT-NeoX 20B", "MEMIT", GPT_NEOX, _memit(range(6, 11), clamp=0.3, prior_weight=20000.0)),
    preset("Llama-3-8B", "AlphaEdit's runs", LLAMA_3, _memit(range(4, 9), value_steps=25, learning_rate=0.1)),
    preset("Llama-2-7B", "EasyEdit", LLAMA_2, _memit(range(4, 9), **_EASYEDIT)),
    preset("Mistral-7B", "EasyEdit", MISTRAL, _memit(range(4, 9), **_EASYEDIT)),
    preset("Llama-3.2-3B", "EasyEdit", LLAMA_32, _memit(range(4, 9), **_EASYEDIT)),
    preset("Qwen2-7B, Qwen2.5-7B", "EasyEdit", QWEN2, _memit(range(4, 9), **_EASYEDIT)),
)


MEMIT = Method(
    name="memit",
    title="MEMIT (Meng et al. 2023)",
    writes=(
        "The MLP output matrices of a range of layers: all facts in one least-squares solve a layer, each layer taking "
        "its share of the change, against second moments of ordinary text."
    ),
    paper="Meng et al. 2023, Mass-Editing Memory in a Transformer, arXiv:2210.07229",
    presets=MEMIT_PRESETS,
    search_space=mass_search_space("prior_weight"),
    config_type=MemitConfig,
    guess=guess,
    certain=frozenset({"layers", "prior_weight"}),
    guessed=frozenset({"prior_weight", "prior_unit", *GUESSED_VALUES}),
    units=PRIOR_UNITS,
    plan=_plan,
    edit=edit_memit,
    uses_moments=lambda _: True,
    prepare=lambda task: values_of(task, "block"),
    uses_prefixes=True,
)
