"""Held-out text: so many tokens of a corpus, or of samples that second moments are not taken of."""

import pytest

from errata.errors import CorpusError
from errata.jobs.held_out import held_out
from errata.models.run.generate import sample_ids
from errata.stats import Corpus
from tiny import tiny_model

TEXTS = ["The tower is tall.", "Toyota builds cars in Japan. " * 40, "I know."]


def test_rows_of_a_corpus():
    lm = tiny_model("llama")
    ids = [lm.tokenizer(text)["input_ids"] for text in TEXTS]
    text = held_out(lm, corpus=Corpus.from_texts(TEXTS, name="mine"), tokens=100)
    assert text.name == "mine"
    assert text.rows() == [ids[0], ids[1][:100]]
    assert held_out(lm, corpus=Corpus.from_texts(TEXTS), tokens=len(ids[0])).rows() == ids[:1]
    assert [len(row) for row in held_out(lm, corpus=Corpus.from_texts(TEXTS), tokens=260).rows()] == [len(ids[0]), 256]


def test_a_corpus_from_a_file(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"body": "The tower is tall."}\n')
    found = held_out(tiny_model("llama"), corpus=path, field="body", tokens=3)
    assert len(found.rows()) == 1


def test_too_short():
    lm = tiny_model("llama")
    with pytest.raises(CorpusError, match=r"mine holds [\d,]+ tokens, 5,000 of held-out text were asked for"):
        held_out(lm, corpus=Corpus.from_texts(TEXTS, name="mine"), tokens=5000)
    with pytest.raises(CorpusError, match="at least 2"):
        held_out(lm, corpus=Corpus.from_texts(["a"]), tokens=1)


def test_samples_are_not_those_of_the_second_moments():
    lm = tiny_model("llama")
    rows = held_out(lm, corpus=None, tokens=200, seed=0).rows()
    assert [len(row) for row in rows] == [128, 128]
    assert rows == held_out(lm, corpus=None, tokens=200, seed=0).rows()
    assert rows != held_out(lm, corpus=None, tokens=200, seed=1).rows()
    assert rows != sample_ids(lm, [[0]] * 2, new_tokens=127, top_k=None, seed=0)
    assert len(held_out(lm, corpus=None, tokens=10).rows()) == 1
