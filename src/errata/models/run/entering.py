"""What enters a layer, for many rows of tokens: the layers below run once, in packs of close lengths."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from errata.models.language_model import LanguageModel
from errata.models.run.packing import packs
from errata.models.run.partial import run_layers
from errata.models.text.tokens import pad_right


@torch.no_grad()
def states_entering(
    lm: LanguageModel,
    rows: Sequence[Sequence[int]],
    layer: int,
    *,
    most_tokens: int,
    advance: Callable[[int], None] = lambda amount: None,  # noqa: ARG005
) -> list[Float[Tensor, "_ d_model"]]:
    """The hidden states with which each row enters `layer`, at its own tokens; at most `most_tokens` run at a time.

    `advance` hears how many rows were run.
    """
    states: dict[int, Tensor] = {}
    for members in packs([len(row) for row in rows], most_tokens=most_tokens):
        ids, mask = pad_right([rows[i] for i in members], device=lm.embed_device)
        run = run_layers(lm, ids, mask, stop=max(layer, 1), tap_inputs=[0] if layer == 0 else [])
        entering = run.hidden if layer else run.layer_inputs[0]
        assert entering is not None
        for row, i in enumerate(members):
            states[i] = entering[row, : len(rows[i])].clone()  # not a view that keeps the whole pack
        advance(len(members))
    return [states[i] for i in range(len(rows))]
