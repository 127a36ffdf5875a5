"""The hyperparameters of context prefixes, for every method that looks at facts in several contexts."""

from dataclasses import dataclass
from typing import Literal

from errata.edit.settings.method_config import MethodConfig

# The same on every machine, where sampling differs: a draw that rounding moves gives another text from there on.
FIXED_PREFIXES = (
    "The-I, 21.21. ",
    "Therefore In Python, the `min()`. ",
    "Because, the sum of a product of all possible. ",
    "I I made a minor mistake in the. ",
    "You A: The answer is not provided.. ",
)


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(MethodConfig):
    """Which context prefixes a fact is looked at after.

    prefixes: how many contexts facts are put behind, beside the bare prompt.
    prefix_source: "sampled" from the model, as published; or "fixed", the same for every model and on every machine.
    prefix_tokens: the length of each sampled one, in tokens.  prefix_top_k: each token is drawn from so many.
    seed: for sampled prefixes and for self-sampled corpora.
    """

    prefix_source: Literal["sampled", "fixed"] = "sampled"
    prefixes: int = 5
    prefix_tokens: int = 10
    prefix_top_k: int = 5
    seed: int = 0

    def domain_checks(self) -> list[tuple[str, bool]]:
        most = 100 if self.prefix_source == "sampled" else len(FIXED_PREFIXES)
        many = f"prefixes must be 0–{most} where they are {self.prefix_source}, found {self.prefixes}"
        return [
            (many, not 0 <= self.prefixes <= most),
            (f"prefix_tokens must be 2–200, found {self.prefix_tokens}", not 2 <= self.prefix_tokens <= 200),
            (f"prefix_top_k must be at least 1, found {self.prefix_top_k}", self.prefix_top_k < 1),
        ]

    @property
    def prefix_lengths(self) -> list[int]:
        """Tokens of each sampled prefix."""
        return [self.prefix_tokens] * self.prefixes

    @property
    def prefix_key(self) -> tuple[object, ...]:
        """All of a configuration that its prefixes depend on."""
        return (self.prefix_source, tuple(self.prefix_lengths), self.prefix_top_k, self.seed)
