"""Which rows of unequal length run together, so that little is padded and few passes are made.

`packs` finds the cheapest batches of rows in any order; `batches_in_order` keeps the order, for rows that are sorted or
grouped for another reason.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

# What one more pass costs, in tokens: its overhead, and the speed that small matrix products lose. Half of each on two
# cores (benchmarks/README.md); between 24 and 120 the time of a step is flat.
PASS_OVERHEAD = 48


def split_lengths(counts: dict[int, int], overhead: int = PASS_OVERHEAD) -> list[tuple[int, int]]:
    """Group row lengths into contiguous ranges (low, high) at the least cost Σ rows·longest + overhead.

    `counts` maps a length to its number of rows. Exact, by dynamic programming over the distinct lengths.
    """
    lengths = sorted(counts)
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(lengths) + 1):
        rows, options = 0, []
        for begin in range(end - 1, -1, -1):
            rows += counts[lengths[begin]]
            options.append((best[begin][0] + rows * lengths[end - 1] + overhead, begin))
        best.append(min(options))
    ranges, end = [], len(lengths)
    while end:
        begin = best[end][1]
        ranges.append((lengths[begin], lengths[end - 1]))
        end = begin
    return ranges[::-1]


def packs(lengths: Sequence[int], *, most_tokens: int | None = None) -> list[list[int]]:
    """Row numbers in packs of close lengths, short ones first; no pack of several rows pads to over `most_tokens`."""
    counts: dict[int, int] = {}
    for length in lengths:
        counts[length] = counts.get(length, 0) + 1
    batches = []
    for low, high in split_lengths(counts):
        members = sorted((i for i, n in enumerate(lengths) if low <= n <= high), key=lambda i: (lengths[i], i))
        size = len(members) if most_tokens is None else max(1, most_tokens // max(high, 1))
        batches += [members[at : at + size] for at in range(0, len(members), size)]
    return batches


def batches_in_order(items: Iterable[Item], length: Callable[[Item], int], most_tokens: int) -> Iterator[list[Item]]:
    """Items in their order, cut where one more would make rows × width exceed `most_tokens`; at least one a batch."""
    batch: list[Item] = []
    width = 0
    for item in items:
        if batch and (len(batch) + 1) * max(width, length(item)) > most_tokens:
            yield batch
            batch, width = [], 0
        batch.append(item)
        width = max(width, length(item))
    if batch:
        yield batch
