"""Which layers to edit: ranges proposed from where a subject's state stops needing the MLPs above it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from errata.errors import InputError
from errata.tracing.average import AverageTrace

WIDTHS = (3, 4, 5, 6)


class LayerRange(NamedTuple):
    """Layers `first` … `last`.  closed: how much of the gap they close, in probability.  score: closed/√width."""

    first: int
    last: int
    closed: float
    score: float

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(range(self.first, self.last + 1))


def propose_layers(result: AverageTrace, *, widths: Sequence[int] = WIDTHS) -> list[LayerRange]:
    """Ranges of layers for MEMIT, the best first, from an average over known facts.

    At the subject's last token, gap(ℓ) = effect of restoring layer ℓ's output − the same with that token's MLPs
    severed: what the restored state does only by way of the MLPs above ℓ (Meng et al. 2023, section 4). An MLP that
    the answer needs keeps the gap open below it and no longer above it, so the MLPs of layers a … b are worth
    closed = gap(a − 1) − gap(b) (for a = 0, which nothing comes before, gap(0) − gap(b)). A range's score is
    closed/√width: a layer that closes nothing makes a range worse, one that closes as much as the others better.
    Ranges that close nothing are left out. Averages over few facts are noisy: look at the intervals. Raises InputError
    where there is no severed effect at the subject's last token, or a width is no number of layers.
    """
    plain, severed = result.effects("hidden"), result.effects("mlp severed")
    return ranked_ranges([a - b for a, b in zip(plain, severed, strict=True)], widths)


def ranked_ranges(gap: Sequence[float], widths: Sequence[int]) -> list[LayerRange]:
    """The ranges of the given widths, for gaps by layer."""
    if any(math.isnan(value) for value in gap):
        raise InputError(
            "The average has no severed effects at the subject's last token; trace with severed='last subject' (and "
            "the kind 'hidden'), facts whose subject does not end the prompt."
        )
    if not widths or min(widths) < 1:
        raise InputError(f"widths={list(widths)}: give one or more numbers of layers.")
    found = []
    for width in widths:
        for first in range(len(gap) - width + 1):
            last = first + width - 1
            closed = gap[max(0, first - 1)] - gap[last]
            if closed > 0:
                found.append(LayerRange(first, last, closed, closed / math.sqrt(width)))
    return sorted(found, key=lambda one: (-one.score, one.first, one.last))
