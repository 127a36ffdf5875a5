"""`--field`: every command that takes a corpus reads the field that it names, and says so where there is none."""

import json

import pytest

TEXTS = [f"Tower {i} is in Paris, which is the capital of France." for i in range(60)]
SMALL = ("layers=1-2", "moment_tokens=100", "value_steps=2", "prefixes=0")
MEND = ("layers=2-3", "rank=8", "batch=2", "text_tokens=8")


def _set(settings):
    return [part for setting in settings for part in ("--set", setting)]


COMMANDS = {
    "edit": ["edit", "facts.jsonl", "--out", "out", "--no-evaluate", *_set(SMALL)],
    "stats": ["stats", "--layers", "1", "--tokens", "100"],
    "train": ["train", "mend", "--facts", "facts.jsonl", "--out", "out", "--steps", "1", "--valid", "1", *_set(MEND)],
    "reproduce": [
        "reproduce", "backward-lens", "--facts", "facts.jsonl", "--out", "out", "--n", "1", "--flip-prompts", "1",
        "--flip-layers", "1", "--neuron-prompts", "0", "--mechanism-prompts", "0", "--text-tokens", "20",
    ],
    "eval": ["eval", "patch", "--out", "out", "--text-tokens", "20"],
}  # fmt: skip


@pytest.fixture
def corpus(work):
    path = work / "corpus.jsonl"
    path.write_text("".join(json.dumps({"body": text, "number": i}) + "\n" for i, text in enumerate(TEXTS)))
    return path.name


@pytest.fixture
def run(errata, model, corpus, edit_arguments):
    """The named command on the tiny model and the corpus."""

    def call(command, *more):
        if command == "eval":
            errata(*edit_arguments("--no-evaluate", settings=SMALL, out="patch"))
        return errata(*COMMANDS[command], "--model", model, "--corpus", corpus, "--quiet", *more)

    return call


@pytest.mark.parametrize("command", COMMANDS)
def test_the_named_field_is_read(run, command):
    done = run(command, "--field", "body")
    assert done.code == 0 or done.wrote, done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_field_that_is_not_there_is_named_before_any_work(run, command, work):
    done = run(command, "--field", "title")
    assert done.code == 2
    assert "'title'" in done.err
    assert not (work / "out").exists()
