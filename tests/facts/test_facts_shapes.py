"""Records in the shapes that other people's files have: each read as what it is, and nothing of it lost."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.facts import Fact, Neighbour, facts_of, read_facts, write_facts
from errata.facts.shapes import BY_NAME, SHAPES, recognize
from errata.facts.shapes.ripple import parted

ASKS = {"subject": "Ada Lane", "prompt": "Ada Lane works as a", "target_new": "pilot"}
PILOT = {"subject": "Ada Lane", "prompt": "Ada Lane works as a", "target_new": "pilot"}
REWRITE = {
    "prompt": "{} was born in", "subject": "Ada Lane", "target_new": {"str": "Peru", "id": "Q419"},
    "target_true": {"str": "Chile", "id": "Q298"}, "relation_id": "P19", "question": "Where was Ada Lane born?",
}  # fmt: skip
CASE = {
    "case_id": 7, "requested_rewrite": [REWRITE, {**REWRITE, "prompt": "The capital of {} is", "subject": "Peru"}],
    "questions": ["Which city governs the birthplace of Ada Lane?"], "new_answer": "Quito", "new_answer_alias": [],
}  # fmt: skip
KINDS = {"Reasoning": [{"prompt": "The employer of Ada Lane is", "ground_truth": [["an airline", "a carrier"]]}]}
LOCAL = {
    "Relation_Specificity": [
        {"prompt": "The mother of Ada Lane is", "ground_truth": [["Eve Lane", "Eve"]]},
        {"prompt": "The father of Ada Lane is", "ground_truth": []},
    ],
    "Forgetfulness": [{"prompt": ["Ada Lane lives in", "Ada Lane speaks"], "ground_truth": ["Rome", ["Latin"]]}],
}
EVE = Neighbour(prompt="The mother of Ada Lane is", answer="Eve Lane")

# Name of the format, the record, what each fact in it is, and what its metadata is.
TABLE: list[tuple[str, str, dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]] = [
    ("rome", "easyedit", ASKS | {"prompt": "{} works as a", "target_new": {"str": "pilot"}},
     [PILOT | {"prompt": "{} works as a"}], [{}]),
    ("memit", "rome", ASKS | {"target_new": {"str": "pilot", "id": "Q2"}, "target_true": {"str": "nurse"},
     "relation_id": "P106", "case_id": 3}, [PILOT | {"target_true": "nurse", "relation": "P106", "id": "3"}],
     [{"target_new_id": "Q2"}]),
    ("true-answer", "easyedit", ASKS | {"ground_truth": "nurse", "rephrase_prompt": "Ada Lane is a"},
     [PILOT | {"target_true": "nurse", "paraphrases": ("Ada Lane is a",)}], [{}]),
    ("true-answers", "easyedit", ASKS | {"ground_truth": [["nurse", "carer"]], "rephrase": ["Ada Lane is a"]},
     [PILOT | {"target_true": "nurse", "paraphrases": ("Ada Lane is a",)}], [{"ground_truth": [["nurse", "carer"]]}]),
    ("no-true-answer", "easyedit", ASKS | {"ground_truth": [""], "rephrase_prompts": ["", None], "locality": {}},
     [PILOT], [{}]),
    ("no-answer-mark", "easyedit", ASKS | {"ground_truth": "<|endoftext|>"}, [PILOT], [{}]),
    ("locality", "knowedit", ASKS | {"locality": LOCAL, "portability": KINDS},
     [PILOT | {"neighbours": (EVE, Neighbour(prompt="Ada Lane lives in", answer="Rome"),
      Neighbour(prompt="Ada Lane speaks", answer="Latin"))}], [{"locality": LOCAL, "portability": KINDS}]),
    ("locality-inputs", "easyedit", ASKS | {"locality_inputs": {"near": {"prompt": "Bo is a", "ground_truth": "cook"}}},
     [PILOT | {"neighbours": (Neighbour(prompt="Bo is a", answer="cook"),)}],
     [{"locality_inputs": {"near": {"prompt": "Bo is a", "ground_truth": "cook"}}}]),
    ("locality-lists", "easyedit", ASKS | {"locality_prompts": ["Bo is a", "Cy is a"],
     "locality_ground_truth": ["cook", ["poet"]]},
     [PILOT | {"neighbours": (Neighbour(prompt="Bo is a", answer="cook"), Neighbour(prompt="Cy is a", answer="poet"))}],
     [{}]),
    ("wikibio", "auto", {"concept": "Ada Lane", "text": "Ada Lane works as a", "labels": "pilot",
     "locality": {"near": [{"prompt": "The mother of Ada Lane is", "ground_truth": "Eve Lane"}]}},
     [PILOT | {"neighbours": (EVE,)}],
     [{"locality": {"near": [{"prompt": "The mother of Ada Lane is", "ground_truth": "Eve Lane"}]}}]),
    ("fastedit", "fastedit", {"prompt": "{} works as a", "subject": "Ada Lane", "target": "pilot",
     "queries": ["What is Ada Lane?"]}, [PILOT | {"prompt": "{} works as a", "paraphrases": ("What is Ada Lane?",)}],
     [{}]),
    ("mquake", "mquake", CASE, [
        {"id": "7-1", "subject": "Ada Lane", "prompt": "{} was born in", "target_new": "Peru", "target_true": "Chile",
         "relation": "P19", "paraphrases": ("Where was Ada Lane born?",)},
        {"id": "7-2", "subject": "Peru", "prompt": "The capital of {} is", "target_new": "Peru",
         "target_true": "Chile", "relation": "P19", "paraphrases": ("Where was Ada Lane born?",)},
     ], 2 * [{"questions": CASE["questions"], "new_answer": "Quito", "target_new_id": "Q419", "target_true_id": "Q298",
              "case_id": 7}]),
    ("mquake-alone", "mquake", {**CASE, "requested_rewrite": [{"subject": "Bo", "prompt": "{} is", "target_new": "a"}]},
     [{"id": "7", "subject": "Bo", "prompt": "{} is", "target_new": "a"}],
     [{"questions": CASE["questions"], "new_answer": "Quito", "case_id": 7}]),
    ("ripple", "ripple", {"example_type": "recent", "edit": {"prompt": "The mother tongue of Ada Lane is Latin.",
     "subject_id": "Q1", "relation": "NATIVE_LANGUAGE", "original_fact": {"prompt": "The mother tongue of Ada Lane is "
     "Lao.", "target_id": "Q2"}}, "Forgetfulness": [{"test_queries": []}], "Two_hop": []},
     [{"subject": "Ada Lane", "prompt": "The mother tongue of {} is", "target_new": "Latin", "target_true": "Lao",
       "relation": "NATIVE_LANGUAGE"}],
     [{"example_type": "recent", "subject_id": "Q1", "Forgetfulness": [{"test_queries": []}],
       "original_fact": {"prompt": "The mother tongue of Ada Lane is Lao.", "target_id": "Q2"}}]),
    ("wikibigedit", "wikibigedit", {"tag": "update", "subject": "Ada Lane", "update": "What is Ada Lane?",
     "ans": "pilot", "rephrase": "What does Ada Lane do?", "loc": "What is Bo?", "loc_ans": "cook", "mhop": "And Eve?",
     "mhop_ans": "no", "personas": "Ahoy, what is Ada Lane?"},
     [{"subject": "Ada Lane", "prompt": "What is Ada Lane?", "target_new": "pilot",
       "paraphrases": ("What does Ada Lane do?",), "neighbours": (Neighbour(prompt="What is Bo?", answer="cook"),)}],
     [{"tag": "update", "mhop": "And Eve?", "mhop_ans": "no", "personas": "Ahoy, what is Ada Lane?"}]),
    ("unke", "unke", {"id": 4, "question": "What is Ada Lane?", "answer": "She flies. She lands.",
     "para_question": "Who flies?", "sub_question": ["Who?"], "sub_answer": ["Ada"]},
     [{"id": "4", "subject": "What is Ada Lane?", "prompt": "What is Ada Lane?", "target_new": "She flies. She lands.",
       "paraphrases": ("Who flies?",)}], [{"sub_question": ["Who?"], "sub_answer": ["Ada"]}]),
    ("tracing", "counterfact-tracing", {"relation": "The mother tongue of {} is", "relation_id": "P103",
     "prompt": "The mother tongue of Ada is", "target_true": " Lao", "target_false": " Latin", "subject": "Ada"},
     [{"subject": "Ada", "prompt": "The mother tongue of {} is", "target_new": "Latin", "target_true": "Lao",
       "relation": "P103"}], [{"relation": "The mother tongue of {} is"}]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("format", "record", "facts", "metadata"), [pytest.param(*case[1:], id=case[0]) for case in TABLE]
)
def test_a_record_is_read_as_what_it_is(tmp_path, format, record, facts, metadata):
    path = tmp_path / "set.json"
    path.write_text(json.dumps([record]))
    wanted = tuple(Fact(**fields, metadata=more) for fields, more in zip(facts, metadata, strict=True))
    for asked in ("auto", format):
        read = read_facts(path, format=asked)
        assert (read.facts, read.errors) == (wanted, ())
    write_facts(tmp_path / "back.jsonl", wanted)
    assert read_facts(tmp_path / "back.jsonl").facts == wanted


def test_unke_says_that_it_has_no_subject_and_who_needs_none():
    from errata.edit import METHODS

    found = facts_of([{"question": "What is Bo?", "answer": "A cook.", "para_question": "Who is Bo?"}] * 1)
    (note,) = [problem.reason for problem in found.warnings]
    assert "UnKE names no subject" in note
    named, _, others = note.partition(". ")[2].partition(" need none; ")
    assert set(named.replace(" and ", ", ").split(", ")) == {*METHODS} - {
        "memit", "alphaedit", "emmet", "pmet", "rome", "r-rome"
    }  # fmt: skip
    assert others.startswith("memit, rome and their kin")


@pytest.mark.parametrize(
    ("sentence", "other", "subject", "ending", "answer"),
    [
        ("The name of the country of citizenship of Ada Lane is Peru", None, "Ada Lane", "is", "Peru"),
        ("The name of the mother of Duke of Lane is Eve", None, "Duke of Lane", "is", "Eve"),
        ("The place of birth of Ada of Rome is Lima", None, "Ada of Rome", "is", "Lima"),
        ("The name of the head of state of Peru is Bo", None, "Peru", "is", "Bo"),
        ("The names of the siblings of Ada are Bo and Cy", None, "Ada", "are", "Bo and Cy"),
        ("The name of the religion which Ada is associated with is Zen", None, "Ada", "is associated with is", "Zen"),
        ("The name of the position held by Ada is mayor", None, "Ada", "is", "mayor"),
        ("The name of the currency in Peru is the sol", None, "Peru", "is", "the sol"),
        ("The name of the award Ada won is the cup", None, "Ada", "won is", "the cup"),
        ("The number of children Ada has is 4", None, "Ada", "has is", "4"),
        ("Lane II is followed by Lane III", None, "Lane II", "is followed by", "Lane III"),
        ("Lane II follows Lane I", None, "Lane II", "follows", "Lane I"),
        ("The name of the director of This is It is Bo", "The name of the director of This is It is Cy", "This is It",
         "is", "Bo"),
        ("The country of citizenship of Ada is United Lands", "The country of citizenship of Ada is United Isles",
         "Ada", "is", "United Lands"),
    ],
)  # fmt: skip
def test_the_subject_of_a_sentence(sentence, other, subject, ending, answer):
    parts = parted(sentence, other)
    assert parts is not None
    assert (parts.subject, parts.ending, parts.answer) == (subject, ending, answer)
    assert parts.stem + parts.answer == sentence


def test_a_sentence_without_a_subject_that_could_be_found_is_refused():
    found = facts_of([{"edit": {"prompt": "Nothing of the sort.", "relation": "X"}}])
    assert found.facts == ()
    assert "no subject is named, and none was found in 'Nothing of the sort.'" in found.errors[0].reason


# Names of ours and of EasyEdit that say the same, with values that either may hold.
SAME = {
    "target_true": ("ground_truth", "nurse"),
    "paraphrases": ("rephrase_prompts", ["Ada Lane is a", "Ada Lane, a"]),
    "relation": ("relation_id", "P106"),
    "id": ("case_id", "x"),
}


@given(st.sets(st.sampled_from(sorted(SAME))), st.sets(st.sampled_from(sorted(SAME))))
def test_names_of_ours_and_easyedit_s_mix(there, theirs):
    ours = {name: SAME[name][1] for name in there}
    mixed = {SAME[name][0] if name in theirs else name: value for name, value in ours.items()}
    found = facts_of([ASKS | mixed])
    assert found.problems == ()
    assert found.facts == facts_of([ASKS | ours]).facts


def leaves(value: object) -> set[str]:
    if isinstance(value, dict):
        return {leaf for one in value.values() for leaf in leaves(one)}
    if isinstance(value, (list, tuple)):
        return {leaf for one in value for leaf in leaves(one)}
    return {value} if isinstance(value, str) and value.strip() else set()


words = st.integers(0, 10**6).map(lambda number: f"word{number}")
nested = st.recursive(
    words, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2), max_leaves=4
)
questions = st.fixed_dictionaries(
    {"prompt": words | st.lists(words, max_size=2), "ground_truth": words | st.lists(words)}
)
KEPT = sorted({name for shape in SHAPES for name in shape.kept})
ANSWERS = ["locality_prompt", "locality_prompts", "locality_ground_truth", "ground_truth", "loc_ans", "answers"]
extras = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.dictionaries(words, st.lists(questions, max_size=2)) for name in ("locality", "locality_inputs")},
        **{name: words | st.lists(words, max_size=3) for name in ANSWERS},
    },
)


def told(fact: Fact) -> str:
    """Everything that a fact says, as one text."""
    fields = {name: getattr(fact, name) for name in ("id", "text", "subject", "target_new", "target_true", "relation")}
    asked = [[one.prompt, one.answer] for one in fact.neighbours]
    return json.dumps([fields, fact.template, fact.paraphrases, asked, dict(fact.metadata)])


@given(
    st.sampled_from([case[2] for case in TABLE if case[0] != "ripple"]),
    st.dictionaries(st.sampled_from(KEPT) | words, nested, max_size=4),
    extras,
)
def test_nothing_is_dropped_without_a_word(record, more, extra):
    """Every text of a record that is read is in a field of its fact or in metadata, and unknown names are told."""
    whole = {**more, **extra, **record}
    found = facts_of([whole])
    assert found.facts or found.errors
    if found.errors:
        return
    said = "".join(map(told, found.facts))
    assert not {leaf for leaf in leaves(whole) if leaf.strip() not in said} - {"<|endoftext|>"}
    names = recognize(whole).names
    note = " ".join(problem.reason for problem in found.warnings)
    assert all(repr(name) in note for name in whole if name not in names and whole[name])


def test_every_format_has_a_shape():
    from typing import get_args

    from errata.facts.readers import CONTAINERS, Format

    assert set(get_args(Format)) == {"auto", *CONTAINERS, *BY_NAME}
