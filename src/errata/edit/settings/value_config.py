"""The hyperparameters of target values, which MEMIT, ROME and their kin share."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from errata.edit.settings.prefix_config import PrefixConfig


@dataclass(frozen=True, kw_only=True)
class ValueConfig(PrefixConfig):
    """What a target value is optimised with, in the published code's meaning under this project's names.

    The value is optimised at the last of `layers`.
    value_steps: loss evaluations for each target value; updates are one fewer (the last evaluation only reports).
    learning_rate: of Adam's updates.
    clamp: the value shift's norm stays within clamp · the norm of what it is added to.
    weight_decay: factor of ‖shift‖/‖start‖² in the loss.  kl_factor: factor of KL(p_shift ‖ p₀) at the subject.
    stop_loss: a fact is done when its total loss (nats) is below this.
    schedule: "published" is exact; "fast" takes fewer, larger first updates and is an approximation (opt-in).
    retries: how often facts that found no target value are tried again by themselves (second_try.py).
    value_unit: "absolute" as published, or "start": learning_rate counts in the usual size of a channel of what the
    shift is added to, and weight_decay multiplies ‖shift‖/‖start‖, so that both carry over between models. The usual
    size is start's root mean square; of a stream behind a norm, what the norm's gains say (value_problem.py).
    """

    value_steps: int = 20
    learning_rate: float = 0.5
    clamp: float = 0.75
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    stop_loss: float = 0.05
    schedule: Literal["published", "fast"] = "published"
    retries: int = 1
    value_unit: Literal["absolute", "start"] = "absolute"

    def domain_checks(self) -> list[tuple[str, bool]]:
        return [
            (f"value_steps must be 2–1000, found {self.value_steps}", not 2 <= self.value_steps <= 1000),
            (f"learning_rate must be positive, found {self.learning_rate}", self.learning_rate <= 0),
            (f"clamp must be positive, found {self.clamp}", self.clamp <= 0),
            (f"weight_decay must be ≥ 0, found {self.weight_decay}", self.weight_decay < 0),
            (f"kl_factor must be ≥ 0, found {self.kl_factor}", self.kl_factor < 0),
            (f"stop_loss must be ≥ 0, found {self.stop_loss}", self.stop_loss < 0),
            (f"retries must be 0–10, found {self.retries}", not 0 <= self.retries <= 10),
            *super().domain_checks(),
        ]

    def value_fields(self) -> dict[str, Any]:
        """What one try's value depends on (and so what its cache key covers): not λ, passes, the corpus or retries."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(ValueConfig)}
        # Where the prefixes come from is of no matter: they themselves are part of the key.
        del fields["layers"], fields["retries"], fields["prefix_source"]
        return {**fields, "value_layer": self.layers[-1]}
