"""Which shape a file's records have, what is said of fields that nobody knows, and of files in no shape at all."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.errors import FactsError
from errata.facts import facts_of, read_facts, require
from errata.facts.names import typo_of
from errata.facts.shapes import FLAT, SHAPES

GOOD = {"subject": "Ada Lane", "prompt": "Ada Lane works as a", "target_new": "pilot"}
ZSRE = {"subject": "Bo", "src": "What is Bo?", "alt": "cook", "answers": ["poet"]}
TRACING = {"subject": "Cy", "prompt": "Cy speaks", "target_true": " Lao", "target_false": " Latin"}
KNOWN = {"subject": "Eve", "template": "{} is a", "attribute": "nurse", "prompt": "Eve is a"}


@given(st.permutations([GOOD, ZSRE, TRACING, KNOWN, {"subject": "Dee"}]))
def test_each_record_is_read_by_its_own_names_in_any_order(records):
    found = facts_of(records)
    assert {fact.subject: fact.target_new for fact in found.facts} == {
        "Ada Lane": "pilot", "Bo": "cook", "Cy": "Latin", "Eve": "nurse"
    }  # fmt: skip
    (place,) = {problem.where for problem in found.errors}
    assert place == f"record {records.index({'subject': 'Dee'}) + 1}"


@pytest.mark.parametrize("at", range(4))
def test_a_record_that_does_not_say_is_what_most_others_are(at):
    records = [ZSRE, ZSRE | {"subject": "Boa", "src": "What is Boa?"}, GOOD]
    records.insert(at, {"subject": "Cy", "src": "What is Cy?"})
    assert [problem.reason for problem in facts_of(records).errors] == ["missing field 'alt'"]


def test_unknown_fields_are_kept_and_told_once(tmp_path):
    records = [GOOD | {"id": str(n), "prompt": f"In {n} Ada Lane was a", "source": {"page": n}} for n in range(3)]
    records[0] |= {"year": 1999, "empty": "", "metadata": {"by": "hand"}}
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(records))
    read = read_facts(path)
    assert [dict(fact.metadata) for fact in read.facts] == [
        {"by": "hand", "source": {"page": 0}, "year": 1999}, {"source": {"page": 1}}, {"source": {"page": 2}}
    ]  # fmt: skip
    (note,) = read.problems
    assert (note.severity, note.line) == ("warning", None)
    assert "keeps them as metadata: 'source' (3 records), 'year' (1 record)" in note.reason
    assert require(read) == read.facts


def test_a_field_that_is_in_metadata_too_is_refused():
    (problem,) = facts_of([GOOD | {"source": "x", "metadata": {"source": "y"}}]).errors
    assert problem.reason == "'source' is given both as a field and in metadata; give one"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("target_tru", "target_true"), ("Target_New", "target_new"), ("targetNew", "target_new"),
        ("target new", "target_new"), ("relatoin", "relation"), ("paraphrase", "paraphrases"), ("prompts", "prompt"),
        ("neighbour", "neighbours"), ("ground_truths", "ground_truth"), ("meta-data", "metadata"),
        ("generation_promts", "generation_prompts"), ("Subject", "subject"), ("localty", "locality"),
    ],
)  # fmt: skip
def test_a_misspelt_field_is_an_error_that_says_what_is_meant(name, meant):
    found = facts_of([GOOD, {**GOOD, "id": "b", name: "x"}])
    (problem,) = found.errors
    assert problem.reason == f"unknown field {name!r}; did you mean {meant!r}?"
    assert len(found.facts) == 1


@pytest.mark.parametrize(
    "name",
    ["source", "date", "comment", "colour", "url", "subject_id", "prompt_id", "target_true_id", "location", "ids"],
)
def test_other_fields_are_no_misspellings(name):
    assert typo_of(name, FLAT.names) is None


@given(st.sampled_from(SHAPES), st.data())
def test_a_known_name_is_never_a_misspelling_of_its_shape(shape, data):
    assert typo_of(data.draw(st.sampled_from(sorted(shape.names))), shape.names) is None


@pytest.mark.parametrize("value", ["", None, [], {}])
@pytest.mark.parametrize(
    "name", ["relation", "rephrase", "ground_truth", "locality", "portability", "id", "target_true"]
)
def test_empty_optional_fields_are_absent(name, value):
    if name in ("relation", "id", "target_true") and value not in ("", None):
        return
    found = facts_of([GOOD | {name: value}])
    assert (found.facts, found.problems) == (facts_of([GOOD]).facts, ())


def test_an_empty_join_is_no_absent_one():
    assert [facts_of([GOOD | {"join": join}]).facts[0].join for join in ("", " ", None)] == ["", " ", None]


@pytest.mark.parametrize("answers", [[], [""], "", None, [[]], [None]])
def test_empty_answers_of_zsre_are_none(answers):
    (fact,) = facts_of([ZSRE | {"answers": answers}]).facts
    assert (fact.target_true, dict(fact.metadata)) == (None, {})


def test_true_answers_that_disagree_are_refused():
    (problem,) = facts_of([GOOD | {"target_true": "nurse", "ground_truth": "cook"}]).errors
    assert problem.reason == "target_true is 'nurse' and ground_truth 'cook', which mean the same; give one"
    assert facts_of([GOOD | {"target_true": "nurse", "ground_truth": ["cook", "nurse"]}]).errors == ()


@pytest.mark.parametrize(
    ("records", "parts"),
    [
        ([{"prompt": "Ada Lane works as a", "completion": " pilot"}],
         ["the first has the fields 'prompt', 'completion'", "subject is missing: the words of the prompt that",
          "target_new is missing: is it what 'completion' holds? Rename it to 'target_new'"]),
        ([{"question": "Who?", "answer": "Ada"}, {"question": "What?", "answer": "pilot"}],
         ["is it what 'question' holds", "is it what 'answer' holds"]),
        ([{"text": "Ada Lane is a pilot."}] * 3, ["prompt is missing: is it what 'text' holds"]),
        ([{"x": 1}], ["'x'", "prompt is missing: a text that holds the subject"]),
        ([{}], ["(none)"]),
    ],
)  # fmt: skip
def test_an_unknown_shape_is_one_error_with_the_shapes_and_an_example(tmp_path, records, parts):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(records))
    read = read_facts(path)
    (problem,) = read.problems
    assert (problem.severity, problem.line, read.facts) == ("error", 1, ())
    for part in [*parts, *(f"\n  {shape.name}: " for shape in SHAPES)]:
        assert part in problem.reason
    example = json.loads(problem.reason.partition("For example: ")[2])
    assert len(facts_of([example]).facts) == 1
    with pytest.raises(FactsError, match="Known shapes"):
        require(read)


def test_what_is_no_record_is_told_beside_an_unknown_shape():
    found = facts_of([7, {"x": 1}])
    assert [problem.where for problem in found.problems] == ["record 1", "record 2"]
    assert "found int; give a dictionary" in found.problems[0].reason


@pytest.mark.parametrize(
    ("present", "hint"),
    [
        ({"Target": "pilot"}, "missing field 'target_new'; is it what 'Target' holds? Rename it to 'target_new'"),
        ({"completion": "pilot"}, "missing field 'target_new'; is it what 'completion' holds? Rename it to"),
        ({"colour": "red"}, "missing field 'target_new'"),
    ],
)
def test_a_missing_field_names_what_may_stand_for_it(present, hint):
    record = {"subject": "Ada Lane", "prompt": "Ada Lane works as a", **present}
    assert any(problem.reason.startswith(hint) for problem in facts_of([record]).errors)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ("x", "metadata is text; it must be an object"),
        ({"a": {1, 2}}, "metadata holds a value of type set, which cannot be written"),
        ({"a": [{"b": {3: 4}}]}, "metadata holds int as a name"),
    ],
)
def test_metadata_must_be_something_that_a_file_can_hold(metadata, reason):
    (problem,) = facts_of([GOOD | {"metadata": metadata}]).errors
    assert reason in problem.reason


def test_metadata_has_a_depth():
    deep: object = "x"
    for _ in range(80):
        deep = [deep]
    (problem,) = facts_of([GOOD | {"source": deep}]).errors
    assert "more than 50 lists and objects inside each other" in problem.reason


def test_target_beside_target_new_is_refused():
    (problem,) = facts_of([GOOD | {"target": "x"}]).errors
    assert "'target' stands beside 'target_new'" in problem.reason
