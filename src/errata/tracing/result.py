"""The trace of one prompt: what each restoration does to the answer's probability, as numbers, rows and a grid."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float64
from torch import Tensor

from errata.core.words import counted, printable, shortened
from errata.errors import InputError
from errata.tracing.config import Kind, TraceConfig
from errata.tracing.correlation import pearson, spearman

if TYPE_CHECKING:
    from errata.views.grid import Grid


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """Probabilities of one token, the answer's first, right after one prompt. Layers and positions are 0-based.

    subject_tokens: its first and last.  own: the model's own next token.  std: of the subjects' token embeddings.
    clean, samples: the probability without corruption, and in each corrupted run.  restored: the mean over those runs
    with one state restored, NaN where none was.  attribution: what their gradients foretell of `effect`.
    """

    model: str
    prompt: str
    subject: str
    subject_tokens: tuple[int, int]
    answer: str
    answer_id: int
    own: str
    own_id: int
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    segments: Mapping[str, tuple[int, ...]]
    config: TraceConfig
    std: float
    clean: float
    samples: tuple[float, ...]
    restored: Mapping[Kind, Float64[Tensor, "layer pos"]]
    attribution: Mapping[Kind, Float64[Tensor, "layer pos"]]
    notes: tuple[str, ...] = ()

    @property
    def corrupted(self) -> float:
        return math.fsum(self.samples) / len(self.samples)

    @property
    def total_effect(self) -> float:
        """Clean − corrupted probability."""
        return self.clean - self.corrupted

    @property
    def num_layers(self) -> int:
        return len(next(iter(self.attribution.values())))

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What was restored, or where nothing was, what is attributed."""
        return tuple(self.restored) or tuple(self.attribution)

    def effect(self, kind: Kind = "hidden") -> Float64[Tensor, "layer pos"]:
        """The indirect effect, restored − corrupted probability; exactly 0 before the subject, NaN where not run.

        Raises InputError for a kind that was not restored.
        """
        if kind not in self.restored:
            known = ", ".join(self.restored) or "none (exact=False)"
            raise InputError(f"{kind!r} was not restored in this trace; restored: {known}.")
        return self.restored[kind] - self.corrupted

    def correlation(self, kind: Kind = "hidden") -> tuple[float, float]:
        """Pearson's and Spearman's correlation of attribution and effect, over layers and tokens from the subject on.

        NaN where one of them does not vary. InputError for a kind that has not both.
        """
        if kind not in self.attribution:
            raise InputError(f"{kind!r} has no attribution; it is made of {', '.join(self.attribution)}.")
        start = self.subject_tokens[0]
        attributed, found = self.attribution[kind][:, start:], self.effect(kind)[:, start:]
        run = ~found.isnan()
        return pearson(attributed[run], found[run]), spearman(attributed[run], found[run])

    def rows(self) -> Iterator[dict[str, Any]]:
        """One record a cell, for data frames."""
        names = {at: ", ".join(n for n, places in self.segments.items() if at in places) for at in range(len(self.ids))}
        for kind in self.kinds:
            effects = self.effect(kind).tolist() if kind in self.restored else None
            attributed = self.attribution[kind].tolist() if kind in self.attribution else None
            for layer in range(self.num_layers):
                for at, token in enumerate(self.tokens):
                    effect = effects[layer][at] if effects else math.nan
                    if math.isnan(effect) and not attributed:
                        continue
                    yield {
                        "kind": kind,
                        "layer": layer,
                        "position": at,
                        "token": token,
                        "segment": names[at],
                        "restored": None if math.isnan(effect) else float(self.restored[kind][layer, at]),
                        "effect": None if math.isnan(effect) else effect,
                        "attribution": attributed[layer][at] if attributed else None,
                        "clean": self.clean,
                        "corrupted": self.corrupted,
                    }

    def grid(self) -> "Grid":
        """The trace as plain data for the views."""
        from errata.reports.trace_grid import trace_grid

        return trace_grid(self)

    def __repr__(self) -> str:
        prompt, subject, answer = (printable(shortened(one, 80)) for one in (self.prompt, self.subject, self.answer))
        return (
            f"Trace of {self.model} at “{prompt}” → “{answer}”: {self.clean:.1%}, with “{subject}” corrupted "
            f"{self.corrupted:.1%}.\n"
            f"{counted(self.num_layers, 'layer')}, {counted(len(self.ids), 'token')}; "
            f"{'restored' if self.restored else 'attributed'}: {', '.join(self.kinds)}."
        )

    def _repr_html_(self) -> str:
        from errata.views.html import notebook

        return notebook(self.grid())
