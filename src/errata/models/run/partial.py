"""Run any contiguous part of an unmodified transformers decoder: from a layer, from a position, up to a layer.

For the duration of one call, blocks before `first` pass their input through, a hook gives layer `first` the wanted
hidden states, and another ends the forward after layer `stop` − 1 with an exception. Keeping the block list's length
keeps every index right (attention types, rotary tables and masks of sliding-window families are looked up by layer
number). Earlier positions enter as keys and values (key_values.py).
"""

import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from errata.models.language_model import LanguageModel
from errata.models.run.hooks import After, Before, block_output, by_row, hooked
from errata.models.run.key_values import KeyValues, PrefixCache
from errata.models.run.undisturbed import undisturbed


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

    device = lm.embed_device if is_ids else lm.device_of(min(first, lm.num_layers - 1))
    inputs, mask = inputs.to(device), mask.to(device)
    cache = PrefixCache(lm.num_layers, prefix, record=record)
    total_mask = mask if prefix is None else torch.cat([prefix.mask.to(device), mask], dim=1)
    arguments = _backbone_arguments(lm, inputs, total_mask, is_ids=is_ids)
    taps = _InputTaps(len(inputs))
    ending_layer = stop_layer - 1 if end_at_down else None
    with (
        _only_layers(lm, None if is_ids else inputs, first, stop),
        hooked(taps.hooks(lm, tap_inputs, tap_down, ending_layer)),
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
    hooks: list[Before | After] = []
    if entering is not None:
        entry = blocks[first] if first < len(blocks) else lm.backbone.get_submodule(lm.family.ln_final)
        # First of all hooks: whoever looks at this layer's input must see what enters in truth.
        hooks.append(Before(entry, lambda _: entering, prepend=True))
    if stop is not None:
        hooks.append(After(blocks[stop - 1], _end_forward))
    try:
        if first:
            skipped = [_PassThrough(lm.block_returns_tuple) for _ in range(first)]
            _set_layers(lm, nn.ModuleList([*skipped, *blocks[first:]]))
        with hooked(hooks):
            yield
    finally:
        _set_layers(lm, original)


def _end_forward(_entering: Any, output: Any) -> None:
    raise _Exit(block_output(output))


def _set_layers(lm: LanguageModel, blocks: nn.Module) -> None:
    parent, _, name = lm.family.layers.rpartition(".")
    lm.backbone.get_submodule(parent)._modules[name] = blocks


@dataclass
class _InputTaps:
    """Keeps what enters layers and down projections."""

    batch: int
    layer_inputs: dict[int, Tensor] = field(default_factory=dict)
    down_inputs: dict[int, Tensor] = field(default_factory=dict)

    def hooks(
        self, lm: LanguageModel, inputs_of: Collection[int], down_of: Collection[int], end_at: int | None
    ) -> list[Before]:
        """One for each tap; that on layer `end_at`'s down projection ends the forward."""
        return [
            *(Before(lm.layers[i], partial(self.layer_inputs.__setitem__, i)) for i in inputs_of),
            *(Before(lm.down(i), partial(self._keep_down, i, i == end_at)) for i in down_of),
        ]

    def _keep_down(self, layer: int, ends: bool, entering: Tensor) -> None:
        self.down_inputs[layer] = by_row(entering, self.batch)
        if ends:
            raise _Exit(None)
