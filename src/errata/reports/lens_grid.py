"""A lens as a grid for the views: every matrix, mode and sign, and the forward pass beside it."""

from collections.abc import Callable, Sequence

from torch import Tensor

from errata.lens.backward_lens import BackwardLens
from errata.lens.modes import MODES, Reader
from errata.lens.table import FORWARD_SOURCES, LensTable
from errata.models import WRITING
from errata.views.grid import Grid, Sheet, Tracked


def lens_grid(
    lens: BackwardLens,
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


def tables_grid(lens: BackwardLens, tables: Sequence[LensTable]) -> Grid:
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


def table_grid(table: LensTable) -> Grid:
    """The grid of one table by itself."""
    numbers: dict[str, int] = {}
    sheet = table_sheet(table, lambda text: numbers.setdefault(text, len(numbers)))
    return Grid(
        title=f"{table.matrix or 'forward'} {table.sign.replace('vjp', table.source)}",
        subtitle=f"{table.mode} mode",
        tokens=table.tokens,
        layers=table.layers,
        texts=list(numbers),
        sheets=[sheet],
        vocabulary=table.vocabulary,
    )


def table_sheet(table: LensTable, number: Callable[[str], int]) -> Sheet:
    """One table as a sheet of a grid; `number` gives each token text its place among the grid's texts."""

    def numbered(ids: Tensor) -> list:
        return [[[number(table.texts[i]) for i in cell] for cell in row] for row in ids.tolist()]

    return Sheet(
        side="backward" if table.matrix else "forward",
        name=table.matrix or table.source,
        source=table.source,
        mode=table.mode,
        sign=table.sign,
        # The update goes along −δ: what δ makes least probable is what an edit promotes.
        shows="bottom" if table.source == "vjp" and table.sign == "vjp" else "top",
        top=numbered(table.top_ids),
        top_values=table.top_logits.tolist(),
        bottom=numbered(table.bottom_ids),
        bottom_values=table.bottom_logits.tolist(),
        norm=table.norm.tolist(),
        share=None if table.share is None else table.share.tolist(),
        null=table.null.tolist(),
        tracked=[
            Tracked(text=table.texts[token], ranks=table.ranks[:, :, i].tolist(), ties=table.ties[:, :, i].tolist())
            for i, token in enumerate(table.tracked)
        ],
    )


def _unit(loss_name: str) -> str:
    """Likelihoods and divergences are in nats; a difference of logits and a caller's own function have no unit."""
    return " nat" if loss_name in ("first", "target", "all", "kl") else ""
