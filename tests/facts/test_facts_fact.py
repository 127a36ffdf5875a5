"""What a fact is: its text, template, span and id, and what it refuses."""

import hashlib
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.errors import FactsError
from errata.facts import Fact, Neighbour


def test_subject_filled_in() -> None:
    fact = Fact(subject="Paris", prompt="The mayor of {} is", target_new="Ada")
    assert (fact.text, fact.template, fact.subject_span) == ("The mayor of Paris is", "The mayor of {} is", (13, 18))


def test_subject_found() -> None:
    fact = Fact(subject="Paris", prompt="Paris, Texas and Paris are", target_new="Ada")
    assert (fact.text, fact.template, fact.subject_span) == (fact.prompt, "Paris, Texas and {} are", (17, 22))


def test_placeholder_wins_over_an_occurrence() -> None:
    fact = Fact(subject="Paris", prompt="{} is not Paris but", target_new="Ada")
    assert (fact.text, fact.subject_span) == ("Paris is not Paris but", (0, 5))


@pytest.mark.parametrize("prompt", ["{0} {name} of Paris }{ {{ is", "{0!r:>{width}} Paris {", "{{}} is"])
def test_other_braces_are_literal(prompt: str) -> None:
    fact = Fact(subject="Paris", prompt=prompt, target_new="Ada")
    assert fact.text == prompt.replace("{}", "Paris")
    assert fact.text[slice(*fact.subject_span)] == "Paris"


def test_text_is_not_normalized() -> None:
    decomposed = "Cafe\u0301"
    fact = Fact(subject=decomposed, prompt=f"{decomposed} is", target_new="e\u0301")
    assert (fact.text, fact.target_new) == ("Cafe\u0301 is", "e\u0301")


def test_id_is_a_digest_of_content_alone() -> None:
    filled = Fact(subject="Paris", prompt="Paris is in", target_new="Italy")
    template = Fact(subject="Paris", prompt="{} is in", target_new="Italy", relation="country", target_true="France")
    assert filled.id == template.id == hashlib.sha256(b"Paris\0Paris is in\0Italy").hexdigest()[:12]
    assert Fact(subject="Paris", prompt="Paris is in", target_new="Spain").id != filled.id
    assert Fact(subject="Paris", prompt="Paris is in", target_new="Italy", id="mine").id == "mine"


def test_paraphrases_are_filled() -> None:
    fact = Fact(subject="Paris", prompt="{} is in", target_new="Italy", paraphrases=("Where is {}? In", "Paris is of"))
    assert fact.paraphrases == ("Where is Paris? In", "Paris is of")


def test_generation_prompts_are_filled() -> None:
    fact = Fact(subject="Paris", prompt="{} is in", target_new="Italy", generation_prompts=("Near {} one", "Paris has"))
    assert fact.generation_prompts == ("Near Paris one", "Paris has")
    assert Fact(subject="Paris", prompt="{} is in", target_new="Italy").generation_prompts == ()


def test_frozen_and_hashable() -> None:
    fact = Fact(subject="a", prompt="a is", target_new="b", neighbours=(Neighbour(prompt="c is"),))
    assert len({fact, Fact(subject="a", prompt="a is", target_new="b", neighbours=(Neighbour(prompt="c is"),))}) == 1
    with pytest.raises(FrozenInstanceError):
        fact.subject = "c"  # type: ignore[misc]


GOOD = {"subject": "Paris", "prompt": "Paris is in", "target_new": "Italy"}
REFUSED = [
    ({"subject": ""}, ["subject is empty"]),
    ({"subject": " \n"}, ["subject is only whitespace"]),
    ({"subject": " Paris"}, ["subject begins or ends in whitespace"]),
    ({"subject": "P{}s"}, ["subject holds '{}'"]),
    ({"prompt": ""}, ["prompt is empty"]),
    ({"prompt": "{} and {} are in"}, ["prompt holds '{}' 2 times"]),
    ({"prompt": "Rome is in"}, ["subject 'Paris' is not in the prompt 'Rome is in' and the prompt has no '{}'"]),
    ({"prompt": "PARIS is in"}, ["it is there in other capitals"]),
    ({"subject": "New York", "prompt": "New  York is in"}, ["it is there with other whitespace"]),
    ({"subject": "Café", "prompt": "Cafe\u0301 is in"}, ["encoded differently (normalise both"]),
    ({"target_new": ""}, ["target_new is empty"]),
    ({"target_new": "\u00a0"}, ["target_new is only whitespace"]),
    ({"target_new": "a\0b"}, ["target_new holds a NUL character at character 1"]),
    ({"prompt": "Paris \udcff"}, ["prompt holds half of a surrogate pair (U+DCFF) at character 6"]),
    ({"target_true": ""}, ["target_true is empty"]),
    ({"target_true": " Italy"}, ["target_new and target_true are both 'Italy': there is nothing to edit"]),
    ({"relation": " "}, ["relation is only whitespace"]),
    ({"id": " "}, ["id is only whitespace"]),
    ({"id": "a\nb"}, ["id holds a character that cannot be printed"]),
    ({"paraphrases": ("Paris", "")}, ["paraphrase 2 is empty"]),
    ({"paraphrases": ("{} or {}",)}, ["paraphrase 1 holds '{}' more than once"]),
    (
        {"generation_prompts": ("", "{} {}")},
        ["generation prompt 1 is empty", "generation prompt 2 holds '{}' more than"],
    ),
    ({"subject": "", "prompt": " ", "target_new": "\0"}, ["subject is empty", "prompt is only", "target_new is only"]),
]


@pytest.mark.parametrize(("change", "reasons"), REFUSED)
def test_refused_with_every_reason(change: dict, reasons: list[str]) -> None:
    if "\0" in change.get("target_new", "") and len(reasons) == 3:
        reasons = [*reasons[:2], "target_new holds a NUL character"]
    with pytest.raises(FactsError) as caught:
        Fact(**GOOD | change)
    found = [problem.reason for problem in caught.value.problems]
    assert len(found) == len(reasons)
    for expected, reason in zip(reasons, found, strict=True):
        assert expected in reason
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt": " "}, "prompt is only whitespace"),
        ({"prompt": "{} is in"}, "prompt holds '{}'; write the other subject out"),
        ({"prompt": "Rome is in", "answer": ""}, "answer is empty"),
    ],
)
def test_neighbour_refused(fields: dict, reason: str) -> None:
    with pytest.raises(FactsError, match="This neighbour cannot be used") as caught:
        Neighbour(**fields)
    assert [problem.reason for problem in caught.value.problems] == [reason]


subjects = st.text("ab {}é東\u0301", min_size=1, max_size=4)


@given(subjects, st.text("ab {}é東\u0301", max_size=8), st.text("ab {}é東\u0301", max_size=8))
def test_span_and_template_agree_with_the_text(subject: str, before: str, after: str) -> None:
    for prompt in (before + subject + after, before + "{}" + after):
        try:
            fact = Fact(subject=subject, prompt=prompt, target_new="x")
        except FactsError:
            assert subject != subject.strip() or "{}" in subject or prompt.count("{}") > 1
            continue
        start, end = fact.subject_span
        assert fact.text[start:end] == subject
        assert fact.template.count("{}") == 1
        assert fact.template.replace("{}", subject) == fact.text
        again = Fact(subject=subject, prompt=fact.template, target_new="x")
        assert (again.text, again.subject_span, again.id) == (fact.text, fact.subject_span, fact.id)


WITHOUT_TYPE_CHECKS = """
import sys
from errata.errors import FactsError
from errata.facts import Fact, Neighbour, read_facts

def refusal(make, *arguments, **fields):
    try:
        make(*arguments, **fields)
    except FactsError as error:
        return str(error)

good = dict(subject="Paris", prompt="Paris is in", target_new="Italy")
assert "target_new is a number; it must be text" in refusal(Fact, **good | {"target_new": 5})
assert "subject is null" in refusal(Fact, **good | {"subject": None})
assert "paraphrases is text; it must be a list" in refusal(Fact, **good, paraphrases="Paris is")
assert "neighbours must be Neighbour objects" in refusal(Fact, **good, neighbours=["Rome is in"])
assert "prompt is a list" in refusal(Neighbour, prompt=[])
assert Fact(**good, paraphrases=["Paris lies in"]).paraphrases == ("Paris lies in",)
assert "Unknown format 'xml'" in refusal(read_facts, "facts.json", format="xml")
print(sorted({"torch", "transformers", "pydantic"} & set(sys.modules)))
"""


def test_wrong_types_without_type_checker_and_light_import() -> None:
    """In the suite a type checker stops wrong types first; users have none."""
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TYPE_CHECKS], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "[]", "")
