"""What is wrong between facts: each one may be fine and both together not."""

from __future__ import annotations

from dataclasses import dataclass, field

from errata.facts.checks import quoted
from errata.facts.fact import Fact
from errata.facts.problems import Problem

_Placed = tuple[Fact, str]


@dataclass(slots=True)
class Accepted:
    """The facts accepted so far, with their places, to judge the next one against. The later of two is the bad one."""

    by_id: dict[str, _Placed] = field(default_factory=dict)
    by_text: dict[str, _Placed] = field(default_factory=dict)
    by_key: dict[str, _Placed] = field(default_factory=dict)

    def judge(self, fact: Fact, line: int | None = None, where: str = "") -> list[Problem]:
        """Errors and warnings about `fact` in the company of those before it; without errors it joins them."""
        if error := self._error(fact):
            return [Problem("error", error, line, fact.id, where)]
        warning = self._warning(fact)
        place = where or f"line {line}"
        for table, key in ((self.by_id, fact.id), (self.by_text, fact.text), (self.by_key, _seen_by_key(fact))):
            table.setdefault(key, (fact, place))
        return [Problem("warning", warning, line, fact.id, where)] if warning else []

    def _error(self, fact: Fact) -> str:
        if earlier := self.by_id.get(fact.id):
            what = "repeats the fact" if _same(earlier[0], fact) else f"id {fact.id!r} is already that of the fact"
            return f"{what} at {earlier[1]}"
        earlier = self.by_text.get(fact.text)
        if earlier and not _same(earlier[0], fact):
            return (
                f"contradicts the fact at {earlier[1]}: {quoted(fact.text)} is answered by "
                f"{quoted(earlier[0].target_new)} there and {quoted(fact.target_new)} here"
            )
        return ""

    def _warning(self, fact: Fact) -> str:
        if earlier := self.by_text.get(fact.text):
            return f"repeats the fact at {earlier[1]} under another id"
        seen = _seen_by_key(fact)
        if earlier := self.by_key.get(seen):
            return (
                f"has the same key as the fact at {earlier[1]}: both texts begin with {quoted(seen)}, and keys do not "
                "see what follows the subject; expect the two answers to mix"
            )
        return ""


def _seen_by_key(fact: Fact) -> str:
    """The text up to the subject's last character: all that a key at the subject's last token depends on."""
    return fact.text[: fact.subject_span[1]]


def _same(one: Fact, other: Fact) -> bool:
    return (one.text, one.target_new.strip()) == (other.text, other.target_new.strip())
