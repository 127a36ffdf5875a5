"""Holds on a forward pass: other token embeddings, what attention or an MLP writes kept or set, MLPs run in part.

What a block's MLP or attention writes is the output of its last map (down, o): before a post-norm, a multiplier and the
residual stream, whichever a family has.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from errata.models.language_model import LanguageModel
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

    def replace(_module: nn.Module, _arguments: tuple, output: Tensor) -> Tensor:
        return embeddings.to(output)

    handle = lm.embed_tokens.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def outputs_kept(
    lm: LanguageModel, places: Iterable[Place], batch: int
) -> Iterator[dict[Place, Float[Tensor, "batch pos d_out"]]]:
    """Keep what whole maps (down, o) write in a forward of `batch` rows."""
    kept: dict[Place, Tensor] = {}

    def hook_of(place: Place):
        def hook(_module: nn.Module, _arguments: tuple, output: Tensor) -> None:
            # OPT's MLP sees all positions of the batch in one axis. Cloned: Falcon adds to it in place afterwards.
            kept[place] = output.detach().reshape(batch, -1, output.shape[-1]).clone()

        return hook

    hooks = [projection(lm, *place).module.register_forward_hook(hook_of(place)) for place in places]
    try:
        yield kept
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def outputs_held(lm: LanguageModel, held: Mapping[Place, Held], *, batch: int, column: int = 0) -> Iterator[None]:
    """Set what whole maps (down, o) write at one column of a batch of `batch` rows, in the held rows only."""

    def hook_of(one: Held):
        def hook(_module: nn.Module, _arguments: tuple, output: Tensor) -> Tensor:
            rows = output.reshape(batch, -1, output.shape[-1]).clone()
            rows[one.rows, column] = one.values.to(rows)
            return rows.reshape(output.shape)

        return hook

    hooks = [projection(lm, *place).module.register_forward_hook(hook_of(one)) for place, one in held.items()]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def mlps_run_at(lm: LanguageModel, needed: Mapping[int, Bool[Tensor, "batch pos"]]) -> Iterator[None]:
    """Run the MLPs of some layers at the needed positions alone; elsewhere they write zeros.

    Exact at the needed ones: an MLP maps every position by itself. Hooks on what it writes must come after this one.
    """
    hooks = []

    def restrict(layer: int, wanted: Bool[Tensor, "batch pos"]) -> None:
        at = wanted.flatten().nonzero().squeeze(1)
        shape: list[torch.Size] = []

        def pack(_module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            # OPT's MLP sees all positions of the batch in one axis.
            shape[:] = [arguments[0].shape]
            return (arguments[0].flatten(end_dim=-2)[at], *arguments[1:])

        def unpack(_module: nn.Module, _arguments: tuple, output: Tensor) -> Tensor:
            whole = output.new_zeros(wanted.numel(), output.shape[-1])
            whole[at] = output
            return whole.reshape(*shape[0][:-1], -1)

        *reading, down = (projection(lm, layer, matrix).module for matrix in mlp_matrices(lm.family))
        # A fused gate and up is one module.
        hooks.extend(module.register_forward_pre_hook(pack) for module in dict.fromkeys(reading))
        hooks.append(down.register_forward_hook(unpack))

    try:
        for layer, wanted in needed.items():
            restrict(layer, wanted)
        yield
    finally:
        for handle in hooks:
            handle.remove()
