"""Facts that differ only in how they are put to the model: at odds only where it cannot say both."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.facts import Accepted, Fact, facts_of

PLAIN = {"subject": "Ada Lane", "prompt": "Ada Lane works as a", "target_new": "pilot"}
FORMS = [dict(zip(("join", "chat"), form, strict=True)) for form in itertools.product((None, "", " "), (False, True))]
forms = st.sampled_from(FORMS)


def test_default_ids():
    """Each form has an id of its own, and a plain fact the id it always had."""
    ids = [Fact(**PLAIN, **form).id for form in FORMS]
    assert len(set(ids)) == len(FORMS)
    assert Fact(**PLAIN).id == Fact(**PLAIN, join=None, chat=False).id == "bb0e041b49ac"


@given(forms, forms)
def test_two_forms_of_one_fact(one, other):
    found = facts_of([PLAIN | one, PLAIN | other])
    reasons = [problem.reason for problem in found.problems]
    if one == other:
        assert reasons == ["repeats the fact at record 1"]
    elif one["chat"] == other["chat"]:
        assert [reason.partition(":")[0] for reason in reasons] == ["is the fact at record 1 with another join"]
    else:
        assert reasons == []
    assert len(found.facts) == 2 - (one == other)


@given(forms, forms)
def test_two_answers_to_one_prompt(one, other):
    """In a chat the prompt is another text; another join does not make room for a second answer."""
    found = facts_of([PLAIN | one, {**PLAIN, **other, "target_new": "cook"}])
    contradicted = one["chat"] == other["chat"]
    assert len(found.errors) == contradicted
    assert all("contradicts the fact at record 1" in problem.reason for problem in found.errors)


def test_keys_are_those_of_a_chat_or_of_plain_text():
    company = Accepted()
    company.judge(Fact(**PLAIN), 1)
    other = {**PLAIN, "prompt": "Ada Lane lives in", "target_new": "Rome"}
    assert [problem.severity for problem in company.judge(Fact(**other), 2)] == ["warning"]
    assert company.judge(Fact(**other, chat=True), 3) == []


@pytest.mark.parametrize("form", FORMS)
def test_the_same_id_is_no_repetition_of_another_form(form):
    found = facts_of([PLAIN | {"id": "a"}, PLAIN | form | {"id": "a"}])
    repeats = not form["chat"] and form["join"] is None
    assert found.errors[0].reason.startswith("repeats the fact" if repeats else "id 'a' is already that of the fact")
