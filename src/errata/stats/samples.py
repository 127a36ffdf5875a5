"""The model's own samples as a corpus: what stands in for text where none is given."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from errata.errors import ConfigError, ModelError
from errata.models import LanguageModel
from errata.models.run.generate import sample_ids
from errata.stats.recipe import stream_digest
from errata.stats.token_stream import TokenSource
from errata.store import digest
from errata.store.cache import Cache

SAMPLE_TOKENS = 128
_SAMPLES_AT_ONCE = 32


@dataclass(frozen=True)
class SampledTokens(TokenSource):
    """Documents of `length` tokens: BOS (EOS where there is none), then ancestral sampling, temperature 1, no top-k.

    Document i depends on (seed, i) alone. Each group of documents is kept in `cache`, for it takes longer to sample
    than to use.
    """

    lm: LanguageModel
    seed: int
    length: int
    cache: Cache

    @property
    def name(self) -> str:
        return f"self-samples seed={self.seed}"

    @property
    def recipe(self) -> list[object]:
        return ["self-samples", self.seed, self.length, start_token(self.lm)]

    def documents(self, start: int) -> Iterator[Sequence[int]]:
        group = start // _SAMPLES_AT_ONCE
        skipped = start % _SAMPLES_AT_ONCE
        while True:
            yield from self._group(group)[skipped:]
            group, skipped = group + 1, 0

    def _group(self, group: int) -> list[list[int]]:
        key = digest("samples", stream_digest(self.lm, self.recipe, _SAMPLES_AT_ONCE), group)
        if found := self.cache.load(key):
            return found[0]["ids"].tolist()
        rows = self._sample(group)
        self.cache.save(key, {"ids": torch.tensor(rows)}, {"source": self.name, "group": group})
        return rows

    def _sample(self, group: int) -> list[list[int]]:
        prompts = [[start_token(self.lm)]] * _SAMPLES_AT_ONCE
        if self.length == 1:
            return prompts
        return sample_ids(
            self.lm,
            prompts,
            new_tokens=self.length - 1,
            top_k=None,
            seed=self.seed,
            batch_size=_SAMPLES_AT_ONCE,
            first_index=group * _SAMPLES_AT_ONCE,
        )


def sampled_tokens(lm: LanguageModel, seed: int, max_length: int, cache: Cache) -> SampledTokens:
    """The model's samples under a seed, checked. Raises ConfigError or ModelError."""
    if not 0 <= seed < 1 << 63:
        raise ConfigError(f"seed={seed}: it must lie between 0 and 2⁶³ − 1.")
    start_token(lm)
    return SampledTokens(lm, seed, min(SAMPLE_TOKENS, max_length), cache)


def start_token(lm: LanguageModel) -> int:
    """The token that starts a text: BOS, or EOS for models that separate texts by it; ModelError without either."""
    if (token := lm.start_token) is not None:
        return token
    raise ModelError(f"{lm.name} has neither a BOS nor an EOS token to start samples from. Give a corpus instead.")
