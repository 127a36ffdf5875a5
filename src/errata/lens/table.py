"""What the lens shows of one matrix: a table of layers × positions with the extreme tokens of each vector."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from errata.core.ranking import extremes, ranks
from errata.errors import InputError
from errata.lens.modes import Reader, is_null
from errata.models import token_texts as texts_of_tokens

if TYPE_CHECKING:
    from errata.views.grid import Grid

FORWARD_SOURCES = ("residual", "mlp", "attention")


@dataclass(frozen=True, eq=False)
class LensTable:
    """Vectors of every layer and position read in the vocabulary, and how they were read.

    source: what the vectors are ("vjp" or "input" of `matrix`, or a state of the forward pass).  sign: "vjp" reads v,
    "-vjp" reads −v, which for what leaves a block is the direction an update moves it.  top_*, bottom_*: token ids and
    logits, from the extreme inwards.  ranks: 0-based count of strictly greater logits of each tracked token; `ties`
    tokens share that logit, so the place lies in [rank, rank + ties − 1].  null: vectors that are zero, on which all
    tokens tie.  norm: ‖v‖ before any scaling.  share: the position's share of ‖G‖², where there is a gradient.
    """

    matrix: str
    source: str
    mode: str
    sign: str
    layers: tuple[int, ...]
    tokens: tuple[str, ...]
    top_ids: Int[Tensor, "layer pos k"]
    top_logits: Float[Tensor, "layer pos k"]
    bottom_ids: Int[Tensor, "layer pos k"]
    bottom_logits: Float[Tensor, "layer pos k"]
    norm: Float[Tensor, "layer pos"]
    share: Float[Tensor, "layer pos"] | None
    null: Bool[Tensor, "layer pos"]
    tracked: tuple[int, ...]
    ranks: Int[Tensor, "layer pos tracked"]
    ties: Int[Tensor, "layer pos tracked"]
    vocabulary: int
    texts: Mapping[int, str]

    def top(self, layer: int, position: int) -> list[str]:
        """The most probable tokens at one cell; empty where the vector is zero. Positions may count from the end."""
        return self._texts(self.top_ids, layer, position)

    def bottom(self, layer: int, position: int) -> list[str]:
        """The least probable tokens at one cell, least first; empty where the vector is zero."""
        return self._texts(self.bottom_ids, layer, position)

    def rank(self, token: int, layer: int, position: int) -> int | None:
        """The rank of a tracked token at one cell; None where the vector is zero. InputError if it is not tracked."""
        row, at = self._cell(layer, position)
        if token not in self.tracked:
            known = ", ".join(f"{i} ({self.texts[i]!r})" for i in self.tracked)
            raise InputError(f"Token {token!r} was not tracked; tracked are {known or 'none'}. Ask with track=[...].")
        return None if bool(self.null[row, at]) else int(self.ranks[row, at, self.tracked.index(token)])

    def _cell(self, layer: int, position: int) -> tuple[int, int]:
        if layer not in self.layers:
            raise InputError(f"layer {layer}: the table has layers {self.layers[0]}–{self.layers[-1]}.")
        if not -len(self.tokens) <= position < len(self.tokens):
            raise InputError(f"position {position}: the table has tokens 0–{len(self.tokens) - 1}.")
        return self.layers.index(layer), position % len(self.tokens)

    def turned(self) -> "LensTable":
        """The table of −v, where nothing in the mode has a bias: top is bottom, ranks count from the other end."""
        others = self.vocabulary - self.ranks - self.ties
        return replace(
            self,
            sign="vjp" if self.sign == "-vjp" else "-vjp",
            top_ids=self.bottom_ids,
            top_logits=-self.bottom_logits,
            bottom_ids=self.top_ids,
            bottom_logits=-self.top_logits,
            ranks=others,
        )

    def grid(self) -> "Grid":
        """The table as plain data for the views, by itself."""
        from errata.reports.lens_grid import table_grid

        return table_grid(self)

    def _repr_html_(self) -> str:
        from errata.views.html import notebook

        return notebook(self.grid())

    def _texts(self, ids: Tensor, layer: int, position: int) -> list[str]:
        row, at = self._cell(layer, position)
        return [] if bool(self.null[row, at]) else [self.texts[i] for i in ids[row, at].tolist()]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One plain record a cell: what JSON and Parquet files hold."""
        for row, layer in enumerate(self.layers):
            for position, token in enumerate(self.tokens):
                null = bool(self.null[row, position])
                tracked = zip(
                    self.tracked, self.ranks[row, position].tolist(), self.ties[row, position].tolist(), strict=True
                )
                yield {
                    "matrix": self.matrix, "source": self.source, "mode": self.mode, "sign": self.sign,
                    "layer": layer, "position": position, "token": token,
                    "norm": float(self.norm[row, position]),
                    "share": None if self.share is None else float(self.share[row, position]),
                    "null": null,
                    "top": [] if null else self.top(layer, position),
                    "top_ids": [] if null else self.top_ids[row, position].tolist(),
                    "top_logits": [] if null else self.top_logits[row, position].tolist(),
                    "bottom": [] if null else self.bottom(layer, position),
                    "bottom_ids": [] if null else self.bottom_ids[row, position].tolist(),
                    "bottom_logits": [] if null else self.bottom_logits[row, position].tolist(),
                    "tracked": [] if null else [
                        {"id": i, "token": self.texts[i], "rank": rank, "ties": ties} for i, rank, ties in tracked
                    ],
                }  # fmt: skip


def read_table(
    reader: Reader,
    vectors: Float[Tensor, "layer pos d_model"],
    *,
    layers: Sequence[int],
    tokens: Sequence[str],
    matrix: str,
    source: str,
    negate: bool,
    top: int,
    tracked: Sequence[int],
    share: Float[Tensor, "layer pos"] | None = None,
) -> LensTable:
    """Read a grid of vectors through `reader` in a few products, keeping only what a table shows."""
    shape = vectors.shape[:2]
    flat = vectors.flatten(0, 1).float()
    kept: list[list[Tensor]] = [[] for _ in range(6)]
    chosen = torch.tensor(list(tracked), dtype=torch.long, device=flat.device)
    k = min(top, reader.lm.num_tokens)
    for _, scores in reader.blocks(-flat if negate else flat):
        (top_scores, highest), (bottom_scores, lowest) = (extremes(scores, k, largest=up) for up in (True, False))
        parts = [
            reader.shown(top_scores), highest, reader.shown(bottom_scores), lowest,
            *ranks(scores, chosen.expand(len(scores), -1)),
        ]  # fmt: skip
        for whole, part in zip(kept, parts, strict=True):
            whole.append(part.cpu())
    top_logits, top_ids, bottom_logits, bottom_ids, rank, ties = (
        torch.cat(whole).unflatten(0, shape) for whole in kept
    )
    shown = {*top_ids.flatten().tolist(), *bottom_ids.flatten().tolist(), *tracked}
    return LensTable(
        matrix=matrix,
        source=source,
        mode=reader.mode,
        sign="-vjp" if negate else "vjp",
        layers=tuple(layers),
        tokens=tuple(tokens),
        top_ids=top_ids,
        top_logits=top_logits,
        bottom_ids=bottom_ids,
        bottom_logits=bottom_logits,
        norm=flat.norm(dim=1).unflatten(0, shape).cpu(),
        share=share,
        null=is_null(flat).unflatten(0, shape).cpu(),
        tracked=tuple(tracked),
        ranks=rank,
        ties=ties,
        vocabulary=reader.lm.num_tokens,
        texts=token_texts(reader, sorted(shown)),
    )


@dataclass(frozen=True)
class Extremes:
    """One vector's most and least probable tokens, from the extreme inwards."""

    top: tuple[str, ...]
    bottom: tuple[str, ...]


def read_extremes(reader: Reader, vectors: Float[Tensor, "row d_model"], *, top: int) -> list[Extremes]:
    """The extreme tokens of a few vectors."""
    highest, lowest = (ids.tolist() for ids in reader.extreme_ids(vectors.float(), top))
    texts = token_texts(reader, sorted({i for side in (highest, lowest) for row in side for i in row}))
    pairs = zip(highest, lowest, strict=True)
    return [Extremes(tuple(texts[i] for i in upper), tuple(texts[i] for i in lower)) for upper, lower in pairs]


def token_texts(reader: Reader, ids: Sequence[int]) -> dict[int, str]:
    """What each token says where it goes on a text; see `models.token_texts`."""
    return texts_of_tokens(reader.lm.tokenizer, ids)
