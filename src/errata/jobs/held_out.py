"""Text that an edit should leave alone, as rows of token ids: a corpus's first documents, or samples of the model."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from errata.errors import CorpusError
from errata.models import LanguageModel, encode
from errata.models.run.generate import sample_ids
from errata.stats import Corpus, open_corpus
from errata.stats.samples import SAMPLE_TOKENS, start_token

# A row's length: many short documents tell more about the whole than a few long ones.
_ROW_TOKENS = 256
# Far beyond the samples that second moments are taken of, which an edit has been told to leave alone.
_FIRST_SAMPLE = 1 << 32


@dataclass(frozen=True)
class HeldOut:
    """What the text is called, all that its rows depend on beside the model, and the rows, made when asked for."""

    name: str
    recipe: tuple[object, ...]
    rows: Callable[[], list[list[int]]]


def held_out(
    lm: LanguageModel, *, corpus: Corpus | str | Path | None, field: str = "text", tokens: int, seed: int = 0
) -> HeldOut:
    """About `tokens` tokens of a corpus, whose documents are cut at 256, or of the model's own samples under `seed`.

    Raises CorpusError where the corpus holds fewer, ModelError where the model has no token to start samples from.
    """
    corpus = open_corpus(corpus, field=field) if isinstance(corpus, str | Path) else corpus
    if corpus is None or corpus.sampled:
        start = start_token(lm)
        return HeldOut("the model's own samples", ("samples", seed, tokens), lambda: _samples(lm, start, tokens, seed))
    rows = corpus_rows(lm, corpus, tokens)
    found = sum(map(len, rows))
    if found < tokens or not any(len(row) > 1 for row in rows):
        raise CorpusError(
            f"{corpus.name} holds {found:,} tokens, {tokens:,} of held-out text were asked for: give more text, "
            "or ask for fewer (--text-tokens, at least 2)."
        )
    return HeldOut(corpus.name, ("corpus", corpus.digest, tokens), lambda: rows)


def corpus_rows(lm: LanguageModel, corpus: Corpus, tokens: int) -> list[list[int]]:
    """The first documents, each cut at 256 tokens, until there are `tokens`; fewer where the corpus ends before."""
    rows: list[list[int]] = []
    count = 0
    for text in islice(corpus.documents(), 10_000):
        (encoding,) = encode(lm.tokenizer, [text])
        rows.append(list(encoding.ids[: min(_ROW_TOKENS, tokens)]))
        count += len(rows[-1])
        if count >= tokens:
            break
    return rows


def _samples(lm: LanguageModel, start: int, tokens: int, seed: int) -> list[list[int]]:
    length = min(SAMPLE_TOKENS, lm.max_tokens, max(2, tokens))
    prompts = [[start]] * -(-tokens // length)
    return sample_ids(lm, prompts, new_tokens=length - 1, top_k=None, seed=seed, first_index=_FIRST_SAMPLE)
