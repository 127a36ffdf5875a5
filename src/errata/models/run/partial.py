"""Run any contiguous part of an unmodified transformers decoder: from a layer, from a position, up to a layer.

For the duration of one call, blocks before `first` pass their input through, a hook gives layer `first` the wanted
hidden states, and another ends the forward after layer `stop` − 1 with an exception. Keeping the block list's length
keeps every index right (attention types, rotary tables and masks of sliding-window families are looked up by layer
number). Earlier positions enter as keys and values that every layer, sliding ones too, holds whole, so that the
library's own mask code sees the true distances; attention updates return prefix + new and store only when asked.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from errata.models.language_model import LanguageModel
from errata.models.run.undisturbed import undisturbed
from errata.models.weights.projections import Place, projection

LayerKeyValues = tuple[Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch head pos d_head"]]


@dataclass(frozen=True)
class KeyValues:
    """Attention keys and values of earlier positions, by layer; left-padded where rows differ in length."""

    layers: dict[int, LayerKeyValues]
    mask: Int[Tensor, "batch pos"]

    def rows(self, index: Int[Tensor, " row"], width: int | None = None) -> "KeyValues":
        """The chosen rows, cut to the last `width` columns."""
        cut = slice(self.mask.shape[1] - width, None) if width is not None else slice(None)
        layers = {i: (k[index][:, :, cut], v[index][:, :, cut]) for i, (k, v) in self.layers.items()}
        return KeyValues(layers, self.mask[index][:, cut])


@dataclass(frozen=True)
class Run:
    """What one partial run produced.

    `hidden`: the output of the last layer run, or the backbone's output (after the final norm) where the run went to
    the end; None where the run ended at a down projection. `layer_inputs` and `down_inputs`: what was tapped, by layer.
    `key_values`: prefix and new positions of the layers run, where recording was asked for.
    """

    hidden: Float[Tensor, "batch pos d_model"] | None
    layer_inputs: dict[int, Float[Tensor, "batch pos d_model"]]
    down_inputs: dict[int, Float[Tensor, "batch pos d_mlp"]]
    key_values: KeyValues | None


def run_layers(
    lm: LanguageModel,
    inputs: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
    mask: Int[Tensor, "batch pos"],
    *,
    first: int = 0,
    stop: int | None = None,
    prefix: KeyValues | None = None,
    record: bool = False,
    tap_inputs: Collection[int] = (),
    tap_down: Collection[int] = (),
    end_at_down: bool = False,
) -> Run:
    """Run layers `first` … `stop` − 1 on new positions that attend to `prefix` and to each other.

    `inputs` are token ids (`first` = 0 only) or the hidden states entering layer `first`; `mask` is 1 at real
    positions of `inputs`. `stop=None` runs through the last layer and the final norm; otherwise nothing above `stop` −
    1 is computed, and with `end_at_down` not even that layer's down projection (it must then be in `tap_down`).
    Exact: the same numbers as a full forward up to rounding (tests/models/test_partial.py, every family).
    """
    stop_layer = lm.num_layers if stop is None else stop
    assert 0 <= first <= stop_layer <= lm.num_layers, (first, stop, lm.num_layers)
    is_ids = not inputs.is_floating_point()
    assert not (is_ids and first), "token ids enter at layer 0"
    assert stop is None or first < stop, "an empty run"

    cache = _PrefixCache(lm.num_layers, prefix, record=record)
    total_mask = mask if prefix is None else torch.cat([prefix.mask, mask], dim=1)
    arguments = _backbone_arguments(lm, inputs, total_mask, is_ids=is_ids)
    taps = _Taps(inputs.shape[:2])
    with (
        _only_layers(lm, None if is_ids else inputs, first, stop),
        _tapped(lm, taps, tap_inputs, tap_down, end_at=stop_layer - 1 if end_at_down else None),
        undisturbed(lm, inputs if is_ids else None),
    ):
        try:
            hidden = lm.backbone(**arguments, past_key_values=cache, use_cache=True).last_hidden_state
        except _Exit as done:
            hidden = done.hidden
    recorded = KeyValues(cache.recorded(range(first, stop_layer)), total_mask) if record else None
    return Run(hidden, taps.layer_inputs, taps.down_inputs, recorded)


def _backbone_arguments(lm: LanguageModel, inputs: Tensor, total_mask: Tensor, *, is_ids: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = {"attention_mask": total_mask}
    arguments |= position_arguments(lm, total_mask, inputs.shape[1])
    if is_ids:
        arguments["input_ids"] = inputs
    else:
        # Only the shape, dtype and device of these embeddings matter: layer `first` is given `inputs` instead.
        d_embed = lm.embed_tokens.weight.shape[1]  # type: ignore[union-attr, index]
        arguments["inputs_embeds"] = inputs.new_zeros(*inputs.shape[:2], d_embed)  # type: ignore[arg-type]
    return arguments


def position_arguments(lm: LanguageModel, mask: Int[Tensor, "batch pos"], new: int) -> dict[str, Tensor]:
    """`position_ids` of the last `new` columns, for a backbone that takes them; pads on either side do not count."""
    if "position_ids" not in inspect.signature(lm.backbone.forward).parameters:
        return {}
    return {"position_ids": (mask.cumsum(1) - 1).clamp_min(0)[:, -new:]}


class _Exit(Exception):  # noqa: N818 (control flow, not an error)
    def __init__(self, hidden: Tensor | None) -> None:
        super().__init__()
        self.hidden = hidden


class _PassThrough(nn.Module):
    def __init__(self, returns_tuple: bool) -> None:
        super().__init__()
        self.returns_tuple = returns_tuple

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states, None) if self.returns_tuple else hidden_states


@contextmanager
def _only_layers(lm: LanguageModel, entering: Tensor | None, first: int, stop: int | None) -> Iterator[None]:
    """Skip the blocks before `first`, let `entering` replace its input, and end the forward after layer `stop` − 1."""
    blocks = list(lm.layers)
    original = lm.backbone.get_submodule(lm.family.layers)
    hooks = []

    def inject(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        if arguments:
            return (entering, *arguments[1:]), keywords
        return arguments, {**keywords, "hidden_states": entering}

    def end(_module: nn.Module, _arguments: Any, output: Any) -> None:
        raise _Exit(output[0] if isinstance(output, tuple) else output)

    try:
        if first:
            skipped = [_PassThrough(lm.block_returns_tuple) for _ in range(first)]
            _set_layers(lm, nn.ModuleList([*skipped, *blocks[first:]]))
        if entering is not None:
            entry = blocks[first] if first < len(blocks) else lm.backbone.get_submodule(lm.family.ln_final)
            # First of all hooks: whoever looks at this layer's input must see what enters in truth.
            hooks.append(entry.register_forward_pre_hook(inject, with_kwargs=True, prepend=True))
        if stop is not None:
            hooks.append(blocks[stop - 1].register_forward_hook(end))
        yield
    finally:
        _set_layers(lm, original)
        for hook in hooks:
            hook.remove()


def _set_layers(lm: LanguageModel, blocks: nn.Module) -> None:
    parent, _, name = lm.family.layers.rpartition(".")
    lm.backbone.get_submodule(parent)._modules[name] = blocks


@dataclass
class _Taps:
    shape: torch.Size
    layer_inputs: dict[int, Tensor] = field(default_factory=dict)
    down_inputs: dict[int, Tensor] = field(default_factory=dict)


@contextmanager
def _tapped(
    lm: LanguageModel, taps: _Taps, inputs_of: Collection[int], down_of: Collection[int], end_at: int | None
) -> Iterator[None]:
    hooks = []

    def keep_input(layer: int):
        def hook(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            taps.layer_inputs[layer] = arguments[0] if arguments else keywords["hidden_states"]

        return hook

    def keep_down(layer: int):
        def hook(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            # OPT's MLP sees all positions of the batch in one axis.
            taps.down_inputs[layer] = arguments[0].reshape(*taps.shape, -1)
            if layer == end_at:
                raise _Exit(None)

        return hook

    try:
        hooks += [lm.layers[i].register_forward_pre_hook(keep_input(i), with_kwargs=True) for i in inputs_of]
        hooks += [lm.down(i).register_forward_pre_hook(keep_down(i)) for i in down_of]
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def outputs_shifted(
    lm: LanguageModel,
    shifts: Mapping[Place, Float[Tensor, "batch d_out"]],
    *,
    column: int,
    seen: dict[Place, Float[Tensor, "batch d_out"]] | None = None,
) -> Iterator[None]:
    """Add to what maps (down, o) write at one column of a batch, each row its own; `seen` gets what was there."""

    def hook_of(place: Place, shift: Tensor):
        def hook(_module: nn.Module, _arguments: tuple, output: Tensor) -> Tensor:
            # OPT's MLP sees all positions of the batch in one axis.
            rows = output.reshape(len(shift), -1, output.shape[-1])
            if seen is not None:
                seen[place] = rows[:, column].detach()
            moved = (rows[:, column].float() + shift).to(rows.dtype)
            return torch.cat([rows[:, :column], moved[:, None], rows[:, column + 1 :]], dim=1).reshape(output.shape)

        return hook

    hooks = []
    try:
        for place, shift in shifts.items():
            hooks.append(projection(lm, *place).module.register_forward_hook(hook_of(place, shift)))
        yield
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def inputs_replaced(lm: LanguageModel, place: Place, values: Float[Tensor, "batch pos d_in"]) -> Iterator[None]:
    """Let the map at `place` read `values` instead of what reaches it."""

    def replace(_module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # OPT's MLP sees all positions of the batch in one axis.
        return (values.reshape(arguments[0].shape), *arguments[1:])

    handle = projection(lm, *place).module.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def outputs_moved(lm: LanguageModel, place: Place, moves: Float[Tensor, "batch pos d_out"]) -> Iterator[None]:
    """Add `moves` to what a whole map (down, o) writes at every position of a batch."""

    def move(_module: nn.Module, _arguments: tuple, output: Tensor) -> Tensor:
        return (output + moves.reshape(output.shape)).to(output.dtype)

    handle = projection(lm, *place).module.register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()


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


class _PrefixCache(Cache):
    def __init__(self, num_layers: int, prefix: KeyValues | None, *, record: bool) -> None:
        length = prefix.mask.shape[1] if prefix is not None else 0
        held = prefix.layers if prefix is not None else {}
        super().__init__(layers=[_PrefixLayer(held.get(i), length=length, record=record) for i in range(num_layers)])

    def recorded(self, layers: Sequence[int]) -> dict[int, LayerKeyValues]:
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
        index = source[:, None, :, None]
        moved[layer] = (
            keys.gather(2, index.expand(-1, keys.shape[1], -1, keys.shape[3])),
            values.gather(2, index.expand(-1, values.shape[1], -1, values.shape[3])),
        )
    return KeyValues(moved, (columns >= width - lengths).long())
