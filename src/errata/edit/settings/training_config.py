"""The hyperparameters of fine-tuning, which its three forms share."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from errata.edit.settings.method_config import MethodConfig


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig(MethodConfig):
    """Hyperparameters of fine-tuning; the numbers are the published ones.

    layers: one.  matrices: what is trained of its block: "down", the MLP's output projection; "mlp", the MLP's
    matrices; "block", attention's too. Norms and biases are left alone.
    learning_rate: of Adam's steps.  epochs: how often every fact is met, at most.
    stop_loss: training is done when the mean loss of an epoch (nats a target token) is below this, and a step is left
    out when its own is.
    linf: ε of |W − W₀| ≤ ε after each step (0: none).  weight_decay: λ of the L2 term λW in the gradient.
    loss: "teacher_forced", each target token after those before it; "prompt_last", as the published code does it, all
    of them at the prompt's last position.
    facts_a_step: facts that share a step (0: all).  seed: of the facts' order in each epoch.
    """

    title: ClassVar[str] = "Fine-tuning"
    one_layer: ClassVar[bool] = True

    matrices: Literal["down", "mlp", "block"] = "mlp"
    learning_rate: float = 5e-4
    epochs: int = 25
    stop_loss: float = 1e-2
    linf: float = 0.0
    weight_decay: float = 0.0
    loss: Literal["teacher_forced", "prompt_last"] = "teacher_forced"
    facts_a_step: int = 64
    seed: int = 0

    def domain_checks(self) -> list[tuple[str, bool]]:
        return [
            (f"learning_rate must be positive, found {self.learning_rate}", self.learning_rate <= 0),
            (f"epochs must be 1–10000, found {self.epochs}", not 1 <= self.epochs <= 10_000),
            (f"stop_loss must be ≥ 0, found {self.stop_loss}", self.stop_loss < 0),
            (f"linf must be ≥ 0, found {self.linf}", self.linf < 0),
            (f"weight_decay must be ≥ 0, found {self.weight_decay}", self.weight_decay < 0),
            (f"facts_a_step must be ≥ 0, found {self.facts_a_step}", self.facts_a_step < 0),
        ]


@dataclass(frozen=True, kw_only=True)
class ConstrainedConfig(FineTuningConfig):
    """Hyperparameters of FT-L, after Zhu et al. (2020): weights stay within `linf` of where they were."""

    title: ClassVar[str] = "FT-L"

    linf: float = 5e-4


@dataclass(frozen=True, kw_only=True)
class DecayedConfig(FineTuningConfig):
    """Hyperparameters of FT-W (Meng et al. 2023): fine-tuning of a whole block with weight decay.

    weight_decay: about what the published law asks for with 10,000 facts; it grows to 1.17 for one (fine_tuning.py).
    """

    title: ClassVar[str] = "FT-W"

    matrices: Literal["down", "mlp", "block"] = "block"
    weight_decay: float = 5e-4
