"""Second moments of MLP keys over a corpus: all layers in one pass, kept, resumed and extended."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from errata.core.linalg import Cholesky, cholesky
from errata.core.moments import dense
from errata.core.progress import SILENT, ProgressSink
from errata.errors import ConfigError, StorageError
from errata.models import LanguageModel, takes_model
from errata.stats.corpus import Corpus
from errata.stats.default_text import default_corpus
from errata.stats.one_pass import Saver, advance_
from errata.stats.recipe import stream_digest
from errata.stats.running import MomentStore, RunningSum
from errata.stats.samples import sampled_tokens
from errata.stats.token_stream import CorpusTokens, TokenSource
from errata.store import digest, folder_of, lock, storage_errors
from errata.store.cache import Cache
from errata.store.kept import MOMENTS

CHUNK_TOKENS = 10_000


@dataclass(frozen=True)
class SecondMoments:
    """C = mean of k kᵀ over corpus tokens, for each layer; k is the down projection's input. Uncentered.

    `tokens` counted, out of `documents` documents of `source`; fewer than `requested_tokens` where the corpus ended.
    Equal digests mean equal moments up to rounding: the digest is that of all they depend on. With the model's own
    samples that holds for one machine and device: elsewhere rounding may move a draw, and so the rest of its document.
    """

    layers: dict[int, Float64[Tensor, "d_mlp d_mlp"]]
    tokens: int
    requested_tokens: int
    documents: int
    source: str
    digest: str
    model_digest: str
    # Factors that were asked for: many edits one after another take them from here.
    _factors: dict[tuple[str, int], Any] = field(default_factory=dict, repr=False, compare=False)

    def cholesky(self, layer: int) -> Cholesky:
        """C's Cholesky factor, made once. Raises SingularSystemError."""
        return self._made("cholesky", layer, cholesky)

    def eigen(self, layer: int) -> tuple[Float64[Tensor, " d_mlp"], Float64[Tensor, "d_mlp d_mlp"]]:
        """C's eigenvalues, ascending, and eigenvectors as columns, made once."""
        return self._made("eigen", layer, lambda moment: tuple(torch.linalg.eigh(moment.double())))

    def _made(self, name: str, layer: int, make: Callable[[Tensor], Any]) -> Any:
        if (name, layer) not in self._factors:
            self._factors[name, layer] = make(self[layer])
        return self._factors[name, layer]

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
    def available_tokens(self) -> int:
        """The tokens asked for, or those of the whole corpus where an earlier run found that it holds fewer."""
        end = self.store.end()
        return self.tokens if end is None else min(self.tokens, end)

    def kept_tokens(self) -> dict[int, int]:
        """How many of the tokens earlier runs have done, by layer."""
        tokens = self.available_tokens
        return {layer: self.store.furthest_tokens(layer, tokens) for layer in self.layers}


@takes_model
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

    Without a corpus errata's text stands in, or for a wide model its own samples; `OWN_SAMPLES` asks any model for its
    own (`seed`). Documents are cut at `max_length` tokens (or the model's
    context); `batch_tokens` bounds memory. What is done is kept in `cache` (default: `moments` in errata's home), at
    most every `flush_seconds` and in units of `chunk_tokens`: a run that was interrupted, or that asked for fewer
    tokens or other layers, is continued with the same bits. Raises ConfigError, CorpusError, StorageError, and
    NumericsError where a key is not finite.
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
    """Check a request for second moments without computing any; arguments and errors as in `second_moments`.

    Raises ConfigError for numbers below 1 and for layers that the model does not have.
    """
    for name, value in (("tokens", tokens), ("max_length", max_length), ("chunk_tokens", chunk_tokens)):
        if value < 1:
            raise ConfigError(f"{name}={value}: it must be at least 1.")
    wanted = tuple(sorted(set(layers)))
    if not wanted or wanted[0] < 0 or wanted[-1] >= lm.num_layers:
        raise ConfigError(f"layers={list(layers)}: {lm.name} has layers 0 to {lm.num_layers - 1}; give at least one.")
    length = min(max_length, lm.max_tokens)
    kept = Cache(folder_of(MOMENTS) if cache is None else Path(cache), notify)
    corpus = default_corpus(lm) if corpus is None else corpus
    source: TokenSource = (
        sampled_tokens(lm, seed, length, kept) if corpus.sampled else CorpusTokens(corpus, lm.tokenizer, length)
    )
    store = MomentStore(kept, stream_digest(lm, source.recipe, chunk_tokens), chunk_tokens)
    return MomentRequest(lm=lm, layers=wanted, tokens=tokens, source=source, store=store, notify=notify)


def compute(
    request: MomentRequest, *, batch_tokens: int = 4096, flush_seconds: float = 30.0, progress: ProgressSink = SILENT
) -> SecondMoments:
    """Carry out a request, or fetch what earlier runs have made of it; errors as in `second_moments`.

    Raises ConfigError for `batch_tokens` below 1 and for `flush_seconds` below 0.
    """
    if batch_tokens < 1 or not flush_seconds >= 0:
        raise ConfigError(f"batch_tokens={batch_tokens}, flush_seconds={flush_seconds}: at least 1 and 0, please.")
    sums = _kept(request)
    if sums is None:
        with _exclusive(request):
            store, lm = request.store, request.lm
            tokens = request.available_tokens
            sums = [store.furthest(lm, layer, tokens) for layer in request.layers]
            advance_(
                sums,
                lm,
                request.source,
                tokens,
                batch_tokens=batch_tokens,
                saver=Saver(store, flush_seconds),
                progress=progress,
            )
    return _means(sums, request)


def _kept(request: MomentRequest) -> list[RunningSum] | None:
    """The finished sums of every layer, where all are there to stay."""
    tokens = request.available_tokens
    if any(kept < tokens for kept in request.kept_tokens().values()):
        return None
    found = [request.store.load(request.lm, layer, tokens) for layer in request.layers]
    intact = [sums for sums in found if sums is not None and sums.wanted]
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


def _means(sums: list[RunningSum], request: MomentRequest) -> SecondMoments:
    position = sums[0].position
    assert all(each.position.tokens == position.tokens for each in sums), [each.position for each in sums]
    if position.tokens < request.tokens:
        request.notify(
            f"{request.source.name} holds {position.tokens:,} of the {request.tokens:,} tokens asked for; all are used."
        )
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
        digest=digest(request.store.stream, request.layers, position.tokens),
        model_digest=request.lm.digest(),
    )
