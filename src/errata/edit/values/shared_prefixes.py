"""Tokens that many rows begin with, run once: the context prefixes of an edit."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.edit.values.prompt_rows import PromptRow, shared_lengths
from errata.models import KeyValues, LanguageModel, left_aligned, pad_right, run_layers


@dataclass
class SharedPrefixes:
    """The leading tokens that all rows of one context share, and the hidden states they have where the work stands.

    `entering` are token ids at first, and hidden states entering layer `first` once `run` has moved them on. Contexts
    that share nothing have no row here; their rows see an empty (fully masked) prefix.
    """

    lm: LanguageModel
    lengths: dict[int, int]
    index: dict[int, int]
    entering: Int[Tensor, "context pos"] | Float[Tensor, "context pos d_model"] | None
    mask: Int[Tensor, "context pos"] | None
    first: int = 0

    @classmethod
    def of(cls, lm: LanguageModel, rows: Sequence[PromptRow]) -> "SharedPrefixes":
        """What the rows of each context share, before any layer is run."""
        lengths = shared_lengths(rows)
        held = {context: n for context, n in sorted(lengths.items()) if n}
        index = {context: i for i, context in enumerate(held)}
        if not held:
            return cls(lm, lengths, index, None, None)
        first_row = {row.context: row for row in reversed(rows)}
        ids, mask = pad_right([first_row[context].ids[:n] for context, n in held.items()], device=lm.embed_device)
        return cls(lm, lengths, index, ids, mask)

    def run(self, stop: int | None, *, advance_to: int | None = None) -> KeyValues | None:
        """Keys and values of layers `first` … `stop` − 1, left-padded; `advance_to` moves `entering` to that layer."""
        if self.entering is None or self.mask is None:
            return None
        taps = [] if advance_to is None else [advance_to]
        run = run_layers(self.lm, self.entering, self.mask, first=self.first, stop=stop, record=True, tap_inputs=taps)
        if advance_to is not None:
            self.entering, self.first = run.layer_inputs[advance_to], advance_to
        assert run.key_values is not None
        return _with_empty_row(left_aligned(run.key_values))

    def select(self, key_values: KeyValues | None, rows: Sequence[PromptRow]) -> KeyValues | None:
        """The prefix of each row, as wide as the widest of them."""
        if key_values is None:
            return None
        empty = len(self.index)
        index = torch.tensor([self.index.get(row.context, empty) for row in rows], device=key_values.mask.device)
        return key_values.rows(index, width=max(self.lengths[row.context] for row in rows))

    def own_ids(self, row: PromptRow) -> tuple[int, ...]:
        """The tokens of a row after its shared prefix."""
        return row.ids[self.lengths[row.context] :]

    def own_position(self, row: PromptRow) -> int:
        """The edited position counted from the end of the shared prefix."""
        return row.edited - self.lengths[row.context]


def _with_empty_row(key_values: KeyValues) -> KeyValues:
    # Zeros, not a masked run: a query that may attend to nothing gives NaN, and NaN survives a mask of zeros.
    layers = {
        layer: (torch.cat([k, torch.zeros_like(k[:1])]), torch.cat([v, torch.zeros_like(v[:1])]))
        for layer, (k, v) in key_values.layers.items()
    }
    return KeyValues(layers, torch.cat([key_values.mask, torch.zeros_like(key_values.mask[:1])]))
