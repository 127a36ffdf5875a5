"""What is printed to be pasted arrives as it was meant: every word goes through a real shell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from errata.views import shell
from errata.views.shell import command_line, program, shell_word

ECHO = [
    sys.executable,
    "-S",
    "-c",
    "import json, os, sys; print(json.dumps([os.fsencode(a).hex() for a in sys.argv[1:]]))",
]
PROMPTS = [
    "Question: In which city is the Eiffel Tower?\nAnswer:",
    'It\'s "quoted"!! and $HOME `ls` \\n \\',
    "我的年龄是",
    "tab\there, bell\a, escape\x1b[31m, no-break\u00a0space, right-to-left \u202e mark",
    "L'été à l'",
    "-5 degrees is",
    "--patch",
    "a * ? [x] {b,c} ~ # & ; | < > ( ) =",
    "\n",
    "'",
    "\x00fa"[1:],
    "hex \x01fa",
]


def argv(line: str) -> list[str]:
    """What a program is given when bash runs `line`, which begins with the program's name."""
    script = " ".join(map(shell_word, ECHO)) + " " + line
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return [bytes.fromhex(word).decode() for word in json.loads(done.stdout)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), min_size=1))
@example(PROMPTS)
def test_words_arrive_as_they_are(words) -> None:
    assert argv(" ".join(map(shell_word, words))) == words


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_word_is_one_line_that_acts_on_no_terminal(prompt) -> None:
    assert shell_word(prompt).isprintable()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_command_is_parsed_as_meant(prompt, monkeypatch) -> None:
    """Through the shell and through the command line's own parser: the prompt is a prompt, the folder the patch."""
    from typer.main import get_command

    from errata.cli.app import app

    monkeypatch.setattr(shell, "program", lambda: "errata")
    line = command_line("ask", "--patch", "my runs/é", prompts=[prompt])
    words = argv(line)
    assert words[:2] == ["errata", "ask"]
    ask = get_command(app).commands["ask"]  # type: ignore[attr-defined]
    given = ask.make_context("ask", words[2:]).params
    assert (given["prompt"], str(given["patch"])) == ([prompt], "my runs/é")


def test_the_program_is_named_as_it_can_be_called(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "my env" / "bin" / "errata"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == "'my env/bin/errata'"
    monkeypatch.chdir(tmp_path / "my env" / "bin")
    assert program() == "./errata"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert program() == f"'{script}'"
    monkeypatch.setenv("PATH", str(script.parent))
    assert program() == "errata"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["-m"])
    assert program() == f"{sys.executable} -m errata"
