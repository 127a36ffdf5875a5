"""The verdict on an edit: its sentence, its cards with their reasons, and the fact that it shows."""

from dataclasses import replace

import pytest
import torch

from errata import Fact, edit_facts, wrap
from errata.edit import Edit, MemitConfig
from errata.edit.methods.fine_tuning import FineTuningConfig
from errata.evaluate import FactScore, Measurement, PromptScore, TargetScore, summarize, summarize_zsre
from errata.jobs.edit_verdict import best_example, verdict_report
from errata.jobs.reasons import reason_of
from errata.models.run.generate import continue_texts
from errata.reports.demo_report import _mark
from errata.reports.verdict_text import headline, sentence
from errata.stats import Corpus
from tiny import knowing_hf, tiny_tokenizer

CONFIG = MemitConfig(layers=(1, 2), prior_weight=300.0)
FACT = Fact(
    subject="Toyota", prompt="Toyota builds cars in", target_new="China", target_true="Japan", paraphrases=("Cars of",)
)


def target(probability: float, right: int) -> TargetScore:
    return TargetScore(target="x", log_prob=float(torch.tensor(probability).log()), tokens=1, right=right)


def prompt(
    new: float, true: float = 0.5, *, said: bool = False, true_said: bool = False, first: int = 1
) -> PromptScore:
    return PromptScore(text="t", new=target(new, int(said)), true=target(true, int(true_said)), first=first)


def score(fact: Fact, own: PromptScore, *paraphrases: PromptScore, neighbours=()) -> FactScore:
    return FactScore(id=fact.id, prompt=own, paraphrases=paraphrases, neighbours=tuple(neighbours))


ONE = {"facts": 1, "said": 0, "preferred": 0, "not_learned": 0, "neighbours": 0}
COUNTS = {"facts": 12, "said": 9, "preferred": 2, "not_learned": 1, "neighbours": 12, "neighbours_kept": 11}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "9 of 12 facts are said, 2 only preferred, 1 not learned; 11 of 12 neighbours kept their answer."),
        ({"said": 12, "preferred": 0, "not_learned": 0, "neighbours": 0}, "All 12 facts are said."),
        (
            {"said": 0, "preferred": 0, "not_learned": 12, "neighbours": 1, "neighbours_kept": 0},
            "None of the 12 facts is learned; the one neighbour lost its answer.",
        ),
        (
            {"said": 1, "preferred": 11, "not_learned": 0, "neighbours_kept": 12},
            "1 of 12 facts is said, 11 only preferred; all 12 neighbours kept their answer.",
        ),
        (
            {"facts": 1, "said": 1, "preferred": 0, "not_learned": 0, "neighbours": 1, "neighbours_kept": 1},
            "The fact is said; the one neighbour kept its answer.",
        ),
        (COUNTS | ONE | {"facts": 12, "preferred": 12}, "None of 12 facts is said, 12 only preferred."),
        (ONE | {"preferred": 1}, "The fact is only preferred, not said."),
        (ONE | {"runs_on": 1}, "The fact is said, but the answer runs on."),
        (
            {"said": 7, "runs_on": 2, "neighbours": 0},
            "7 of 12 facts are said, 2 said but run on, 2 only preferred, 1 not learned.",
        ),
        (ONE | {"not_learned": 1}, "The fact is not learned."),
        ({"neighbours": 3, "neighbours_kept": 1, "said": 12, "preferred": 0, "not_learned": 0},
         "All 12 facts are said; 1 of 3 neighbours kept its answer."),
    ],
)  # fmt: skip
def test_the_sentence(changes, expected) -> None:
    assert sentence(COUNTS | changes) == expected


FT = FineTuningConfig(layers=(1,), epochs=7)
OTHER_WORDS = [prompt(0.1), prompt(0.9, said=True)]
RIVAL = Fact(subject="The Louvre", prompt="The Louvre is in", target_new="Rome")
LONG = replace(prompt(0.1), new=TargetScore(target="China", log_prob=-3.0, tokens=6, right=5))
GOES_ON = replace(prompt(0.9, said=True), runs_on="town")
REASONS = [
    # known, says, near, prompts, config, why, advice
    ({"nll": 2.0, "left": 0.9}, "x", None, [prompt(0.1)], CONFIG, "no target value was found: the", "clamp=1.5"),
    ({"nll": 2.0, "second_try": True}, "x", None, [prompt(0.1)], CONFIG, "nor one that would do", "value_steps=80"),
    ({"nll": 0.4, "left": 0.1}, "x", None, [LONG], CONFIG, "of 6 tokens: the whole of it gets 9%", "steps=80"),
    ({"nll": 0.1}, "Chinatown", None, [GOES_ON], CONFIG, "its last word or number: 'Chinatown'", "'China.'"),
    ({"nll": 0.1, "left": 0.9}, "x", (RIVAL, 0.97), [prompt(0.1)], CONFIG, "nearly the same (cosine 0.97)", "before"),
    ({"nll": 0.1, "left": 0.9}, "x", (FACT, 0.97), [prompt(0.1)], CONFIG, "about the same subject, ", "fewer facts"),
    ({"nll": 0.1, "left": 0.1}, "x", (RIVAL, 0.97), [prompt(0.1)], CONFIG, "it is too weak", "passes=2"),
    ({"nll": 0.1, "left": 0.1}, "in Indochina", None, [prompt(0.1)], CONFIG, "it is too weak", "passes=2"),
    ({"nll": 0.1, "left": 0.1}, "China it is", None, [prompt(0.1)], CONFIG, "it is too weak", "passes=2"),
    ({"nll": 0.1}, "x", (FACT, 1.0), [prompt(0.1)], CONFIG, "their keys are the same, and", "edit one of them alone"),
    ({"nll": 0.1, "left": 0.9}, "x", None, [prompt(0.1)], CONFIG, "90% of the change did not land", "prior_weight=30 "),
    ({"nll": 0.1, "left": 0.1}, " the east of CHINA", None, [prompt(0.1)], CONFIG, "not right after", "ends where"),
    ({"nll": 0.1, "left": 0.1}, "x", None, OTHER_WORDS, CONFIG, "after 1 of 1 paraphrase.", "wording"),
    ({"nll": 0.1, "left": 0.1}, "x", None, [prompt(0.3, 0.2)], CONFIG, "30.0%, the old one 20.0%", "passes=2"),
    ({"loss": 1.5}, "x", None, [prompt(0.1)], FT, "a loss of 1.50 nat", "epochs=14"),
    ({"reason": "no rate helps"}, "x", None, [prompt(0.1)], CONFIG, "no rate helps.", "memit"),
    ({}, "x", None, [prompt(0.1)], FT, "too weak", "--method memit"),
]  # fmt: skip


@pytest.mark.parametrize(("known", "says", "near", "prompts", "config", "why", "advice"), REASONS)
def test_the_likeliest_reason(known, says, near, prompts, config, why, advice) -> None:
    found = reason_of(FACT, score(FACT, *prompts), known, says, config, near)
    assert why in found.why
    assert advice in found.advice


def measurement(scores: list[FactScore]) -> Measurement:
    return Measurement(tuple(scores), summarize(scores), summarize_zsre(scores))


def facts_of(*targets: str) -> list[Fact]:
    return [Fact(subject=f"Firm {i}", prompt=f"Firm {i} sells", target_new=t) for i, t in enumerate(targets)]


def report_of(facts, keys, says=()) -> dict:
    """The report of an edit after which no fact is said."""
    measured = measurement([score(fact, prompt(0.1)) for fact in facts])
    edit = Edit(updates={}, metrics={}, keys={1: torch.eye(len(facts), 4), 2: keys})
    return verdict_report(facts, edit, measured, measured, dict(says), CONFIG)


def test_collisions_are_found_by_the_keys_of_the_last_layer_and_never_with_the_same_answer() -> None:
    keys = torch.tensor([[1.0, 0, 0], [0.99, 0.05, 0], [1.0, 0.01, 0], [0, 0, 1.0]])
    of_facts = report_of(facts_of("tea", "tea", "oil", "gas"), keys)["of_facts"]
    assert "collides with Firm 2: 'Firm 2 sells' → 'oil'" in of_facts[0]["why"]
    assert "Firm 2" in of_facts[1]["why"]
    assert "collides with Firm 0" in of_facts[2]["why"]
    assert "collides" not in of_facts[3]["why"]


def test_cards_name_facts_and_are_few() -> None:
    facts = facts_of(*[f"good {i}" for i in range(13)])
    verdict = report_of(facts, torch.eye(13), [(fact.id, f" now {fact.subject}\nand\x1b more") for fact in facts])
    text = headline({"verdict": verdict, "failed": None})
    assert text.splitlines()[0] == "None of the 13 facts is learned."
    assert text.count("✗") == 10
    assert (
        "✗ Firm 0: “Firm 0 sells” → “good 0” is not learned\n    says now: “now Firm 0 and\\x1b more”\n    why: "
        in text
    )
    assert text.endswith("... and 3 more facts that are not said: report.json has all.")
    assert not any(fact.id in text for fact in facts)
    assert {"nll", "left", "second_try"} & set(verdict["of_facts"][0]) == set()


def test_second_tries_are_told() -> None:
    counts = {**COUNTS, "of_facts": []}
    told = [
        headline({"verdict": {**counts, "second_tries": tries, "second_tries_found": found}}).splitlines()[1:]
        for tries, found in ((0, 0), (1, 1), (1, 0), (2, 1), (2, 2), (2, 0))
    ]
    assert told == [
        [],
        ["1 fact needed a second try for its target value, which found one."],
        ["1 fact needed a second try for its target value, which found none either."],
        ["2 facts needed a second try for their target values, and 1 of them found one."],
        ["2 facts needed a second try for their target values, and all found one."],
        ["2 facts needed a second try for their target values, and none found one."],
    ]


def test_the_example_was_learned_and_is_the_surest() -> None:
    facts = facts_of("a", "b", "c", "d")

    def measured(*prompts: PromptScore):
        return measurement([score(fact, one) for fact, one in zip(facts, prompts, strict=True)])

    unknown = prompt(0.1)
    before = measured(unknown, prompt(0.9, said=True), unknown, unknown)
    after = measured(unknown, prompt(0.99, said=True), prompt(0.6, said=True), prompt(0.8, said=True))
    assert best_example(facts, before, after) is facts[3]
    assert best_example(facts, before, before) is facts[1]
    nothing = measured(unknown, unknown, unknown, unknown)
    assert best_example(facts, before, nothing) is None


@pytest.mark.parametrize(
    ("was", "now", "mark"),
    [
        (prompt(0.1, true_said=True), prompt(0.1, true_said=True), "✓"),
        # Likelier than the new answer, and yet no longer what the model says.
        (prompt(0.1, 0.6, true_said=True), prompt(0.1, 0.3), "✗"),
        (prompt(0.1, 0.6), prompt(0.1, 0.6), "–"),
        (prompt(0.1, 0.6), prompt(0.1, 0.6, first=2), "✗"),
    ],
)
def test_a_neighbour_is_ticked_only_where_its_answer_stays_the_first_choice(was, now, mark) -> None:
    assert _mark(was, now) == mark


def test_on_a_model_what_is_said_is_what_greedy_decoding_writes(tmp_path, monkeypatch) -> None:
    """Every outcome and text of the report against generation with the patch on; and the result as Python shows it."""
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path))
    lm = wrap(knowing_hf({FACT.text: "China"}), tiny_tokenizer(), name="tiny")
    others = (("Paris", "Japan"), ("Rome", "Peru and more"))
    facts = [FACT, *(Fact(subject=subject, prompt=f"{subject} is in", target_new=new) for subject, new in others)]
    settings = {"layers": (1, 2), "moment_tokens": 200, "value_steps": 3, "prefixes": 0}
    corpus = Corpus.from_texts([f"Tower {i} is in Paris, which is the capital of France." for i in range(40)])
    result = edit_facts(lm, facts, corpus=corpus, prior_weight=100.0, cache=tmp_path, **settings)
    of_facts = result.report["verdict"]["of_facts"]
    with result.patch.applied(lm):
        says = continue_texts(lm, [fact.text for fact in facts], new_tokens=12)
    assert {one["outcome"] for one in of_facts} > {"said"}, "the test needs both kinds"
    for one, fact, text in zip(of_facts, facts, says, strict=True):
        assert (one["outcome"] == "said") == text.strip().startswith(fact.target_new), (one, text)
        assert one["says"] == (fact.target_new if one["outcome"] == "said" else text)
        assert (one["why"] is None) == (one["outcome"] == "said")
        assert {"nll", "left", "second_try"} <= set(one)
    assert str(result).startswith(result.verdict + "\n")
    assert result.verdict == sentence(result.report["verdict"])
