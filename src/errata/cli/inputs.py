"""What options mean that take more than a type to read: facts in a file, settings, orders of edits, prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

import typer

from errata.cli.session import expanded
from errata.errors import ConfigError, FactsError, InputError

if TYPE_CHECKING:
    from errata.evaluate.references import References
    from errata.facts import FactFile


def read_fact_file(
    path: Path, *, format: str, limit: int | None, skip_bad: bool, limit_option: str = "--limit", edited: bool = True
) -> FactFile:
    """The facts of a file; FactsError with all that is wrong, or for a limit below 1.

    `edited`: warnings about editing them are of use.
    """
    from errata.facts import format_problems, read_facts, require

    if limit is not None and limit < 1:
        raise FactsError(f"{limit_option} must be at least 1, found {limit}.")
    file = read_facts(path.expanduser(), format=format, limit=limit)  # type: ignore[arg-type]
    facts = require(file, skip_bad=skip_bad)
    if problems := file.problems if edited else (*file.errors, *file.notes):
        typer.echo(f"errata: {path}:\n{format_problems(problems)}", err=True)
        if file.errors:
            typer.echo(
                f"errata: skipped: {file.bad_records:,}. The model looks at the other {len(facts):,} next.", err=True
            )
    return file


def read_reference_texts(path: Path | None, *, generate: bool) -> References | None:
    """The texts behind RS; ConfigError where nothing is generated that could be compared with them."""
    from errata.evaluate.references import read_references

    if path is None:
        return None
    if not generate:
        raise ConfigError("--references are what generations are compared with: add --generate.")
    return read_references(expanded(path, "--references"))


def overrides_of(method: str, settings: Sequence[str]) -> dict[str, Any]:
    """The fields of `--set NAME=VALUE` by name; ConfigError for one that is unknown, bad or given twice."""
    from errata.edit import find_method, parse_override

    overrides: dict[str, Any] = {}
    for text in settings:
        name, value = parse_override(find_method(method).config_type, text)
        if name in overrides:
            raise ConfigError(f"{name} is set twice (--set {name}=...); give it once.")
        overrides[name] = value
    return overrides


def batch_of(*, at_once: bool, in_batches: int | None, one_by_one: bool) -> int | None:
    """How many facts are edited together: None for all. ConfigError where more than one order is asked for."""
    if sum([at_once, in_batches is not None, one_by_one]) > 1:
        raise ConfigError("--at-once, --in-batches and --one-by-one exclude each other; give one of them.")
    if in_batches is not None and in_batches < 1:
        raise ConfigError(f"--in-batches must be at least 1, found {in_batches}.")
    return 1 if one_by_one else in_batches


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
    prompts = typed_prompts(arguments)
    if len(prompts) > 1:
        raise InputError(
            f"errata {command} takes one prompt, and {len(prompts)} were given. A prompt of several words stands in "
            f'quotes: errata {command} "{" ".join(prompts)}".'
        )
    return prompts[0]


def _is_word(argument: str) -> bool:
    """Whether this may be one word of a prompt: text without a space, in a script that has spaces."""
    return len(argument.split()) == 1 and not any(east_asian_width(char) in "WF" for char in argument)
