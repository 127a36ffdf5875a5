"""MEMIT's hyperparameters: frozen, validated, one set whatever the model."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from errata.edit.method_config import MethodConfig


@dataclass(frozen=True, kw_only=True)
class MemitConfig(MethodConfig):
    """Hyperparameters of MEMIT (Meng et al. 2023), in the published code's meaning under this project's names.

    layers: MLP layers that are written, ascending, 0-based; the target value is optimised at the last of them.
    value_steps: loss evaluations for each target value; updates are one fewer (the last evaluation only reports).
    learning_rate: Adam's.  clamp: the value shift's norm stays within clamp · ‖h₀‖.
    weight_decay: factor of ‖shift‖/‖h₀‖² in the loss.  kl_factor: factor of KL(p_shift ‖ p₀) at the subject.
    stop_loss: a fact is done when its total loss (nats) is below this.
    prior_weight: λ; the second moment counts as that many corpus tokens *of this model's own statistics*.
    passes: how often the layer loop runs; 1 is published, each further pass corrects what the ones before left. λ then
    weighs the increment of each pass, not their sum.
    moment_tokens: corpus tokens behind the second moments.
    prefixes, prefix_tokens, prefix_top_k: sampled context prefixes: how many, their length in tokens, and the sampling.
    schedule: "published" is exact; "fast" takes fewer, larger first updates and is an approximation (opt-in).
    seed: for the prefixes and for self-sampled corpora.
    """

    title: ClassVar[str] = "MEMIT"

    value_steps: int = 20
    learning_rate: float = 0.5
    clamp: float = 0.75
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    stop_loss: float = 0.05
    prior_weight: float = 15000.0
    passes: int = 1
    moment_tokens: int = 100_000
    prefixes: int = 5
    prefix_tokens: int = 10
    prefix_top_k: int = 5
    schedule: Literal["published", "fast"] = "published"
    seed: int = 0

    def domain_checks(self) -> list[tuple[str, bool]]:
        return _domain_checks(self)

    def value_fields(self) -> dict[str, Any]:
        """What a target value depends on (and so what its cache key covers): not λ, passes or the corpus."""
        ignored = {"layers", "prior_weight", "passes", "moment_tokens"}
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in ignored}
        return {**fields, "value_layer": self.layers[-1]}


def _domain_checks(c: MemitConfig) -> list[tuple[str, bool]]:
    return [
        (f"value_steps must be 2–1000, found {c.value_steps}", not 2 <= c.value_steps <= 1000),
        (f"learning_rate must be positive, found {c.learning_rate}", c.learning_rate <= 0),
        (f"clamp must be positive, found {c.clamp}", c.clamp <= 0),
        (f"weight_decay must be ≥ 0, found {c.weight_decay}", c.weight_decay < 0),
        (f"kl_factor must be ≥ 0, found {c.kl_factor}", c.kl_factor < 0),
        (f"stop_loss must be ≥ 0, found {c.stop_loss}", c.stop_loss < 0),
        (f"prior_weight must be positive, found {c.prior_weight}", c.prior_weight <= 0),
        (f"passes must be 1–100, found {c.passes}", not 1 <= c.passes <= 100),
        (f"moment_tokens must be at least 100, found {c.moment_tokens}", c.moment_tokens < 100),
        (f"prefixes must be 0–100, found {c.prefixes}", not 0 <= c.prefixes <= 100),
        (f"prefix_tokens must be 2–200, found {c.prefix_tokens}", not 2 <= c.prefix_tokens <= 200),
        (f"prefix_top_k must be at least 1, found {c.prefix_top_k}", c.prefix_top_k < 1),
        (f"schedule must be 'published' or 'fast', found {c.schedule!r}", c.schedule not in ("published", "fast")),
        (f"seed must be 0–2³²−1, found {c.seed}", not 0 <= c.seed < 1 << 32),
    ]
