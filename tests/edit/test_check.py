"""What is said about facts before any long work."""

import pytest
import torch
from edit_helpers import FACTS, REAL_FACTS

from errata.edit.check import check_facts
from errata.facts import Fact
from tiny import tiny_model


def _of(problems, severity):
    return [(problem.fact_id, problem.reason) for problem in problems if problem.severity == severity]


def test_good_facts_have_no_problems():
    assert check_facts(tiny_model("llama"), FACTS) == []
    assert check_facts(tiny_model("llama", bos=True), FACTS, longest_prefix=200) == []
    assert check_facts(tiny_model("llama"), []) == []


def test_equal_tokens_up_to_the_subject_collide_whatever_follows():
    facts = [
        Fact(subject="France", prompt="France is", target_new="Rome", id="a"),
        Fact(subject="France", prompt="France has as its capital", target_new="Paris", id="b"),
        Fact(subject="France", prompt="So France has as its capital", target_new="Paris", id="other key"),
        Fact(subject="Italy", prompt="Italy is", target_new="Paris", id="other subject"),
        Fact(subject="France", prompt="France. It is", target_new="here", id="c"),
    ]
    warnings = _of(check_facts(tiny_model("llama"), facts), "warning")
    assert [name for name, _ in warnings] == ["b", "c"]
    assert all("same key as 'France is'" in reason for _, reason in warnings)
    assert _of(check_facts(tiny_model("llama"), facts), "error") == []


def test_many_facts_about_one_subject_are_one_warning():
    def facts(subject, count):
        prompts = [f"{'And ' * n}{{}} is" for n in range(count)]
        return [Fact(subject=subject, prompt=p, target_new="Rome", id=f"{subject} {p}") for p in prompts]

    lm = tiny_model("llama")
    assert _of(check_facts(lm, facts("France", 4)), "warning") == []
    several = facts("Italy", 5) + facts("France", 6) + facts("Toyota", 2)
    ((name, reason),) = _of(check_facts(lm, several), "warning")
    assert name == "France {} is"
    assert reason.startswith("6 facts are about 'France' (and 5 or more of 1 other subject): ")


@pytest.mark.parametrize("bos", [False, True])
def test_longer_than_the_context_is_an_error(bos):
    lm = tiny_model("llama", bos=bos)
    assert lm.max_tokens == 256
    # " and" is one token of the tiny tokenizer.
    assert len(lm.tokenizer(" and", add_special_tokens=False)["input_ids"]) == 1

    def fact(words):
        return Fact(subject="Toyota", prompt="Toyota" + " and" * words, target_new="Rome", id=f"{words} words")

    total = len(lm.tokenizer(fact(100).text + " Rome")["input_ids"]) - 100
    fits, beyond = fact(256 - total), fact(257 - total)
    problems = check_facts(lm, [fits, beyond, FACTS[0]])
    assert [name for name, _ in _of(problems, "error")] == [beyond.id]
    assert "257 tokens" in problems[0].reason
    assert "256" in problems[0].reason
    assert [name for name, _ in _of(check_facts(lm, [fits], longest_prefix=1), "error")] == [fits.id]


def test_a_token_over_subject_and_target_is_an_error_and_the_others_are_still_checked():
    shared = Fact(subject="埃", prompt="{}", target_new="菲尔铁塔", id="shared")
    twins = [Fact(subject="France", prompt=p, target_new="Rome", id=p) for p in ("France is", "France was")]
    problems = check_facts(tiny_model("llama"), [shared, *twins])
    assert [name for name, _ in _of(problems, "error")] == ["shared"]
    assert [name for name, _ in _of(problems, "warning")] == ["France was"]


def test_what_the_real_model_already_answers_is_a_warning(smollm2):
    known = [
        Fact(subject="France", prompt="The capital of France is", target_new="Paris", id="known"),
        Fact(subject="one, two, three", prompt="Count: {}, four,", target_new="five, six", id="two tokens known"),
        Fact(subject="1, 2, 3", prompt="Count again: {}, 4, 5, 6,", target_new="7, 9", id="half known"),
    ]
    facts = [*known, *REAL_FACTS]
    # What greedy decoding says is the judge, one token after the other through full forwards.
    expected = [fact.id for fact in facts if _greedy(smollm2, fact) == fact.target_new]
    assert "known" in expected
    assert "half known" not in expected
    warnings = _of(check_facts(smollm2, facts), "warning")
    assert [name for name, _ in sorted(warnings)] == sorted(expected)
    assert "already answers 'Paris'" in dict(warnings)["known"]


@torch.no_grad()
def _greedy(lm, fact):
    ids = lm.tokenizer(fact.text)["input_ids"]
    length = len(lm.tokenizer(f"{fact.text} {fact.target_new}")["input_ids"])
    start = len(ids)
    while len(ids) < length:
        ids.append(int(lm.hf(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return lm.tokenizer.decode(ids[start:]).strip()


def test_facts_are_checked_in_batches_of_any_number(monkeypatch):
    lm = tiny_model("llama")
    facts = [Fact(subject=f"Tower {i}", prompt="{} is in", target_new="Rome", id=str(i)) for i in range(130)]
    rows = []
    import errata.edit.check as module

    original = module.run_layers
    monkeypatch.setattr(module, "_AT_ONCE", 200)
    monkeypatch.setattr(module, "run_layers", lambda lm, ids, mask: rows.append(ids.shape) or original(lm, ids, mask))
    assert check_facts(lm, facts) == []
    assert sum(count for count, _ in rows) == 130
    assert len(rows) > 2
    assert all(count * width <= 200 for count, width in rows)
