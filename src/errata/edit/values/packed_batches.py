"""Rows of unequal length, from their edited token on, in a few packed batches with little padding."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.edit.values.prompt_rows import PromptRow
from errata.models import KeyValues
from errata.models.run.packing import packs


@dataclass(frozen=True)
class Suffix:
    """A row from its edited token on: `hidden` is what enters the first layer that is run; `kv_row` is its prefix."""

    row: PromptRow
    kv_row: int
    hidden: Float[Tensor, "pos d_model"]


@dataclass
class PackedBatch:
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


def packed_batches(
    suffixes: Sequence[Suffix],
    prefix: KeyValues | None,
    num_facts: int,
    device: torch.device,
    head_device: torch.device | None = None,
) -> list[PackedBatch]:
    """The batches that cover `suffixes`, each group of close lengths in one; what logits are read by is at the head."""
    contexts = {s.row.fact: 0 for s in suffixes}
    for s in suffixes:
        contexts[s.row.fact] += bool(s.row.targets)
    pack = _Packing(prefix, num_facts, contexts, device, head_device or device)
    return [pack([suffixes[i] for i in members]) for members in packs([len(s.hidden) for s in suffixes])]


@dataclass(frozen=True)
class _Packing:
    """What all batches have in common; `contexts`: how many of each fact's rows have targets."""

    prefix: KeyValues | None
    num_facts: int
    contexts: dict[int, int]
    device: torch.device
    head_device: torch.device

    def __call__(self, suffixes: Sequence[Suffix]) -> PackedBatch:
        hidden, mask = self._padded(suffixes)
        # (row, column, fact, target, weight) of each target token, then the essence rows' single read.
        reads = [
            (i, at - s.row.edited, s.row.fact, target, 1 / len(s.row.targets) / self.contexts[s.row.fact])
            for i, s in enumerate(suffixes)
            for at, target in zip(s.row.read, s.row.targets, strict=True)
        ]
        essence = [(i, s.row.fact) for i, s in enumerate(suffixes) if not s.row.targets]
        facts = _ints((s.row.fact for s in suffixes), self.device)
        weights = torch.tensor([r[4] for r in reads], dtype=torch.float32, device=self.head_device)
        return PackedBatch(
            hidden=hidden,
            mask=mask,
            prefix=self._prefix_of(suffixes),
            facts=facts,
            membership=_one_hot(facts, self.num_facts),
            read_rows=_ints([*(r[0] for r in reads), *(e[0] for e in essence)], self.head_device),
            read_columns=_ints([*(r[1] for r in reads), *(0 for _ in essence)], self.head_device),
            targets=_ints((r[3] for r in reads), self.head_device),
            target_weights=weights,
            target_membership=_one_hot(_ints((r[2] for r in reads), self.head_device), self.num_facts) * weights,
            essence_facts=_ints((e[1] for e in essence), self.head_device),
        )

    def _padded(self, suffixes: Sequence[Suffix]) -> tuple[Float[Tensor, "row pos d_model"], Int[Tensor, "row pos"]]:
        width = max(len(s.hidden) for s in suffixes)
        hidden = suffixes[0].hidden.new_zeros(len(suffixes), width, suffixes[0].hidden.shape[1])
        mask = torch.zeros(len(suffixes), width, dtype=torch.long, device=self.device)
        for i, s in enumerate(suffixes):
            hidden[i, : len(s.hidden)] = s.hidden
            mask[i, : len(s.hidden)] = 1
        return hidden, mask

    def _prefix_of(self, suffixes: Sequence[Suffix]) -> KeyValues | None:
        if self.prefix is None:
            return None
        index = _ints((s.kv_row for s in suffixes), self.device)
        return self.prefix.rows(index, width=int(self.prefix.mask[index].sum(1).max()))


def _ints(values: Iterable[int], device: torch.device) -> Int[Tensor, " item"]:
    return torch.tensor(list(values), dtype=torch.long, device=device)


def _one_hot(index: Tensor, n: int) -> Float[Tensor, "n items"]:
    return (torch.arange(n, device=index.device)[:, None] == index[None]).float()
