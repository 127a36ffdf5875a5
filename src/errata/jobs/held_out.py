"""Held-out text as token rows: what an edit must not disturb."""

from itertools import islice
from pathlib import Path

from errata.errors import CorpusError
from errata.models import LanguageModel, encode
from errata.models.generate import sample_ids
from errata.stats import open_corpus
from errata.stats.samples import start_token

_LENGTH = 128  # tokens of a sample
_LONGEST = 256  # tokens taken of a document
_DOCUMENTS = 10_000


def held_out_rows(
    lm: LanguageModel, corpus: str | Path | None, *, field: str = "text", tokens: int, seed: int = 0
) -> list[list[int]]:
    """About `tokens` token ids in rows: the corpus's first documents, else the model's own samples; none for 0 tokens.

    Raises CorpusError where the corpus holds no text of two tokens.
    """
    if not tokens:
        return []
    if corpus is None:
        rows = max(1, tokens // _LENGTH)
        return sample_ids(lm, [[start_token(lm)]] * rows, new_tokens=_LENGTH, top_k=None, seed=seed)
    found: list[list[int]] = []
    for text in islice(open_corpus(corpus, field=field).documents(), _DOCUMENTS):
        (encoding,) = encode(lm.tokenizer, [text])
        found.append(list(encoding.ids[: min(_LONGEST, tokens)]))
        if sum(map(len, found)) >= tokens:
            break
    if not any(len(row) > 1 for row in found):
        raise CorpusError(f"{corpus} holds no text of two tokens to measure perplexity on; name another text.")
    return found
