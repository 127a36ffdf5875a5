"""PMET (Li et al., AAAI 2024): attention's and the MLP's outputs are optimised jointly, only the MLP is written."""

from typing import ClassVar

from errata.edit.method import Edit, EditTask, Method
from errata.edit.methods.mass_editing import MEASURED, edit_by_values, mass_search_space, moment_plan, values_of
from errata.edit.methods.memit import MEMIT, MemitConfig, guess, in_unit, ridge_rules
from errata.edit.settings.presets import GPT_J, LLAMA_2, SINGLE_AND_MANY, SMOLLM2, preset
from errata.models import LanguageModel


class PmetConfig(MemitConfig):
    """Hyperparameters of PMET: MEMIT's; each of the two shifts has its own clamp and decay.

    What the shift of attention does is left out when the weights are written: it is there so that the MLP need not
    carry what is not a fact. Layer i of N takes 1/√(N − i) of what is missing of the MLP's output.
    """

    title: ClassVar[str] = "PMET"


def edit_pmet(task: EditTask) -> Edit:
    """As MEMIT, with values of the last layer's MLP output instead of the residual stream."""
    config: PmetConfig = task.config
    strength = ("prior_weight", config.prior_weight)
    return edit_by_values(task, ridge_rules(task), strength=strength, site="attention and mlp", spread="root")


def _guess(lm: LanguageModel) -> PmetConfig:
    return PmetConfig(**vars(guess(lm)))


def _plan(config: PmetConfig) -> str:
    return moment_plan(config, f"λ = {in_unit(config.prior_weight, config.prior_unit)}")


PMET_PRESETS = (
    # λ = 30 gave the same.
    preset("SmolLM2-135M", SINGLE_AND_MANY, SMOLLM2, PmetConfig(layers=(7, 8, 9), prior_weight=300.0, **MEASURED)),
    preset(
        "GPT-J 6B",
        "EasyEdit",
        GPT_J,
        PmetConfig(layers=tuple(range(3, 9)), value_steps=30, learning_rate=0.2, kl_factor=1.0, prior_weight=15000.0),
    ),
    preset("Llama-2-7B", "EasyEdit", LLAMA_2, PmetConfig(layers=tuple(range(4, 9)), clamp=1.0, prior_weight=15000.0)),
)


PMET = Method(
    name="pmet",
    title="PMET (Li et al. 2024)",
    writes=(
        "As MEMIT, from target values of the MLP alone: what attention would have to change is optimised beside them "
        "and left out."
    ),
    paper="Li et al. 2024, PMET: Precise Model Editing in a Transformer, arXiv:2308.08742",
    presets=PMET_PRESETS,
    search_space=mass_search_space("prior_weight"),
    config_type=PmetConfig,
    guess=_guess,
    certain=frozenset({"layers", "prior_weight"}),
    guessed=MEMIT.guessed,
    units=MEMIT.units,
    plan=_plan,
    edit=edit_pmet,
    uses_moments=lambda _: True,
    prepare=lambda task: values_of(task, "attention and mlp"),
    uses_prefixes=True,
)
