"""Where a subject stands in a prompt, and how a prompt and its answer are joined."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from typing import NamedTuple

PLACEHOLDER = "{}"
_GUILLEMETS = "«»‹›"

# First and last code point of the blocks of scripts written without spaces, their punctuation and full-width forms.
UNSPACED_BLOCKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x19E0, 0x19FF),  # Khmer symbols
    (0x2E80, 0x312F),  # CJK radicals and punctuation, kana, Bopomofo
    (0x3190, 0x9FFF),  # kanbun, kana extensions, CJK ideographs
    (0xA9E0, 0xA9FF),  # Myanmar extended B
    (0xAA60, 0xAA7F),  # Myanmar extended A
    (0xF900, 0xFAFF),  # CJK compatibility ideographs
    (0xFE30, 0xFE4F),  # CJK compatibility forms
    (0xFF01, 0xFF9F),  # full-width forms, half-width kana (half-width hangul follows: Korean has spaces)
    (0x1AFF0, 0x1B16F),  # kana supplements
    (0x20000, 0x3FFFF),  # CJK extensions B and later
)
_STARTS = [first for first, _ in UNSPACED_BLOCKS]


def is_unspaced(char: str) -> bool:
    """Whether `char` belongs to a script written without spaces (CJK, kana, Thai, Lao, Khmer, Myanmar)."""
    index = bisect_right(_STARTS, ord(char)) - 1
    return index >= 0 and ord(char) <= UNSPACED_BLOCKS[index][1]


def is_cjk(char: str) -> bool:
    """Whether `char` is Chinese or Japanese, next to which other scripts stand without a space too."""
    return is_unspaced(char) and ord(char) >= 0x2E80 and not 0xA9E0 <= ord(char) <= 0xAA7F


def _continues_word(char: str) -> bool:
    # Combining marks are not alphanumeric, yet "e" followed by U+0301 is one letter.
    return (char.isalnum() or char == "_" or unicodedata.category(char)[0] == "M") and not is_unspaced(char)


def at_word_boundaries(prompt: str, start: int, end: int) -> bool:
    """Whether characters `start` … `end` − 1 begin and end with words, as far as their scripts write spaces."""
    splits_before = start > 0 and _continues_word(prompt[start - 1]) and _continues_word(prompt[start])
    splits_after = end < len(prompt) and _continues_word(prompt[end - 1]) and _continues_word(prompt[end])
    return not (splits_before or splits_after)


def find_subject(prompt: str, subject: str) -> int:
    """Character offset of the subject in a prompt without placeholder, -1 where it does not occur.

    The last occurrence at word boundaries, else the last one at all ("Seoul" followed by a particle). Scripts written
    without spaces have a boundary at every character.
    """
    last = start = prompt.rfind(subject)
    while start >= 0 and not at_word_boundaries(prompt, start, start + len(subject)):
        # One character short of a full overlap, so that overlapping occurrences are seen too.
        start = prompt.rfind(subject, 0, start + len(subject) - 1)
    return start if start >= 0 else last


class PromptTarget(NamedTuple):
    """A prompt and the answer that follows it. `join` is what stands between them; None leaves it to `join_target`."""

    prompt: str
    target: str
    join: str | None = None

    @property
    def text(self) -> str:
        """Prompt and answer as one text."""
        return join_target(*self)


def join_target(text: str, target: str, join: str | None = None) -> str:
    """The text continued by the target, with `join` between them, or by default a space where writing has one.

    There is none where either side brings whitespace (a space that ends the text and those that start the target become
    one), after a CJK character, between two characters of other scripts without spaces, after what opens (brackets,
    quotes, `$ / @ #`, a hyphenated or elided beginning like `L'`), and before punctuation that closes.
    """
    if join is not None:
        return text + join + target
    if text.endswith(" "):
        target = target.lstrip(" ")
    if not text or not target or text[-1].isspace() or target[0].isspace():
        return text + target
    touching = is_cjk(text[-1]) or (is_unspaced(text[-1]) and is_unspaced(target[0]))
    return text + ("" if touching or _opens(text, target[0]) or _closes(text, target) else " ") + target


def _opens(text: str, following: str) -> bool:
    """Whether the text's last character goes with what follows it."""
    last, before = text[-1], text[-2:-1]
    kind = unicodedata.category(last)
    if last in "'’" and before.isalpha():
        # French and Italian elide (l', qu', dell'); after the s of a longer word it is an English possessive.
        word = re.split(r"\W", text[:-1])[-1]
        return len(word) == 1 or not word.endswith(("s", "S"))
    if last == "'":
        return not before.strip() or unicodedata.category(before) == "Ps"
    if last in '"`':
        return text.count(last) % 2 == 1 and not before.isalnum()
    if last in "“‘":  # English opens with them, German closes
        return text.rfind("„‚"["“‘".index(last)]) <= text.rfind(last, 0, -1)
    if last in _GUILLEMETS:
        return _opening(text)
    if last in "#-":  # a "#1" and a "GPT-2", but a "C# is" and a dash between words
        return before.isalnum() == (last == "-")
    return last in "$/@" or kind in ("Ps", "Pi") or (kind == "Sc" and following.isdigit())


def _opening(text: str) -> bool:
    """Whether the guillemet that ends a text opens: German and Danish write »…«, French «…», Swedish and Finnish »…».

    One that points right closes what is open; one that points left closes only what such a one opened.
    """
    left, right = "«»" if text[-1] in "«»" else "‹›"
    opened: list[str] = []
    last_opens = False
    for char in text:
        if char in (left, right):
            last_opens = not opened or (char == left and opened[-1] == left)
            opened.append(char) if last_opens else opened.pop()
    return last_opens


def _closes(text: str, target: str) -> bool:
    """Whether the target begins with punctuation that belongs to the word before it."""
    first, after = target[0], target[1:2]
    if first in "'’" and re.match(r"(s|re|ve|ll|d|m|t)\b", target[1:]):
        return True
    if first in "\"`'":
        return text.count(first) % 2 == 1 and not after.isalnum()
    if first in _GUILLEMETS:
        return not _opening(text + first) and not after.isalnum()
    return (first in ".,;:!?…%" or unicodedata.category(first) in ("Pe", "Pf")) and not after.isalnum()
