"""The corpus as one stream of counted tokens, cut into chunks that depend on nothing but the stream.

Chunk c holds tokens c·N … (c+1)·N − 1, whatever was asked for and wherever an earlier run stopped, so that a sum taken
chunk by chunk can be continued with the same bits. A document that straddles a boundary is run in both chunks, and each
of its tokens counts in one of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from errata.models import pad_right, tokenizer_digest
from errata.stats.corpus import Corpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DOCUMENTS_AT_ONCE = 64
# Tokens of padding in a batch: about what another forward costs besides its tokens (on two cores 16 to 128 do alike).
_MAX_PADDING = 64
# Far more than any tokenizer puts into one token: what is cut off could not have reached the first max_length tokens.
_CHARS_PER_TOKEN = 128


class TokenSource(ABC):
    """Documents as token ids, in an order and content that `recipe` determines."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What a report calls it."""

    @property
    @abstractmethod
    def recipe(self) -> list[object]:
        """All that the ids depend on, as plain values."""

    @abstractmethod
    def documents(self, start: int) -> Iterator[Sequence[int]]:
        """Ids of the documents from number `start` on."""


@dataclass(frozen=True)
class CorpusTokens(TokenSource):
    """A corpus through a tokenizer, with the special tokens that it adds by itself; cut at `max_length` tokens."""

    corpus: Corpus
    tokenizer: "PreTrainedTokenizerBase"
    max_length: int

    @property
    def name(self) -> str:
        return self.corpus.name

    @property
    def recipe(self) -> list[object]:
        return ["corpus", self.corpus.digest, tokenizer_digest(self.tokenizer), self.max_length]

    def documents(self, start: int) -> Iterator[Sequence[int]]:
        texts: list[str] = []
        for text in self.corpus.documents(start):
            texts.append(text[: self.max_length * _CHARS_PER_TOKEN])
            if len(texts) == _DOCUMENTS_AT_ONCE:
                yield from self._encoded(texts)
                texts = []
        yield from self._encoded(texts)

    def _encoded(self, texts: Sequence[str]) -> Iterator[Sequence[int]]:
        if texts:
            rows = self.tokenizer(list(texts), return_attention_mask=False, verbose=False)["input_ids"]
            yield from (row[: self.max_length] for row in rows)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Position:
    """How far a stream has been counted: `tokens` in all, which are `documents` whole ones and `offset` of the next."""

    tokens: int = 0
    documents: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Span:
    """A document up to the last token that counts here; those before `first` count in an earlier chunk."""

    ids: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class Chunk:
    """Spans that count the stream's tokens from `start` to `end`; `exhausted` where the stream ends inside."""

    start: Position
    end: Position
    spans: tuple[Span, ...]
    exhausted: bool


def chunks(source: TokenSource, start: Position, tokens: int, chunk_tokens: int) -> Iterator[Chunk]:
    """The chunks from `start`, a chunk's boundary, until `tokens` in all have been counted or the source ends."""
    rows = source.documents(start.documents)
    position, row = start, None
    while position.tokens < tokens:
        first, spans = position, []
        limit = min(tokens, (position.tokens // chunk_tokens + 1) * chunk_tokens)
        while position.tokens < limit:
            row = next(rows, None) if row is None else row
            if row is None:
                break
            stop = min(len(row), position.offset + limit - position.tokens)
            if stop > position.offset:
                spans.append(Span(tuple(row[:stop]), position.offset))
            counted = position.tokens + stop - position.offset
            if stop == len(row):
                position, row = Position(counted, position.documents + 1), None
            else:
                position = Position(counted, position.documents, stop)
        exhausted = position.tokens < limit
        yield Chunk(first, position, tuple(spans), exhausted)
        if exhausted:
            return


def batches(spans: Sequence[Span], batch_tokens: int) -> Iterator[list[Span]]:
    """The spans by length, the longest first, in batches of at most `batch_tokens` tokens and little padding."""
    batch: list[Span] = []
    padding = 0
    for span in sorted(spans, key=lambda span: len(span.ids), reverse=True):
        width = len(batch[0].ids) if batch else len(span.ids)
        padding += width - len(span.ids)
        if batch and (width * (len(batch) + 1) > batch_tokens or padding > _MAX_PADDING):
            yield batch
            batch, padding = [], 0
        batch.append(span)
    if batch:
        yield batch


def padded(
    batch: Sequence[Span], device: torch.device
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Ids padded on the right, the mask of real tokens, and the mask of those that count."""
    ids, mask = pad_right([span.ids for span in batch], device=device)
    firsts = torch.tensor([span.first for span in batch], device=device)
    return ids, mask, mask.bool() & (torch.arange(ids.shape[1], device=device) >= firsts[:, None])
