"""Second moments of MLP keys over a corpus: all layers in one pass, kept, resumed and extended."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from errata.core.moments import add_products_, dense, panel_diagonal
from errata.core.progress import SILENT, ProgressSink
from errata.errors import ConfigError, CorpusError, NumericsError, StorageError
from errata.models import LanguageModel, run_layers
from errata.stats.corpus import Corpus
from errata.stats.recipe import stream_digest
from errata.stats.running import MomentStore, RunningSum
from errata.stats.samples import sampled_tokens
from errata.stats.token_stream import Chunk, CorpusTokens, Position, Span, TokenSource, batches, chunks, padded
from errata.store import digest, home, lock, storage_errors
from errata.store.cache import Cache

CHUNK_TOKENS = 10_000
_MAX_SHARE_SAVING = 0.1


@dataclass(frozen=True)
class SecondMoments:
    """C = mean of k kᵀ over corpus tokens, for each layer; k is the down projection's input. Uncentered.

    `tokens` counted, out of `documents` documents of `source`; fewer than `requested_tokens` where the corpus ended.
    Equal digests mean equal moments up to rounding: the digest is that of all they depend on.
    """

    layers: dict[int, Float64[Tensor, "d_mlp d_mlp"]]
    tokens: int
    requested_tokens: int
    documents: int
    source: str
    digest: str

    def __getitem__(self, layer: int) -> Float64[Tensor, "d_mlp d_mlp"]:
        if layer not in self.layers:
            raise ConfigError(f"No second moment of layer {layer}; there are those of {sorted(self.layers)}.")
        return self.layers[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self.layers)


@dataclass(frozen=True, kw_only=True)
class MomentRequest:
    """A checked request for second moments: what to compute, from what, and where it is kept. Made by `prepare`."""

    lm: LanguageModel
    layers: tuple[int, ...]
    tokens: int
    source: TokenSource
    store: MomentStore
    notify: Callable[[str], None]

    @property
    def digest(self) -> str:
        return digest(self.store.stream, self.layers, self.tokens)

    @property
    def available_tokens(self) -> int:
        """The tokens asked for, or those of the whole corpus where an earlier run found that it holds fewer."""
        end = self.store.end()
        return self.tokens if end is None else min(self.tokens, end)

    def kept_tokens(self) -> dict[int, int]:
        """How many of the tokens earlier runs have done, by layer."""
        tokens = self.available_tokens
        return {layer: self.store.furthest_tokens(layer, tokens) for layer in self.layers}


def second_moments(
    lm: LanguageModel,
    layers: Sequence[int],
    *,
    corpus: Corpus | None = None,
    tokens: int,
    seed: int = 0,
    max_length: int = 512,
    batch_tokens: int = 4096,
    chunk_tokens: int = CHUNK_TOKENS,
    flush_seconds: float = 30.0,
    cache: Path | None = None,
    progress: ProgressSink = SILENT,
    notify: Callable[[str], None] | None = None,
) -> SecondMoments:
    """Second moments of the keys of `layers` over the first `tokens` tokens of a corpus, as float64 on the CPU.

    Without a corpus the model's own samples (`seed`) stand in. Documents are cut at `max_length` tokens (or the model's
    context); `batch_tokens` bounds memory. Results and, at most every `flush_seconds`, the sums of whole chunks are kept
    in `cache` (default: `moments` in errata's home): a run that was interrupted or that asked for fewer tokens or other
    layers is continued, with the same bits. Raises ConfigError, CorpusError, StorageError, and NumericsError where a
    key is not finite.
    """
    request = prepare(
        lm,
        layers,
        corpus=corpus,
        tokens=tokens,
        seed=seed,
        max_length=max_length,
        chunk_tokens=chunk_tokens,
        cache=cache,
        notify=notify or progress.note,
    )
    return compute(request, batch_tokens=batch_tokens, flush_seconds=flush_seconds, progress=progress)


def prepare(
    lm: LanguageModel,
    layers: Sequence[int],
    *,
    corpus: Corpus | None,
    tokens: int,
    seed: int = 0,
    max_length: int = 512,
    chunk_tokens: int = CHUNK_TOKENS,
    cache: Path | None = None,
    notify: Callable[[str], None] = SILENT.note,
) -> MomentRequest:
    """Check a request for second moments without computing any; arguments and errors as in `second_moments`."""
    for name, value in (("tokens", tokens), ("max_length", max_length), ("chunk_tokens", chunk_tokens)):
        if value < 1:
            raise ConfigError(f"{name}={value}: it must be at least 1.")
    wanted = tuple(sorted(set(layers)))
    if not wanted or wanted[0] < 0 or wanted[-1] >= lm.num_layers:
        raise ConfigError(f"layers={list(layers)}: {lm.name} has layers 0 to {lm.num_layers - 1}; give at least one.")
    length = min(max_length, lm.max_tokens)
    kept = Cache(home() / "moments" if cache is None else Path(cache), notify)
    source: TokenSource = (
        sampled_tokens(lm, seed, length, kept) if corpus is None else CorpusTokens(corpus, lm.tokenizer, length)
    )
    store = MomentStore(kept, stream_digest(lm, source.recipe, chunk_tokens), chunk_tokens)
    return MomentRequest(lm=lm, layers=wanted, tokens=tokens, source=source, store=store, notify=notify)


def compute(
    request: MomentRequest, *, batch_tokens: int = 4096, flush_seconds: float = 30.0, progress: ProgressSink = SILENT
) -> SecondMoments:
    """Carry out a request, or fetch what earlier runs have made of it; errors as in `second_moments`."""
    if batch_tokens < 1 or not flush_seconds >= 0:
        raise ConfigError(f"batch_tokens={batch_tokens}, flush_seconds={flush_seconds}: at least 1 and 0, please.")
    sums = _kept(request)
    if sums is None:
        with _exclusive(request):
            store, lm = request.store, request.lm
            tokens = request.available_tokens
            sums = [store.furthest(lm, layer, tokens) for layer in request.layers]
            _advance_(sums, request, tokens, batch_tokens, _Saver(store, flush_seconds), progress)
    return _means(sums, request)


def _kept(request: MomentRequest) -> list[RunningSum] | None:
    """The finished sums of every layer, where all are there."""
    tokens = request.available_tokens
    if any(kept < tokens for kept in request.kept_tokens().values()):
        return None
    found = [request.store.load(layer, tokens, request.lm.device) for layer in request.layers]
    intact = [sums for sums in found if sums is not None]
    return intact if len(intact) == len(found) else None


@contextmanager
def _exclusive(request: MomentRequest) -> Iterator[None]:
    """Hold the stream's lock, once it is sure that there is a disk to write to. Raises StorageError."""
    folder, lm = request.store.cache.folder, request.lm
    with storage_errors(f"write to {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        # Permissions alone do not tell what a read-only mount will do.
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    # Panels hold 7/12 of a float64 square; one entry is written before the one that it replaces goes.
    needed = int((len(request.layers) + 1) * lm.d_mlp**2 * 8 * 7 / 12)
    if free < needed:
        raise StorageError(
            f"The second moments of {len(request.layers)} layers take {needed / 1e6:,.0f} MB in {folder}, where "
            f"{free / 1e6:,.0f} MB are free. Free some space, or choose another folder (ERRATA_HOME)."
        )
    what = f"computing these second moments of {lm.name}"
    with lock(folder / f"{request.store.stream[:32]}.lock", what=what, notify=request.notify):
        yield


@dataclass
class _Saver:
    """Saves sums now and then: no more often than asked, and spending no more than a tenth of the time on it."""

    store: MomentStore
    interval: float
    last: float = 0.0

    def __post_init__(self) -> None:
        self.last = time.monotonic()

    def save(self, sums: Sequence[RunningSum], *, wanted: bool = False) -> None:
        started = time.monotonic()
        for each in sums:
            self.store.save(each, wanted=wanted)
        self.last = time.monotonic()
        if self.interval:
            self.interval = max(self.interval, (self.last - started) / _MAX_SHARE_SAVING)

    def save_if_due(self, sums: Sequence[RunningSum]) -> None:
        if time.monotonic() - self.last >= self.interval:
            self.save(sums)


def _advance_(
    sums: list[RunningSum],
    request: MomentRequest,
    tokens: int,
    batch_tokens: int,
    saver: _Saver,
    progress: ProgressSink,
) -> None:
    """Bring every sum to `tokens` tokens, or to the corpus' end, in one pass from where the furthest behind stands.

    Sums that are further on join the pass where it reaches them: earlier runs of other layers cost nothing again.
    """
    start = min((each.position for each in sums), key=lambda position: position.tokens)
    with progress.stage("second moments", tokens, "tokens", done=start.tokens) as advance:
        for chunk in chunks(request.source, start, tokens, request.store.chunk_tokens):
            joined = [each for each in sums if each.position == chunk.start]
            whole = chunk.end.tokens - chunk.start.tokens == request.store.chunk_tokens
            if not whole and not chunk.exhausted and chunk.start.tokens:
                saver.save(joined)  # from here, not from the cut chunk's end, a longer run goes on
            _add_chunk_(joined, request.lm, chunk, batch_tokens, advance)
            if chunk.exhausted:
                _end_stream(request, chunk.end)
            elif whole:
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
        _add_batch_(sums, lm, batch)
        advance(sum(len(span.ids) - span.first for span in batch))
    for each in sums:
        if not torch.isfinite(panel_diagonal(each.panels)).all():
            raise NumericsError(
                f"A key of layer {each.layer} is not finite within the first {chunk.end.tokens:,} tokens "
                f"({lm.name}, {lm.dtype}). Load the model in float32, or check its weights."
            )
        each.position = chunk.end


@torch.no_grad()
def _add_batch_(sums: Sequence[RunningSum], lm: LanguageModel, batch: Sequence[Span]) -> None:
    ids, mask, counted = padded(batch, lm.device)
    layers = [each.layer for each in sums]
    run = run_layers(lm, ids, mask, stop=max(layers) + 1, tap_down=layers, end_at_down=True)
    for each in sums:
        add_products_(each.panels, _counted_rows(run.down_inputs.pop(each.layer), counted))


def _counted_rows(keys: Float[Tensor, "... d_mlp"], counted: Bool[Tensor, "batch pos"]) -> Float[Tensor, "row d_mlp"]:
    rows = keys.reshape(-1, keys.shape[-1])
    return rows if counted.all() else rows[counted.reshape(-1)]


def _end_stream(request: MomentRequest, end: Position) -> None:
    if not end.tokens:
        raise CorpusError(f"The corpus {request.source.name} gives no token. Give one with text.")
    request.notify(
        f"{request.source.name} ends after {end.tokens:,} of the {request.tokens:,} tokens asked for; all of it is used."
    )
    request.store.save_end(end.tokens)


def _means(sums: list[RunningSum], request: MomentRequest) -> SecondMoments:
    position = sums[0].position
    layers = {}
    while sums:  # each sum goes as its mean comes: they may fill half the memory
        each = sums.pop(0)
        layers[each.layer] = dense(each.panels).cpu() / each.position.tokens
    return SecondMoments(
        layers=layers,
        tokens=position.tokens,
        requested_tokens=request.tokens,
        documents=position.documents + (position.offset > 0),
        source=request.source.name,
        digest=request.digest,
    )
