"""Help pages: options in groups, two examples that parse, exit codes."""

import re
import shlex
from typing import get_args

import pytest
from typer.main import get_command

from errata.cli.app import app
from errata.cli.help import EXAMPLES, GROUPS
from errata.facts.readers import CONTAINERS, Format

ROOT = get_command(app)


def commands(group, name: str = "") -> dict:
    """Every command by what the user types: "edit", "train mend"."""
    found = {}
    for own, command in group.commands.items():
        typed = f"{name} {own}".strip()
        found |= commands(command, typed) if hasattr(command, "commands") else {typed: command}
    return found


COMMANDS = commands(ROOT)


def sections(page: str) -> dict[str, str]:
    """A help page's text by its headings, which stand at the margin."""
    parts = re.split(r"^(\S.*):$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def parsed(line: str):
    """The command of an example with its parameters; a usage error where an option does not exist."""
    arguments = shlex.split(line.partition("|")[0])
    assert arguments[0] == "errata"
    context, command = None, ROOT
    for name in arguments[1:]:
        if not hasattr(command, "commands"):
            break
        command, context = command.commands[name], name
    depth = next(i for i, word in enumerate(arguments) if word == context) + 1
    return command, command.make_context(context, arguments[depth:]).params


def test_every_command_has_examples() -> None:
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_page(errata, name: str) -> None:
    done = errata(*name.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: errata {name} ")
    found = sections(done.out)
    examples = [line.strip() for line in found["Examples"].strip().splitlines()]
    assert len(examples) == 2
    for line in examples:
        command, _ = parsed(line)
        assert command is COMMANDS[name]
    codes = re.findall(r"^  (\d+) ", found["Exit codes"], flags=re.MULTILINE)
    numerics = [] if name in ("init", "methods", "models") else ["1"]
    assert [code for code in codes if code != "3"] == ["0", *numerics, "2", "130"]
    assert ("an edit that failed" in " ".join(found["Exit codes"].split())) == (name in ("edit", "demo"))
    # Every option stands under a heading that says what it is about.
    assert found["Other"].split()[0] == "--help"
    assert found["Other"].count("--") == 1
    options = [param for param in COMMANDS[name].params if param.param_type_name == "option"]
    assert len(set(GROUPS) & set(found)) >= min(2, len(options))


def test_a_parameter_stands_in_one_group() -> None:
    names = [name for group in GROUPS.values() for name in group.split()]
    assert len(names) == len(set(names))


def test_every_command_that_reads_facts_names_every_format() -> None:
    helps = {param.help for command in COMMANDS.values() for param in command.params if param.name == "format"}
    assert len(helps) == 1, "it is said in one place"
    named = set(re.findall(r"[a-z]+(?:-[a-z]+)*", helps.pop()))
    assert set(get_args(Format)) <= named
    facts = [command.params[0].help for name, command in COMMANDS.items() if name in ("edit", "tune", "train mend")]
    assert len(set(facts)) == 1
    assert all(name in facts[0].lower() for name in CONTAINERS if name != "arrow")
