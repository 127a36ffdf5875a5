"""Factors against plain backpropagation, on every family; lemmas of the paper; what is asked of a gradient."""

import pytest
import torch

from errata.errors import InputError, NumericsError
from errata.lens import backward_lens, backward_lenses
from errata.lens.measures import mechanism
from errata.models import Place, matrices, projection, run_taps
from reference import lens as reference
from tiny import VARIANTS, fresh_model, proportioned_model, tiny_model

PROMPT, TARGET = "The Eiffel Tower is located in", "Rome"
PROMPTS = [PROMPT, "Danielle Darrieux speaks", "The capital of France is Paris, the capital of Italy is"]
TARGETS = ["Rome", "English and French", "Paris"]


def relative(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))


def all_places(lm):
    return [Place(layer, name) for layer in range(lm.num_layers) for name in matrices(lm.family)]


def lens_of(lm, **options):
    return backward_lens(lm, PROMPT, TARGET, matrices=matrices(lm.family), **options)


def nll_at(lens):
    def loss(logits):
        wanted = torch.tensor(lens.example.target_ids[: len(lens.example.read)])
        return torch.nn.functional.cross_entropy(logits[list(lens.example.read)], wanted, reduction="sum")

    return loss


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("loss", ["first", "target"])
@pytest.mark.parametrize(
    ("make", "dtype"),
    [(tiny_model, torch.float32), (proportioned_model, torch.float64)],
    ids=["random-float32", "real-scales-float64"],
)
def test_factors_make_the_weight_gradients_of_plain_backpropagation(variant, loss, make, dtype):
    lm = make(variant, dtype=dtype)
    # In float32 the small gradients of queries and keys carry the rounding of the large ones.
    slack = 10 if dtype == torch.float32 else 1
    lens = backward_lens(lm, PROMPTS[1], TARGETS[1], loss=loss, matrices=matrices(lm.family))
    assert len(lens.example.target_ids) > 1
    value, weights, biases = reference.dense_gradients(lm, list(lens.example.ids), nll_at(lens), all_places(lm))
    assert lens.loss == pytest.approx(value, rel=1e-5)
    for place, expected in weights.items():
        if float(expected.norm()) == 0:
            assert float(lens.gradient(*place).norm()) < 1e-6
            continue
        assert relative(lens.gradient(*place), expected) <= 1e-5 * (slack if place.matrix in "qk" else 1), place
        bias = biases[place]
        if bias is not None and float(bias.norm()) > 1e-6:
            assert relative(lens.bias_gradient(*place), bias) <= 1e-5 * slack, place


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_and_order_change_nothing(variant):
    lm = tiny_model(variant)
    alone = [backward_lens(lm, p, t) for p, t in zip(PROMPTS, TARGETS, strict=True)]
    together = list(backward_lenses(lm, PROMPTS[::-1], TARGETS[::-1], batch_size=3))[::-1]
    for one, other in zip(alone, together, strict=True):
        assert one.example.ids == other.example.ids
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        for place in one.factors:
            assert relative(other.of(*place).inputs, one.of(*place).inputs) < 1e-5
            if float(one.of(*place).vjps.norm()):
                assert relative(other.of(*place).vjps, one.of(*place).vjps) < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_rank_is_at_most_the_number_of_positions_that_get_a_gradient(variant):
    """Lemma 4.1; and in the last layer, which no attention follows, it is 1 for one loss position."""
    lm = tiny_model(variant)
    lens = lens_of(lm)
    for place in all_places(lm):
        alive = int(lens.of(*place).vjps.any(dim=1).sum())
        assert lens.rank(*place) <= alive <= len(lens.example.ids), place
    for name in ("up", "down"):
        assert lens.rank(lm.num_layers - 1, name) == 1
        assert lens.rank(0, name) > 1
    several = backward_lens(lm, PROMPTS[1], TARGETS[1], loss="target")
    m = len(several.example.target_ids)
    assert several.rank(lm.num_layers - 1, "down") <= m
    alive = several.of(lm.num_layers - 1, "down").vjps.any(dim=1).nonzero().flatten().tolist()
    assert alive == list(several.example.read)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_enters_below_the_head_is_expected_minus_wanted_row(variant):
    """Lemma 5.1: the VJP of the head's input is Σ p[k] e_k − e_t (times a scale's or a soft-cap's slope)."""
    lm = proportioned_model(variant)
    lens = lens_of(lm)
    (read,) = lens.example.read
    with torch.no_grad():
        norm = lm.backbone.get_submodule(lm.family.ln_final)
        hidden = norm(lens.states[-1][read][None])[0]
        logits = lm.logits(hidden)
        p = logits.softmax(0)
    wanted = torch.nn.functional.one_hot(torch.tensor(lens.target), lm.d_vocab)
    product = lm.lm_head(hidden)
    slope = torch.autograd.functional.jvp(lm.scaled_logits, product, torch.ones_like(product))[1]
    expected = ((p - wanted) * slope) @ lm.lm_head.weight
    leaf = lens.states[-1][read].clone().requires_grad_()
    (through,) = torch.autograd.grad(norm(leaf[None])[0], leaf, expected)
    assert relative(lens.state_vjps[-1][read], through) < 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_imprint_and_shift(variant):
    """Lemma 5.2, one token: after a step W1's output on the same input moves by −lr‖x‖²δ, and so does W2's."""
    lm = fresh_model(VARIANTS[variant][0], **{**VARIANTS[variant][1]})
    lens = backward_lens(lm, PROMPT, TARGET)
    layer, lr = 1, 0.1
    for name in ("up", "down"):
        one = lens.of(layer, name)
        before = one.inputs @ projection(lm, layer, name).weight
        with lens.step(lr, matrices=[name], layers=[layer]).applied(lm):
            after = one.inputs @ projection(lm, layer, name).weight
        expected = -lr * (one.inputs @ one.inputs.T) @ one.vjps
        assert relative(after - before, expected) < 1e-3
        predicted = lens.predict_shift(PROMPT, lr=lr, matrices=[name], layers=[layer])[Place(layer, name)]
        assert relative(predicted, expected) < 1e-4
    last = len(lens.example.ids) - 1
    one = lens.of(lm.num_layers - 1, "up")
    alone = -lr * float(one.inputs[last].norm() ** 2) * one.vjps[last]  # only one position has a VJP there
    shift = lens.predict_shift(PROMPT, lr=lr, matrices=["up"])[Place(lm.num_layers - 1, "up")]
    assert relative(shift[last], alone) < 1e-4


@pytest.mark.parametrize("variant", ["llama", "gpt2", "phi3", "falcon", "gemma3_text", "opt"])
def test_a_predicted_shift_is_what_a_step_does_to_another_prompt(variant):
    lm = fresh_model(variant)
    lens = backward_lens(lm, PROMPT, TARGET)
    other = PROMPTS[2]
    place, ids = Place(2, "down"), torch.tensor([lm.tokenizer(other)["input_ids"]])
    before = run_taps(lm, ids, torch.ones_like(ids), [place])[1][place]
    predicted = lens.predict_shift(other, lr=0.3, layers=[2])[place]
    with lens.step(0.3, matrices=["down"], layers=[2]).applied(lm):
        after = run_taps(lm, ids, torch.ones_like(ids), [place])[1][place]
    assert relative((after - before)[0], predicted) < 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("attention", [False, True])
def test_a_step_is_sgd_and_comes_off(variant, attention):
    lm = fresh_model(variant)
    lens, digest = lens_of(lm), lm.digest()
    patch = lens.step(0.05, matrices=matrices(lm.family)) if attention else lens.step(0.05)
    expected = {place: projection(lm, *place).weight - 0.05 * lens.gradient(*place) for place in patch.updates}
    assert {place.matrix for place in expected} == set(matrices(lm.family)) - (set() if attention else set("qkvo"))
    with patch.applied(lm):
        for place, weight in expected.items():
            torch.testing.assert_close(projection(lm, *place).weight, weight, rtol=1e-5, atol=1e-6)
        assert backward_lens(lm, PROMPT, TARGET).loss < lens.loss
    assert lm.digest() == digest


def test_a_step_is_saved_and_loaded(tmp_path):
    from errata.patches import Patch

    lm = fresh_model("llama")
    patch = backward_lens(lm, PROMPT, TARGET).step(0.05, matrices=["up", "gate"], layers=[0, 3])
    loaded = Patch.load(patch.save(tmp_path / "step"))
    assert loaded.id == patch.id
    assert set(loaded.updates) == {Place(i, m) for i in (0, 3) for m in ("up", "gate")}


@pytest.mark.parametrize("variant", ["llama", "gpt2", "gpt2-square"])
def test_what_is_asked_of_a_gradient_equals_the_dense_one(variant):
    lm = tiny_model(variant)
    lens = lens_of(lm)
    for place in [Place(1, "up"), Place(2, "down"), Place(0, "q"), Place(3, "down")]:
        dense = lens.gradient(*place).double()
        one = lens.of(*place)
        expected = torch.linalg.svdvals(dense)
        kept = one.singular_values
        size = float(expected[0])
        assert kept.shape[0] <= len(expected)
        torch.testing.assert_close(kept, expected[: len(kept)], rtol=1e-5, atol=1e-7 * size)
        assert float(expected[len(kept) :].amax() if len(kept) < len(expected) else 0) < 1e-6 * size
        assert lens.rank(*place) == int(torch.linalg.matrix_rank(dense, rtol=one.tolerance() / size))
        assert lens.stable_rank(*place) == pytest.approx(float(dense.square().sum() / expected[0] ** 2), rel=1e-5)
        assert one.norm == pytest.approx(float(dense.norm()), rel=1e-5)
        torch.testing.assert_close(one.neuron_norms(by_input=True), dense.norm(dim=1).float(), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(one.neuron_norms(by_input=False), dense.norm(dim=0).float(), rtol=1e-4, atol=1e-7)
        parts = [float((torch.outer(x, d).double() * dense).sum()) for x, d in zip(one.inputs, one.vjps, strict=True)]
        torch.testing.assert_close(
            one.shares(), torch.tensor(parts).double() / dense.square().sum(), rtol=1e-4, atol=1e-6
        )
        assert float(one.shares().sum()) == pytest.approx(1)
    assert lens.gradient_norms("down")[1] == pytest.approx(float(lens.gradient(1, "down").norm()), rel=1e-5)
    whole = lens.cosine("down", of="gradient")
    a, b = lens.gradient(0, "down").flatten(), lens.gradient(2, "down").flatten()
    assert float(whole[0, 2]) == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), abs=1e-5)
    vectors = lens.cosine("down")
    x, y = lens.of(1, "down").vjps[-1], lens.of(3, "down").vjps[-1]
    assert float(vectors[1, 3]) == pytest.approx(float(torch.cosine_similarity(x, y, dim=0)), abs=1e-5)


def test_a_prompt_longer_than_the_model_is_wide():
    lm = tiny_model("llama")
    lens = backward_lens(lm, "The tower is tall. " * 12, "Rome")
    assert len(lens.example.ids) > lm.d_model
    for place in [Place(0, "down"), Place(1, "up")]:
        expected = torch.linalg.svdvals(lens.gradient(*place).double())
        found = lens.singular_values(*place)
        torch.testing.assert_close(
            found[: len(expected)], expected[: len(found)], rtol=1e-5, atol=1e-6 * float(expected[0])
        )
        assert lens.rank(*place) <= lm.d_model


@pytest.mark.parametrize("variant", ["llama", "gpt2", "gemma2", "bloom"])
def test_reversed_attention_has_the_form_of_a_map(variant):
    lm = tiny_model(variant)
    lens, plain = lens_of(lm, attention=True), lens_of(lm)
    assert lens.loss == pytest.approx(plain.loss, rel=1e-5)
    n = len(lens.example.ids)
    for layer in range(lm.num_layers):
        reversed_map = lens.reversed_attention(layer)
        assert reversed_map.shape == (4, n, n)
        assert float(reversed_map.sum(-1).abs().max()) < 1e-5
        assert float(reversed_map.triu(1).abs().max()) == 0
    with pytest.raises(InputError, match="attention=True"):
        plain.reversed_attention(0)


@pytest.mark.parametrize(
    ("variant", "scale"), [("gpt2", 8**-0.5), ("opt", 8**-0.5), ("gpt_neo", 1.0), ("bloom", 8**-0.5)]
)
def test_gradients_flow_back_through_the_reversed_attention(variant, scale):
    """δ_q = R·K and δ_k = Rᵀ·Q, scaled as the scores are: in families that do not turn queries and keys."""
    lm = tiny_model(variant)
    lens = lens_of(lm, attention=True)
    n = len(lens.example.ids)
    for layer in (0, 2):

        def heads(values):
            return values.reshape(n, 4, -1).transpose(0, 1)

        def projected(name, layer=layer):
            one = projection(lm, layer, name)
            product = lens.of(layer, name).inputs @ one.weight
            return heads(product if one.bias is None else product + one.bias)

        reversed_map = lens.reversed_attention(layer)
        for name, expected in (
            ("q", scale * reversed_map @ projected("k")),
            ("k", scale * reversed_map.transpose(1, 2) @ projected("q")),
        ):
            assert relative(heads(lens.of(layer, name).vjps), expected) < 1e-3, (layer, name)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "bloom-post"])
def test_the_stream_is_what_enters_plus_what_attention_and_mlp_add(variant):
    """Post-norms and multipliers included. (BLOOM may add to the normed stream instead.)"""
    lens = lens_of(tiny_model(variant))
    for layer in range(lens.num_layers):
        added = lens.attention_out[layer] + lens.mlp_out[layer]
        assert relative(lens.states[layer] + added, lens.states[layer + 1]) < 1e-5


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "bloom-post"])
def test_which_vjps_are_the_streams(variant):
    """Down's δ is the stream's VJP times the multiplier; in a parallel block attention's output has it too; behind a
    post-norm it is another vector."""
    lm = tiny_model(variant)
    lens = lens_of(lm)
    stream = lens.state_vjps[2] * lm.residual_scale
    down, attention = (relative(lens.of(1, name).vjps, stream) for name in ("down", "o"))
    if lm.family.post_norm:
        assert down > 0.1
        return
    assert down < 1e-5
    parallel = lm.family.name in ("gptj", "phi", "cohere", "falcon") or variant == "gpt_neox"
    assert (attention < 1e-5) is parallel


def test_a_confident_wrong_answer_is_turned_into_the_wanted_one():
    """Lemma 5.1 at its end: the VJP below the head is about e_a − e_t."""
    lm = fresh_model("gpt2")
    with torch.no_grad():
        lm.lm_head.weight.mul_(40)
    lens = backward_lens(lm, PROMPT, "and")
    assert lens.answer != lens.target
    norm = lm.backbone.get_submodule(lm.family.ln_final)
    leaf = lens.states[-1][-1].clone().requires_grad_()
    difference = lm.lm_head.weight[lens.answer] - lm.lm_head.weight[lens.target]
    (expected,) = torch.autograd.grad(norm(leaf[None])[0], leaf, difference)
    assert float(torch.cosine_similarity(lens.state_vjps[-1][-1], expected, dim=0)) > 0.99


@pytest.mark.parametrize("centred", [False, True])
def test_the_norms_pull_vjps_back_as_their_closed_forms_say(centred):
    """RMSNorm: (γδ − v̂ mean(v̂·γδ))/rms(v); LayerNorm takes the mean of γδ off as well."""
    lm = tiny_model("gpt2" if centred else "llama")
    norm = lm.backbone.get_submodule(lm.family.ln_final)
    eps = norm.eps if centred else norm.variance_epsilon
    generator = torch.Generator().manual_seed(0)
    v, delta = torch.randn(32, generator=generator), torch.randn(32, generator=generator)
    leaf = v.clone().requires_grad_()
    (found,) = torch.autograd.grad(norm(leaf[None])[0], leaf, delta)
    base = v - v.mean() if centred else v
    size = (base.square().mean() + eps).sqrt()
    unit, scaled = base / size, norm.weight * delta
    expected = (scaled - (scaled.mean() if centred else 0) - unit * (unit * scaled).mean()) / size
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_and_says_so(dtype):
    whole, half = tiny_model("llama"), tiny_model("llama", dtype=dtype)
    a, b = backward_lens(whole, PROMPT, TARGET), backward_lens(half, PROMPT, TARGET)
    assert b.of(0, "down").vjps.dtype == torch.float32
    assert relative(b.of(1, "down").vjps, a.of(1, "down").vjps) < 0.1
    assert any("loss scale" in note for note in b.notes)
    assert a.notes == ()


@pytest.mark.parametrize("variant", ["llama", "gpt2", "phi3", "gemma2", "opt"])
def test_the_mechanism_is_predicted(variant):
    """Exact where it is exact, and better by an order with each order of the step."""
    lm = fresh_model(variant)
    lens = backward_lens(lm, PROMPT, TARGET)
    digest = lm.digest(fresh=True)
    coarse, fine = (mechanism(lens, 1, lr) for lr in (3e-2, 3e-3))
    assert lm.digest(fresh=True) == digest
    for found in (coarse, fine):
        assert max(found["delta_z"].values()) < 2e-3
        assert found["delta_y_down_only"] < 2e-3
    assert fine["delta_a"] < 0.3 * coarse["delta_a"] + 2e-3
    assert fine["second_order_y"] == pytest.approx(coarse["second_order_y"] / 10, rel=0.5)
    assert fine["curvature_y"] < 0.3 * coarse["curvature_y"] + 2e-3
    # What linear prediction misses is the second-order term and the curvature, and nothing else.
    assert coarse["delta_y_first_order"] <= coarse["second_order_y"] + coarse["curvature_y"] + 2e-3


def test_a_prompt_whose_last_token_depends_on_the_target():
    """The lens runs the prompt as it is tokenised together with its target; so must what is predicted on it."""
    lm = fresh_model("llama")
    lens = backward_lens(lm, "The capital of France is ", "Paris")
    alone = lm.tokenizer("The capital of France is ")["input_ids"]
    assert list(lens.example.ids) == alone[:-1]
    assert any("changes the prompt's last token" in note for note in lens.notes)
    assert mechanism(lens, 1, 0.01)["delta_y_down_only"] < 1e-3
    own = lens.predict_shift(layers=[1])[Place(1, "down")]
    assert len(own) == len(lens.example.ids)


def test_a_tiny_gradient_survives_float16():
    """Without the loss scale it would underflow to zero."""
    lm = tiny_model("llama", dtype=torch.float16)

    def faint(logits):
        return 1e-6 * logits[-1].log_softmax(0)[5]

    lens = backward_lens(lm, PROMPT, loss=faint)
    assert all(bool(lens.of(layer, "down").vjps[-1].any()) for layer in range(lm.num_layers))


def test_nan_is_an_error():
    lm = fresh_model("llama")
    with torch.no_grad():
        projection(lm, 1, "down").weight.fill_(float("nan"))
    with pytest.raises(NumericsError, match="not finite"):
        backward_lens(lm, PROMPT, TARGET)
    with pytest.raises(NumericsError, match="loss function"):
        backward_lens(tiny_model("llama"), PROMPT, loss=lambda logits: logits.sum() * float("nan"))


def test_parameters_stay_frozen_and_untouched():
    lm = fresh_model("gpt2")  # transformers itself leaves hooks on a model that was asked for its hidden states
    digest = lm.digest(fresh=True)
    lens_of(lm, attention=True)
    assert lm.digest(fresh=True) == digest
    assert not any(p.requires_grad or p.grad is not None for p in lm.hf.parameters())
    assert lm.hf.config._attn_implementation != "eager"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.hf.modules())


def test_printed_it_is_two_lines():
    lens = backward_lens(tiny_model("llama"), "The tower\n" * 12 + "is in the city of", " Rome", loss="target")
    first, second = repr(lens).splitlines()
    assert first.startswith("BackwardLens of tiny-llama at “The tower The tower ")
    assert first.endswith(f"…”: loss “target” = {lens.loss:.4g}.")
    assert second == f"4 layers, {len(lens.example.ids)} tokens; tapped: {', '.join(lens.matrices)}."
