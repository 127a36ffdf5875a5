"""Restorations, many at a time: rows enter at the first layer they differ in and climb together.

Restoring something at token t changes nothing before t, and nothing below the layer it begins in. So a restoration runs
the tokens from t on, over the corrupted run's keys and values, from its first layer on. All restorations at one token
have rows of one length, hence need no padding, and whatever kind they are of, token t is their first column: rows that
begin higher up join those on their way, until one batch of them reaches the top. In the first layer of a window only
token t differs, so that layer runs for one column. Windows cut off at layer 0 are one until the shorter ones end, which
join there as copies. An MLP does not run where its output is held, nor in the top layer for tokens that nobody reads.
Equals one full run a restoration (tests/reference/trace.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from errata.models import Held, LanguageModel, Place, mlps_run_at, outputs_held, run_layers
from errata.tracing.config import Kind, window_of
from errata.tracing.runs import WRITERS, States, answer_probability, final_hidden, prefix_of

_ATTENDED = 16


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
    every = sorted(((c, s) for c in range(len(cells)) for s in range(samples)), key=lambda row: cells[row[0]].first)
    # Keys and values of an earlier position take a small part of the memory that running one takes.
    most = max(1, int(batch_tokens / (width + position / _ATTENDED)))
    found = torch.zeros(len(cells), samples, dtype=torch.float64)
    for at in range(0, len(every), most):
        rows = _climbing(cells, every[at : at + most])
        values = answer_probability(lm, _Climb(lm, clean, corrupted, position, rows).top(), answer)
        found[[row.number for row in rows], [row.sample for row in rows]] = values
    return found


@dataclass(frozen=True)
class _Row:
    """Cell `number` in one sample. It joins at a layer: as a copy of row `trunk` where there is one, else by itself."""

    number: int
    cell: Cell
    sample: int
    joins: int
    trunk: tuple[int, int] | None = None


def _climbing(cells: Sequence[Cell], group: Sequence[tuple[int, int]]) -> list[_Row]:
    """The rows of a batch in the order in which they join, copies after others; trunks are the longest windows."""
    trunks: dict[tuple[str | None, int, int], tuple[int, int]] = {}
    for number, sample in sorted(group, key=lambda row: -cells[row[0]].held.stop):
        cell = cells[number]
        if not cell.hidden:
            trunks.setdefault((cell.writer, cell.held.start, sample), (number, sample))
    rows = []
    for number, sample in group:
        cell = cells[number]
        trunk = None if cell.hidden else trunks[cell.writer, cell.held.start, sample]
        # A window of one layer ends where its trunk begins.
        if trunk in (None, (number, sample)) or cell.held.stop == cell.first:
            rows.append(_Row(number, cell, sample, cell.first))
        else:
            rows.append(_Row(number, cell, sample, cell.held.stop, trunk))
    return sorted(rows, key=lambda row: (row.joins, row.trunk is not None))


@dataclass(frozen=True)
class _Climb:
    """Rows in the order in which they join."""

    lm: LanguageModel
    clean: States
    corrupted: States
    position: int
    rows: Sequence[_Row]

    def top(self) -> Float[Tensor, "row d_head"]:
        """The backbone's output at the last position of every row."""
        places = {(row.number, row.sample): i for i, row in enumerate(self.rows)}
        hidden = self.corrupted.entering[0][:0, self.position - self.corrupted.start :]
        # One layer at a time: of the tokens before, only one layer's keys and values are copied for every row.
        for layer in range(self.rows[0].joins, self.lm.num_layers + 1):
            joining = [row for row in self.rows if row.joins == layer]
            if joining:
                copied = [places[row.trunk] for row in joining if row.trunk is not None]
                entering = self._entering(layer, [row for row in joining if row.trunk is None])
                hidden = torch.cat([hidden, entering, hidden[copied]])
            if layer < self.lm.num_layers:
                hidden = self._run(hidden, self.rows[: len(hidden)], layer)
        return final_hidden(self.lm, hidden[:, -1])

    def _entering(self, layer: int, rows: Sequence[_Row]) -> Float[Tensor, "row pos d_model"]:
        """The corrupted runs' states from the token on, the token's own clean or changed by a window's first layer."""
        at = self.position - self.corrupted.start
        entering = self.corrupted.entering[layer][[row.sample for row in rows], at:]
        restored = [i for i, row in enumerate(rows) if row.cell.hidden]
        entering[restored, 0] = self.clean.entering[layer][0, at]
        windows = [i for i, row in enumerate(rows) if not row.cell.hidden]
        if windows:
            chosen = [rows[i] for i in windows]
            below = self.corrupted.entering[layer - 1][[row.sample for row in chosen], at : at + 1]
            entering[windows, :1] = self._run(below, chosen, layer - 1)
        return entering

    def _run(
        self, hidden: Float[Tensor, "row pos d_model"], rows: Sequence[_Row], layer: int
    ) -> Float[Tensor, "row pos d_model"]:
        """One layer on the states of some rows."""
        samples = torch.tensor([row.sample for row in rows], device=hidden.device)
        mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        prefix = prefix_of(self.corrupted, self.position, samples, layer)
        held = self._held(layer, rows)
        with mlps_run_at(self.lm, self._needed(held, layer, mask)), outputs_held(self.lm, held, batch=len(rows)):
            run = run_layers(self.lm, hidden, mask, first=layer, stop=layer + 1, prefix=prefix)
        assert run.hidden is not None
        return run.hidden

    def _needed(
        self, held: Mapping[Place, Held], layer: int, mask: Int[Tensor, "row pos"]
    ) -> dict[int, Bool[Tensor, "row pos"]]:
        """Where the layer's MLP has to run, if that is not everywhere."""
        needed = mask.bool()
        if layer == self.lm.num_layers - 1:
            needed[:, :-1] = False
        if (one := held.get(Place(layer, WRITERS["mlp"]))) is not None:
            needed[one.rows, 0] = False
        return {} if bool(needed.all()) else {layer: needed}

    def _held(self, layer: int, rows: Sequence[_Row]) -> dict[Place, Held]:
        found = {}
        for writer, matrix in WRITERS.items():
            held = [i for i, row in enumerate(rows) if row.cell.writer == writer and layer in row.cell.held]
            if held:
                values = self._values(layer, writer, [rows[i] for i in held])
                found[Place(layer, matrix)] = Held(torch.tensor(held, device=self.lm.device_of(layer)), values)
        return found

    def _values(self, layer: int, writer: str, rows: Sequence[_Row]) -> Float[Tensor, "row d_model"]:
        """What the writer wrote at the token: in the corrupted run where the hidden state is restored, else clean."""
        at = self.position - self.corrupted.start
        values = self.corrupted.written[writer][layer][[row.sample for row in rows], at]
        windows = [i for i, row in enumerate(rows) if not row.cell.hidden]
        values[windows] = self.clean.written[writer][layer][0, at]
        return values
