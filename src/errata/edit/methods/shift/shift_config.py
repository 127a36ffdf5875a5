"""The hyperparameters of forward pass shifting."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from errata.edit.settings.method_config import MethodConfig


@dataclass(frozen=True, kw_only=True)
class ShiftConfig(MethodConfig):
    """Hyperparameters of forward pass shifting; the defaults are the published form.

    layers: one layer.  learning_rate: lr of every fact; with a margin, of those that it finds no rate for.
    key: at the prompt's "last" token, or at the "subject"'s last token.
    value: "target", e_t; or "contrastive", e_t − Σ_k p_k e_k, which takes away from what the model says instead.
    whitened: k becomes C⁻¹k, scaled so that the fact's own key gets what it got before and others get less.
    margin: above 0, each fact gets the rate at which, to first order, the target's logit exceeds the largest other one
    by so much.  line_search: of rates around the given one (or the margin's), each fact gets the smallest that makes
    the target its answer, by the margin if there is one.
    moment_tokens, seed: of the second moment C, where it is used.
    """

    title: ClassVar[str] = "Shift"
    one_layer: ClassVar[bool] = True

    learning_rate: float = 0.24
    key: Literal["last", "subject"] = "last"
    value: Literal["target", "contrastive"] = "target"
    whitened: bool = False
    margin: float = 0.0
    line_search: bool = False
    moment_tokens: int = 100_000
    seed: int = 0

    def domain_checks(self) -> list[tuple[str, bool]]:
        return [
            (f"learning_rate must be positive, found {self.learning_rate}", self.learning_rate <= 0),
            (f"margin must be ≥ 0 (0 switches it off), found {self.margin}", self.margin < 0),
        ]

    @property
    def chooses_rates(self) -> bool:
        """Whether facts may have different rates."""
        return self.margin > 0 or self.line_search
