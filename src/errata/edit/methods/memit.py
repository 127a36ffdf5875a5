"""MEMIT (Meng et al. 2023): thousands of facts written at once into a range of MLP layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Float64
from torch import Tensor

from errata.core.linalg import Cholesky, Ridge, cholesky, ridge_adjoint
from errata.edit.mass_editing import MassConfig, edit_by_values, moment_plan, values_of
from errata.edit.method import Edit, EditTask, Method
from errata.models import LanguageModel
from errata.stats import SecondMoments


@dataclass(frozen=True, kw_only=True)
class MemitConfig(MassConfig):
    """Hyperparameters of MEMIT (Meng et al. 2023).

    layers: MLP layers that are written; the target value is optimised at the last of them.
    prior_weight: λ; the second moment counts as that many corpus tokens *of this model's own statistics*.
    past_keys: where facts are edited in batches, the keys of the batches before count in each solve as the corpus's do,
    so that later batches leave them alone; as in the sequential runs of AlphaEdit's paper.
    """

    title: ClassVar[str] = "MEMIT"

    prior_weight: float = 15000.0
    past_keys: bool = False

    def domain_checks(self) -> list[tuple[str, bool]]:
        positive = (f"prior_weight must be positive, found {self.prior_weight}", self.prior_weight <= 0)
        return [*super().domain_checks(), positive]


class RidgeRule:
    """(λC + K_pᵀK_p + KᵀK)⁻¹Kᵀ of each layer; C's Cholesky, which fewer facts than d_mlp take, is made once."""

    def __init__(
        self,
        moments: SecondMoments,
        prior_weight: float,
        past_keys: Mapping[int, Float[Tensor, "past d_mlp"]] | None = None,
    ) -> None:
        self.moments, self.prior_weight, self.past_keys = moments, prior_weight, past_keys or {}
        self.factored: dict[int, Cholesky] = {}

    def __call__(self, layer: int, keys: Float64[Tensor, "fact d_mlp"]) -> Ridge:
        moment = self.moments[layer].to(keys.device)
        if layer in self.past_keys:
            past = self.past_keys[layer].to(keys)
            moment = moment + past.T @ past / self.prior_weight
        made = self._cholesky(layer, moment) if keys.shape[0] < keys.shape[1] else None
        return ridge_adjoint(keys, moment, prior_weight=self.prior_weight, moment_cholesky=made)

    def _cholesky(self, layer: int, moment: Float64[Tensor, "d_mlp d_mlp"]) -> Cholesky:
        if layer not in self.factored:
            made = cholesky(moment) if layer in self.past_keys else self.moments.cholesky(layer)
            self.factored[layer] = Cholesky(made.factor.to(moment.device), made.jitter)
        return self.factored[layer]


def edit_memit(task: EditTask) -> Edit:
    """Target values for all facts (kept in the cache), then the layer loop; with diagnoses as warnings."""
    config: MemitConfig = task.config
    rule = RidgeRule(task.second_moments(), config.prior_weight, task.past_keys if config.past_keys else None)
    return edit_by_values(task, rule, strength=f"prior_weight={config.prior_weight:g}")


def guess_layers(lm: LanguageModel) -> tuple[int, ...]:
    """Layers at the relative depth of the measured presets."""
    first = round(0.2 * lm.num_layers)
    # Never the last layer: nothing above it carries what is written at the subject to where the answer is read.
    last = min(max(first + 2, round(0.3 * lm.num_layers)), max(lm.num_layers - 2, 0))
    return tuple(range(min(first, last), last + 1))


def guess(lm: LanguageModel) -> MemitConfig:
    """Settings for a model nobody measured: layers at the relative depth of the measured presets, λ grown with d_mlp.

    λ goes through 300 at d_mlp = 1,536, within what works for SmolLM2-135M (100 to 3,000), and 15,000 at 16,384
    (GPT-J).
    """
    prior_weight = 300.0 * (lm.d_mlp / 1536) ** 1.65
    return MemitConfig(layers=guess_layers(lm), prior_weight=round(prior_weight, 1))


def _plan(config: MemitConfig) -> str:
    return moment_plan(config, f"λ = {config.prior_weight:g}")


MEMIT = Method(
    name="memit",
    title="MEMIT (Meng et al. 2023)",
    config_type=MemitConfig,
    guess=guess,
    certain=frozenset({"layers", "prior_weight"}),
    guessed=frozenset({"prior_weight"}),
    plan=_plan,
    edit=edit_memit,
    uses_moments=lambda _: True,
    prepare=lambda task: values_of(task, "block"),
    uses_prefixes=True,
)
