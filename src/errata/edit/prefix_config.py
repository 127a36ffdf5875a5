"""The hyperparameters of sampled context prefixes, for every method that looks at facts in several contexts."""

from dataclasses import dataclass

from errata.edit.method_config import MethodConfig


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(MethodConfig):
    """How context prefixes are sampled.

    prefixes: how many contexts are sampled that facts are put behind, beside the bare prompt.
    prefix_tokens: the length of each, in tokens.  prefix_top_k: each token is drawn from so many.
    seed: for the prefixes and for self-sampled corpora.
    """

    prefixes: int = 5
    prefix_tokens: int = 10
    prefix_top_k: int = 5
    seed: int = 0

    def domain_checks(self) -> list[tuple[str, bool]]:
        return [
            (f"prefixes must be 0–100, found {self.prefixes}", not 0 <= self.prefixes <= 100),
            (f"prefix_tokens must be 2–200, found {self.prefix_tokens}", not 2 <= self.prefix_tokens <= 200),
            (f"prefix_top_k must be at least 1, found {self.prefix_top_k}", self.prefix_top_k < 1),
        ]

    @property
    def prefix_lengths(self) -> list[int]:
        """Tokens of each sampled prefix."""
        return [self.prefix_tokens] * self.prefixes
