"""The known-facts format of causal tracing: what is read of it, and where the subject stands."""

import json

import pytest

from errata.facts import Fact, read_facts

RECORD = {
    "known_id": 7, "subject": "Vinson Massif", "attribute": "Antarctica", "template": "{} is in the continent",
    "prediction": " of Antarctica.", "prompt": "Vinson Massif is in the continent of", "relation_id": "P30",
}  # fmt: skip


def read(tmp_path, *records, format="auto"):
    path = tmp_path / "known.json"
    path.write_text(json.dumps(records))
    return read_facts(path, format=format)


@pytest.mark.parametrize("format", ["auto", "known"])
def test_a_record_is_read_with_its_whole_prompt(tmp_path, format):
    found = read(tmp_path, RECORD, format=format)
    assert found.problems == ()
    expected = Fact(
        id="7", subject="Vinson Massif", prompt="{} is in the continent of", target_new="Antarctica", relation="P30",
        metadata={"prediction": " of Antarctica."},
    )  # fmt: skip
    assert found.facts == (expected,)
    assert found.facts[0].text == RECORD["prompt"]


def test_the_template_says_which_of_two_places_is_the_subjects(tmp_path):
    record = {**RECORD, "subject": "Paris", "template": "{} is", "prompt": "Paris is Paris in"}
    assert read(tmp_path, record).facts[0].subject_span == (0, 5)


def test_without_a_prompt_the_template_is_it_and_another_prompt_stands_for_itself(tmp_path):
    alone = {name: value for name, value in RECORD.items() if name != "prompt"}
    assert read(tmp_path, alone).facts[0].text == "Vinson Massif is in the continent"
    other = {**RECORD, "prompt": "We saw Vinson Massif in"}
    assert read(tmp_path, other).facts[0].text == "We saw Vinson Massif in"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subject": None}, "subject"),
        ({"prompt": "Nothing of it is in"}, "is not in the prompt"),
        ({"prompt": 3}, "prompt is a number"),
        ({"attribute": " "}, "target_new is only whitespace"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, changes, reason):
    found = read(tmp_path, {**RECORD, **changes})
    assert found.facts == ()
    assert reason in found.problems[0].reason


def test_every_public_record_can_be_used(data_dir):
    found = read_facts(data_dir / "known_facts.json")
    assert len(found.facts) == 1209
    assert found.errors == ()
    records = json.loads((data_dir / "known_facts.json").read_text())
    assert [fact.text for fact in found.facts] == [record["prompt"] for record in records]
