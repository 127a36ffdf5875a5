"""errata's own text: intact, the same tokens everywhere, and what second moments are taken of by default."""

from hashlib import sha256

import pytest
import torch

from errata.edit import METHODS, presets_of
from errata.errors import CorpusError, CorruptFileError
from errata.models import wrap
from errata.stats import OWN_SAMPLES, default_corpus, default_text, open_corpus, second_moments, shipped_text
from errata.stats.token_stream import CorpusTokens
from tiny import tiny_hf, tiny_model, tiny_tokenizer


def test_second_moments_without_a_corpus_are_those_of_the_text(tmp_path):
    lm = tiny_model("llama")
    found = second_moments(lm, [1], tokens=500, cache=tmp_path / "default")
    expected = second_moments(lm, [1], tokens=500, corpus=shipped_text(), cache=tmp_path / "given")
    assert found.source == "errata's text"
    assert found.digest == expected.digest
    assert torch.equal(found[1], expected[1])


def test_a_wide_model_writes_its_text_itself():
    assert default_corpus(tiny_model("llama")) is shipped_text()
    assert default_corpus(wrap(tiny_hf("llama", intermediate_size=4000), tiny_tokenizer())) is OWN_SAMPLES


def test_self_is_a_corpus_without_documents():
    assert open_corpus("self") is OWN_SAMPLES
    with pytest.raises(CorpusError, match="Give a file"):
        next(OWN_SAMPLES.documents())


def test_another_file_in_its_place_is_refused(monkeypatch):
    monkeypatch.setattr(default_text, "_SHA256", "0" * 64)
    with pytest.raises(CorruptFileError, match="Reinstall errata"):
        default_text.shipped_text.__wrapped__()  # not what an earlier test has read


def test_its_tokens_are_these(smollm2):
    """Enough for every preset of the embedded model, and the same ones on every machine."""
    rows = list(CorpusTokens(shipped_text(), smollm2.tokenizer, 512).documents(0))
    ids = [token for row in rows for token in row]
    presets = [(name, row.config) for name in METHODS for row in presets_of(name) if "SmolLM2" in row.name]
    wanted = [config.moment_tokens for name, config in presets if METHODS[name].uses_moments(config)]
    assert len(ids) >= max(wanted)
    assert sha256(",".join(map(str, ids)).encode()).hexdigest()[:16] == "7325613a5abfb9d4"
