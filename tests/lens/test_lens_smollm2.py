"""The lens on the embedded model: against plain backpropagation, the paper's lemmas, and its published numbers."""

import os

import pytest
import torch

from errata.core.outer import OuterSum
from errata.errors import ModelError
from errata.lens import backward_lens, backward_lenses
from errata.lens.flipping import RULES, answers_target, smallest_rate, update_direction
from errata.lens.measures import mechanism
from errata.models import Place, load, matrices, projection, weight_of, weights_restored
from reference import lens as reference

PROMPT, TARGET, SUBJECT = "Lionel Messi plays for", "Paris", "Lionel Messi"


@pytest.fixture(scope="module")
def lens(smollm2):
    return backward_lens(smollm2, PROMPT, TARGET, subject=SUBJECT, matrices=matrices(smollm2.family))


def relative(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), ("float32", 1e-3)])
def test_factors_make_the_weight_gradients_of_plain_backpropagation(dtype, tolerance):
    """In float32 the two differ by their rounding, 1e-4 in the lowest layer after thirty of backpropagation."""
    lm = load("smollm2", dtype=dtype)
    lens = backward_lens(lm, PROMPT, TARGET, matrices=matrices(lm.family))
    target = lens.example.target_ids[0]
    places = [Place(i, name) for i in (0, 9, 20, 29) for name in matrices(lm.family)]

    def loss(logits):
        return torch.nn.functional.cross_entropy(logits[-1:], torch.tensor([target]))

    value, weights, _ = reference.dense_gradients(lm, list(lens.example.ids), loss, places)
    assert lens.loss == pytest.approx(value, rel=1e-5)
    for place, expected in weights.items():
        assert relative(lens.gradient(*place), expected) <= tolerance, place


def test_padding_and_order_change_nothing(smollm2, lens):
    prompts = ["A much longer prompt that says nothing of what the other one says, and ends in", PROMPT]
    batch = list(backward_lenses(smollm2, prompts, ["Rome", TARGET], batch_size=2))
    for place in (Place(0, "down"), Place(15, "up"), Place(29, "down")):
        assert relative(batch[1].of(*place).vjps, lens.of(*place).vjps) < 1e-4
        assert relative(batch[1].of(*place).inputs, lens.of(*place).inputs) < 1e-4


def test_ranks_and_singular_values(lens):
    n = len(lens.example.ids)
    for matrix in ("gate", "up", "down"):
        ranks = [lens.rank(layer, matrix) for layer in range(lens.num_layers)]
        assert ranks[-1] == 1
        assert sum(rank == n for rank in ranks[:-1]) >= 27  # published: more than 98.5 % of prompts
    exact = torch.linalg.svdvals(lens.gradient(12, "down").double())
    torch.testing.assert_close(lens.singular_values(12, "down"), exact[:n], rtol=1e-5, atol=1e-8)
    assert float(exact[n]) < 1e-6 * float(exact[0])


def test_the_target_is_the_least_probable_token_of_the_last_vjp(lens):
    table = lens.project("down", top=3)
    last = len(lens.tokens) - 1
    hits = [layer for layer in range(lens.num_layers) if table.bottom(layer, last)[0] == " Paris"]
    assert len(hits) >= 5
    assert min(hits) >= lens.num_layers // 2
    assert table.rank(lens.target, 25, last) == table.vocabulary - 1
    # The last layer's δ is about p − e_t: what the model said on the top, what it should say near the bottom.
    assert table.top(29, last)[0] == lens.answer_text
    assert lens.segments()["last subject"] == (4,)


def test_what_enters_below_the_head_is_expected_minus_wanted_row(smollm2, lens):
    """Lemma 5.1, through the final norm: Σ p[k] e_k − e_t."""
    norm = smollm2.backbone.norm
    leaf = lens.states[-1][-1].clone().requires_grad_()
    hidden = norm(leaf[None])[0]
    p = smollm2.logits(hidden).detach().softmax(0)
    p[lens.target] -= 1
    (expected,) = torch.autograd.grad(hidden, leaf, p @ smollm2.lm_head.weight)
    assert relative(lens.state_vjps[-1][-1], expected) < 1e-4


def test_imprint_and_shift(lens):
    for layer in (3, 15, 28):
        found = mechanism(lens, layer, lr=0.01)
        assert max(found["delta_z"].values()) < 1e-3
        assert found["delta_y_down_only"] < 1e-3
        assert found["delta_y_first_order"] < found["second_order_y"] + found["curvature_y"] + 1e-3
        assert found["delta_a"] < 0.05
    one = lens.of(20, "down")
    last = len(lens.tokens) - 1
    alone = OuterSum(one.inputs[last:], one.vjps[last:])
    # Whatever the signs of the activations, the output moves against δ.
    shift = -(one.inputs[last] @ alone.dense())
    assert float(torch.cosine_similarity(shift, -one.vjps[last], dim=0)) > 0.9999
    assert float(shift.norm()) == pytest.approx(float(one.inputs[last].norm() ** 2 * one.vjps[last].norm()), rel=1e-4)


def test_a_step_makes_the_target_likelier_and_comes_off(smollm2, lens):
    digest = smollm2.digest()
    patch = lens.step(0.05, layers=[20, 21, 22])
    with patch.applied(smollm2):
        assert backward_lens(smollm2, PROMPT, TARGET).loss < lens.loss - 0.5
    assert smollm2.digest() == digest


@pytest.mark.parametrize("rule", RULES)
def test_the_smallest_rate_that_flips_the_answer(smollm2, lens, rule):
    layer = 22
    flip = smallest_rate(lens, layer, rule)
    assert flip.rate is not None
    update, place = update_direction(lens, layer, rule), Place(layer, "down")
    for rate, expected in ((flip.rate, True), (flip.rate * 0.97, False)):
        with weights_restored(smollm2, [place]), torch.no_grad():
            weight_of(smollm2, place).add_(rate * update.matrix())
            says = int(smollm2.hf(input_ids=torch.tensor([lens.example.ids])).logits[0, -1].argmax())
        assert (says == lens.target) is expected
        shift = lens.of(layer, "down").inputs @ update.matrix()
        assert bool(answers_target(lens, layer, shift, [rate])[0]) is expected


def test_forward_pass_shifting_is_a_rank_one_update(smollm2, lens):
    update = update_direction(lens, 22, "shift")
    last = len(lens.tokens) - 1
    row = smollm2.lm_head.weight[lens.target].detach()
    expected = torch.outer(lens.of(22, "down").inputs[last], row)
    torch.testing.assert_close(update.matrix(), expected)
    assert expected.shape == projection(smollm2, 22, "down").weight.shape


def test_the_published_numbers_of_gpt2():
    """backward-lens.md's golden check; it needs gpt2's weights in the local cache (or ERRATA_GPT2, a folder)."""
    name = os.environ.get("ERRATA_GPT2", "gpt2")
    offline = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        lm = load(name)
    except ModelError as error:
        pytest.skip(f"gpt2's weights are not in the local cache: {str(error).splitlines()[0][:120]}")
    finally:
        if offline is None:
            del os.environ["HF_HUB_OFFLINE"]
    lens = backward_lens(lm, "Obama grew up in", " Paris")
    assert lens.loss == pytest.approx(7.4214, abs=1e-3)
    norms = [0.1152, 0.1888, 0.2457, 0.2588, 0.2834, 0.2969, 0.3333, 0.3002, 0.2762, 0.2441, 0.2107, 0.1932]
    torch.testing.assert_close(lens.norms("down")[:, -1], torch.tensor(norms), rtol=2e-3, atol=2e-4)
    ranks = [49593, 50250, 50243, 50255, 50255, 50255, 50256, 50256, 50256, 50256, 50256, 50255]
    table = lens.project("down", track=[lens.target])
    assert table.ranks[:, -1, 0].tolist() == ranks
