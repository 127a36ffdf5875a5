"""Words for messages, tables and figures: numbers with their nouns, text cut or made fit for one line of a screen."""

import unicodedata

_VISIBLE = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u00ad": "‧"}


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """The number and the noun in the form that goes with it; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def shortened(text: str, limit: int) -> str:
    """Text on one line, cut to `limit` characters with an ellipsis."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"


def printable(text: str) -> str:
    """Text without the control characters that would act on a terminal: those are written out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def points(value: float, digits: int) -> str:
    """A difference of probabilities in percentage points, zero without a sign."""
    shown = f"{100.0 * value:.{digits}f}"
    return shown.removeprefix("-") if not float(shown) else shown


def visible(text: str) -> str:
    """A token's text with white space shown and every character that acts instead of showing spelled out.

    A single space inside or in front becomes "·"; bidirectional controls, joiners and unassigned characters become
    their code points, so that a token can neither hide nor turn round what stands beside it.
    """
    return "".join(_shown(char) for char in text) or "∅"


def _shown(char: str) -> str:
    if char in _VISIBLE:
        return _VISIBLE[char]
    if ord(char) < 0x20:
        return chr(0x2400 + ord(char))  # the control pictures
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"):
        return f"‹{ord(char):X}›"
    return char
