"""The verdict in words: one sentence, and a card for each fact that is not said."""

from collections.abc import Mapping
from typing import Any

from errata.core.words import counted, printable, shortened
from errata.views.text_tables import text_table

_MOST_CARDS = 10
_CARD = {"not learned": "is not learned", "preferred": "is only preferred", "runs on": "runs on"}
_MOST_ROWS = 1000


def headline(report: Mapping[str, Any]) -> str:
    """What an edit came to: the failure if it is one, the sentence, second tries, and cards of what is not said."""
    verdict = report.get("verdict")
    parts = [f"FAILED: {report['failed']}"] if report.get("failed") else []
    parts.append(verdict_sentence(report))
    if verdict is None:
        return "\n".join(parts)
    if told := _second_tries(verdict):
        parts.append(told)
    return "\n".join([*parts, *_cards(verdict["of_facts"])])


def verdict_sentence(report: Mapping[str, Any]) -> str:
    """The sentence of a report, which says so where nothing was measured."""
    if report.get("verdict") is None:
        return "Not measured: whether the facts are said is not known (errata eval tells)."
    return sentence(report["verdict"])


def sentence(verdict: Mapping[str, Any]) -> str:
    """The counts as one sentence."""
    return f"{_facts(verdict)}{_neighbours(verdict)}."


def explained() -> str:
    """What the words of the sentence mean, said once."""
    return (
        "Said: greedy decoding writes the answer after the prompt. Runs on: it does, and goes on with the answer's "
        "last word or number. Preferred: it does not, but the new answer is likelier than the old one. Kept: the token "
        "after a neighbour's prompt is the same as before, and where the model gave the neighbour's own answer, it "
        "still gives all of it."
    )


def every_fact(report: Mapping[str, Any]) -> str:
    """What became of each fact, as a table for the file; empty where nothing was measured."""
    of_facts = (report.get("verdict") or {}).get("of_facts", [])
    if not of_facts:
        return ""
    rows = [
        [shortened(one["prompt"], 100), shortened(one["target_new"], 60), one["outcome"], shortened(one["says"], 80)]
        for one in of_facts[:_MOST_ROWS]
    ]
    rest = len(of_facts) - len(rows)
    more = f"\n\n... and {counted(rest, 'more fact')} in report.json" if rest else ""
    return "Every fact:\n\n" + text_table(["prompt", "answer", "outcome", "says now"], rows) + more


def _facts(verdict: Mapping[str, Any]) -> str:
    facts, said, preferred, missed = (verdict[name] for name in ("facts", "said", "preferred", "not_learned"))
    longer = verdict.get("runs_on", 0)
    if facts == 1:
        return f"The fact {_one(said, longer, preferred)}"
    if facts in (said, missed):
        return f"All {facts:,} facts are said" if said else f"None of the {facts:,} facts is learned"
    head = f"{f'{said:,}' if said else 'None'} of {facts:,} facts {'are' if said > 1 else 'is'} said"
    more = {"said but run on" if longer > 1 else "said but runs on": longer}
    more |= {"only preferred": preferred, "not learned": missed}
    return ", ".join([head, *(f"{number:,} {name}" for name, number in more.items() if number)])


def _one(said: int, longer: int, preferred: int) -> str:
    if longer:
        return "is said, but the answer runs on"
    return "is said" if said else "is only preferred, not said" if preferred else "is not learned"


def _neighbours(verdict: Mapping[str, Any]) -> str:
    every, kept = verdict["neighbours"], verdict["neighbours_kept"]
    if not every:
        return ""
    if every == 1:
        return f"; the one neighbour {'kept' if kept else 'lost'} its answer"
    if kept == every:
        return f"; all {every:,} neighbours kept their answer"
    return f"; {kept:,} of {every:,} neighbours kept {'its' if kept == 1 else 'their'} answer"


def _second_tries(verdict: Mapping[str, Any]) -> str:
    tries, found = verdict.get("second_tries", 0), verdict.get("second_tries_found", 0)
    if not tries:
        return ""
    if tries == 1:
        return (
            f"1 fact needed a second try for its target value, which {'found one' if found else 'found none either'}."
        )
    which = "and all" if found == tries else f"and {found:,} of them" if found else "and none"
    return f"{tries:,} facts needed a second try for their target values, {which} found one."


def _cards(of_facts: list[dict[str, Any]]) -> list[str]:
    """One card a fact that is not said, those that are not even preferred first; the rest is counted."""
    worst_first = ("not learned", "preferred", "runs on")
    unsaid = [one for outcome in worst_first for one in of_facts if one["outcome"] == outcome]
    shown = unsaid[:_MOST_CARDS]
    rest = len(unsaid) - len(shown)
    more = [
        f"\n... and {counted(rest, 'more fact')} that {'is' if rest == 1 else 'are'} not said: report.json has all."
    ]
    return [*map(_card, shown), *(more if rest else [])]


def _card(one: Mapping[str, Any]) -> str:
    says = f"“{printable(shortened(one['says'], 80))}”" if one["says"].strip() else "nothing: the text ends here"
    return (
        f"\n✗ {printable(shortened(one['subject'], 60))}: “{printable(shortened(one['prompt'], 100))}” → "
        f"“{printable(shortened(one['target_new'], 60))}” {_CARD[one['outcome']]}\n"
        f"    says now: {says}\n"
        f"    why: {printable(one['why'])}\n"
        f"    try: {printable(one['try'])}"
    )
