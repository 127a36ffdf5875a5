"""A lens as a grid for the views: every matrix, mode and sign, and the forward pass beside it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from errata.lens.modes import MODES, Reader
from errata.lens.table import FORWARD_SOURCES, LensTable, table_sheet
from errata.models import WRITING
from errata.views.grid import Grid

if TYPE_CHECKING:
    from errata.lens.backward_lens import BackwardLens


def lens_grid(
    lens: "BackwardLens",
    *,
    matrices: Sequence[str] | None = None,
    modes: Sequence[str] = MODES,
    top: int = 10,
    track: Sequence[int | str] | None = None,
    forward: Sequence[str] = FORWARD_SOURCES,
) -> Grid:
    """All sheets of one lens, those of its own mode first; `matrices` default to all that were tapped, down first.

    `forward` names the streams of the forward lens that stand beside it.
    """
    chosen = matrices or sorted(lens.matrices, key=lambda name: name not in ("down",))
    ordered = [lens.mode, *(mode for mode in modes if mode != lens.mode)]
    tables = []
    for name in chosen:
        for mode in ordered:
            table = lens.project(name, mode=mode, top=top, track=track)
            tables.append(table)
            if name in WRITING:
                biased = Reader(lens.lm, mode).has_bias
                tables.append(
                    lens.project(name, mode=mode, top=top, track=track, sign="-vjp") if biased else table.turned()
                )
    tables += [lens.forward(source, mode=mode, top=top, track=track) for source in forward for mode in ordered]
    return tables_grid(lens, tables)


def tables_grid(lens: "BackwardLens", tables: Sequence[LensTable]) -> Grid:
    """The grid of a lens's own tables."""
    numbers: dict[str, int] = {}
    sheets = [table_sheet(table, lambda text: numbers.setdefault(text, len(numbers))) for table in tables]
    example = lens.example
    target = str(lens.lm.tokenizer.decode(list(example.target_ids))).strip()
    aim = f" → {target}" if target else ""
    return Grid(
        title=example.prompt + aim,
        subtitle=f"{lens.lm.name}, loss “{example.loss_name}” = {lens.loss:.4g}{_unit(example.loss_name)}",
        tokens=lens.tokens,
        layers=list(range(lens.num_layers)),
        texts=list(numbers),
        sheets=sheets,
        vocabulary=lens.lm.num_tokens,
        segments={name: places for name, places in lens.segments().items() if places},
        notes=lens.notes,
    )


def _unit(loss_name: str) -> str:
    """Likelihoods and divergences are in nats; a difference of logits and a caller's own function have no unit."""
    return " nat" if loss_name in ("first", "target", "all", "kl") else ""
