"""The file that `errata init` writes."""

from pathlib import Path

import pytest

from errata.errors import FactsError
from errata.facts import read_facts, require
from errata.facts.example import write_example


@pytest.mark.parametrize("name", ["facts.jsonl", "facts.csv"])
def test_it_reads_back_without_any_problem(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    number = write_example(path)
    found = read_facts(path)
    assert found.problems == ()
    assert len(require(found)) == number == 3


def test_the_table_holds_the_same_facts(tmp_path: Path) -> None:
    write_example(tmp_path / "a.jsonl")
    write_example(tmp_path / "a.csv")
    lines, rows = (read_facts(tmp_path / name).facts for name in ("a.jsonl", "a.csv"))
    assert lines == rows


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("mine")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    for name in ("mine.jsonl", "gone.jsonl"):
        with pytest.raises(FactsError, match="not overwritten"):
            write_example(tmp_path / name)
    assert (tmp_path / "mine.jsonl").read_text() == "mine"
    with pytest.raises(FactsError, match=r"\.jsonl"):
        write_example(tmp_path / "facts.txt")


def test_comments_in_json_lines_are_no_records(tmp_path: Path) -> None:
    fact = '{"subject": "Paris", "prompt": "Paris is in", "target_new": "Italy"}'
    (tmp_path / "a.jsonl").write_text(f"# one\n  // two\n{fact}\n#{fact}\n\n{{broken\n")
    found = read_facts(tmp_path / "a.jsonl")
    assert list(found.places.values()) == ["line 3"]
    assert [problem.line for problem in found.problems] == [6]
