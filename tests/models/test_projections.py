"""Every linear map of a block in the standard view: what it computes, and that fused ones are taken apart rightly."""

import math

import pytest
import torch

from errata.core.updates import WeightUpdate
from errata.errors import InputError
from errata.models import (
    FAMILIES,
    Place,
    add_to_weight_,
    matrices,
    mlp_matrices,
    projection,
    relative_norm,
    weight_of,
    weights_restored,
    write_weight_,
)
from tiny import VARIANTS, fresh_model, tiny_model, tiny_tokenizer

# Falcon's other two ways of storing attention heads.
FUSED = {
    "falcon-grouped": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "parallel_attn": True}),
    "falcon-rw": ("falcon", {"multi_query": False, "parallel_attn": False}),
    "phi3-grouped": ("phi3", {"num_key_value_heads": 2}),
}


def model(variant):
    if variant in FUSED:
        base, settings = FUSED[variant]
        return fresh_model(base, **settings)
    return tiny_model(variant)


def tapped(lm, place):
    """What goes into and comes out of the map at `place` in a plain forward."""
    found = {}

    def keep(_module, arguments, output):
        found["in"], found["out"] = arguments[0].clone(), output.clone()

    one = projection(lm, *place)
    hook = one.module.register_forward_hook(keep)
    try:
        with torch.no_grad():
            lm.hf(input_ids=torch.tensor([list(range(5, 13))]), use_cache=False)
    finally:
        hook.remove()
    return found["in"].reshape(8, -1), one.part(found["out"]).reshape(8, -1)


@pytest.mark.parametrize("variant", [*VARIANTS, *FUSED])
def test_the_standard_view_computes_what_the_module_does(variant):
    lm = model(variant)
    for matrix in matrices(lm.family):
        one = projection(lm, 2, matrix)
        inputs, outputs = tapped(lm, one.place)
        by_hand = inputs @ one.weight + (0 if one.bias is None else one.bias)
        torch.testing.assert_close(by_hand, outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", [*VARIANTS, *FUSED])
def test_a_fused_map_has_each_output_once(variant):
    lm = model(variant)
    if lm.family.qkv is None:
        assert all(projection(lm, 0, matrix).columns is None for matrix in "qkvo")
        return
    width = max(projection(lm, 0, "q").module.weight.shape)
    used = torch.cat([torch.arange(width)[projection(lm, 0, matrix).columns] for matrix in "qkv"])
    assert used.sort().values.tolist() == list(range(width))


@pytest.mark.parametrize("variant", [*VARIANTS, *FUSED])
def test_values_are_what_attention_passes_on(variant):
    """With the value outputs at zero nothing reaches the output projection; with others it does."""
    for matrix, silent in (("v", True), ("q", False), ("k", False)):
        lm = fresh_model(*((FUSED[variant][0],) if variant in FUSED else (variant,)), **FUSED.get(variant, ("", {}))[1])
        one = projection(lm, 1, matrix)

        def silence(_module, _arguments, output, one=one):
            output = output.clone()
            output[..., slice(None) if one.columns is None else one.columns] = 0
            return output

        one.module.register_forward_hook(silence)
        inputs, _ = tapped(lm, Place(1, "o"))
        assert bool((inputs == 0).all()) is silent, matrix


@pytest.mark.parametrize("variant", [*(v for v in VARIANTS if tiny_model(v).family.qkv), *FUSED])
def test_queries_and_keys_are_told_apart(variant):
    """The last token's key reaches only its own row of attention; its query does so too, but an earlier token's key
    reaches later rows while its query does not."""
    moved = {}
    for matrix in ("q", "k"):
        lm = fresh_model(*((FUSED[variant][0],) if variant in FUSED else (variant,)), **FUSED.get(variant, ("", {}))[1])
        before, _ = tapped(lm, Place(1, "o"))
        one = projection(lm, 1, matrix)

        def shift(_module, _arguments, output, one=one):
            flat = output.clone().reshape(8, -1)
            flat[4, slice(None) if one.columns is None else one.columns] += 1.5
            return flat.reshape(output.shape)

        one.module.register_forward_hook(shift)
        after, _ = tapped(lm, Place(1, "o"))
        moved[matrix] = ((after - before).abs().amax(1) > 1e-5).nonzero().flatten().tolist()
    assert moved["q"] == [4]
    assert moved["k"] == [4, 5, 6, 7]


@pytest.mark.parametrize("family", FAMILIES)
def test_mlp_weights_are_views(family):
    """What is read through them is the model, not a copy of what it was."""
    lm = fresh_model(family)
    for matrix in mlp_matrices(lm.family):
        before = lm.digest()
        weight_of(lm, Place(1, matrix)).add_(1)
        assert lm.digest() != before, matrix


@pytest.mark.parametrize("variant", [*VARIANTS, *FUSED])
def test_writing_one_matrix_changes_that_one_and_no_other(variant):
    lm = fresh_model(*((FUSED[variant][0],) if variant in FUSED else (variant,)), **FUSED.get(variant, ("", {}))[1])
    places = [Place(layer, matrix) for layer in (1, 2) for matrix in matrices(lm.family)]
    for place in places:
        before = {other: weight_of(lm, other).clone() for other in places}
        wanted = torch.randn(before[place].shape, generator=torch.Generator().manual_seed(0))
        with weights_restored(lm, [place]):
            write_weight_(lm, place, wanted)
            changed = [other for other in places if not torch.equal(weight_of(lm, other), before[other])]
            assert changed == [place]
            assert torch.equal(weight_of(lm, place), wanted)
        assert all(torch.equal(weight_of(lm, other), weight) for other, weight in before.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adding_to_a_fused_matrix_rounds_once(dtype):
    lm = fresh_model("bloom", dtype=dtype)
    place, generator = Place(1, "k"), torch.Generator().manual_seed(0)
    before = weight_of(lm, place).clone()
    update = WeightUpdate(dense=0.01 * torch.randn(before.shape, generator=generator))
    add_to_weight_(lm, place, update)
    assert torch.equal(weight_of(lm, place), (before.float() + update.matrix()).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("facts", [2, 60])
def test_the_size_of_an_update_beside_its_weight(dtype, facts):
    lm, generator = fresh_model("gpt2", dtype=dtype), torch.Generator().manual_seed(0)
    update = WeightUpdate.from_factors(
        torch.randn(facts, lm.d_mlp, generator=generator), torch.randn(facts, lm.d_model, generator=generator)
    )
    assert (update.dense is None) == (facts == 2)
    weight = weight_of(lm, Place(1, "down"))
    squares = [math.fsum(x * x for x in one.flatten().tolist()) for one in (update.matrix(), weight)]
    assert relative_norm(update, weight) == pytest.approx(math.sqrt(squares[0] / squares[1]), rel=1e-12)


def test_sizes_that_float32_cannot_square():
    weight = torch.full((3, 2), 2e20)
    assert relative_norm(WeightUpdate(dense=weight / 4), weight) == pytest.approx(0.25)
    assert relative_norm(WeightUpdate(dense=weight), 0 * weight) == math.inf
    assert relative_norm(WeightUpdate(dense=0 * weight), 0 * weight) == 0


def test_unknown_places():
    lm = tiny_model("gpt2")
    with pytest.raises(InputError, match="it has up, down, q, k, v, o"):
        projection(lm, 0, "gate")
    with pytest.raises(InputError, match="4 layers, 0–3"):
        projection(lm, 4, "up")


def test_names():
    assert mlp_matrices(FAMILIES["gpt2"]) == ("up", "down")
    assert mlp_matrices(FAMILIES["phi3"]) == ("gate", "up", "down")
    assert tiny_tokenizer().is_fast
