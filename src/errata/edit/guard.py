"""What is no success although it has numbers: an edit that wrecked the weights, made things worse, or was not learned.

A prior that is too weak for a model's second moments gives an update many times as large as the weights, and whatever
is measured on such a model means nothing. Where a method's own strength can hold it back, its layers are solved again
with ten times as much of it; target values, which are the costly part, do not depend on it. An edit that passes at once
keeps its bits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from errata.core.updates import WeightUpdate
from errata.core.words import counted
from errata.edit.check import answered
from errata.edit.method import Edit
from errata.edit.values.layer_loop import Solution
from errata.edit.values.prompt_rows import rewriting_rows
from errata.facts import Fact
from errata.models import LanguageModel, Place, relative_norm, updates_applied, weight_of

# ‖ΔW‖/‖W‖ from which no edit that was measured was of any use.
LARGEST_UPDATE = 3.0
# Beside too few facts said, an update of this size shows that it is the weights that suffer.
_LARGE_UPDATE = 1.0
_LEAST_SAID = 0.1
_FEWEST_FOR_A_SHARE = 10
_FACTOR, _RAISES = 10.0, 3
# Of the values' own size: less growth is rounding, where nothing was missing to begin with.
_GROWTH = 1e-3


@dataclass(frozen=True)
class Guarded:
    """The solution that is kept, with the strength it was made with, and what was given up before it, as plain JSON.

    said: facts that the model then says.  excess: what is still wrong with it, in a clause; None for nothing.
    """

    solution: Solution
    strength: float
    said: int
    given_up: tuple[Mapping[str, Any], ...]
    excess: str | None

    def metrics(self, name: str) -> dict[str, Any]:
        """What the report says of it."""
        return {"said": self.said, name: self.strength, "given_up": list(self.given_up), "excess": self.excess}


def guarded(
    lm: LanguageModel,
    facts: Sequence[Fact],
    attempt: Callable[[float], Solution],
    strength: float,
    *,
    size: float,
    name: str,
) -> Guarded:
    """`attempt` with this strength, and with ten times as much up to three times while it is out of proportion.

    size: the norm of a target value.  name: the strength's, for what is given up.
    """
    given_up: list[Mapping[str, Any]] = []
    while True:
        solution = attempt(strength)
        updates = {Place(layer.layer, "down"): layer.update for layer in solution.layers}
        said = said_with(lm, facts, updates)
        norms = {str(Place(layer.layer, "down")): layer.relative_norm for layer in solution.layers}
        excess = _out_of_proportion(norms, said, len(facts)) or _grown(solution, size)
        if excess is None or strength == 0 or len(given_up) == _RAISES:
            return Guarded(solution, strength, said, tuple(given_up), excess)
        given_up.append({name: strength, "because": excess})
        strength *= _FACTOR


def with_guard(lm: LanguageModel, facts: Sequence[Fact], edit: Edit) -> Edit:
    """The edit of a method that has no strength to raise, with what is wrong with it."""
    if "guard" in edit.metrics:
        return edit
    norms = {str(place): relative_norm(update, weight_of(lm, place)) for place, update in edit.updates.items()}
    said = said_with(lm, facts, edit.updates)
    excess = _out_of_proportion(norms, said, len(facts))
    metrics = {**edit.metrics, "guard": {"said": said, "excess": excess}}
    return replace(edit, metrics=metrics, failed=None if excess is None else failure(excess))


def failure(excess: str) -> str:
    """`Edit.failed` for what is wrong."""
    return f"{excess[0].upper()}{excess[1:]}. The patch is kept to look at, not to use."


def few_said(said: int, facts: int, preferred: int = 0) -> str | None:
    """`Edit.failed` where fewer than a tenth of the facts are said.

    preferred: of the others, how many new answers are known to have become likelier than the old ones. With fewer than
    ten facts a tenth means one, and one that came half the way is enough.
    """
    if said >= _LEAST_SAID * facts or (preferred and facts < _FEWEST_FOR_A_SHARE):
        return None
    return failure(f"of {counted(facts, 'fact')} the model says {said or 'none'} afterwards")


def said_with(lm: LanguageModel, facts: Sequence[Fact], updates: Mapping[Place, WeightUpdate]) -> int:
    """How many facts' whole answers are the model's first choice, token after token, with the updates on."""
    with updates_applied(lm, updates):
        return said_now(lm, facts)


def said_now(lm: LanguageModel, facts: Sequence[Fact]) -> int:
    """The same of the model as it is."""
    return sum(answered(lm, rewriting_rows(lm, facts, ("",))))


def _out_of_proportion(norms: Mapping[str, float], said: int, facts: int) -> str | None:
    place = max(norms, key=lambda one: norms[one], default=None)
    if place is None:
        return None
    moved = f"{place} moved by {norms[place]:.3g} times its own norm"
    if norms[place] > LARGEST_UPDATE:
        return moved
    return (
        f"{moved} and {said} of {facts:,} facts are said"
        if norms[place] > _LARGE_UPDATE and few_said(said, facts)
        else None
    )


def _grown(solution: Solution, size: float) -> str | None:
    start, end = float(solution.start_residual.mean()), float(solution.end_residual.mean())
    if end - start <= _GROWTH * size:
        return None
    return f"the facts are further from their target values than before ({end:.3g} instead of {start:.3g})"
