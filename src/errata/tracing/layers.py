"""Which layers to edit: ranges proposed from where a subject's state needs its MLPs."""

from collections.abc import Sequence
from typing import NamedTuple

from errata.errors import InputError
from errata.tracing.average import LAST_SUBJECT, AverageTrace, mean_of

WIDTHS = (3, 4, 5, 6)


class LayerRange(NamedTuple):
    """Layers `first` … `last`, the mean gap over them in probability, and half its 95 % interval over facts."""

    first: int
    last: int
    gap: float
    interval: float

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(range(self.first, self.last + 1))


def propose_layers(result: AverageTrace, *, widths: Sequence[int] = WIDTHS) -> list[LayerRange]:
    """Ranges of layers for MEMIT, the best first, from an average over known facts.

    At the subject's last token, gap(ℓ) = effect of restoring layer ℓ's output − the same with that token's MLPs
    severed: what the restored state does only by way of the token's MLPs. MEMIT edits the layers where it is wide (Meng
    et al. 2023, section 4); so a range's score is its mean gap, the mean over facts of the mean over its layers.
    Overlapping ranges follow each other closely, and averages over few facts are noisy: ranges whose intervals overlap
    are not told apart. Ranges without a positive gap are left out. Raises InputError where there is no severed effect
    at the subject's last token, or a width is no number of layers.
    """
    if not widths or min(widths) < 1:
        raise InputError(f"widths={list(widths)}: give one or more numbers of layers.")
    gaps = [
        [a - b for a, b in zip(one.effects["hidden", LAST_SUBJECT], severed, strict=True)]
        for one in result.facts
        if (severed := one.effects.get(("mlp severed", LAST_SUBJECT))) is not None
    ]
    if not gaps:
        raise InputError(
            "The average has no severed effects at the subject's last token; trace with severed='last subject' (and "
            "the kind 'hidden'), facts whose subject does not end the prompt."
        )
    found = []
    for width in widths:
        for first in range(result.num_layers - width + 1):
            gap = mean_of([sum(row[first : first + width]) / width for row in gaps])
            if gap.value > 0:
                found.append(LayerRange(first, first + width - 1, gap.value, gap.interval))
    return sorted(found, key=lambda one: (-one.gap, one.first, one.last))
