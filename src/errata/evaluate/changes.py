"""Which answers changed between two measurements: another first choice of the next token after the same prompt."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from errata.errors import InputError
from errata.evaluate.measure import Measurement
from errata.evaluate.metrics import Metric, Tally
from errata.evaluate.scores import FactScore, PromptScore


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Share of prompts, paraphrases and neighbours, in percent, whose first choice is another one.

    A fact with several counts once, as in every metric. Of neighbours, every change is damage; of prompts, it is the
    aim only where the new target became the answer, which accuracy tells.
    """

    prompts_changed: Metric
    paraphrases_changed: Metric
    neighbours_changed: Metric

    def metrics(self) -> dict[str, Metric]:
        """By key in METRICS."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, shares in percent."""
        found = self.metrics()
        return {
            **{name: metric.value for name, metric in found.items()},
            "interval_95": {name: metric.interval for name, metric in found.items()},
            "counts": {name: metric.count for name, metric in found.items()},
        }


def changes(before: Measurement, after: Measurement) -> Changes:
    """What changed between two measurements of the same facts. Raises InputError where their prompts differ."""
    if len(before.facts) != len(after.facts):
        raise InputError(
            f"The measurements are of {len(before.facts):,} and {len(after.facts):,} facts; give two of the same facts."
        )
    tally = Tally()
    for one, other in zip(before.facts, after.facts, strict=True):
        tally.add(changed_values(one, other))
    return changes_of(tally)


def changed_values(before: FactScore, after: FactScore) -> dict[str, float]:
    """What one fact adds to each share, in shares of 1, by key in METRICS. Raises InputError for different prompts."""
    pairs = {
        "prompts_changed": ((before.prompt,), (after.prompt,)),
        "paraphrases_changed": (before.paraphrases, after.paraphrases),
        "neighbours_changed": (before.neighbours, after.neighbours),
    }
    shares = {key: _share(before.id, one, other) for key, (one, other) in pairs.items()}
    return {key: share for key, share in shares.items() if share is not None}


def changes_of(tally: Tally) -> Changes:
    """The shares over facts from what each adds to them."""
    return Changes(**{field.name: tally.metric(field.name) for field in fields(Changes)})


def _share(name: str, before: Sequence[PromptScore], after: Sequence[PromptScore]) -> float | None:
    if [score.text for score in before] != [score.text for score in after]:
        raise InputError(f"The measurements of fact {name!r} are of different prompts; give two of the same facts.")
    known = [
        float(one.first != other.first)
        for one, other in zip(before, after, strict=True)
        if one.first is not None and other.first is not None
    ]
    return statistics.fmean(known) if known else None
