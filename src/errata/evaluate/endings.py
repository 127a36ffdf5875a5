"""Whether an answer that is said ends where it should: a model may go on with the same word or number, 47 as 477."""

import re
from collections.abc import Sequence

from errata.facts.text import is_unspaced
from errata.models import LanguageModel, TargetRow
from errata.models.run.generate import appended_text, sample_ids

# Tokens looked at behind the answer: a number's separator and the digit after it.
_LOOK = 2
# Of scripts written with spaces that add particles to words without one.
_HANGUL = range(0xAC00, 0xD7A4)


def run_ons(lm: LanguageModel, rows: Sequence[TargetRow]) -> list[str]:
    """For each prompt with its answer, what greedy decoding adds to the answer's last word or number; "" where it ends.

    An answer that fills the context counts as ended.
    """
    found = [""] * len(rows)
    asked = [i for i, row in enumerate(rows) if len(row.ids) + _LOOK <= lm.max_tokens]
    continued = sample_ids(lm, [rows[i].ids for i in asked], new_tokens=_LOOK, top_k=1, seed=0, stop_at_eos=True)
    for i, ids in zip(asked, continued, strict=True):
        own = len(rows[i].ids)
        answer = appended_text(lm, ids[: rows[i].start], ids[rows[i].start : own], skip_special=True)
        found[i] = run_on(answer, appended_text(lm, ids[:own], ids[own:], skip_special=True))
    return found


def run_on(answer: str, following: str) -> str:
    """The beginning of `following` that belongs to the answer's last word or number."""
    if not answer or not following or _is_unspaced(answer[-1]) or _is_unspaced(following[0]):
        return ""
    if answer[-1].isalnum() and (word := re.match(r"\w+", following)):
        return word[0]
    if answer[-1].isdigit() and (number := re.match(r"[.,:]\d[\d.,:]*", following)):
        return number[0]
    return ""


def _is_unspaced(char: str) -> bool:
    return is_unspaced(char) or ord(char) in _HANGUL
