"""Corpora: documents in a fixed order, streamed, under a digest of their content."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from errata.errors import CorpusError, StorageError
from errata.stats.corpus_files import READERS, CorpusFile, check_text, file_documents, find_files
from errata.stats.corpus_hub import HUB_PREFIX, open_hub_dataset
from errata.store import digest, file_digest

# Some 16 million tokens: hours of work for a small model on a CPU. Problems further on show when they are reached.
CHECKED_CHARS = 64 << 20


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read any number of times; `open_corpus` and `Corpus.from_texts` make one.

    `digest` names the content, wherever it lies. `checked` documents were read when the corpus was opened, the whole of
    it where `complete`. `sampled`: it stands for what the model itself writes, and there is nothing to read.
    """

    name: str
    digest: str
    read: Callable[[], Iterator[str]] = field(repr=False, compare=False)
    checked: int = 0
    complete: bool = False
    sampled: bool = False

    def documents(self, start: int = 0) -> Iterator[str]:
        """The documents from number `start` on; raises CorpusError at one that cannot be used."""
        return islice(self.read(), start, None)

    @classmethod
    def from_texts(cls, texts: Sequence[str], *, name: str = "texts") -> Corpus:
        """A corpus of texts in memory, a document each; blank ones are left out. Raises CorpusError."""
        if isinstance(texts, str):
            raise CorpusError("One text was given where a list of texts was expected; put it into a list.")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise CorpusError(f"Text {number} of {name} is {type(text).__name__}; a string was expected.")
            check_text(text, f"Text {number} of {name}")
        kept = tuple(text for text in texts if text.strip())
        return _checked(cls(name, digest("texts", kept), lambda: iter(kept)))


def _nothing_to_read() -> Iterator[str]:
    raise CorpusError('"self" stands for the text that a model writes itself; here a text is needed. Give a file.')


# What `open_corpus` gives for "self".
OWN_SAMPLES = Corpus("the model's own samples", digest("self"), _nothing_to_read, sampled=True)


def open_corpus(
    source: Corpus | str | Path | Sequence[str | Path],
    *,
    field: str = "text",
    notify: Callable[[str], None] | None = None,
) -> Corpus:
    """A corpus from files, folders of files, or a `datasets` name; documents are streamed, never all in memory.

    A text file (.txt, .text, .md) holds one document for each paragraph, that is, between blank lines; JSON Lines
    (.jsonl, .ndjson) and Parquet (.parquet) hold one in `field` of each row. A folder stands for every such file in it,
    in the order of their names. "dataset:NAME[@CONFIG][:SPLIT[:FIELD]]" streams from the Hugging Face hub, and "self"
    stands for the model's own samples. Blank documents are left out. The files are read once for their digest and the
    first 64 million characters are checked; CorpusError names the file and line of what cannot be used. A corpus that
    is open already is given back.
    """
    if isinstance(source, Corpus):
        return source
    if not isinstance(field, str) or not field:
        raise CorpusError(f"field={field!r}: give the name of the field that holds the text.")
    if source == "self":
        return OWN_SAMPLES
    if isinstance(source, str) and source.startswith(HUB_PREFIX):
        name, content_digest, read = open_hub_dataset(source, field)
        return _checked(Corpus(name, content_digest, read), max_chars=1)  # more would be a long download
    paths = [source] if isinstance(source, (str, Path)) else list(source)
    if not paths:
        raise CorpusError("No corpus was given: an empty list. Give files or folders, or None for the model's samples.")
    return _checked(_from_files([found for path in paths for found in find_files(path)], paths, field, notify))


def _from_files(
    files: Sequence[CorpusFile],
    given: Sequence[str | Path],
    field: str,
    notify: Callable[[str], None] | None,
) -> Corpus:
    size = sum(file.size for file in files)
    if notify and size > 1 << 30:
        notify(f"Reading {size / 1e9:,.1f} GB of corpus files for their digest ...")
    name = ", ".join(os.path.basename(os.path.abspath(path)) or str(path) for path in given)
    fielded = any(READERS[file.suffix].has_fields for file in files)
    parts = [(READERS[file.suffix].format, field if READERS[file.suffix].has_fields else "") for file in files]
    digests = [_content_digest(file) for file in files]

    def read() -> Iterator[str]:
        for file in files:
            yield from file_documents(file, field)

    return Corpus(f"{name} (field {field})" if fielded else name, digest("files", parts, digests), read)


def _content_digest(file: CorpusFile) -> str:
    try:
        return file_digest(file.path)
    except StorageError as error:
        raise CorpusError(f"Cannot read the corpus file {file.path}: {error.__cause__}.") from error


def _checked(corpus: Corpus, max_chars: int | None = None) -> Corpus:
    """The corpus after a look at its beginning; raises CorpusError where that holds no text or cannot be used."""
    limit = CHECKED_CHARS if max_chars is None else max_chars
    count = chars = 0
    complete = True
    for text in corpus.documents():
        if chars >= limit:
            complete = False
            break
        count += 1
        chars += len(text)
    if not count:
        raise CorpusError(f"The corpus {corpus.name} holds no text: every document is blank. Give another one.")
    return replace(corpus, checked=count, complete=complete)
