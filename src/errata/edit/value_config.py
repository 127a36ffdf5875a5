"""The hyperparameters of target values, which MEMIT, ROME and their kin share."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from errata.edit.method_config import MethodConfig


@dataclass(frozen=True, kw_only=True)
class ValueConfig(MethodConfig):
    """What a target value is optimised with, in the published code's meaning under this project's names.

    The value is optimised at the last of `layers`.
    value_steps: loss evaluations for each target value; updates are one fewer (the last evaluation only reports).
    learning_rate: Adam's.  clamp: the value shift's norm stays within clamp · the norm of what it is added to.
    weight_decay: factor of ‖shift‖/‖start‖² in the loss.  kl_factor: factor of KL(p_shift ‖ p₀) at the subject.
    stop_loss: a fact is done when its total loss (nats) is below this.
    prefixes, prefix_tokens, prefix_top_k: sampled context prefixes: how many, their length in tokens, and the sampling.
    schedule: "published" is exact; "fast" takes fewer, larger first updates and is an approximation (opt-in).
    seed: for the prefixes and for self-sampled corpora.
    """

    value_steps: int = 20
    learning_rate: float = 0.5
    clamp: float = 0.75
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    stop_loss: float = 0.05
    prefixes: int = 5
    prefix_tokens: int = 10
    prefix_top_k: int = 5
    schedule: Literal["published", "fast"] = "published"
    seed: int = 0

    def domain_checks(self) -> list[tuple[str, bool]]:
        return [
            (f"value_steps must be 2–1000, found {self.value_steps}", not 2 <= self.value_steps <= 1000),
            (f"learning_rate must be positive, found {self.learning_rate}", self.learning_rate <= 0),
            (f"clamp must be positive, found {self.clamp}", self.clamp <= 0),
            (f"weight_decay must be ≥ 0, found {self.weight_decay}", self.weight_decay < 0),
            (f"kl_factor must be ≥ 0, found {self.kl_factor}", self.kl_factor < 0),
            (f"stop_loss must be ≥ 0, found {self.stop_loss}", self.stop_loss < 0),
            (f"prefixes must be 0–100, found {self.prefixes}", not 0 <= self.prefixes <= 100),
            (f"prefix_tokens must be 2–200, found {self.prefix_tokens}", not 2 <= self.prefix_tokens <= 200),
            (f"prefix_top_k must be at least 1, found {self.prefix_top_k}", self.prefix_top_k < 1),
        ]

    @property
    def prefix_lengths(self) -> list[int]:
        """Tokens of each sampled prefix."""
        return [self.prefix_tokens] * self.prefixes

    def value_fields(self) -> dict[str, Any]:
        """What a target value depends on (and so what its cache key covers): not λ, passes or the corpus."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(ValueConfig)}
        del fields["layers"]
        return {**fields, "value_layer": self.layers[-1]}
