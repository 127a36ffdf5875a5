"""Partial runs equal full forwards, on every family, padded on both sides, with windows shorter than the text.

Each on a random model and on one with its family's scales.
"""

import pytest
import torch

from errata.models import pad_right, run_layers
from tiny import LAYERS, VARIANTS, proportioned_model, tiny_model

ROWS = [
    [5, 9, 300, 7, 12, 44, 8, 91, 17, 33, 250, 6, 77, 21, 64],
    [7, 8, 9, 10, 11, 99, 3],
    [400, 12, 9, 8, 31, 30, 29, 28, 27, 2],
]


def _full(lm, row):
    with torch.no_grad():
        out = lm.hf(torch.tensor([row]), output_hidden_states=True, use_cache=False)
    return out.logits[0], [h[0] for h in out.hidden_states]


MODELS = pytest.mark.parametrize("make", [tiny_model, proportioned_model])


def _close(found, expected):
    return (found - expected).norm() <= 2e-5 * expected.norm()


@MODELS
@pytest.mark.parametrize("variant", VARIANTS)
def test_tail_from_a_layer_with_right_padding(variant, make):
    lm = make(variant)
    ids, mask = pad_right(ROWS)
    for first in (1, LAYERS - 1):
        entering = run_layers(lm, ids, mask, stop=first).hidden
        logits = lm.logits(run_layers(lm, entering, mask, first=first).hidden)
        for i, row in enumerate(ROWS):
            assert _close(logits[i, : len(row)], _full(lm, row)[0])


@MODELS
@pytest.mark.parametrize("variant", VARIANTS)
def test_from_a_position_with_left_padded_prefixes(variant, make):
    """Rows cut at different positions: prefixes of unequal length, padded left; what follows, padded right."""
    lm = make(variant)
    cuts = [8, 4, 9]
    width = max(cuts)
    prefix_ids = torch.tensor([[0] * (width - c) + row[:c] for c, row in zip(cuts, ROWS, strict=True)])
    prefix_mask = torch.tensor([[0] * (width - c) + [1] * c for c in cuts])
    prefix = run_layers(lm, prefix_ids, prefix_mask, record=True).key_values
    ids, mask = pad_right([row[c:] for c, row in zip(cuts, ROWS, strict=True)])
    whole = lm.logits(run_layers(lm, ids, mask, prefix=prefix).hidden)
    entering = run_layers(lm, ids, mask, prefix=prefix, stop=2).hidden
    tail = lm.logits(run_layers(lm, entering, mask, first=2, prefix=prefix).hidden)
    for i, (c, row) in enumerate(zip(cuts, ROWS, strict=True)):
        expected = _full(lm, row)[0][c:]
        assert _close(whole[i, : len(row) - c], expected)
        assert _close(tail[i, : len(row) - c], expected)


@MODELS
@pytest.mark.parametrize("variant", VARIANTS)
def test_taps_and_early_exit(variant, make):
    lm = make(variant)
    ids, mask = pad_right(ROWS[:1])
    hidden = _full(lm, ROWS[0])[1]
    run = run_layers(lm, ids, mask, stop=3, tap_inputs=[1, 2], tap_down=[2], end_at_down=True)
    assert run.hidden is None
    assert _close(run.layer_inputs[1][0], hidden[1])
    assert _close(run.layer_inputs[2][0], hidden[2])
    seen = {}
    hook = lm.down(2).register_forward_pre_hook(lambda _m, args: seen.update(x=args[0]))
    _full(lm, ROWS[0])
    hook.remove()
    assert _close(run.down_inputs[2], seen["x"].reshape(1, len(ROWS[0]), -1))
    assert _close(run_layers(lm, ids, mask, stop=LAYERS).hidden[0], _last_block_output(lm, ROWS[0]))


def _last_block_output(lm, row):
    seen = {}
    hook = lm.layers[-1].register_forward_hook(
        lambda _m, _a, out: seen.update(x=out[0] if isinstance(out, tuple) else out)
    )
    _full(lm, row)
    hook.remove()
    return seen["x"][0]


@pytest.mark.parametrize("variant", ["llama", "gpt2", "bloom"])
def test_the_model_is_unchanged_after_an_error(variant):
    lm = tiny_model(variant)
    before = list(lm.layers)
    hook = lm.layers[2].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_layers(lm, torch.ones(1, 3, 32), torch.ones(1, 3, dtype=torch.long), first=1)
    hook.remove()
    assert list(lm.layers) == before
    assert not lm.layers[1]._forward_pre_hooks
