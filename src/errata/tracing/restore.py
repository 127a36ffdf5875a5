"""Restorations, many at a time: rows enter at the first layer they differ in and climb together.

Restoring something at token t changes nothing before t, and nothing below the layer it begins in. So a restoration runs
the tokens from t on, over the corrupted run's keys and values, from its first layer on. All restorations at one token
have rows of one length, hence need no padding, and whatever kind they are of, token t is their first column: rows that
begin higher up join those on their way, until one batch of them reaches the top. In the first layer of a window only
token t differs, so that layer runs for one column. Equals one full run a restoration (tests/reference/trace.py).
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

    first: the lowest layer that all columns enter.  writer: "mlp" or "attention", None where nothing is held.  What
    enters `first` at the token is the clean state where `hidden`, else the corrupted one changed by the window's first
    layer.
    """

    first: int
    hidden: bool
    writer: str | None = None
    held: range = range(0)


def cell_of(kind: Kind, layer: int, window: int, num_layers: int) -> Cell:
    """What restoring `kind` at `layer` means for the rows that run it."""
    if kind in WRITERS:
        held = window_of(layer, window, num_layers)
        return Cell(held.start + 1, False, kind, held)
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
                hidden = self._run(hidden, range(len(hidden)), first, stop)
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
        """The corrupted runs' states from the token on, the token's own clean or changed by a window's first layer."""
        at = self.position - self.corrupted.start
        entering = self.corrupted.entering[layer][self.samples[rows.start : rows.stop], at:]
        restored = [i for i, row in enumerate(rows) if self.cells[row].hidden]
        entering[restored, 0] = self.clean.entering[layer][0, at]
        windows = [row for row in rows if not self.cells[row].hidden]
        if windows:
            below = self.corrupted.entering[layer - 1][[self.samples[row] for row in windows], at : at + 1]
            entering[[row - rows.start for row in windows], :1] = self._run(below, windows, layer - 1, layer)
        return entering

    def _run(
        self, hidden: Float[Tensor, "row pos d_model"], rows: Sequence[int], first: int, stop: int
    ) -> Float[Tensor, "row pos d_model"]:
        """Layers [first, stop) on the states of some rows."""
        layers = range(first, stop)
        samples = torch.tensor([self.samples[row] for row in rows], device=hidden.device)
        mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        prefix = prefix_of(self.corrupted, self.position, samples, layers)
        with outputs_held(self.lm, self._held(layers, rows), batch=len(rows)):
            run = run_layers(self.lm, hidden, mask, first=first, stop=stop, prefix=prefix)
        assert run.hidden is not None
        return run.hidden

    def _held(self, layers: range, rows: Sequence[int]) -> dict[Place, Held]:
        found = {}
        for layer in layers:
            for writer, matrix in WRITERS.items():
                cells = [self.cells[row] for row in rows]
                held = [i for i, cell in enumerate(cells) if cell.writer == writer and layer in cell.held]
                if held:
                    found[Place(layer, matrix)] = Held(
                        torch.tensor(held, device=self.lm.device),
                        self._values(layer, writer, [rows[i] for i in held]),
                    )
        return found

    def _values(self, layer: int, writer: str, rows: Sequence[int]) -> Float[Tensor, "row d_model"]:
        """What the writer wrote at the token: in the corrupted run where the hidden state is restored, else clean."""
        at = self.position - self.corrupted.start
        values = self.corrupted.written[writer][layer][[self.samples[i] for i in rows], at]
        windows = [n for n, i in enumerate(rows) if not self.cells[i].hidden]
        values[windows] = self.clean.written[writer][layer][0, at]
        return values
