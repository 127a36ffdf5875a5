"""Counterfactual edits from relations: what is drawn, in which order, and files that cannot be used."""

import json

import pytest

from errata.errors import FactsError
from errata.facts.relations import Relation, read_relations, relation_edits

RECORDS = [
    {
        "name": "capital",
        "type": "factual",
        "prompt_templates": ["The capital of {} is", "{}'s capital is"],
        "prompt_templates_zs": ["What is the capital of {}? It is", "The capital of {} is"],
        "samples": [{"subject": s, "object": o} for s, o in
                    [("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Peru", "Lima"), ("France", "Lyon")]],
    },
    {
        "name": "gender",
        "type": "bias",
        "prompt_templates": ["{} are typically"],
        "prompt_templates_zs": [],
        "samples": [{"subject": s, "object": o} for s, o in [("nurses", "women"), ("pilots", "men"), ("cooks", "men")]],
    },
    {"name": "same", "type": "factual", "prompt_templates": ["{} is"], "samples": [{"subject": "a", "object": "b"}]},
]  # fmt: skip


@pytest.fixture
def relations(tmp_path):
    path = tmp_path / "relations.json"
    path.write_text(json.dumps(RECORDS))
    return read_relations(path)


def test_edits_take_another_object_of_the_relation(relations):
    found = relation_edits(relations, limit=100)
    assert found.types == {"capital": "factual", "gender": "bias", "same": "factual"}
    assert len(found.facts) == 4 + 3  # each subject once; a relation with one object has nothing to give
    for fact in found.facts:
        relation = next(one for one in relations if one.name == fact.relation)
        assert fact.target_new in relation.objects
        assert fact.target_new not in relation.true_of(fact.subject)
        assert fact.target_true in relation.true_of(fact.subject)
        assert fact.text == relation.templates[0].replace("{}", fact.subject)
        assert fact.subject in fact.paraphrases[0] if fact.paraphrases else relation.name == "gender"
    france = next(fact for fact in found.facts if fact.subject == "France")
    assert france.target_new not in ("Paris", "Lyon")
    assert france.paraphrases == ("France's capital is", "What is the capital of France? It is")


def test_neighbours_keep_their_own_object_and_share_the_true_one_where_they_can(relations):
    facts = relation_edits(relations, limit=100).facts
    for fact in facts:
        for neighbour in fact.neighbours:
            assert neighbour.answer != fact.target_new
            assert fact.subject not in neighbour.prompt
    pilots = next(fact for fact in facts if fact.subject == "pilots")
    assert pilots.neighbours[0].prompt == "cooks are typically"
    assert pilots.neighbours[0].answer == "men"


def test_blanks_around_names_are_dropped_and_empty_samples_left_out(tmp_path):
    blanks = [("Jimmy Carter ", "1976"), ("\tJohn Tyler", " 1840 "), ("", "1900"), ("Nobody", "  ")]
    record = {**RECORDS[0], "samples": [{"subject": s, "object": o} for s, o in blanks]}
    (tmp_path / "blanks.json").write_text(json.dumps([record]))
    (relation,) = read_relations(tmp_path / "blanks.json")
    assert relation.samples == (("Jimmy Carter", "1976"), ("John Tyler", "1840"))
    assert {fact.subject for fact in relation_edits([relation], limit=9).facts} == {"Jimmy Carter", "John Tyler"}


def test_neighbours_of_several_objects_are_asked_once_and_never_where_the_new_one_is_true():
    several = (("a", "x"), ("b", "y"), ("b", "x"), ("c", "y"), ("c", "x"), ("d", "z"), ("d", "x"), ("e", "z"))
    relation = Relation("several", "factual", ("{} is",), several)
    asked = 0
    for seed in range(20):
        for fact in relation_edits([relation], limit=9, seed=seed).facts:
            _expect_good_neighbours(fact, _answers(relation))
            asked += len(fact.neighbours)
    assert asked > 100


def _answers(relation):
    """Every true object by the prompt that asks for it."""
    found = {}
    for subject, object in relation.samples:
        found.setdefault(relation.templates[0].replace("{}", subject), set()).add(object)
    return found


def _expect_good_neighbours(fact, answers):
    prompts = [neighbour.prompt for neighbour in fact.neighbours]
    assert len(set(prompts)) == len(prompts)
    for neighbour in fact.neighbours:
        assert neighbour.answer in answers[neighbour.prompt]
        assert fact.target_new not in answers[neighbour.prompt]


def test_types_take_turns_and_the_seed_decides(relations):
    facts = relation_edits(relations, limit=4).facts
    assert [fact.relation for fact in facts] == ["gender", "capital", "gender", "capital"]
    again, other = relation_edits(relations, limit=7), relation_edits(relations, limit=7, seed=1)
    assert again.facts == relation_edits(relations, limit=7).facts
    assert again.facts != other.facts
    assert again.facts[:4] == facts


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"), ("[]", "no list"), ("{}", "no list"), ("[1]", "relation 1 is not"),
        (json.dumps([{**RECORDS[0], "prompt_templates": ["no place"], "prompt_templates_zs": []}]), "needs one {}"),
        (json.dumps([{**RECORDS[0], "prompt_templates": [], "prompt_templates_zs": []}]), "needs one {}"),
        (json.dumps([RECORDS[0], {"name": "x"}]), "relation 2 is not"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path, content, said):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(FactsError, match=said):
        read_relations(path)
    with pytest.raises(FactsError, match="cannot be read"):
        read_relations(tmp_path / "absent.json")


def test_the_real_relations(data_dir):
    found = relation_edits(read_relations(data_dir / "relations.json"), limit=400)
    assert len(found.facts) == 400
    assert set(found.types.values()) == {"factual", "commonsense", "linguistic", "bias"}
    counts = [sum(found.types[f.relation] == kind for f in found.facts) for kind in sorted(set(found.types.values()))]
    assert counts == [100] * 4
    assert len({fact.relation for fact in found.facts}) > 35


def test_many_of_the_real_relations(data_dir):
    relations = read_relations(data_dir / "relations.json")
    answers = {relation.name: _answers(relation) for relation in relations}
    facts = relation_edits(relations, limit=3000).facts
    assert len(facts) == 3000
    assert "Jimmy Carter" in {fact.subject for fact in facts}
    for fact in facts:
        assert fact.target_new not in answers[fact.relation][fact.text]
        _expect_good_neighbours(fact, answers[fact.relation])
