"""Tokens as something one can see: spaces, line ends and control characters made visible."""

import unicodedata

_VISIBLE = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u00ad": "‧"}


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
