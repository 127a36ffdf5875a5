"""CSV as spreadsheets and pandas write it: capitals, an index column, columns of one's own, cells with structure."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.facts import Fact, Neighbour, read_facts

ROW = {"subject": "Ada Lane", "prompt": "Ada Lane works as a", "target_new": "pilot"}
ADA = Fact(**ROW)


def read(tmp_path, rows, **options):
    path = tmp_path / "facts.csv"
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerows(rows)
    path.write_text(out.getvalue())
    return read_facts(path, **options)


def table(**columns):
    return [[*ROW, *columns], [*ROW.values(), *columns.values()]]


capitals = st.sampled_from([str.lower, str.upper, str.title, str.capitalize])


@given(st.lists(capitals, min_size=4, max_size=4))
def test_capitals_of_the_header_do_not_count(tmp_path_factory, styles):
    names = [style(name) for style, name in zip(styles, [*ROW, "target_true"], strict=True)]
    found = read(tmp_path_factory.mktemp("csv"), [names, [*ROW.values(), "nurse"]])
    assert (found.facts, found.problems) == ((Fact(**ROW, target_true="nurse"),), ())


@pytest.mark.parametrize("delimiter", ",;\t")
@pytest.mark.parametrize("between", [" ", "-", "  ", " - "])
def test_a_space_or_hyphen_in_a_header_is_an_underscore(tmp_path, between, delimiter):
    header = ["Subject", "Prompt", f"Target{between}New", f"Target{between}True"]
    cells = [*ROW.values(), "nurse"]
    (tmp_path / "facts.csv").write_text("\n".join(delimiter.join(row) for row in (header, cells)))
    found = read_facts(tmp_path / "facts.csv")
    assert (found.facts, found.problems) == ((Fact(**ROW, target_true="nurse"),), ())


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
@pytest.mark.parametrize("numbers", [["0", "1"], ["1", "2"], ["17", "4"], ["", ""]])
@pytest.mark.parametrize("last", [False, True])
def test_a_column_that_numbers_the_rows_is_left_out(tmp_path, name, numbers, last):
    rows = [list(ROW), list(ROW.values()), ["Bo", "Bo is a", "cook"]]
    rows = [[*row, mark] if last else [mark, *row] for row, mark in zip(rows, [name, *numbers], strict=True)]
    found = read(tmp_path, rows)
    assert (found.facts, found.problems) == ((ADA, Fact(subject="Bo", prompt="Bo is a", target_new="cook")), ())


def test_a_nameless_column_that_holds_something_must_be_named(tmp_path):
    found = read(tmp_path, [["", *ROW], ["wiki", *ROW.values()]])
    assert [problem.reason for problem in found.problems] == ["column 1 has no name; name it or delete it"]


def test_columns_of_one_s_own_are_metadata(tmp_path):
    found = read(tmp_path, table(Source="wiki", year="1999", blank=""))
    assert found.facts[0].metadata == {"Source": "wiki", "year": "1999"}
    assert [problem.severity for problem in found.problems] == ["warning"]


@pytest.mark.parametrize(
    ("column", "cell", "field", "value"),
    [
        ("chat", "true", "chat", True), ("chat", "FALSE", "chat", False), ("Chat", "True", "chat", True),
        ("join", '""', "join", ""), ("join", '" "', "join", " "), ("join", " ", "join", " "),
        ("join", "", "join", None),
        ("metadata", '{"a": [1]}', "metadata", {"a": [1]}), ("ground_truth", "nurse", "target_true", "nurse"),
        ("ground_truth", '["nurse"]', "target_true", "nurse"), ("ground_truth", "['nurse']", "target_true", "nurse"),
        ("rephrase_prompt", "Ada Lane is a", "paraphrases", ("Ada Lane is a",)),
        ("locality", "{'near': [{'prompt': 'Bo is a', 'ground_truth': ['cook']}]}", "neighbours",
         (Neighbour(prompt="Bo is a", answer="cook"),)),
        ("target_true", '{"str": "nurse", "id": "Q1"}', "target_true", "nurse"),
        ("case_id", "4", "id", "4"), ("relation_id", "P1", "relation", "P1"),
    ],
)  # fmt: skip
def test_cells(tmp_path, column, cell, field, value):
    found = read(tmp_path, table(**{column: cell}))
    assert found.problems == ()
    assert getattr(found.facts[0], field) == value


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        ("chat", "ja", "chat is 'ja'; write true or false"),
        ("join", "and", "join is 'and'; it must be"), ("join", '"', "join begins like JSON text but is broken"),
        ("metadata", "{x", "metadata begins like a JSON object but is broken"),
        ("metadata", "x", "metadata is text; it must be an object"),
        ("locality", "{'near'", "locality begins like a list or an object but is broken; write it as JSON"),
        ("Target New", "x", "column 'target_new' is there more than once"),
        ("Tagret New", "x", "unknown column 'Tagret New'; did you mean 'target_new'?"),
    ],
)  # fmt: skip
def test_bad_cells(tmp_path, column, cell, reason):
    (problem,) = read(tmp_path, table(**{column: cell})).problems
    assert problem.severity == "error"
    assert reason in problem.reason


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (["subject", "prompt", "Completion"], "missing column 'target_new'; is it what 'Completion' holds?"),
        (["subject", "question", "target_new"], "missing column 'prompt'; is it what 'question' holds?"),
        (["subject", "prompt", "Ziel_neu"], "missing column 'target_new'; the file has: Ziel_neu"),
    ],
)
def test_a_missing_column_names_what_may_stand_for_it(tmp_path, header, reason):
    (problem,) = read(tmp_path, [header, ["a", "a is", "b"]]).problems
    assert reason in problem.reason


def test_other_columns_are_named_once_where_several_are_missing(tmp_path):
    header = ["subject", "Satz", "Ziel_neu", *(f"Spalte {number}" for number in range(9))]
    found = read(tmp_path, [header, ["x"] * len(header)])
    assert [problem.reason.partition("; the file has: ")[::2] for problem in found.problems] == [
        ("missing column 'prompt'", ""),
        ("missing column 'target_new'", ", ".join(header[1:9]) + ", ..."),
    ]


def test_other_shapes_in_a_table(tmp_path):
    zsre = [["", "Subject", "src", "alt", "answers", "rephrase"], ["0", "Bo", "What is Bo?", "cook", "['poet']", "Bo?"]]
    (fact,) = read(tmp_path, zsre).facts
    assert (fact.text, fact.target_new, fact.target_true, fact.paraphrases) == ("What is Bo?", "cook", "poet", ("Bo?",))
    assert read(tmp_path, zsre, format="zsre").facts == (fact,)
    (fact,) = read(tmp_path, [["subject", "prompt", "Target"], ["Bo", "{} is a", "cook"]]).facts
    assert fact.target_new == "cook"
    rewrite = json.dumps({"subject": "Bo", "prompt": "{} is a", "target_new": {"str": "cook"}})
    (fact,) = read(tmp_path, [["case_id", "requested_rewrite"], ["4", rewrite]]).facts
    assert (fact.id, fact.text) == ("4", "Bo is a")
