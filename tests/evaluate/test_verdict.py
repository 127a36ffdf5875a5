"""What is said, preferred and kept, against definitions spelled out case by case; and what can be required."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.errors import ConfigError
from errata.evaluate import METRICS, FactScore, Metric, PromptScore, TargetScore
from errata.evaluate.requirements import EDIT_GROUPS, parse_requirements, requirement_names
from errata.evaluate.verdict import Verdict, kept, outcome, verdict_of


def target(log_prob: float, *, tokens: int = 2, right: int = 0) -> TargetScore:
    return TargetScore(target="x", log_prob=log_prob, tokens=tokens, right=right)


def prompt(new: TargetScore, true: TargetScore | None = None, first: int = 5) -> PromptScore:
    return PromptScore(text="t", new=new, true=true, first=first)


SAID, LIKELY, UNLIKELY = target(-1.0, right=2), target(-2.0, right=1), target(-9.0)


@pytest.mark.parametrize(
    ("new", "true", "expected"),
    [
        (SAID, UNLIKELY, "said"),
        (SAID, None, "said"),
        (LIKELY, UNLIKELY, "preferred"),
        (LIKELY, target(-0.5), "not learned"),
        (LIKELY, LIKELY, "not learned"),
        (LIKELY, None, "not learned"),
        # By token: four tokens of a half nat each are likelier than one of a whole nat.
        (target(-2.0, tokens=4), target(-1.0, tokens=1), "preferred"),
    ],
)
def test_what_became_of_an_answer(new, true, expected) -> None:
    assert outcome(prompt(new, true)) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (prompt(UNLIKELY, SAID), prompt(UNLIKELY, SAID), True),
        (prompt(UNLIKELY, SAID), prompt(UNLIKELY, SAID, first=6), False),
        # The same first token, and then another answer than its own.
        (prompt(UNLIKELY, SAID), prompt(UNLIKELY, LIKELY), False),
        # The model never gave the neighbour's own answer: what it said must stay.
        (prompt(UNLIKELY, LIKELY), prompt(UNLIKELY, UNLIKELY), True),
        (prompt(UNLIKELY), prompt(UNLIKELY), True),
        (prompt(UNLIKELY), prompt(UNLIKELY, first=6), False),
    ],
)
def test_what_a_neighbour_kept(before, after, expected) -> None:
    assert kept(before, after) is expected


CASES = st.tuples(st.sampled_from([SAID, LIKELY, UNLIKELY]), st.sampled_from([None, LIKELY, UNLIKELY]))
FACTS = st.lists(st.tuples(CASES, st.lists(st.booleans(), max_size=3)), max_size=8)


@given(FACTS)
def test_every_fact_counts_once_and_every_neighbour_too(cases) -> None:
    before, after = [], []
    for i, ((new, true), stay) in enumerate(cases):
        old = [prompt(UNLIKELY) for _ in stay]
        now = [prompt(UNLIKELY, first=5 if same else 6) for same in stay]
        before.append(FactScore(id=str(i), prompt=prompt(UNLIKELY, true), neighbours=tuple(old)))
        after.append(FactScore(id=str(i), prompt=prompt(new, true), neighbours=tuple(now)))
    found = verdict_of(tuple(before), tuple(after))
    outcomes = [outcome(score.prompt) for score in after]
    assert [found.said, found.preferred, found.not_learned] == [
        outcomes.count(name) for name in ("said", "preferred", "not learned")
    ]
    assert found.facts == len(cases)
    assert (found.neighbours, found.neighbours_kept) == (
        sum(len(stay) for _, stay in cases),
        sum(sum(stay) for _, stay in cases),
    )


MEASURED = {"es": Metric(97.0, None, 3), "ns": Metric(70.0, None, 3), "ps": Metric(None, None, 0)}
BEFORE = {"ns": Metric(72.5, None, 3), "es": Metric(1.0, None, 3)}


@pytest.mark.parametrize(
    ("text", "found", "met"),
    [
        ("said=75", 75.0, True),
        ("said=75.1", 75.0, False),
        ("said=80%", 75.0, False),
        ("preferred = 100", 100.0, True),
        ("kept=50", None, False),
        ("es=97", 97.0, True),
        ("ns_drop=2.5", 2.5, True),
        ("NS-drop=2", 2.5, False),
        ("es_drop=0", -96.0, True),
        ("ps=90", None, False),
        ("ps_drop=3", None, False),
    ],
)
def test_requirements_are_judged(text, found, met) -> None:
    (wish,) = parse_requirements([text])
    verdict = Verdict(facts=4, said=3, preferred=1)
    judged = wish.judged(BEFORE, MEASURED | verdict.metrics())
    assert (judged.found, judged.met) == (found, met)
    assert judged.text.startswith("Met: " if met else "NOT MET: ")


def test_drift_is_bounded_from_above() -> None:
    (wish,) = parse_requirements(["kl=0.1"], ("drift",))
    assert wish.name == "kl_drift"
    assert wish.judged({}, {"kl_drift": Metric(0.1, None, 9)}).met
    assert not wish.judged({}, {"kl_drift": Metric(0.11, None, 9)}).met


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["sayd=90"], "did you mean 'said'?"),
        (["nonsense=90"], "At least: said, preferred, kept, score, es"),
        (["said"], "not name=number"),
        (["said="], "not name=number"),
        (["said>=90"], "'said>=90': write said=90; its name says"),
        (["said > 90"], "write said=90;"),
        (["said==90"], "write said=90;"),
        (["ns-drop<=3"], "write ns-drop=3;"),
        (["ns_drop ≤ 3"], "write ns_drop=3;"),
        (["said>="], "write said=NUMBER;"),
        (["said=many"], "not a number"),
        (["said=nan"], "not a number"),
        (["said=0.9"], "for 90%: said=90"),
        (["said=101"], "at most 100"),
        (["perplexity=20"], "errata eval measures drift"),
        (["said=90", "said=80"], "said is required twice"),
    ],
)
def test_requirements_that_make_no_sense(texts, told) -> None:
    with pytest.raises(ConfigError, match=r"^--require: ") as caught:
        parse_requirements(texts)
    assert told in str(caught.value)


def test_every_reason_is_given_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_requirements(["sayd=90", "es=many"])
    assert "'said'" in str(caught.value)
    assert "not a number" in str(caught.value)


def test_every_metric_with_a_direction_can_be_required() -> None:
    known = requirement_names({info.group for info in METRICS})
    for info in METRICS:
        assert (info.key in known) == (info.higher_is_better is not None)
        assert (f"{info.key}_drop" in known) == bool(info.higher_is_better)
    assert set(requirement_names(EDIT_GROUPS)) < set(known)
