"""What became of every fact, for a plain sentence: said, run on, only preferred, not learned; what neighbours kept.

*Said*: greedy decoding writes the answer after the prompt (every token of it is the model's first choice) and does not
go on with its last word or number. *Runs on*: it does go on, as 47 that becomes 477. *Preferred*:
it does not write the answer, but the new one is likelier than the old one (by token, as in ES); a fact without an old
answer cannot be preferred. *Kept*, of a neighbour: its prompt's next token is what it was, and where the
model gave the neighbour's own answer before, it still gives the whole of it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from errata.evaluate.metrics import Metric
from errata.evaluate.scores import FactScore, PromptScore

Outcome = Literal["said", "runs on", "preferred", "not learned"]


def outcome(after: PromptScore) -> Outcome:
    """What became of the new answer after this prompt."""
    if after.new.correct:
        return "runs on" if after.runs_on else "said"
    return "preferred" if after.true is not None and after.new.nll < after.true.nll else "not learned"


def kept(before: PromptScore, after: PromptScore) -> bool:
    """Whether a neighbour's prompt is answered as before."""
    if before.true is not None and after.true is not None and before.true.correct and not after.true.correct:
        return False
    return before.first == after.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How many facts are said, run on, are only preferred, or neither; and how many neighbours kept their answer."""

    facts: int = 0
    said: int = 0
    runs_on: int = 0
    preferred: int = 0
    neighbours: int = 0
    neighbours_kept: int = 0

    @property
    def not_learned(self) -> int:
        return self.facts - self.said - self.runs_on - self.preferred

    def with_fact(self, before: FactScore, after: FactScore) -> Verdict:
        """The verdict with one more fact."""
        found = outcome(after.prompt)
        pairs = list(zip(before.neighbours, after.neighbours, strict=True))
        return Verdict(
            facts=self.facts + 1,
            said=self.said + (found == "said"),
            runs_on=self.runs_on + (found == "runs on"),
            preferred=self.preferred + (found == "preferred"),
            neighbours=self.neighbours + len(pairs),
            neighbours_kept=self.neighbours_kept + sum(kept(one, other) for one, other in pairs),
        )

    def metrics(self) -> dict[str, Metric]:
        """Shares in percent under the names that can be required. "preferred" counts the facts that are said too."""
        at_least_preferred = self.said + self.runs_on + self.preferred
        return {
            "said": _share(self.said, self.facts),
            "preferred": _share(at_least_preferred, self.facts),
            "kept": _share(self.neighbours_kept, self.neighbours),
        }

    def to_json(self) -> dict[str, int]:
        """The counts as plain JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"not_learned": self.not_learned}


# What `Verdict.metrics` gives, with its meaning.
VERDICT_NAMES = {
    "said": "facts whose answer the model says, and ends there",
    "preferred": "facts whose new answer is said, or at least likelier than the old one",
    "kept": "neighbours that are answered as before",
}


def verdict_of(before: tuple[FactScore, ...], after: tuple[FactScore, ...]) -> Verdict:
    """The verdict on the same facts measured before and after."""
    found = Verdict()
    for one, other in zip(before, after, strict=True):
        found = found.with_fact(one, other)
    return found


def _share(part: int, whole: int) -> Metric:
    return Metric(100 * part / whole if whole else None, None, whole)
