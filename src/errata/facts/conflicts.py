"""What is wrong between facts: each one may be fine and both together not."""

from __future__ import annotations

from dataclasses import dataclass, field

from errata.facts.checks import quoted
from errata.facts.fact import Fact
from errata.facts.problems import Problem

_Placed = tuple[Fact, str]
# A prompt as the model sees it: in a chat the same words are another text.
_Prompt = tuple[str, bool]


@dataclass(slots=True)
class Accepted:
    """The facts accepted so far, with their places, to judge the next one against. The later of two is the bad one."""

    by_id: dict[str, _Placed] = field(default_factory=dict)
    by_prompt: dict[_Prompt, _Placed] = field(default_factory=dict)
    by_key: dict[_Prompt, _Placed] = field(default_factory=dict)

    def judge(self, fact: Fact, line: int | None = None, where: str = "") -> list[Problem]:
        """Errors and warnings about `fact` beside those before it; without errors it joins them."""
        if error := self._error(fact):
            return [Problem("error", error, line, fact.id, where)]
        warning = self._warning(fact)
        place = where or f"line {line}"
        self.by_id.setdefault(fact.id, (fact, place))
        self.by_prompt.setdefault(_prompt(fact), (fact, place))
        self.by_key.setdefault(_seen_by_key(fact), (fact, place))
        return [Problem("warning", warning, line, fact.id, where)] if warning else []

    def _error(self, fact: Fact) -> str:
        if earlier := self.by_id.get(fact.id):
            repeats = _same(earlier[0], fact) and earlier[0].join == fact.join
            what = "repeats the fact" if repeats else f"id {fact.id!r} is already that of the fact"
            return f"{what} at {earlier[1]}"
        earlier = self.by_prompt.get(_prompt(fact))
        if earlier and not _same(earlier[0], fact):
            return (
                f"contradicts the fact at {earlier[1]}: {quoted(fact.text)} is answered by "
                f"{quoted(earlier[0].target_new)} there and {quoted(fact.target_new)} here"
            )
        return ""

    def _warning(self, fact: Fact) -> str:
        if earlier := self.by_prompt.get(_prompt(fact)):
            if earlier[0].join != fact.join:
                return f"is the fact at {earlier[1]} with another join: the model can go on in one of the two ways only"
            return f"repeats the fact at {earlier[1]} under another id"
        seen = _seen_by_key(fact)
        if earlier := self.by_key.get(seen):
            return (
                f"has the same key as the fact at {earlier[1]}: both texts begin with {quoted(seen[0])}, and keys do "
                "not see what follows the subject; expect the two answers to mix"
            )
        return ""


def _prompt(fact: Fact) -> _Prompt:
    return fact.text, fact.chat


def _seen_by_key(fact: Fact) -> _Prompt:
    """The text up to the subject's last character: all that a key at the subject's last token depends on."""
    return fact.text[: fact.subject_span[1]], fact.chat


def _same(one: Fact, other: Fact) -> bool:
    return (_prompt(one), one.target_new.strip()) == (_prompt(other), other.target_new.strip())
