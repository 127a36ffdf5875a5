"""What enters a layer, in packs, against one run a row; and batches that keep their order against the greedy rule."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.models import states_entering
from errata.models.run.packing import batches_in_order
from tiny import LAYERS, VARIANTS, tiny_model

ROWS = [[5, 9, 300, 7, 12, 44, 8, 91, 17], [7, 8, 9], [400], [400, 12, 9, 8, 31], [3, 4, 6]]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", [0, 1, LAYERS - 1])
def test_states_entering_a_layer(variant, layer):
    lm, heard = tiny_model(variant), []
    states = states_entering(lm, ROWS, layer, most_tokens=12, advance=heard.append)
    assert sum(heard) == len(ROWS)
    assert len(heard) > 1, "the rows fit into one pack, which tests less"
    for row, found in zip(ROWS, states, strict=True):
        seen = {}
        hook = lm.layers[layer].register_forward_pre_hook(
            lambda _m, args, kwargs, seen=seen: seen.update(x=args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        with torch.no_grad():
            lm.hf(torch.tensor([row]), use_cache=False)
        hook.remove()
        assert found.shape == seen["x"][0].shape
        assert (found - seen["x"][0]).norm() <= 2e-5 * seen["x"].norm()
        assert found.untyped_storage().nbytes() == found.numel() * found.element_size(), "a view keeps its whole pack"


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 100))
@settings(max_examples=100, deadline=None)
def test_batches_in_order_are_as_long_as_they_may_be(lengths, most):
    batches = list(batches_in_order(range(len(lengths)), lengths.__getitem__, most))
    assert [i for batch in batches for i in batch] == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= most
    for batch, after in itertools.pairwise(batches):
        assert (len(batch) + 1) * max(lengths[i] for i in [*batch, after[0]]) > most
