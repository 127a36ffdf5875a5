"""What a model says to prompts as text for a terminal: continuations and next tokens, before and after a patch."""

import textwrap
from collections.abc import Sequence

from errata.core.words import printable, shortened
from errata.jobs.ask_job import Answer

# Of a continuation so many lines are shown where it was not asked for in full.
_LINES = 3
# Narrower is not worth wrapping to.
_NARROWEST = 40


def answers(
    before: Sequence[Answer], after: Sequence[Answer] | None, patch: str | None, *, width: int, full: bool = False
) -> str:
    """Continuations and next tokens in lines of at most `width` characters; with a patch, both states.

    `full`: continuations whole and with their own line ends; otherwise in one paragraph, cut after a few lines.
    """
    width = max(width, _NARROWEST)
    parts = []
    for i, answer in enumerate(before):
        said = textwrap.wrap(printable(answer.prompt.replace("\n", " ")), width)
        if after is None:
            said += _state(answer, "  ", width, full)
        else:
            said += ["  before", *_state(answer, "    ", width, full)]
            said += [f"  with patch {patch}", *_state(after[i], "    ", width, full)]
        parts.append("\n".join(said))
    return "\n\n".join(parts)


def _state(answer: Answer, indent: str, width: int, full: bool) -> list[str]:
    room = width - len(indent) - len("goes on  ")
    if full:
        said = [
            line
            for own in answer.continuation.strip(" ").split("\n")
            for line in textwrap.wrap(printable(own), room) or [""]
        ]
    else:
        said = textwrap.wrap(printable(shortened(answer.continuation, len(answer.continuation) + 1)), room)
        if len(said) > _LINES:
            said = [*said[:_LINES], "… (--full shows all)"]
    chances = [printable(f"{token!r} {100 * probability:.1f}%") for token, probability in answer.next_tokens]
    return [*_labelled(f"{indent}goes on  ", said), *_labelled(f"{indent}next     ", _packed(chances, room))]


def _labelled(label: str, lines: Sequence[str]) -> list[str]:
    """The lines under each other, the first behind the label."""
    return [f"{' ' * len(label) if i else label}{line}".rstrip() for i, line in enumerate(lines or [""])]


def _packed(items: Sequence[str], width: int) -> list[str]:
    """Items in lines, none of them broken."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 2 + len(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines.append(item)
    return lines
