"""The shared inputs that once failed, where they are there: read, with what their description asks for."""

import os
from pathlib import Path

import pytest

from errata.facts import read_facts, write_facts

ROOT = Path(__file__).resolve().parents[2]
CASES = Path(os.environ.get("ERRATA_CASES", ROOT / ".." / "shared" / "cases"))
# File, number of facts, and what the one warning says, if there is one.
EXPECTED = [
    ("csv-header/caps.csv", 1, ""),
    ("csv-header/extra.jsonl", 1, "'source' (1 record), 'date' (1 record)"),
    ("csv-header/index.csv", 1, ""),
    ("dropped-fields-with-ground_truth/easyedit_kwargs.json", 1, ""),
    ("dropped-fields-with-ground_truth/facts.jsonl", 1, ""),
    ("dropped-fields-with-ground_truth/knowedit_cf.json", 1, ""),
    ("dropped-fields-with-ground_truth/typo.json", 1, ""),
    ("empty-answer/zsre_emptyans.json", 1, ""),
    ("empty-answer/zsre_noans.json", 1, ""),
    ("knowedit-ground_truth-list/knowedit_recent.json", 1, ""),
    ("knowedit-ground_truth-list/knowedit_zsre.json", 1, ""),
    ("peer-shapes-unsupported/fastedit.json", 1, ""),
    ("peer-shapes-unsupported/memit_request.json", 1, ""),
    ("peer-shapes-unsupported/mquake.json", 2, ""),
    ("peer-shapes-unsupported/ripple.json", 1, ""),
    ("peer-shapes-unsupported/rome_request.json", 1, ""),
    ("peer-shapes-unsupported/tracing.jsonl", 1, ""),
    ("peer-shapes-unsupported/unke.json", 1, "names no subject"),
    ("peer-shapes-unsupported/wikibigedit.json", 1, ""),
]


@pytest.mark.parametrize(("name", "count", "warning"), EXPECTED)
def test_a_shared_case(tmp_path, name, count, warning):
    if not (CASES / name).is_file():
        pytest.skip(f"no shared cases at {CASES} (set ERRATA_CASES)")
    read = read_facts(CASES / name)
    assert (len(read.facts), read.errors) == (count, ())
    assert [warning in problem.reason for problem in read.warnings] == [True] * bool(warning)
    write_facts(tmp_path / "back.jsonl", read.facts)
    assert read_facts(tmp_path / "back.jsonl").facts == read.facts


def test_the_empty_answers_are_alike():
    names = [CASES / "empty-answer" / f"zsre_{name}.json" for name in ("emptyans", "noans")]
    if not all(name.is_file() for name in names):
        pytest.skip(f"no shared cases at {CASES} (set ERRATA_CASES)")
    one, other = (read_facts(name).facts for name in names)
    assert one == other
    assert one[0].target_true is None
