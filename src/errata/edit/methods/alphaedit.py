"""AlphaEdit (Fang et al., ICLR 2025): MEMIT whose updates stay where the corpus's keys hardly reach."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Float64
from torch import Tensor

from errata.core.linalg import Ridge, null_space, null_space_adjoint
from errata.edit.method import Edit, EditTask, Method
from errata.edit.methods.mass_editing import (
    GUESSED_VALUES,
    MEASURED,
    THOUSAND,
    VALUE_UNITS,
    MassConfig,
    edit_by_values,
    guessed_values,
    mass_search_space,
    moment_plan,
    values_of,
)
from errata.edit.methods.memit import guess_layers, in_unit
from errata.edit.settings.presets import GPT2_XL, GPT_J, LLAMA_3, SINGLE_AND_MANY, SMOLLM2, preset
from errata.errors import ConfigError
from errata.models import LanguageModel
from errata.stats import SecondMoments


@dataclass(frozen=True, kw_only=True)
class AlphaEditConfig(MassConfig):
    """Hyperparameters of AlphaEdit; the defaults are the published ones.

    threshold: eigenvectors of C with a smaller eigenvalue span the null space.  threshold_unit: "absolute" as
    published; or "share": that share of the eigenvectors, those with the smallest eigenvalues, which carries over
    between models.  ridge: L₂, what holds the update small inside the null space.  ridge_unit: "absolute" as
    published; or "keys": the mean ‖U₀ᵀk‖² of the facts' keys, which carries over too.
    past_keys: facts of earlier batches are protected (H = K_pᵀK_p).
    """

    title: ClassVar[str] = "AlphaEdit"

    threshold: float = 2e-2
    threshold_unit: Literal["absolute", "share"] = "absolute"
    ridge: float = 10.0
    ridge_unit: Literal["absolute", "keys"] = "absolute"
    past_keys: bool = True

    def domain_checks(self) -> list[tuple[str, bool]]:
        return [
            *super().domain_checks(),
            (f"threshold must be positive, found {self.threshold}", self.threshold <= 0),
            (
                f"threshold must be below 1 where it is a share, found {self.threshold}",
                self.threshold_unit == "share" and self.threshold >= 1,
            ),
            (f"ridge must be positive, found {self.ridge}", self.ridge <= 0),
        ]


class NullSpaceRule:
    """The null-space solution of each layer; bases are kept from one pass to the next."""

    def __init__(
        self,
        moments: SecondMoments,
        config: AlphaEditConfig,
        past_keys: Mapping[int, Float[Tensor, "past d_mlp"]],
    ) -> None:
        self.config, self.past_keys = config, past_keys
        self.bases = {layer: self._basis(moments, layer) for layer in config.layers}

    def __call__(self, layer: int, keys: Float64[Tensor, "fact d_mlp"]) -> Ridge:
        basis = self.bases[layer].to(keys)
        unit = float((keys @ basis).square().sum(1).mean()) if self.config.ridge_unit == "keys" else 1.0
        return null_space_adjoint(keys, basis, ridge=self.config.ridge * unit, past_keys=self.past_keys.get(layer))

    def with_ridge(self, ridge: float) -> "NullSpaceRule":
        """The same with another L₂."""
        other = copy(self)
        other.config = self.config.replace(ridge=ridge)
        return other

    def _basis(self, moments: SecondMoments, layer: int) -> Float64[Tensor, "d_mlp free"]:
        values, vectors = moments.eigen(layer)
        below = self.config.threshold
        if self.config.threshold_unit == "share":
            below = float(values[int(below * len(values))])
        basis = null_space(values, vectors, below=below)
        if not basis.shape[1]:
            raise ConfigError(
                f"threshold={self.config.threshold:g} ({self.config.threshold_unit}): no eigenvalue of layer {layer}'s "
                "second moment is smaller, so AlphaEdit has nowhere to write; raise it."
            )
        return basis


def edit_alphaedit(task: EditTask) -> Edit:
    """As MEMIT, the solve of each layer held inside the null space of the corpus's keys."""
    config: AlphaEditConfig = task.config
    past = task.past_keys if config.past_keys else {}
    rule = NullSpaceRule(task.second_moments(), config, past)

    def rule_of(ridge: float) -> NullSpaceRule:
        return rule if ridge == config.ridge else rule.with_ridge(ridge)

    edit = edit_by_values(task, rule_of, strength=("ridge", config.ridge))
    sizes = {layer: basis.shape[1] for layer, basis in rule.bases.items()}
    free = ", ".join(f"{layer}: {size:,}" for layer, size in sizes.items())
    return edit.with_metrics(
        {"null_space": {str(layer): size for layer, size in sizes.items()}},
        f"Free directions by layer: {free} of {task.lm.d_mlp:,}.",
    )


def _guess(lm: LanguageModel) -> AlphaEditConfig:
    """MEMIT's layers; of the directions the lower 60 %, what the published threshold gives on SmolLM2-135M."""
    return AlphaEditConfig(
        layers=guess_layers(lm),
        threshold=0.6,
        threshold_unit="share",
        ridge=0.1,
        ridge_unit="keys",
        **guessed_values(lm),
    )


def _plan(config: AlphaEditConfig) -> str:
    ridge = in_unit(config.ridge, config.ridge_unit)
    return moment_plan(config, f"null space below {config.threshold:g} ({config.threshold_unit}), L₂ = {ridge}")


def _alphaedit(layers: range, **fields: Any) -> AlphaEditConfig:
    return AlphaEditConfig(layers=tuple(layers), **fields)


# MEMIT's layers and target values; threshold 2e-2 and ridge 10, the published defaults.
ALPHAEDIT_PRESETS = (
    # SmolLM2's spectrum is flat (the smallest eigenvalue is 0.03–0.11 of the mean): the published threshold frees 60 %
    # of the directions.
    preset("SmolLM2-135M", SINGLE_AND_MANY, SMOLLM2, _alphaedit(range(7, 10), threshold=0.01, ridge=0.3, **MEASURED)),
    # A thousand keys need more room than that threshold frees.
    preset(
        "SmolLM2-135M, from 300 facts on",
        "measured with 1,000 facts",
        SMOLLM2,
        _alphaedit(range(5, 10), threshold=0.03, ridge=10.0, **THOUSAND),
        least_facts=300,
    ),
    preset("Llama-3-8B", "AlphaEdit", LLAMA_3, _alphaedit(range(4, 9), value_steps=25, learning_rate=0.1)),
    preset("GPT-J 6B", "AlphaEdit", GPT_J, _alphaedit(range(3, 9), value_steps=25)),
    preset("GPT-2 XL", "AlphaEdit", GPT2_XL, _alphaedit(range(13, 18))),
)


ALPHAEDIT = Method(
    name="alphaedit",
    title="AlphaEdit (Fang et al. 2025)",
    writes="As MEMIT, but only inside the null space of the text's keys, so that what they give stays as it is.",
    paper="Fang et al. 2025, AlphaEdit: Null-Space Constrained Knowledge Editing, arXiv:2410.02355",
    presets=ALPHAEDIT_PRESETS,
    search_space=mass_search_space("ridge", threshold=(0.7, 1.4)),
    config_type=AlphaEditConfig,
    guess=_guess,
    certain=frozenset({"layers", "threshold", "ridge"}),
    guessed=frozenset({"threshold", "threshold_unit", "ridge", "ridge_unit", *GUESSED_VALUES}),
    units={"ridge_unit": frozenset({"ridge"}), **VALUE_UNITS},
    together=frozenset({"threshold", "threshold_unit"}),
    plan=_plan,
    edit=edit_alphaedit,
    uses_moments=lambda _: True,
    prepare=lambda task: values_of(task, "block"),
    uses_prefixes=True,
)
