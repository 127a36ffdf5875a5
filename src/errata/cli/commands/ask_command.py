"""The command `errata ask`: what a model says, before and after a patch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.inputs import typed_prompts
from errata.cli.options import Chat, Device, PatchDtype, PatchModel, Revision
from errata.cli.screen import screen_width
from errata.cli.session import ModelChoice, open_patched
from errata.errors import ConfigError


def ask(
    prompt: Annotated[
        list[str],
        typer.Argument(help="The beginning of a text for the model to go on with, in quotes; bare words are joined."),
    ],
    patch: Annotated[
        Path | None, typer.Option("--patch", "-p", help="Folder of a patch: show before and after.")
    ] = None,
    chat: Chat = False,
    model: PatchModel = None,
    tokens: Annotated[int, typer.Option(help="Tokens to continue with.")] = 20,
    top: Annotated[int, typer.Option(help="Next tokens to show.")] = 5,
    full: Annotated[bool, typer.Option("--full", help="Show continuations whole, line by line.")] = False,
    device: Device = "cpu",
    dtype: PatchDtype = None,
    revision: Revision = None,
) -> None:
    """Show the continuation and the likeliest next tokens, before and after a patch."""
    prompts = typed_prompts(prompt)
    _check(prompts, tokens, top)
    lm, opened = open_patched(patch, ModelChoice(model=model, device=device, dtype=dtype, revision=revision))
    from errata.jobs.ask_job import ask as answers_of
    from errata.reports.answer_text import answers

    before = answers_of(lm, prompts, chat=chat, new_tokens=tokens, top=top)
    after = answers_of(lm, prompts, patch=opened, chat=chat, new_tokens=tokens, top=top) if opened else None
    typer.echo(answers(before, after, None if opened is None else opened.id, width=screen_width(), full=full))
    for hint in dict.fromkeys(answer.hint for answer in before if answer.hint):
        typer.echo(f"errata: {hint}", err=True)


def _check(prompts: list[str], tokens: int, top: int) -> None:
    if tokens < 1 or top < 1:
        raise ConfigError(f"--tokens and --top must be at least 1, found {tokens} and {top}.")
    from errata.facts.checks import check_prompt

    for prompt in prompts:
        check_prompt(prompt)
