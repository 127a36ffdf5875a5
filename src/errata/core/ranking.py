"""Largest and smallest entries of long rows, and ranks of chosen ones, with ties settled by index."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_CHUNK = 64


def extremes(
    rows: Float[Tensor, "row entry"], k: int, *, largest: bool
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The `k` largest (or smallest) entries of each row, from the extreme inwards; equal ones by index.

    Exact: every wanted entry lies in one of the k chunks whose own extremes are furthest out, unless two chunks tie at
    the boundary; such rows are sorted whole.
    """
    whole = rows.shape[1] // _CHUNK * _CHUNK
    if k * _CHUNK * 4 > rows.shape[1]:
        return _sorted(rows, None, k, largest)
    chunks = rows[:, :whole].unflatten(1, (-1, _CHUNK))
    outermost = chunks.amax(2) if largest else chunks.amin(2)
    best = outermost.topk(k + 1, dim=1, largest=largest)
    chosen = best.indices[:, :k].sort(dim=1).values
    tail = torch.arange(whole, rows.shape[1], device=rows.device).expand(len(rows), -1)
    within = torch.arange(_CHUNK, device=rows.device)
    index = torch.cat([(chosen[:, :, None] * _CHUNK + within).flatten(1), tail], dim=1)
    values, ids = _sorted(rows.gather(1, index), index, k, largest)
    tied = (best.values[:, k - 1] == best.values[:, k]).nonzero().flatten()
    if len(tied):
        values[tied], ids[tied] = _sorted(rows[tied], None, k, largest)
    return values, ids


def _sorted(
    rows: Float[Tensor, "row entry"], index: Int[Tensor, "row entry"] | None, k: int, largest: bool
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    ordered = rows.sort(dim=1, descending=largest, stable=True)
    order = ordered.indices[:, :k]
    return ordered.values[:, :k], order if index is None else index.gather(1, order)


def ranks(
    rows: Float[Tensor, "row entry"], chosen: Int[Tensor, "row chosen"]
) -> tuple[Int[Tensor, "row chosen"], Int[Tensor, "row chosen"]]:
    """0-based rank of the `chosen` entries of each row, and how many entries tie with each (itself included).

    The rank counts the strictly greater entries, so the true place is anywhere in [rank, rank + ties − 1].
    """
    greater, equal = [], []
    for i in range(chosen.shape[1]):
        own = rows.gather(1, chosen[:, i : i + 1])
        greater.append((rows > own).sum(1))
        equal.append((rows == own).sum(1))
    if not greater:
        empty = chosen.new_zeros(len(rows), 0)
        return empty, empty
    return torch.stack(greater, dim=1), torch.stack(equal, dim=1)
