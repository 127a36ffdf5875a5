"""The model's own samples as a corpus."""

import pytest
import torch

from errata.errors import ConfigError, ModelError
from errata.models import wrap
from errata.stats import OWN_SAMPLES, samples, second_moments
from errata.store.cache import Cache
from reference import moments as reference
from tiny import tiny_hf, tiny_model, tiny_tokenizer

OPTIONS = {"max_length": 9, "chunk_tokens": 200}


@pytest.fixture
def sampled(monkeypatch):
    """The first index of every group that is sampled."""
    seen = []
    sample = samples.sample_ids

    def counted(*arguments, first_index, **options):
        seen.append(first_index)
        return sample(*arguments, first_index=first_index, **options)

    monkeypatch.setattr(samples, "sample_ids", counted)
    return seen


def _documents(lm, folder, count, start=0, seed=5):
    stream = samples.sampled_tokens(lm, seed, 9, Cache(folder)).documents(start)
    return [next(stream) for _ in range(count)]


@pytest.mark.parametrize("variant", ["llama", "gpt2", "gemma3_text", "bloom"])
def test_moments_of_samples_are_those_of_their_tokens(variant, tmp_path):
    lm = tiny_model(variant)
    found = second_moments(lm, [1, 3], corpus=OWN_SAMPLES, tokens=350, seed=5, cache=tmp_path, **OPTIONS)
    assert (found.tokens, found.documents, found.source) == (350, 39, "self-samples seed=5")
    expected = reference.second_moments(lm, [1, 3], _documents(lm, tmp_path / "again", 40), 350)
    for layer in (1, 3):
        assert (found[layer] - expected[layer]).norm() <= 1e-5 * expected[layer].norm()


def test_documents_start_with_bos_and_follow_the_seed(tmp_path):
    lm = tiny_model("llama")
    rows = _documents(lm, tmp_path, 70)
    assert {len(row) for row in rows} == {9}
    assert {row[0] for row in rows} == {lm.tokenizer.bos_token_id}
    assert len(set(map(tuple, rows))) == 70
    assert rows == _documents(lm, tmp_path / "again", 70)
    assert rows[33:] == _documents(lm, tmp_path / "from the middle", 37, start=33)
    assert rows != _documents(lm, tmp_path, 70, seed=6)


def test_samples_are_drawn_from_the_whole_distribution(tmp_path):
    """The second token of many documents against the model's own probabilities."""
    lm = tiny_model("llama")
    count = 1600
    stream = samples.sampled_tokens(lm, 5, 2, Cache(tmp_path)).documents(0)
    second = torch.tensor([next(stream)[1] for _ in range(count)])
    logits = lm.hf(torch.tensor([[lm.tokenizer.bos_token_id]])).logits[0, 0]
    probabilities = logits.double().softmax(-1)
    frequent = probabilities.topk(20).indices
    for token in frequent:
        p = float(probabilities[token])
        share = float((second == token).double().mean())
        assert abs(share - p) <= 5 * (p * (1 - p) / count) ** 0.5
    assert len(set(second.tolist())) > 100


def test_longer_runs_and_other_layers_sample_nothing_twice(tmp_path, sampled):
    lm = tiny_model("llama")
    whole = second_moments(lm, [1, 2], corpus=OWN_SAMPLES, tokens=900, cache=tmp_path / "whole", **OPTIONS)
    assert sampled == [0, 32, 64, 96]
    sampled.clear()
    second_moments(lm, [1], corpus=OWN_SAMPLES, tokens=300, cache=tmp_path, **OPTIONS)
    assert sampled == [0, 32]
    found = second_moments(lm, [1, 2], corpus=OWN_SAMPLES, tokens=900, cache=tmp_path, **OPTIONS)
    assert sampled == [0, 32, 64, 96]
    assert all(torch.equal(found[layer], whole[layer]) for layer in (1, 2))


def test_damaged_samples_are_drawn_again(tmp_path, sampled):
    lm, told = tiny_model("llama"), []
    whole = second_moments(lm, [1], corpus=OWN_SAMPLES, tokens=500, cache=tmp_path, **OPTIONS)
    for path in tmp_path.glob("??/*.safetensors"):
        path.write_bytes(path.read_bytes()[:50])
    sampled.clear()
    found = second_moments(lm, [1], corpus=OWN_SAMPLES, tokens=500, cache=tmp_path, notify=told.append, **OPTIONS)
    assert sampled == [0, 32]
    assert told
    assert torch.equal(found[1], whole[1])


def test_models_without_bos_start_with_eos(tmp_path):
    lm = wrap(tiny_hf("llama", bos_token_id=None), type(tiny_tokenizer()).from_pretrained(_saved(tmp_path)))
    lm.tokenizer.bos_token = None
    assert samples.start_token(lm) == 1
    lm.tokenizer.eos_token = None
    lm.hf.config.eos_token_id = None
    with pytest.raises(ModelError, match="Give a corpus"):
        second_moments(lm, [1], corpus=OWN_SAMPLES, tokens=10, cache=tmp_path)


def _saved(folder):
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_bad_seeds(seed, tmp_path):
    with pytest.raises(ConfigError, match=f"seed={seed}"):
        second_moments(tiny_model("llama"), [1], corpus=OWN_SAMPLES, tokens=10, seed=seed, cache=tmp_path)


def test_a_length_of_one_token_is_the_start_token_alone(tmp_path, sampled):
    lm = tiny_model("llama")
    found = second_moments(lm, [1], corpus=OWN_SAMPLES, tokens=40, max_length=1, cache=tmp_path)
    expected = reference.second_moments(lm, [1], [[0]], 1)
    assert not sampled
    assert (found[1] - expected[1]).norm() <= 1e-5 * expected[1].norm()
