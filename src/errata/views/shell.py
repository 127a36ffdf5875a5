"""Commands to be pasted into a shell: any text as one word of it, and the name under which this program runs."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def shell_word(text: str) -> str:
    """`text` as one word for bash, zsh and their kin: whatever is in it, the program receives exactly this text.

    Where nothing in it would act on a terminal, in plain quotes; else as $'...', with line ends and control characters
    spelled out.
    """
    return shlex.quote(text) if text.isprintable() else "$'" + "".join(map(_escaped, text)) + "'"


def command_line(*words: str, prompts: Sequence[str] = ()) -> str:
    """A command of this program as one line; `prompts` are its arguments, which may begin with a dash."""
    behind = ["--"] if any(prompt.startswith("-") for prompt in prompts) else []
    first, rest = ([], [*words[1:], *behind, *prompts]) if behind else (list(prompts), list(words[1:]))
    return " ".join([program(), *map(shell_word, [words[0], *first, *rest])])


def program() -> str:
    """How this program is called here: `errata` where the shell finds it, else its path, else `python -m errata`."""
    if shutil.which("errata"):
        return "errata"
    started = Path(sys.argv[0])
    if started.name == "errata" and started.is_file():
        return shell_word(_from_here(started))
    return f"{shell_word(_from_here(Path(sys.executable)))} -m errata"


def _from_here(path: Path) -> str:
    """The path as it is typed in the current folder, relative below it; not resolved: a venv's python is a link."""
    full = Path(os.path.abspath(path))
    if not full.is_relative_to(Path.cwd()):
        return str(full)
    below = str(full.relative_to(Path.cwd()))
    return below if "/" in below else f"./{below}"


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    # Byte by byte: what \u gives depends on the shell's locale. Lone surrogates stand for bytes of their own.
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
