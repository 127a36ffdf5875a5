"""One pass over a stream of tokens that brings the running sums of any number of layers forward, and saves them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from errata.core.moments import add_products_, panel_diagonal
from errata.core.progress import ProgressSink
from errata.errors import CorpusError, NumericsError
from errata.models import LanguageModel, run_layers
from errata.stats.running import MomentStore, RunningSum
from errata.stats.token_stream import Chunk, Position, Span, TokenSource, batches, chunks, padded

_MAX_SHARE_SAVING = 0.1


@dataclass
class Saver:
    """Saves sums now and then: no more often than asked, and spending no more than a tenth of the time on it."""

    store: MomentStore
    interval: float
    last: float = field(default_factory=time.monotonic)

    def save(self, sums: Sequence[RunningSum], *, wanted: bool = False) -> None:
        """Save every sum now; the longer that takes, the longer until the next time."""
        started = time.monotonic()
        for each in sums:
            self.store.save(each, wanted=wanted)
        self.last = time.monotonic()
        if self.interval:
            self.interval = max(self.interval, (self.last - started) / _MAX_SHARE_SAVING)

    def save_if_due(self, sums: Sequence[RunningSum]) -> None:
        """Save every sum where the last time is long enough ago."""
        if time.monotonic() - self.last >= self.interval:
            self.save(sums)


def advance_(
    sums: Sequence[RunningSum],
    lm: LanguageModel,
    source: TokenSource,
    tokens: int,
    *,
    batch_tokens: int,
    saver: Saver,
    progress: ProgressSink,
) -> None:
    """Bring every sum to `tokens` tokens, or to the corpus' end, in one pass from where the furthest behind stands.

    Sums that are further on join the pass where it reaches them: earlier runs of other layers cost nothing again.
    """
    start = min((each.position for each in sums), key=lambda position: position.tokens)
    extendable = tokens != saver.store.end()
    with progress.stage("second moments", tokens, "tokens", done=start.tokens) as advance:
        for chunk in chunks(source, start, tokens, saver.store.chunk_tokens):
            joined = [each for each in sums if each.position.tokens == chunk.start.tokens]
            whole = chunk.end.tokens - chunk.start.tokens == saver.store.chunk_tokens
            if not whole and extendable and not chunk.exhausted:
                saver.save(joined)  # a longer run goes on from here, not from the end of the cut chunk
            _add_chunk_(joined, lm, chunk, batch_tokens, advance)
            if chunk.exhausted:
                _end_stream(source, saver.store, chunk.end)
            elif chunk.end.tokens < tokens:
                saver.save_if_due(joined)
        saver.save(sums, wanted=True)


def _add_chunk_(
    sums: Sequence[RunningSum],
    lm: LanguageModel,
    chunk: Chunk,
    batch_tokens: int,
    advance: Callable[[int], None],
) -> None:
    for batch in batches(chunk.spans, batch_tokens):
        add_batch_(sums, lm, batch)
        advance(sum(len(span.ids) - span.first for span in batch))
    for each in sums:
        if not torch.isfinite(panel_diagonal(each.panels)).all():
            raise NumericsError(
                f"A key of layer {each.layer} is not finite within the first {chunk.end.tokens:,} tokens "
                f"({lm.name}, {lm.dtype}). Load the model in float32, or check its weights."
            )
        each.position = chunk.end


@torch.no_grad()
def add_batch_(sums: Sequence[RunningSum], lm: LanguageModel, batch: Sequence[Span]) -> None:
    """Add the keys of one batch to the sums of their layers, in one forward that ends at the last of them."""
    ids, mask, counted = padded(batch, lm.embed_device)
    layers = [each.layer for each in sums]
    run = run_layers(lm, ids, mask, stop=max(layers) + 1, tap_down=layers, end_at_down=True)
    for each in sums:
        add_products_(each.panels, _counted_rows(run.down_inputs.pop(each.layer), counted))


def _counted_rows(keys: Float[Tensor, "... d_mlp"], counted: Bool[Tensor, "batch pos"]) -> Float[Tensor, "row d_mlp"]:
    rows = keys.reshape(-1, keys.shape[-1])
    return rows if counted.all() else rows[counted.reshape(-1).to(rows.device)]


def _end_stream(source: TokenSource, store: MomentStore, end: Position) -> None:
    if not end.tokens:
        raise CorpusError(f"The corpus {source.name} gives no token. Give one with text.")
    store.save_end(end.tokens)
