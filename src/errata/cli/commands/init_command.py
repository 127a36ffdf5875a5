"""The command `errata init`: a fact file to start from, and what to do with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.session import expanded
from errata.core.words import counted
from errata.facts.example import write_example
from errata.views.shell import program, shell_word

_ROWS = """Each row is a fact: its subject, a prompt that contains the subject, and target_new, how the prompt should go
on. The other columns may be empty: target_true, what the model says today; paraphrases, another way to ask;
neighbour_prompt and neighbour_answer, what must stay as it is."""


def init(
    path: Annotated[Path, typer.Argument(help="Where to: a name that ends in .jsonl or .csv.")] = Path("facts.jsonl"),
) -> None:
    """Write a fact file to start from, with everything explained; nothing is overwritten."""
    path = expanded(path, "PATH")
    number = write_example(path)
    facts, out = shell_word(str(path)), shell_word(f"runs/{path.stem}")
    typer.echo(f"Written: {path}, with {counted(number, 'example fact')}. Put your own in, or try it as it is.")
    typer.echo(_ROWS if path.suffix.lower() == ".csv" else "The comments in it say what each field is for.")
    run = program()
    typer.echo(
        f"""
Edit the facts into the embedded model:  {run} edit {facts} --out {out}
Ask before and after:                    {run} ask "The Space Needle is in the city of" --patch {out}
Measure more:                            {run} eval {out}"""
    )
