"""Which layers to edit: ranges proposed from where a subject's state needs the MLPs above it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from errata.errors import InputError
from errata.tracing.average import AverageTrace


class LayerRange(NamedTuple):
    """Layers `first` … `last`, and how much of the gap they close (percentage points of probability / 100).

    gap: the mean gap within the range.
    """

    first: int
    last: int
    score: float
    gap: float

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(range(self.first, self.last + 1))


def propose_layers(result: AverageTrace, *, widths: Sequence[int] = (3, 4, 5, 6)) -> list[LayerRange]:
    """Ranges of layers for MEMIT, the best first, from an average over known facts.

    At the subject's last token, gap(ℓ) = effect of restoring layer ℓ's output − the same with that token's MLPs
    severed: what the restored state does only through the MLPs above ℓ (Meng et al. 2023, section 4.1). Where the gap
    is wide, the MLPs above are still needed; where it has closed, they have done their work. So the MLPs of layers
    a … b matter by what the gap loses over them, gap(a − 1) − gap(b) (gap(−1) is taken as gap(0), which a layer 0 that
    nothing comes before cannot close), and a range's score is that loss times its mean gap before the range ends, per
    square root of its width, so that a wider range must earn its layers. Ranges that lose nothing are left out. Raises
    InputError where there is no severed effect at the subject's last token.
    """
    plain, severed = result.effects("hidden"), result.effects("mlp severed")
    return ranked_ranges([a - b for a, b in zip(plain, severed, strict=True)], widths)


def ranked_ranges(gap: Sequence[float], widths: Sequence[int]) -> list[LayerRange]:
    """The ranges for gaps by layer."""
    if any(math.isnan(value) for value in gap):
        raise InputError(
            "The average has no severed effects at the subject's last token; trace with severed='last subject' (and "
            "the kind 'hidden'), on facts whose subject does not end the prompt."
        )
    found = []
    for width in widths:
        for first in range(len(gap) - width + 1):
            last = first + width - 1
            lost = gap[max(0, first - 1)] - gap[last]
            if lost > 0:
                found.append(LayerRange(first, last, lost, math.fsum(gap[first : last + 1]) / width))
    return sorted(found, key=lambda one: (-one.score, one.first, one.last))
