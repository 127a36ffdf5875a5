"""Restorations, many at a time: rows enter at the first layer they differ in and climb together.

Restoring something at token t changes nothing before t, and nothing below the layer it begins in. So a restoration runs
the tokens from t on, over the corrupted run's keys and values, from its first layer on. All restorations at one token
have rows of one length, hence need no padding, and whatever kind they are of, token t is their first column: rows that
begin higher up join those on their way, until one batch of them reaches the top. Equals one full run a restoration
(tests/reference/trace.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from errata.models import Held, LanguageModel, Place, outputs_held, run_layers
from errata.tracing.config import Kind, window_of
from errata.tracing.runs import WRITERS, States, answer_probability, final_hidden, prefix_of


@dataclass(frozen=True)
class Cell:
    """One restoration at a token: its first layer run, and the layers whose writer is held, clean or corrupted.

    first: the layer that the rows enter.  writer: "mlp" or "attention", None where nothing is held.  The hidden state
    entering `first` is the clean one where `hidden`.
    """

    first: int
    hidden: bool
    writer: str | None = None
    held: range = range(0)


def cell_of(kind: Kind, layer: int, window: int, num_layers: int) -> Cell:
    """What restoring `kind` at `layer` means for the rows that run it."""
    if kind in WRITERS:
        held = window_of(layer, window, num_layers)
        return Cell(held.start, False, kind, held)
    # Below the restored layer a severed writer writes what it wrote anyway.
    writer = None if kind == "hidden" else kind.removesuffix(" severed")
    return Cell(layer + 1, True, writer, range(layer + 1, num_layers) if writer else range(0))


@torch.no_grad()
def restored_probabilities(
    lm: LanguageModel,
    clean: States,
    corrupted: States,
    position: int,
    cells: Sequence[Cell],
    answer: int,
    *,
    batch_tokens: int,
) -> Float64[Tensor, "cell sample"]:
    """The answer's probability in every corrupted run with each cell restored at one token."""
    samples, length = corrupted.entering[0].shape[:2]
    width = length - (position - corrupted.start)
    rows = sorted(((cell.first, c, s) for c, cell in enumerate(cells) for s in range(samples)), key=lambda row: row[0])
    most = max(1, batch_tokens // width)
    found = torch.zeros(len(cells), samples, dtype=torch.float64)
    for at in range(0, len(rows), most):
        group = [(cells[c], c, s) for _, c, s in rows[at : at + most]]
        climb = _Climb(lm, clean, corrupted, position, [cell for cell, _, _ in group], [s for _, _, s in group])
        values = answer_probability(lm, climb.top(), answer)
        found[[c for _, c, _ in group], [s for _, _, s in group]] = values
    return found


@dataclass(frozen=True)
class _Climb:
    """Rows in the order of their first layers, each a cell in one sample."""

    lm: LanguageModel
    clean: States
    corrupted: States
    position: int
    cells: Sequence[Cell]
    samples: Sequence[int]

    def top(self) -> Float[Tensor, "row d_head"]:
        """The backbone's output at the last position of every row."""
        hidden: Tensor | None = None
        for first, stop, joining in self._stretches():
            entering = self._entering(first, joining)
            hidden = entering if hidden is None else torch.cat([hidden, entering])
            if first < stop:
                hidden = self._run(hidden, first, stop)
        assert hidden is not None
        return final_hidden(self.lm, hidden[:, -1])

    def _stretches(self) -> Iterator[tuple[int, int, range]]:
        """Layers [first, stop) that run without anyone joining, and the rows that join at their beginning."""
        starts = sorted({cell.first for cell in self.cells})
        joined = 0
        for first, stop in pairwise([*starts, self.lm.num_layers]):
            count = sum(cell.first == first for cell in self.cells)
            yield first, stop, range(joined, joined + count)
            joined += count

    def _entering(self, layer: int, rows: range) -> Float[Tensor, "row pos d_model"]:
        """The corrupted runs' states from the token on, the token's own clean where the hidden state is restored."""
        at = self.position - self.corrupted.start
        entering = self.corrupted.entering[layer][self.samples[rows.start : rows.stop], at:]
        restored = [i for i, row in enumerate(rows) if self.cells[row].hidden]
        entering[restored, 0] = self.clean.entering[layer][0, at]
        return entering

    def _run(self, hidden: Float[Tensor, "row pos d_model"], first: int, stop: int) -> Tensor:
        layers = range(first, stop)
        count = len(hidden)
        rows = torch.tensor(self.samples[:count], device=hidden.device)
        mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        prefix = prefix_of(self.corrupted, self.position, rows, layers)
        with outputs_held(self.lm, self._held(layers, count), batch=count):
            run = run_layers(self.lm, hidden, mask, first=first, stop=stop, prefix=prefix)
        assert run.hidden is not None
        return run.hidden

    def _held(self, layers: range, count: int) -> dict[Place, Held]:
        found = {}
        for layer in layers:
            for writer, matrix in WRITERS.items():
                rows = [i for i in range(count) if self.cells[i].writer == writer and layer in self.cells[i].held]
                if rows:
                    found[Place(layer, matrix)] = Held(
                        torch.tensor(rows, device=self.lm.device), self._values(layer, writer, rows)
                    )
        return found

    def _values(self, layer: int, writer: str, rows: Sequence[int]) -> Float[Tensor, "row d_model"]:
        """What the writer wrote at the token: in the corrupted run where the hidden state is restored, else clean."""
        at = self.position - self.corrupted.start
        values = self.corrupted.written[writer][layer][[self.samples[i] for i in rows], at]
        windows = [n for n, i in enumerate(rows) if not self.cells[i].hidden]
        values[windows] = self.clean.written[writer][layer][0, at]
        return values
