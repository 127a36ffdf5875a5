"""`errata init`, and that what it prints can be done."""

import re
import shlex
from pathlib import Path
from random import Random

import pytest


@pytest.mark.parametrize("name", ["facts.jsonl", "my facts.csv"])
def test_a_file_that_can_be_edited_and_the_commands_that_do_it(errata, work, model, name: str) -> None:
    (work / "facts.jsonl").unlink()
    done = errata("init", name)
    assert (done.code, done.err) == (0, "")
    assert "3 example facts" in done.out
    edit, ask, evaluate = (shlex.split(line)[1:] for line in re.findall(r"errata (?:edit|ask|eval) .*", done.out))
    few = ("layers=1-2", "moment_tokens=300", "value_steps=3", "prefixes=1")
    small = ["--model", model, "--corpus", "corpus.txt", *(x for setting in few for x in ("--set", setting))]
    for command in ([*edit, *small], [*ask, "--tokens", 2], [*evaluate, "--text-tokens", 0]):
        done = errata(*command)
        assert done.code == 0 or done.wrote, done.err
    assert (Path("runs") / Path(name).stem / "patch.json").is_file()


def test_nothing_is_overwritten(errata, work) -> None:
    before = (work / "facts.jsonl").read_text()
    done = errata("init")
    assert (done.code, done.out) == (2, "")
    assert "facts.jsonl is there already and is not overwritten" in done.err
    assert (work / "facts.jsonl").read_text() == before


def test_the_embedded_model_takes_the_example(smollm2, tmp_path) -> None:
    """With the settings that it is edited with by default, but for fewer corpus tokens."""
    from errata.evaluate import measure
    from errata.facts import read_facts
    from errata.facts.example import write_example
    from errata.jobs.edit_job import edit_facts
    from errata.models.run.generate import continue_texts
    from errata.stats import Corpus

    write_example(tmp_path / "facts.jsonl")
    facts = read_facts(tmp_path / "facts.jsonl").facts
    chance = Random(0)  # words that differ enough for their keys to span every direction
    words = [chance.choices(range(1000, 20_000), k=40) for _ in range(120)]
    corpus = Corpus.from_texts([smollm2.tokenizer.decode(ids) for ids in words])
    result = edit_facts(smollm2, facts, corpus=corpus, moment_tokens=3000, cache=tmp_path / "cache", evaluate=False)
    with result.patch.applied(smollm2):
        said = continue_texts(smollm2, [fact.text for fact in facts], new_tokens=4)
        after = measure(smollm2, facts)
    assert [text.split()[0].rstrip(".,") for text in said] == [fact.target_new for fact in facts]
    assert after.to_json()["ns"] == 100
