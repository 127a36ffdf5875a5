"""Prompts as they are typed: words that the shell took apart, because nobody quoted them, are one prompt again."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import east_asian_width

import typer

from errata.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def typed_prompts(arguments: Sequence[str]) -> list[str]:
    """The prompts that are meant: each argument is one, but several of a single word each are one prompt together.

    InputError where single words stand beside arguments with spaces, which can be read either way.
    """
    words = [argument for argument in arguments if _is_word(argument)]
    if len(words) < 2:
        return list(arguments)
    if len(words) < len(arguments):
        raise InputError(
            f"{len(arguments)} arguments, of which {len(words)} are single words (such as {words[0]!r}): "
            "it is not clear where a prompt begins and ends. Put each prompt in quotes, and ask one-word prompts one "
            "at a time."
        )
    joined = " ".join(words)
    typer.echo(f'errata: read as one prompt, "{joined}". Quote a prompt, and the shell leaves it whole.', err=True)
    return [joined]


def typed_prompt(arguments: Sequence[str], command: str) -> str:
    """The same where there can be only one prompt. InputError for several."""
    found = typed_prompts(arguments)
    if len(found) > 1:
        raise InputError(
            f"errata {command} takes one prompt, and {len(found)} were given. A prompt of several words stands in "
            f'quotes: errata {command} "{" ".join(found)}".'
        )
    return found[0]


def _is_word(argument: str) -> bool:
    """Whether this may be one word of a prompt: text without a space, in a script that has spaces."""
    return len(argument.split()) == 1 and not any(east_asian_width(char) in "WF" for char in argument)
