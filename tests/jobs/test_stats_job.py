"""The job behind `errata stats`: what it says before, while and after."""

import pytest
import torch

from errata.errors import CorpusError
from errata.jobs import stats_job
from errata.jobs.stats_job import run_stats
from errata.stats import Corpus, second_moments
from tiny import tiny_model

TEXTS = [f"Tower {i} is in Paris, which is the capital of France." for i in range(60)]


class _Lines:
    def __init__(self):
        self.lines = []

    def stage(self, what, total, unit, *, done=0):
        self.lines.append(f"{what}: {done} of {total} {unit}")
        return self

    def __enter__(self):
        return lambda _: None

    def __exit__(self, *_):
        pass

    def note(self, text):
        self.lines.append(text)


def _run(folder, **options):
    lines = _Lines()
    options = {"tokens": 500, "corpus": folder / "corpus.txt", "cache": folder / "cache"} | options
    return run_stats(tiny_model("llama"), [2, 1], progress=lines, **options), lines.lines


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n\n".join(TEXTS))
    return tmp_path


def test_it_says_what_it_does_and_does_it(folder):
    found, lines = _run(folder)
    assert lines[0] == "Second moments of tiny-llama, layers 1, 2 (d_mlp 80): 500 tokens of corpus.txt, 60 documents."
    assert lines[1] == f"Kept in {folder / 'cache'}."
    assert lines[2] == "second moments: 0 of 500 tokens"
    assert lines[3].startswith("Second moments over 500 tokens of ")
    corpus = Corpus.from_texts(TEXTS)
    expected = second_moments(tiny_model("llama"), [1, 2], corpus=corpus, tokens=500, cache=folder / "x")
    assert all(torch.equal(found[layer], expected[layer]) for layer in (1, 2))


def test_it_says_what_was_done_before(folder, monkeypatch):
    monkeypatch.setattr(stats_job, "_WORTH_A_TRIAL", 10**9)
    first, _ = _run(folder)
    again, lines = _run(folder)
    assert lines[1] == "All of it was computed before and is kept."
    assert all(torch.equal(first[layer], again[layer]) for layer in (1, 2))
    long = Corpus.from_texts(TEXTS * 20)
    _run(folder, corpus=long, tokens=10_000)
    _, lines = _run(folder, corpus=long, tokens=12_000)
    assert lines[1] == "Tokens done before: layer 1: 10,000, layer 2: 10,000."
    assert "second moments: 10000 of 12000 tokens" in lines


@pytest.mark.parametrize("sampled", [False, True])
def test_long_work_is_estimated(folder, monkeypatch, sampled):
    monkeypatch.setattr(stats_job, "_WORTH_A_TRIAL", 100)
    _, lines = _run(folder, tokens=200, **({"corpus": "self", "max_length": 8} if sampled else {}))
    (estimate,) = [line for line in lines if line.startswith("About")]
    assert "on cpu" in estimate
    assert "tokens a second" in estimate
    assert sampled == ("self-samples seed=0, sampled as needed" in lines[0])


def test_without_a_corpus_it_says_what_it_takes(folder):
    _, lines = _run(folder, corpus=None)
    assert lines[1] == "No corpus was given: errata's text will do."


def test_a_corpus_that_is_too_short_is_told(folder):
    found, lines = _run(folder, tokens=10**9)
    assert found.tokens < 10**9
    assert any(line.startswith("corpus.txt holds") for line in lines)


def test_a_bad_corpus_costs_nothing(folder):
    with pytest.raises(CorpusError):
        _run(folder, corpus=folder / "missing.txt")
    assert not (folder / "cache").exists()
