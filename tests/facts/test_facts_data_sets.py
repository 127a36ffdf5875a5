"""The real data sets, and the facts that come with errata."""

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from errata.facts import FactFile, read_facts


@pytest.fixture(scope="module")
def counterfact(data_dir: Path) -> FactFile:
    return read_facts(data_dir / "counterfact.json")


def test_counterfact(data_dir: Path, counterfact: FactFile) -> None:
    """Only records that give a prompt a second answer are refused; an independent count of those."""
    records = json.loads((data_dir / "counterfact.json").read_text(encoding="utf-8"))
    first: dict[str, str] = {}
    refused = [one for one in records if first.setdefault(one["prompt"], one["target_new"]) != one["target_new"]]
    assert len(counterfact.errors) == len(refused) == 79
    assert {problem.fact_id for problem in counterfact.errors} == {str(one["case_id"]) for one in refused}
    assert all("contradicts the fact at" in problem.reason for problem in counterfact.errors)
    kept = [one for one in records if one not in refused]
    assert [fact.text for fact in counterfact.facts] == [one["prompt"] for one in kept]
    assert [fact.target_true for fact in counterfact.facts] == [one["ground_truth"] for one in kept]
    assert [fact.neighbours[0].answer for fact in counterfact.facts] == [one["locality_ground_truth"] for one in kept]


def test_counterfact_collisions(counterfact: FactFile) -> None:
    """Warnings, counted again: records that share all text up to the subject's end with an earlier one."""
    seen: Counter[str] = Counter()
    for fact in counterfact.facts:
        seen[fact.text[: fact.text.index(fact.subject) + len(fact.subject)]] += 1
    assert len(counterfact.warnings) == sum(count - 1 for count in seen.values())


def test_first_records_are_clean(data_dir: Path) -> None:
    """The records that the benchmarks edit."""
    read = read_facts(data_dir / "counterfact.json", limit=1000)
    assert (len(read.facts), read.problems) == (1000, ())


def test_lines_are_those_of_the_file(data_dir: Path, counterfact: FactFile) -> None:
    lines = (data_dir / "counterfact.json").read_text(encoding="utf-8").split("\n")
    for problem in counterfact.errors:
        assert problem.line is not None
        assert f'"case_id": {problem.fact_id},' in lines[problem.line]


def test_zsre(data_dir: Path) -> None:
    """Refused: no new answer (2), or the new answer is the first right one (17)."""
    read = read_facts(data_dir / "zsre.json")
    records = json.loads((data_dir / "zsre.json").read_text(encoding="utf-8"))
    usable = [one for one in records if one["alt"].strip() not in ("", one["answers"][0])]
    assert [fact.text for fact in read.facts] == [one["src"] for one in usable]
    assert [fact.target_new for fact in read.facts] == [one["alt"] for one in usable]
    assert len(read.errors) == len(records) - len(usable) == 19
    assert [fact.neighbours[0].prompt for fact in read.facts] == [one["loc"] + "?" for one in usable]
    assert all(one["loc"].startswith("nq question: ") and "?" not in one["loc"][-1] for one in usable)


def test_demo_facts() -> None:
    read = read_facts(Path(str(files("errata") / "data" / "demo_facts.jsonl")))
    assert (len(read.facts), read.problems) == (12, ())
    for fact in read.facts:
        assert fact.target_true
        assert fact.relation
        (paraphrase,), (neighbour,) = fact.paraphrases, fact.neighbours
        assert fact.subject in paraphrase
        assert paraphrase != fact.text
        assert fact.subject not in neighbour.prompt
        assert neighbour.answer
        assert neighbour.answer != fact.target_new
