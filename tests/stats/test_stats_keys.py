"""What second moments are kept under: everything they depend on, and nothing that they do not."""

from dataclasses import replace

import torch

from errata.models import tokenizer_digest, wrap
from errata.stats import OWN_SAMPLES, Corpus, prepare, recipe
from tiny import tiny_hf, tiny_model, tiny_tokenizer

CORPUS = Corpus.from_texts(["Paris is in France.", "Rome is in Italy."])
OPTIONS = {"corpus": CORPUS, "tokens": 10, "seed": 3, "max_length": 40, "chunk_tokens": 100}


def _key(folder, lm=None, layer=1, **options):
    request = prepare(lm or tiny_model("llama"), [layer], cache=folder, **(OPTIONS | options))
    return request.store.key(request.layers[0], request.tokens)


def _other_weights():
    lm = wrap(tiny_hf("llama"), tiny_tokenizer())
    with torch.no_grad():
        lm.down_weight(3)[0, 0] += 1e-3
    return lm


def _other_tokenizer():
    lm = wrap(tiny_hf("llama"), tiny_tokenizer(bos=True))
    assert lm.digest() == tiny_model("llama").digest()
    return lm


def _other_config():
    lm = wrap(tiny_hf("llama"), tiny_tokenizer())
    lm.hf.config.rope_parameters = {**lm.hf.config.rope_parameters, "rope_theta": 500_000.0}
    assert lm.digest() == tiny_model("llama").digest()
    return lm


CHANGES = {
    "weights": lambda: {"lm": _other_weights()},
    "tokenizer": lambda: {"lm": _other_tokenizer()},
    "config": lambda: {"lm": _other_config()},
    "dtype": lambda: {"lm": tiny_model("llama", dtype=torch.bfloat16)},
    "family": lambda: {"lm": tiny_model("qwen3")},
    "layer": lambda: {"layer": 2},
    "tokens": lambda: {"tokens": 11},
    "max_length": lambda: {"max_length": 41},
    "chunk_tokens": lambda: {"chunk_tokens": 101},
    "content": lambda: {"corpus": Corpus.from_texts(["Paris is in France.", "Rome is in Italy!"])},
    "order": lambda: {"corpus": Corpus.from_texts(["Rome is in Italy.", "Paris is in France."])},
    "split": lambda: {"corpus": Corpus.from_texts(["Paris is in France.Rome is in Italy."])},
    "errata's text": lambda: {"corpus": None},
    "samples": lambda: {"corpus": OWN_SAMPLES},
    "seed": lambda: {"corpus": OWN_SAMPLES, "seed": 4},
    "sample length": lambda: {"corpus": OWN_SAMPLES, "max_length": 41},
}


def test_every_ingredient_changes_the_key(tmp_path):
    keys = {name: _key(tmp_path, **change()) for name, change in CHANGES.items()}
    keys["nothing"] = _key(tmp_path)
    assert len(set(keys.values())) == len(keys), keys


def test_the_code_version_changes_the_key(tmp_path, monkeypatch):
    before = _key(tmp_path)
    monkeypatch.setattr(recipe, "MOMENTS", replace(recipe.MOMENTS, version=999))
    assert _key(tmp_path) != before


def test_products_of_lower_precision_change_the_key(tmp_path):
    before = _key(tmp_path)
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert _key(tmp_path) != before
    finally:
        torch.set_float32_matmul_precision(precision)
    assert _key(tmp_path) == before


def test_what_makes_no_difference_leaves_the_key(tmp_path):
    before = _key(tmp_path)
    assert _key(tmp_path / "elsewhere") == before
    assert _key(tmp_path, seed=9) == before, "the seed is for samples"
    assert _key(tmp_path, corpus=Corpus.from_texts(["Paris is in France.", "  ", "Rome is in Italy."])) == before
    again = wrap(tiny_hf("llama"), tiny_tokenizer(), name="another name")
    again.hf.config.use_cache = False
    assert _key(tmp_path, again) == before


def test_a_tokenizer_that_has_padded_and_truncated_is_the_same(tmp_path):
    tokenizer = tiny_tokenizer()
    before = tokenizer_digest(tokenizer)
    tokenizer(["Paris", "Rome is"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(tokenizer) == before
    assert tokenizer_digest(tiny_tokenizer(bos=True)) != before
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_digest(type(tokenizer).from_pretrained(tmp_path)) == before


def test_longer_samples_have_a_bound(tmp_path):
    assert _key(tmp_path, corpus=OWN_SAMPLES, max_length=200) == _key(tmp_path, corpus=OWN_SAMPLES, max_length=300)
