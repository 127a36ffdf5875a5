"""Held-out text through a model: hidden states by batches of rows, and next-token distributions by bounded blocks.

What counts is every position that predicts a token of the text: all but each row's last.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from errata.errors import InputError
from errata.models import LanguageModel, pad_right, run_layers
from errata.models.run.packing import batches_in_order

_BATCH_TOKENS = 2048
# Elements of a block of logits, in float64: 32 MiB, of which a few exist at a time.
_LOGITS_AT_ONCE = 1 << 22

Row = tuple[int, ...]


def usable_rows(lm: LanguageModel, rows: Sequence[Sequence[int]], *, what: str) -> list[Row]:
    """The rows of at least two tokens by length, cut to the context. InputError where none is left for `what`."""
    usable = [tuple(row[: lm.max_tokens]) for row in rows if len(row) > 1]
    if not usable:
        raise InputError(f"{what} needs text of at least two tokens.")
    return sorted(usable, key=len)


@torch.no_grad()
def hidden_states(lm: LanguageModel, rows: Sequence[Row]) -> Iterator[tuple[list[Row], Float[Tensor, "row d_head"]]]:
    """Batches of rows, and the backbone's output at each of their positions that counts."""
    for batch in batches_in_order(rows, len, _BATCH_TOKENS):
        ids, mask = pad_right(batch, device=lm.embed_device)
        hidden = run_layers(lm, ids, mask).hidden
        assert hidden is not None
        yield batch, hidden[:, :-1][mask[:, 1:].bool().to(hidden.device)]


def next_tokens(batch: Sequence[Row]) -> Int[Tensor, " row"]:
    """The token after each position of a batch that counts."""
    return torch.tensor([token for row in batch for token in row[1:]])


def blocks(lm: LanguageModel, positions: int) -> Iterator[slice]:
    """Cuts of so many positions, of which each has logits that fit into memory."""
    size = max(1, _LOGITS_AT_ONCE // lm.d_vocab)
    return (slice(at, at + size) for at in range(0, positions, size))


def log_probs(lm: LanguageModel, hidden: Float[Tensor, "row d_head"]) -> Float64[Tensor, "row d_vocab"]:
    """The next-token distributions, in float64: differences of nearly equal ones would drown in float32."""
    return torch.log_softmax(lm.logits(hidden).double(), dim=-1)
