"""Holds on a forward: other token embeddings, what attention or an MLP writes kept, set or moved, MLPs run in part.

What a block's MLP or attention writes is the output of its last map (down, o): before a post-norm, a multiplier and the
residual stream, whichever a family has.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from errata.models.language_model import LanguageModel
from errata.models.run.hooks import After, Before, by_row, hooked
from errata.models.run.undisturbed import undisturbed
from errata.models.weights.projections import Place, mlp_matrices, projection


class Held(NamedTuple):
    """What a map writes in some rows of a batch instead of its own."""

    rows: Int[Tensor, " held"]
    values: Float[Tensor, "held d_out"]


@torch.no_grad()
def token_embeddings(lm: LanguageModel, ids: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows d_embed"]:
    """What `embed_tokens` gives, before whatever scale, norm or position a family puts behind it."""
    with undisturbed(lm, ids):
        return lm.embed_tokens(ids)


@contextmanager
def embeddings_replaced(lm: LanguageModel, embeddings: Float[Tensor, "batch pos d_embed"]) -> Iterator[None]:
    """Let `embed_tokens` give these embeddings, whatever ids it is asked for."""
    with hooked([After(lm.embed_tokens, lambda _ids, output: embeddings.to(output))]):
        yield


@contextmanager
def inputs_replaced(lm: LanguageModel, place: Place, values: Float[Tensor, "batch pos d_in"]) -> Iterator[None]:
    """Let the map at `place` read `values` instead of what reaches it."""
    with hooked([Before(projection(lm, *place).module, lambda entering: values.reshape(entering.shape))]):
        yield


@contextmanager
def outputs_kept(
    lm: LanguageModel, places: Iterable[Place], batch: int
) -> Iterator[dict[Place, Float[Tensor, "batch pos d_out"]]]:
    """Keep what whole maps (down, o) write in a forward of `batch` rows."""
    kept: dict[Place, Tensor] = {}

    def keep(place: Place, _entering: Tensor, output: Tensor) -> None:
        # Cloned: Falcon adds to it in place afterwards.
        kept[place] = by_row(output.detach(), batch).clone()

    with _after_maps(lm, {place: partial(keep, place) for place in places}):
        yield kept


@contextmanager
def outputs_held(lm: LanguageModel, held: Mapping[Place, Held], *, batch: int, column: int = 0) -> Iterator[None]:
    """Set what whole maps (down, o) write at one column of a batch of `batch` rows, in the held rows only."""

    def hold(one: Held, _entering: Tensor, output: Tensor) -> Tensor:
        rows = by_row(output, batch).clone()
        rows[one.rows, column] = one.values.to(rows)
        return rows.reshape(output.shape)

    with _after_maps(lm, {place: partial(hold, one) for place, one in held.items()}):
        yield


@contextmanager
def outputs_moved(lm: LanguageModel, place: Place, moves: Float[Tensor, "batch pos d_out"]) -> Iterator[None]:
    """Add `moves` to what a whole map (down, o) writes at every position of a batch."""

    def move(_entering: Tensor, output: Tensor) -> Tensor:
        return (output + moves.reshape(output.shape)).to(output.dtype)

    with _after_maps(lm, {place: move}):
        yield


@contextmanager
def outputs_shifted(
    lm: LanguageModel,
    shifts: Mapping[Place, Float[Tensor, "batch d_out"]],
    *,
    column: int,
    seen: dict[Place, Float[Tensor, "batch d_out"]] | None = None,
) -> Iterator[None]:
    """Add to what maps (down, o) write at one column of a batch, each row its own; `seen` gets what was there."""

    def shift_column(place: Place, _entering: Tensor, output: Tensor) -> Tensor:
        shift = shifts[place]
        rows = by_row(output, len(shift))
        if seen is not None:
            seen[place] = rows[:, column].detach()
        moved = (rows[:, column].float() + shift).to(rows.dtype)
        return torch.cat([rows[:, :column], moved[:, None], rows[:, column + 1 :]], dim=1).reshape(output.shape)

    with _after_maps(lm, {place: partial(shift_column, place) for place in shifts}):
        yield


@contextmanager
def _after_maps(lm: LanguageModel, calls: Mapping[Place, Callable[[Tensor, Tensor], Any]]) -> Iterator[None]:
    with hooked([After(projection(lm, *place).module, call) for place, call in calls.items()]):
        yield


@contextmanager
def mlps_run_at(lm: LanguageModel, needed: Mapping[int, Bool[Tensor, "batch pos"]]) -> Iterator[None]:
    """Run the MLPs of some layers at the needed positions alone; elsewhere they write zeros.

    Exact at the needed ones: an MLP maps every position by itself. Hooks on what it writes must come after this one.
    """
    with hooked([hook for layer, wanted in needed.items() for hook in _packing(lm, layer, wanted)]):
        yield


def _packing(lm: LanguageModel, layer: int, wanted: Bool[Tensor, "batch pos"]) -> list[Before | After]:
    """Hooks that let one MLP see the wanted positions alone, and put what it writes back in its place."""
    at = wanted.flatten().nonzero().squeeze(1)
    shape: list[torch.Size] = []

    def pack(entering: Tensor) -> Tensor:
        shape[:] = [entering.shape]
        return entering.flatten(end_dim=-2)[at]

    def unpack(_entering: Tensor, output: Tensor) -> Tensor:
        whole = output.new_zeros(wanted.numel(), output.shape[-1])
        whole[at] = output
        return whole.reshape(*shape[0][:-1], -1)

    *reading, down = (projection(lm, layer, matrix).module for matrix in mlp_matrices(lm.family))
    # A fused gate and up is one module.
    return [*(Before(module, pack) for module in dict.fromkeys(reading)), After(down, unpack)]
