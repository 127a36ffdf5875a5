"""What the end of an edit or an evaluation means for the command: requirements, the exit code, what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from errata.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from errata.evaluate.requirements import Requirement
    from errata.jobs.edit_job import EditResult


def requirements_of(texts: Sequence[str], *, evaluated: bool = True) -> tuple[Requirement, ...]:
    """What `--require` asks of an edit; ConfigError before any work where it makes no sense."""
    from errata.evaluate.requirements import parse_requirements

    if texts and not evaluated:
        raise ConfigError("--require needs the measurements that --no-evaluate leaves out; drop one of the two.")
    return parse_requirements(texts)


def eval_requirements(
    texts: Sequence[str], *, drift: bool, generate: bool, references: bool
) -> tuple[Requirement, ...]:
    """The same of an evaluation, which measures as much as its options say; ConfigError for RS without references."""
    from errata.evaluate.requirements import EDIT_GROUPS, parse_requirements

    groups = [*EDIT_GROUPS, "changes", *["drift"] * drift, *["generation"] * generate]
    requirements = parse_requirements(texts, groups)
    if any(one.name.startswith("rs") for one in requirements) and not references:
        raise ConfigError("--require: RS compares generations with reference texts: add --references.")
    return requirements


def end_with(failed: str | None, required: Sequence[Mapping[str, Any]]) -> None:
    """Leave with 1 after a failed edit, with 3 where a requirement was not met; else go on."""
    if failed:
        raise typer.Exit(1)
    if not all(one["met"] for one in required):
        raise typer.Exit(3)


def next_step(result: EditResult, out: Path) -> str:
    """A command that shows a fact that was learned; where none was, what to do about it."""
    from errata.jobs.edit_verdict import best_example
    from errata.views.shell import command_line

    if result.before is None or result.after is None:
        return f"Measure it:       {command_line('eval', str(out))}"
    example = best_example(result.patch.facts, result.before, result.after)
    if result.report["failed"] or example is None:
        return "Nothing to try:   no fact was learned; begin with what the cards above propose, on a single fact."
    chat = ["--chat"] if example.chat else []
    return f"Try it:           {command_line('ask', '--patch', str(out), *chat, prompts=[example.text])}"
