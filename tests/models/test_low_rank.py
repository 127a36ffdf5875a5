"""Low-rank updates by hooks against weights that really are replaced, on every family; and runs from a layer on."""

import pytest
import torch

from errata.models import Place, mlp_matrices, pad_right, rows_updated, run_backward, run_layers, weight_of
from reference import mend as reference
from tiny import VARIANTS, tiny_model

ROWS = [(5, 9, 30, 31, 8, 77, 12), (40, 41, 42, 43), (7, 60, 61, 62, 63)]


def _factors(lm, places, rows, rank=3):
    generator = torch.Generator().manual_seed(0)

    def draw(width):
        return (0.3 * torch.randn(rows, rank, width, generator=generator)).requires_grad_()

    return {place: (draw(weight_of(lm, place).shape[0]), draw(weight_of(lm, place).shape[1])) for place in places}


def _places(lm):
    return [Place(layer, name) for layer in (1, 3) for name in mlp_matrices(lm.family)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_row_has_its_own_weights(variant):
    lm = tiny_model(variant)
    before = lm.digest()
    factors = _factors(lm, _places(lm), len(ROWS))
    ids, mask = pad_right(ROWS)
    entering = run_layers(lm, ids, mask, stop=1).hidden
    with rows_updated(lm, factors):
        hidden = run_layers(lm, entering, mask, first=1).hidden
    found = lm.logits(hidden)
    assert not any(parameter.requires_grad for parameter in lm.hf.parameters())
    for i, row in enumerate(ROWS):
        weights = reference.replaced_weights(lm, {p: left[i].T @ right[i] for p, (left, right) in factors.items()})
        expected = reference.logits(lm, weights, row)
        assert torch.allclose(found[i, : len(row)], expected, atol=2e-4)
        tensors = [tensor for pair in factors.values() for tensor in pair]
        ours = torch.autograd.grad(found[i, : len(row)].square().sum(), tensors, retain_graph=True)
        slow = torch.autograd.grad(expected.square().sum(), tensors)
        for one, other in zip(ours, slow, strict=True):
            assert (one - other).norm() <= 2e-3 * other.norm() + 1e-4
    plain = run_layers(lm, entering, mask, first=1).hidden
    assert not torch.allclose(plain, hidden)
    assert lm.digest() == before


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_backward_from_a_layer_on_is_that_of_the_whole_model(variant):
    lm, first = tiny_model(variant), 2
    places = [Place(layer, name) for layer in (2, 3) for name in (*mlp_matrices(lm.family), "o")]
    ids, mask = pad_right(ROWS)

    def loss(hidden):
        return lm.logits(hidden[:, 3]).float().log_softmax(-1)[:, 20]

    whole = run_backward(lm, ids, mask, places, loss)
    entering = run_layers(lm, ids, mask, stop=first).hidden
    part = run_backward(lm, entering, mask, places, loss, first=first)
    assert len(part.states) == len(whole.states) - first
    assert torch.allclose(part.losses, whole.losses, atol=1e-4)
    for place in places:
        assert torch.allclose(part.inputs[place], whole.inputs[place], atol=1e-4)
        assert (part.vjps[place] - whole.vjps[place]).norm() <= 1e-3 * whole.vjps[place].norm()
    pairs = zip(part.state_vjps, whole.state_vjps[first:], strict=True)
    assert all((one - other).norm() <= 1e-3 * other.norm() for one, other in pairs)


def test_in_half_precision_it_is_rounded_once():
    lm = tiny_model("llama", dtype=torch.bfloat16)
    factors = {place: (left.detach(), right.detach()) for place, (left, right) in _factors(lm, _places(lm), 1).items()}
    ids, mask = pad_right(ROWS[:1])
    place, seen = Place(1, "down"), []
    handle = lm.down(1).register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    with rows_updated(lm, {place: factors[place]}):
        handle.remove()
        after = lm.down(1).register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
        run_layers(lm, ids, mask)
        after.remove()
    read, written = seen[0]
    left, right = factors[place]
    exact = read.float() @ weight_of(lm, place).float() + (read.float() @ left[0].T) @ right[0]
    assert written.dtype == torch.bfloat16
    assert (written.float() - exact).abs().max() <= 2**-7 * exact.abs().max()
