"""Pack rows of unequal length into a few passes with little padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.edit.values.prompt_rows import Row
from errata.models import KeyValues
from errata.models.run.packing import packs


@dataclass(frozen=True)
class Suffix:
    """A row from its edited token on: `hidden` is what enters the first layer that is run; `kv_row` is its prefix."""

    row: Row
    kv_row: int
    hidden: Float[Tensor, "pos d_model"]


@dataclass
class Pass:
    """Rows run together, right-padded to the longest; target reads come before essence reads in the flat lists."""

    hidden: Float[Tensor, "row pos d_model"]
    mask: Int[Tensor, "row pos"]
    prefix: KeyValues | None
    facts: Int[Tensor, " row"]
    membership: Float[Tensor, "fact row"]
    read_rows: Int[Tensor, " read"]
    read_columns: Int[Tensor, " read"]
    targets: Int[Tensor, " target"]
    target_weights: Float[Tensor, " target"]
    target_membership: Float[Tensor, "fact target"]
    essence_facts: Int[Tensor, " essence"]

    @property
    def num_targets(self) -> int:
        return len(self.targets)


def plan_passes(
    suffixes: Sequence[Suffix], prefix: KeyValues | None, num_facts: int, device: torch.device
) -> list[Pass]:
    """The passes that cover `suffixes`, each group of close lengths in one."""
    contexts = {s.row.fact: 0 for s in suffixes}
    for s in suffixes:
        contexts[s.row.fact] += bool(s.row.targets)
    return [
        _pack([suffixes[i] for i in members], prefix, num_facts, contexts, device)
        for members in packs([len(s.hidden) for s in suffixes])
    ]


def _pack(
    suffixes: list[Suffix], prefix: KeyValues | None, num_facts: int, contexts: dict[int, int], device: torch.device
) -> Pass:
    width = max(len(s.hidden) for s in suffixes)
    hidden = suffixes[0].hidden.new_zeros(len(suffixes), width, suffixes[0].hidden.shape[1])
    mask = torch.zeros(len(suffixes), width, dtype=torch.long, device=device)
    for i, s in enumerate(suffixes):
        hidden[i, : len(s.hidden)] = s.hidden
        mask[i, : len(s.hidden)] = 1
    # (row, column, fact, target, weight) of each target token, then the essence rows' single read.
    reads = [
        (i, at - s.row.edited, s.row.fact, target, 1 / len(s.row.targets) / contexts[s.row.fact])
        for i, s in enumerate(suffixes)
        for at, target in zip(s.row.read, s.row.targets, strict=True)
    ]
    essence = [(i, s.row.fact) for i, s in enumerate(suffixes) if not s.row.targets]

    def ints(values) -> Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=device)

    facts = ints(s.row.fact for s in suffixes)
    weights = torch.tensor([r[4] for r in reads], dtype=torch.float32, device=device)
    return Pass(
        hidden=hidden,
        mask=mask,
        prefix=None if prefix is None else _rows_of(prefix, ints(s.kv_row for s in suffixes)),
        facts=facts,
        membership=_one_hot(facts, num_facts),
        read_rows=ints([*(r[0] for r in reads), *(e[0] for e in essence)]),
        read_columns=ints([*(r[1] for r in reads), *(0 for _ in essence)]),
        targets=ints(r[3] for r in reads),
        target_weights=weights,
        target_membership=_one_hot(ints(r[2] for r in reads), num_facts) * weights,
        essence_facts=ints(e[1] for e in essence),
    )


def _rows_of(prefix: KeyValues, index: Tensor) -> KeyValues:
    return prefix.rows(index, width=int(prefix.mask[index].sum(1).max()))


def _one_hot(index: Tensor, n: int) -> Float[Tensor, "n items"]:
    return (torch.arange(n, device=index.device)[:, None] == index[None]).float()
