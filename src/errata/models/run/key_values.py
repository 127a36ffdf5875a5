"""Attention keys and values of earlier positions: kept by layer, cut and joined by row, put in front of new positions.

Every layer, sliding ones too, holds the earlier positions whole, so that the library's own mask code sees the true
distances; attention updates return prefix + new and store only when asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

LayerKeyValues = tuple[Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch head pos d_head"]]


@dataclass(frozen=True)
class KeyValues:
    """Attention keys and values of earlier positions, by layer; left-padded where rows differ in length."""

    layers: dict[int, LayerKeyValues]
    mask: Int[Tensor, "batch pos"]

    def rows(self, index: Int[Tensor, " row"], width: int | None = None) -> "KeyValues":
        """The chosen rows, cut to the last `width` columns."""
        cut = slice(self.mask.shape[1] - width, None) if width is not None else slice(None)
        layers = {
            i: (k[index.to(k.device)][:, :, cut], v[index.to(v.device)][:, :, cut]) for i, (k, v) in self.layers.items()
        }
        return KeyValues(layers, self.mask[index.to(self.mask.device)][:, cut])


class _PrefixLayer(CacheLayerMixin):
    """Keys and values of the prefix, returned in front of the new ones; the new ones are kept only when recording."""

    is_sliding = False

    def __init__(self, prefix: LayerKeyValues | None, *, length: int, record: bool) -> None:
        super().__init__()
        self.prefix, self.length, self.record = prefix, length, record
        self.recorded: LayerKeyValues | None = None
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self.prefix is not None:
            key_states = torch.cat([self.prefix[0], key_states], dim=-2)
            value_states = torch.cat([self.prefix[1], value_states], dim=-2)
        if self.record:
            self.recorded = (key_states, value_states)
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return -1


class PrefixCache(Cache):
    """What a backbone takes for its cache: the prefix in front of what it computes, which goes no further."""

    def __init__(self, num_layers: int, prefix: KeyValues | None, *, record: bool) -> None:
        length = prefix.mask.shape[1] if prefix is not None else 0
        held = prefix.layers if prefix is not None else {}
        super().__init__(layers=[_PrefixLayer(held.get(i), length=length, record=record) for i in range(num_layers)])

    def recorded(self, layers: Sequence[int]) -> dict[int, LayerKeyValues]:
        """Prefix and new positions of those layers that ran, where recording was asked for."""
        pairs = ((i, self.layers[i].recorded) for i in layers)  # type: ignore[attr-defined]
        return {i: pair for i, pair in pairs if pair is not None}


def joined(parts: Sequence[KeyValues]) -> KeyValues:
    """The rows of all `parts`, of the same layers, one after another; left-padded to the widest."""
    width = max(part.mask.shape[1] for part in parts)

    def wide(tensor: Tensor) -> Tensor:
        return nn.functional.pad(tensor, (0, 0, width - tensor.shape[2], 0))

    layers = {
        layer: (
            torch.cat([wide(part.layers[layer][0]) for part in parts]),
            torch.cat([wide(part.layers[layer][1]) for part in parts]),
        )
        for layer in parts[0].layers
    }
    masks = [nn.functional.pad(part.mask, (width - part.mask.shape[1], 0)) for part in parts]
    return KeyValues(layers, torch.cat(masks))


def left_aligned(key_values: KeyValues) -> KeyValues:
    """The same rows with their padding on the left; each row's real columns must be contiguous."""
    mask = key_values.mask
    width = mask.shape[1]
    lengths, starts = mask.sum(1, keepdim=True), mask.argmax(1, keepdim=True)
    columns = torch.arange(width, device=mask.device)[None]
    source = (columns - (width - lengths) + starts).clamp(0, max(width - 1, 0))
    moved = {}
    for layer, (keys, values) in key_values.layers.items():
        index = source[:, None, :, None].to(keys.device)
        moved[layer] = (
            keys.gather(2, index.expand(-1, keys.shape[1], -1, keys.shape[3])),
            values.gather(2, index.expand(-1, values.shape[1], -1, values.shape[3])),
        )
    return KeyValues(moved, (columns >= width - lengths).long())
