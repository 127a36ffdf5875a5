"""Tiny models have their families' scales: measured again in another way than they were built by."""

import pytest
import torch

from errata.models import projection
from proportions import PROPORTIONS, measured
from tiny import LAYERS, VARIANTS, proportioned_model, tiny_model, tiny_tokenizer

IDS = torch.randint(2, len(tiny_tokenizer()), (20, 10), generator=torch.Generator().manual_seed(1))
POST_NORMED = ["gemma2", "gemma3_text", "olmo2"]


def _rms(vectors):
    """Over all tokens but the first of each text."""
    return float(vectors.reshape(*IDS.shape, -1)[:, 1:].pow(2).mean().sqrt())


@torch.no_grad()
def _states(lm):
    """The stream before each block, by transformers' own account, and the logits."""
    out = lm.hf(IDS, output_hidden_states=True, use_cache=False)
    return [hidden.clone() for hidden in out.hidden_states], out.logits


def _silenced(lm, module, layer):
    """The stream after `layer` where `module` of it writes nothing."""
    handle = module.register_forward_hook(lambda _m, _a, output: torch.zeros_like(output))
    try:
        return _states(lm)[0][layer + 1]
    finally:
        handle.remove()


@torch.no_grad()
def _of_down(lm, layer):
    """What `down` reads and writes."""
    seen = {}
    handle = lm.down(layer).register_forward_hook(lambda _m, args, out: seen.update(key=args[0], written=out.clone()))
    _states(lm)
    handle.remove()
    return _rms(seen["key"]), _rms(seen["written"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_flows_through_is_as_large_as_the_table_says(variant):
    lm, wanted = proportioned_model(variant), PROPORTIONS[variant]
    # OLMo 2 norms nothing before its MLP: what that reads and writes varies with the text.
    slack = 0.35 if variant == "olmo2" else 0.15
    streams, logits = _states(lm)
    assert _rms(streams[0]) == pytest.approx(wanted.embedding, rel=0.15)
    for layer in range(1, LAYERS - 1):  # transformers shows the last block's output behind the final norm only
        assert wanted.stream / 1.2 < _rms(streams[layer]) < 1.7 * wanted.stream
        key, written = _of_down(lm, layer)
        assert key == pytest.approx(wanted.key, rel=slack)
        assert written == pytest.approx(wanted.written, rel=slack)
        contribution = _rms(streams[layer + 1] - _silenced(lm, lm.down(layer), layer))
        expected = wanted.contribution or wanted.written * lm.residual_scale
        assert contribution == pytest.approx(expected, rel=0.15)
        if not lm.family.post_norm and variant != "bloom-post":  # where attention's part passes no MLP before it
            # The longer a text, the more of it is averaged.
            assert wanted.attention / 1.6 < measured(lm, IDS)["attention"][layer] < 1.6 * wanted.attention
    assert float(logits[:, 1:].std(-1).mean()) == pytest.approx(wanted.logits, rel=0.15)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_part_is_heard(variant):
    """No family's scale silences its attention or its MLP: without one of them the logits are others."""
    lm = proportioned_model(variant)
    logits = _states(lm)[1]
    for module in (projection(lm, 1, "o").module, lm.down(1)):
        handle = module.register_forward_hook(lambda _m, _a, output: torch.zeros_like(output))
        moved = _states(lm)[1]
        handle.remove()
        assert float((moved - logits).norm() / logits.norm()) > 0.02


def test_gemma_s_post_norm_turns_little_into_much():
    """Raw output : contribution : stream; in random toys all three are near 1, and a wrong one passes for the right."""
    real, random = (
        {name: sizes[2] for name, sizes in measured(make("gemma3_text")).items() if name != "logits"}
        for make in (proportioned_model, tiny_model)
    )
    assert real["contribution"] > 100 * real["written"]
    assert real["stream"] > 500 * real["written"]
    assert max(random["contribution"], random["stream"]) < 20 * random["written"]


@pytest.mark.parametrize("variant", POST_NORMED)
def test_post_norm_gains_are_unequal_and_some_are_dead(variant):
    lm = proportioned_model(variant)
    for layer in range(LAYERS):
        # What a unit vector of each coordinate becomes: its gain times √d_model.
        gains = lm.contribution(layer, torch.eye(lm.d_model), attention=False).detach().diag()
        assert int((gains.abs() < 1e-6 * gains.abs().max()).sum()) == 1
        assert int((gains < 0).sum()) == 1
        assert float(gains.max()) > 5 * float(gains.median())


def test_multipliers_are_those_of_the_released_models():
    granite, cohere = proportioned_model("granite"), proportioned_model("cohere")
    assert granite.residual_scale == pytest.approx(0.22)
    assert granite.hf.config.embedding_multiplier == 12
    assert cohere.hf.config.logit_scale == pytest.approx(0.0625)


def test_a_first_token_is_massive_where_it_is_in_the_real_model():
    lm = proportioned_model("llama", bos=True)
    ids = torch.tensor([lm.tokenizer("The tower is tall.")["input_ids"]])
    assert ids[0, 0] == 0
    with torch.no_grad():
        stream = lm.hf(ids, output_hidden_states=True).hidden_states[2][0].pow(2).mean(-1).sqrt()
    assert float(stream[0]) > 4 * float(stream[1:].median())


def test_the_row_of_the_embedded_model_is_what_it_has(smollm2):
    ids = torch.randint(1000, 20_000, (4, 12), generator=torch.Generator().manual_seed(0))
    found, wanted = measured(smollm2, ids), PROPORTIONS["llama"]
    for name, layer in {"stream": 7, "key": 7, "written": 7, "attention": 7, "logits": 0}.items():
        expected = getattr(wanted, name)
        assert expected / 1.5 < found[name][layer] < 1.5 * expected, (name, found[name][layer])
    assert wanted.embedding / 1.5 < found["stream"][0] < 1.5 * wanted.embedding
