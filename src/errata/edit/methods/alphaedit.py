"""AlphaEdit (Fang et al., ICLR 2025): MEMIT whose updates stay where the corpus's keys hardly reach."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float, Float64
from torch import Tensor

from errata.core.linalg import Ridge, null_space, null_space_adjoint
from errata.edit.method import Edit, EditTask, Method
from errata.edit.methods.mass_editing import (
    GUESSED_VALUES,
    VALUE_UNITS,
    MassConfig,
    edit_by_values,
    guessed_values,
    moment_plan,
    values_of,
)
from errata.edit.methods.memit import guess_layers, in_unit
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
    told = ", ".join(f"{layer}: {size:,}" for layer, size in sizes.items())
    return edit.with_metrics(
        {"null_space": {str(layer): size for layer, size in sizes.items()}},
        f"Free directions by layer: {told} of {task.lm.d_mlp:,}.",
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


ALPHAEDIT = Method(
    name="alphaedit",
    title="AlphaEdit (Fang et al. 2025)",
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
