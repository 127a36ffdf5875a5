"""Holding parts of a forward pass: only what is held moves, everything comes off again, in every family."""

import pytest
import torch

from errata.models import (
    Held,
    Place,
    embeddings_replaced,
    mlps_run_at,
    outputs_held,
    outputs_kept,
    projection,
    run_layers,
    token_embeddings,
)
from tiny import VARIANTS, tiny_model


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_what_is_held_at_one_column_of_some_rows_and_nothing_else(variant):
    lm = tiny_model(variant)
    ids = torch.arange(24).reshape(3, 8) + 5
    ones = torch.ones_like(ids)
    places = [Place(1, "down"), Place(2, "o")]
    plain = run_layers(lm, ids, ones).hidden
    with outputs_kept(lm, places, 3) as before:
        run_layers(lm, ids, ones)
    values = torch.randn(2, lm.d_model, generator=torch.Generator().manual_seed(0))
    held = {place: Held(torch.tensor([0, 2]), values) for place in places}
    with outputs_held(lm, held, batch=3, column=4), outputs_kept(lm, places, 3) as kept:
        moved = run_layers(lm, ids, ones).hidden
    for place in places:
        torch.testing.assert_close(kept[place][[0, 2], 4], values)
        assert kept[place].shape == (3, 8, lm.d_model)
    first = places[0]
    torch.testing.assert_close(kept[first][1], before[first][1])
    torch.testing.assert_close(kept[first][:, :4], before[first][:, :4])
    torch.testing.assert_close(moved[1], plain[1])
    assert not torch.allclose(moved[0, 4:], plain[0, 4:])
    torch.testing.assert_close(run_layers(lm, ids, ones).hidden, plain)
    assert not any(projection(lm, *place).module._forward_hooks for place in places)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_other_embeddings_are_those_of_another_prompt(variant):
    lm = tiny_model(variant)
    ids, others = torch.arange(6)[None] + 5, torch.arange(6)[None] + 40
    with embeddings_replaced(lm, token_embeddings(lm, others)):
        found = lm.hf(ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(found, lm.hf(others, attention_mask=torch.ones_like(ids)).logits)
    assert not lm.embed_tokens._forward_hooks


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_an_mlp_that_runs_at_some_positions_writes_there_what_it_wrote_and_zeros_elsewhere(variant):
    lm = tiny_model(variant)
    ids = torch.arange(24).reshape(3, 8) + 5
    ones, place = torch.ones_like(ids), Place(1, "down")
    with outputs_kept(lm, [place], 3) as before:
        plain = run_layers(lm, ids, ones).hidden
    needed = torch.rand(3, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    sizes = []
    down = projection(lm, *place).module
    with mlps_run_at(lm, {1: needed, 2: ones.bool()}), outputs_kept(lm, [place], 3) as kept:
        counter = down.register_forward_pre_hook(lambda _module, arguments: sizes.append(arguments[0].shape[0]))
        run_layers(lm, ids, ones)
        counter.remove()
    assert sizes == [int(needed.sum())]
    torch.testing.assert_close(kept[place][needed], before[place][needed])
    assert not kept[place][~needed].any()
    with mlps_run_at(lm, {1: torch.zeros_like(needed)}), outputs_kept(lm, [place], 3) as kept:
        run_layers(lm, ids, ones)
    assert not kept[place].any()
    torch.testing.assert_close(run_layers(lm, ids, ones).hidden, plain)
