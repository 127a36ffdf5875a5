"""Facts as Python code has them: read as files are, with the same errors."""

import json
from types import SimpleNamespace

import pytest

from errata.errors import FactsError
from errata.facts import Fact, FactFile, Problem, facts_of, read_facts, taken

RECORD = {"subject": "Ada Lane", "prompt": "Ada Lane works as a", "target_new": "pilot", "ground_truth": "nurse"}
ADA = Fact(subject="Ada Lane", prompt="Ada Lane works as a", target_new="pilot", target_true="nurse")
BO = Fact(subject="Bo", prompt="Bo is a", target_new="cook")
BAD = {"subject": "Cy", "prompt": "Dee is a", "target_new": "poet"}


def test_everything_that_holds_facts(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([RECORD]))
    for source in (
        ADA,
        RECORD,
        [ADA],
        (RECORD,),
        {"facts": [RECORD]},
        iter([RECORD]),
        path,
        str(path),
        read_facts(path),
    ):
        found = facts_of(source)
        assert (found.facts, found.problems) == ((ADA,), ())
    assert facts_of([BO, RECORD]).facts == (BO, ADA)
    assert facts_of([BO, RECORD], limit=1).facts == (BO,)


def test_a_data_frame():
    class Column:
        def tolist(self):
            return ["nurse"]

    rows = [RECORD | {"ground_truth": Column(), "source": float("nan")}]
    frame = SimpleNamespace(columns=list(RECORD), to_dict=lambda kind: rows if kind == "records" else None)
    assert facts_of(frame).facts == (ADA,)
    assert facts_of(frame).problems == ()


def test_places_count_records():
    found = facts_of([RECORD, BAD, 7, RECORD])
    assert [(problem.where, problem.line) for problem in found.errors] == [
        ("record 2", None), ("record 3", None), ("record 4", None)
    ]  # fmt: skip
    assert found.errors[2].reason == "repeats the fact at record 1"
    assert found.places == {ADA.id: "record 1"}


def test_a_list_of_facts_is_as_it_is():
    """Facts that repeat or contradict each other are judged where they are used."""
    assert facts_of([ADA, ADA]).facts == (ADA, ADA)
    assert facts_of([]).problems == ()


@pytest.mark.parametrize(("source", "kind"), [(7, "int"), (None, "NoneType"), (b"x", "bytes")])
def test_what_holds_no_facts(source, kind):
    with pytest.raises(FactsError, match=f"found {kind}. For example:"):
        facts_of(source)


@pytest.mark.parametrize(("one", "kind"), [("text", "str"), (7, "int"), (None, "NoneType"), ([RECORD], "list")])
def test_what_is_no_fact_in_a_list_is_named_as_python_names_it(one, kind):
    for others in ([], [RECORD]):
        (problem,) = facts_of([*others, one]).problems
        assert problem.where == f"record {len(others) + 1}"
        assert problem.reason == f"found {kind}; give a dictionary or an errata.Fact"


def test_taken_raises_all_errors_or_goes_on():
    with pytest.raises(FactsError, match=r"2 bad records in the facts given:(.|\n)*record 2(.|\n)*record 3"):
        taken([RECORD, BAD, BAD | {"subject": "Eve"}])
    told = []
    found = taken([RECORD, BAD], skip_bad=True, notify=told.append)
    assert found.facts == (ADA,)
    assert "record 2: error: subject 'Cy' is not in the prompt" in told[0]
    with pytest.raises(FactsError, match="The list holds no usable fact"):
        taken([BAD], skip_bad=True)
    placed = FactFile((ADA,), (Problem("warning", "told before"),), places={ADA.id: "line 9"})
    assert taken(placed.without_problems, notify=told.append).places == {ADA.id: "line 9"}
    assert len(told) == 1
