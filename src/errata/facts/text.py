"""Where a subject stands in a prompt, and how a prompt and its answer are joined."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right

PLACEHOLDER = "{}"

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


def _continues_word(char: str) -> bool:
    # Combining marks are not alphanumeric, yet "e" followed by U+0301 is one letter.
    return (char.isalnum() or char == "_" or unicodedata.category(char)[0] == "M") and not is_unspaced(char)


def _at_word_boundaries(prompt: str, start: int, end: int) -> bool:
    splits_before = start > 0 and _continues_word(prompt[start - 1]) and _continues_word(prompt[start])
    splits_after = end < len(prompt) and _continues_word(prompt[end - 1]) and _continues_word(prompt[end])
    return not (splits_before or splits_after)


def find_subject(prompt: str, subject: str) -> int:
    """Character offset of the subject in a prompt without placeholder, -1 where it does not occur.

    The last occurrence at word boundaries, else the last one at all ("Seoul" followed by a particle). Scripts written
    without spaces have a boundary at every character.
    """
    last = start = prompt.rfind(subject)
    while start >= 0 and not _at_word_boundaries(prompt, start, start + len(subject)):
        # One character short of a full overlap, so that overlapping occurrences are seen too.
        start = prompt.rfind(subject, 0, start + len(subject) - 1)
    return start if start >= 0 else last


def join_target(text: str, target: str, join: str | None = None) -> tuple[str, int]:
    """The text continued by the target, and the character offset of the target's first non-space character.

    One space is put between them unless the text ends in whitespace, the target starts with whitespace, or the two
    characters that touch belong to scripts written without spaces. Whitespace that is there stays, except that a space
    ending the text and spaces starting the target become one.
    """
    if join is not None:
        return text + join + target, len(text + join + target) - len(target.lstrip())
    if text.endswith(" "):
        target = target.lstrip(" ")
    separate = text and target and not (text[-1].isspace() or target[0].isspace())
    space = " " if separate and not (is_unspaced(text[-1]) and is_unspaced(target[0])) else ""
    return text + space + target, len(text) + len(space) + len(target) - len(target.lstrip())
