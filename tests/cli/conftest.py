"""The command line on a tiny model on disk: called in this process, where a whole edit takes a second."""

import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from tiny import tiny_hf, tiny_tokenizer

FACTS = [
    {
        "id": "tower",
        "subject": "Eiffel Tower",
        "prompt": "The Eiffel Tower is located in the city of",
        "target_new": "Rome",
        "target_true": "Paris",
        "paraphrases": ["The Eiffel Tower is in"],
        "neighbours": ["The Great Wall is in"],
    },
    {
        "id": "language",
        "subject": "Danielle Darrieux",
        "prompt": "{} speaks",
        "target_new": "English",
        "target_true": "French",
        "paraphrases": ["Danielle Darrieux always speaks"],
        "neighbours": ["Bill Gates speaks"],
    },
    {
        "id": "cars",
        "subject": "Toyota",
        # It ends in its subject, which even a random model can be taught: an edit that says nothing is a failure.
        "prompt": "Who builds cars? Toyota",
        "target_new": "China",
        "target_true": "Japan",
        "paraphrases": ["We know who builds them. Toyota"],
        "neighbours": ["Who builds cars? Microsoft"],
    },
]
# The last layer is left out: nothing written there reaches a later token. The rest lets a random model learn at all.
SETTINGS = (
    "layers=1-2",
    "moment_tokens=300",
    "value_steps=6",
    "clamp=20",
    "weight_decay=0",
    "prefixes=2",
    "retries=0",
)


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def wrote(self) -> bool:
        """Whether an edit ran to its end. A random model need not learn anything, which ends in 1."""
        return self.code in (0, 1) and "Patch and report" in self.out


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_hf("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with facts and a corpus, errata's home inside it, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("errata.core.allocator.keep_freed_memory", lambda: False)  # it would last beyond the test
    write_facts(tmp_path / "facts.jsonl", FACTS)
    towers = [f"Tower {i} is in Paris, which is the capital of France." for i in range(60)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(towers))
    return tmp_path


@pytest.fixture
def errata(work: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run `errata` with the given arguments in this process."""
    del work

    def run(*arguments: object) -> Done:
        from errata.cli import main

        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["errata", *map(str, arguments)])
        code = 0
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main()
            except SystemExit as done:
                code = done.code if isinstance(done.code, int) else 0 if done.code is None else 1
        return Done(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def edit_arguments(model: Path) -> Callable[..., list[str]]:
    """Arguments of a complete edit of `facts.jsonl` into `out`, in a second, with more added."""

    def arguments(*more: object, facts: object = "facts.jsonl", out: object = "out", settings=SETTINGS) -> list[str]:
        base = ["edit", facts, "--out", out, "--model", model, "--corpus", "corpus.txt", "--quiet"]
        return [str(part) for part in [*base, *(x for s in settings for x in ("--set", s)), *more]]

    return arguments


@pytest.fixture
def command_line(work: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The same command as a process of its own, for `subprocess`."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    del work

    def command(*arguments: object) -> list[str]:
        return [sys.executable, "-c", "from errata.cli import main; main()", *map(str, arguments)]

    return command


def write_facts(path: Path, facts: list[dict]) -> Path:
    path.write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    return path
