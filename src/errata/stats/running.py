"""Running sums of second moments, and how they are kept: one entry for each layer and number of tokens."""

from dataclasses import asdict, dataclass, field

import torch

from errata.core.moments import Panels, zero_panels
from errata.models import LanguageModel
from errata.stats.token_stream import Position
from errata.store import digest, storage_errors
from errata.store.cache import Cache


@dataclass
class RunningSum:
    """Σ k kᵀ of one layer over the stream's first `position.tokens` tokens.

    `saved` is how many tokens the entry on disk covers (None: there is none); `wanted` whether somebody asked for
    exactly these, so that it must stay when the sum goes on.
    """

    layer: int
    panels: Panels
    position: Position = field(default_factory=Position)
    saved: int | None = None
    wanted: bool = False


@dataclass(frozen=True)
class MomentStore:
    """The sums over one stream of keys (`stream`: a digest of all that it depends on) in a cache."""

    cache: Cache
    stream: str
    chunk_tokens: int

    def key(self, layer: int, tokens: int) -> str:
        """Of a layer's sum over so many tokens, in the cache."""
        return digest("moments", self.stream, layer, tokens)

    def load(self, lm: LanguageModel, layer: int, tokens: int) -> RunningSum | None:
        """The sum over exactly so many tokens, or None where it is not there intact."""
        found = self.cache.load(self.key(layer, tokens))
        if found is None:
            return None
        tensors, metadata = found
        panels = tuple(tensors[name].to(_sum_device(lm, layer)) for name in sorted(tensors))
        return RunningSum(layer, panels, Position(**metadata["position"]), tokens, metadata["wanted"])

    def furthest(self, lm: LanguageModel, layer: int, tokens: int) -> RunningSum:
        """The sum over `tokens` tokens, or else over the most whole chunks below, or else over nothing."""
        for count in self._candidates(layer, tokens):
            if found := self.load(lm, layer, count):
                return found
        return RunningSum(layer, zero_panels(lm.d_mlp, device=_sum_device(lm, layer)))

    def furthest_tokens(self, layer: int, tokens: int) -> int:
        """How many of `tokens` tokens an entry covers, without reading it."""
        return next((count for count in self._candidates(layer, tokens) if self._exists(layer, count)), 0)

    def save(self, sums: RunningSum, *, wanted: bool) -> None:
        """Put the sum on disk; the entry that it continues goes, unless that was wanted. Raises StorageError."""
        before, was_wanted, tokens = sums.saved, sums.wanted, sums.position.tokens
        if not tokens or (before == tokens and (was_wanted or not wanted)):
            return
        tensors = {f"panel.{number:04}": panel for number, panel in enumerate(sums.panels)}
        metadata = {"layer": sums.layer, "position": asdict(sums.position), "wanted": wanted}
        # First the list: an entry that it lacked would never be found, one that it has too many does no harm.
        self._list(sums.layer, tokens)
        self.cache.save(self.key(sums.layer, tokens), tensors, metadata)
        sums.saved, sums.wanted = tokens, wanted
        if before is not None and before != tokens and not was_wanted and self._replaces(tokens):
            path = self.cache.path(self.key(sums.layer, before))
            with storage_errors(f"delete {path}"):
                path.unlink(missing_ok=True)

    def _replaces(self, tokens: int) -> bool:
        """Whether longer runs go on from here; from within a chunk they cannot, unless nothing follows it."""
        return tokens % self.chunk_tokens == 0 or tokens == self.end()

    def end(self) -> int | None:
        """How many tokens the whole stream has, where a run has come to its end."""
        found = self.cache.load(self._end_key())
        return None if found is None else int(found[1]["tokens"])

    def save_end(self, tokens: int) -> None:
        """Keep how many tokens the whole stream has. Raises StorageError."""
        self.cache.save(self._end_key(), {}, {"tokens": tokens})

    def _candidates(self, layer: int, tokens: int) -> list[int]:
        """Where a sum on the way to `tokens` tokens may have been saved, the best first."""
        boundaries = (count for count in self._listed(layer) if count < tokens and count % self.chunk_tokens == 0)
        return [tokens, *sorted(boundaries, reverse=True)]

    def _listed(self, layer: int) -> list[int]:
        found = self.cache.load(digest("saved", self.stream, layer))
        return [] if found is None else found[1]["tokens"]

    def _list(self, layer: int, tokens: int) -> None:
        there = {count for count in self._listed(layer) if self._exists(layer, count)}
        self.cache.save(digest("saved", self.stream, layer), {}, {"tokens": sorted(there | {tokens})})

    def _exists(self, layer: int, tokens: int) -> bool:
        return self.cache.path(self.key(layer, tokens)).exists()

    def _end_key(self) -> str:
        return digest("end", self.stream)


def _sum_device(lm: LanguageModel, layer: int) -> torch.device:
    """Where the layer lives, except on devices without float64."""
    device = lm.down_weight(layer).device
    return torch.device("cpu") if device.type == "mps" else device
