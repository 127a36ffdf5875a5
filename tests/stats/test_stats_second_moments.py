"""One batched pass with early exit against one full forward for each document, and what is kept and continued."""

import math
import random

import pytest
import torch

from errata.errors import ConfigError, CorpusError, NumericsError
from errata.models import wrap
from errata.stats import Corpus, one_pass, open_corpus, prepare, second_moments
from errata.stats.running import MomentStore
from reference import moments as reference
from tiny import VARIANTS, tiny_hf, tiny_model, tiny_tokenizer

_WORDS = [
    "the tower",
    "of Paris",
    "is a",
    "capital",
    "in France",
    "and",
    "French",
    "speaks",
    "北京",
    "Москва",
    "7",
    "cars. I",
]


def _texts(count=40, seed=0):
    draw = random.Random(seed)
    return [" ".join(draw.choices(_WORDS, k=draw.choice([1, 3, 9, 20, 60]))) for _ in range(count)]


TEXTS = _texts()


def _ids(lm, texts=TEXTS, max_length=40):
    return [lm.tokenizer(text)["input_ids"][:max_length] for text in texts]


def _moments(lm, folder, layers=(0, 2, 3), texts=TEXTS, **options):
    options = {"tokens": 500, "max_length": 40, "chunk_tokens": 150, "batch_tokens": 128} | options
    corpus = texts if isinstance(texts, Corpus) else Corpus.from_texts(texts)
    return second_moments(lm, layers, corpus=corpus, cache=folder, **options)


def _close(found, expected, tolerance=1e-5):
    return (found - expected).norm() <= tolerance * expected.norm()


def _equal(first, second):
    return list(first) == list(second) and all(torch.equal(first[layer], second[layer]) for layer in first)


def _sums_on_disk(folder):
    """The entries with sums; others list what there is and are small."""
    return [path for path in folder.glob("??/*.safetensors") if path.stat().st_size > 10_000]


@pytest.fixture
def forwards(monkeypatch):
    """The layers of every batch that is run."""
    seen = []
    add = one_pass.add_batch_
    monkeypatch.setattr(
        one_pass, "add_batch_", lambda sums, *rest: (seen.append([s.layer for s in sums]), add(sums, *rest))
    )
    return seen


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_one_document_at_a_time(variant, tmp_path):
    lm = tiny_model(variant)
    found = _moments(lm, tmp_path, tokens=333)
    expected = reference.second_moments(lm, [0, 2, 3], _ids(lm), 333)
    assert found.tokens == found.requested_tokens == 333
    for layer in (0, 2, 3):
        assert found[layer].dtype == torch.float64
        assert torch.equal(found[layer], found[layer].T)
        assert _close(found[layer], expected[layer])


@pytest.mark.parametrize("bos", [False, True])
def test_counts_the_tokenizers_own_special_tokens(bos, tmp_path):
    lm = tiny_model("llama", bos=bos)
    expected = reference.second_moments(lm, [1], _ids(lm), 400)
    assert _close(_moments(lm, tmp_path, [1], tokens=400)[1], expected[1])
    assert (_ids(lm)[0][0] == 0) == bos


def test_equals_the_slow_way_on_the_real_model(smollm2, tmp_path):
    texts = [
        "Mount Fuji, the highest mountain of Japan, is an active volcano about 100 kilometres from Tokyo.",
        "Bread is made of flour, water and salt.",
        "The speed of light in vacuum is 299,792,458 metres per second; nothing that carries information is faster, "
        "which is why a conversation with somebody on Mars would be a matter of patience rather than of wit.",
        "Lisbon lies where the Tagus meets the Atlantic. It was rebuilt after the earthquake of 1755.",
        "She opened the door, looked at the rain, and decided that the letters could wait until tomorrow.",
        "def add(a, b):\n    return a + b",
    ]
    rows = [smollm2.tokenizer(text)["input_ids"] for text in texts]
    tokens = sum(map(len, rows)) - 5
    found = second_moments(smollm2, [7, 9], corpus=Corpus.from_texts(texts), tokens=tokens, cache=tmp_path)
    expected = reference.second_moments(smollm2, [7, 9], rows, tokens)
    for layer in (7, 9):
        assert _close(found[layer], expected[layer], 1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 37, 10_000])
@pytest.mark.parametrize("chunk_tokens", [7, 64, 10_000])
def test_batches_and_chunks_change_nothing_beyond_rounding(batch_tokens, chunk_tokens, tmp_path):
    lm = tiny_model("gemma2")
    options = {"tokens": 120, "flush_seconds": 60.0, "batch_tokens": batch_tokens, "chunk_tokens": chunk_tokens}
    found = _moments(lm, tmp_path, [1], **options)
    assert _close(found[1], reference.second_moments(lm, [1], _ids(lm), 120)[1])


def test_the_order_of_documents_changes_nothing_beyond_rounding(tmp_path):
    lm = tiny_model("gpt2")
    tokens = sum(map(len, _ids(lm)))
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    first, second = (_moments(lm, tmp_path, [2], texts, tokens=tokens) for texts in (TEXTS, shuffled))
    assert first.digest != second.digest
    assert _close(first[2], second[2])


def test_half_precision_keys_are_summed_in_float32(tmp_path):
    lm = tiny_model("llama", dtype=torch.bfloat16)
    found = _moments(lm, tmp_path, [1], tokens=200)
    # Padding moves what a bfloat16 forward rounds to, so the reference is as near as the format allows.
    assert _close(found[1], reference.second_moments(lm, [1], _ids(lm), 200)[1], 2e-2)
    exact = tiny_model("llama")
    assert not _close(found[1], reference.second_moments(exact, [1], _ids(exact), 200)[1], 1e-5)


def test_documents_are_cut_at_the_models_context(tmp_path):
    lm = tiny_model("opt")
    assert lm.max_tokens == 256
    text = " ".join(_WORDS * 30)
    found = _moments(lm, tmp_path, [0], [text, "the end"], tokens=10_000, max_length=9999)
    assert found.tokens == 256 + len(lm.tokenizer("the end")["input_ids"])


def test_a_corpus_that_ends_early(tmp_path, forwards):
    lm, told = tiny_model("llama"), []
    total = sum(map(len, _ids(lm)))
    found = _moments(lm, tmp_path, tokens=total + 1000, notify=told.append)
    assert (found.tokens, found.requested_tokens, found.documents) == (total, total + 1000, len(TEXTS))
    assert len(told) == 1
    assert f"holds {total:,} of the {total + 1000:,} tokens" in told[0]
    assert _close(found[3], reference.second_moments(lm, [3], _ids(lm), total)[3])
    forwards.clear()
    assert _equal(_moments(lm, tmp_path, tokens=10**12), found)
    assert not forwards
    # Another layer afterwards, and the same on a fresh cache: the same bits and nothing left over.
    more = _moments(lm, tmp_path, [1, 2], tokens=total + 7)
    assert _equal(more, _moments(lm, tmp_path / "fresh", [1, 2], tokens=total))
    assert len(_sums_on_disk(tmp_path)) == 4


def test_documents_that_give_no_token(tmp_path):
    lm = tiny_model("llama")
    silent = wrap(tiny_hf("llama"), tiny_tokenizer())
    normal = silent.tokenizer
    silent.tokenizer = lambda texts, **_: {  # type: ignore[assignment]
        "input_ids": [[] if "silent" in text else normal(text)["input_ids"] for text in texts]
    }
    silent.tokenizer.is_fast, silent.tokenizer.backend_tokenizer = True, normal.backend_tokenizer
    for name in ("special_tokens_map", "vocab_size", "added_tokens_decoder"):
        setattr(silent.tokenizer, name, getattr(normal, name))
    mixed = ["silent", *(part for text in TEXTS for part in (text, "silent")), "silent"]
    found = _moments(silent, tmp_path, texts=mixed, tokens=5000, flush_seconds=0.0)
    plain = _moments(lm, tmp_path, tokens=5000)
    assert found.tokens == plain.tokens
    assert _equal(found, plain)
    with pytest.raises(CorpusError, match="gives no token"):
        _moments(silent, tmp_path, texts=["silent", "silent"])


def test_what_is_kept_is_not_computed_again(tmp_path, forwards):
    lm = tiny_model("llama")
    first = _moments(lm, tmp_path, [0, 2])
    assert forwards
    forwards.clear()
    again = _moments(lm, tmp_path, [2, 0, 2])
    assert not forwards
    assert _equal(first, again)
    assert first.digest == again.digest
    more = _moments(lm, tmp_path, [0, 1, 2])
    assert set(map(tuple, forwards)) == {(1,)}
    assert torch.equal(more[2], first[2])
    assert torch.equal(more[1], _moments(lm, tmp_path / "fresh", [1])[1])


@pytest.mark.parametrize("first", [1, 149, 150, 300, 410])
def test_a_longer_run_continues_a_shorter_one_with_the_same_bits(first, tmp_path, forwards):
    lm = tiny_model("qwen3")
    whole = _moments(lm, tmp_path / "whole", flush_seconds=0.0)
    all_at_once = len(forwards)
    _moments(lm, tmp_path, tokens=first)
    forwards.clear()
    assert _equal(_moments(lm, tmp_path), whole)
    assert len(forwards) == all_at_once if first < 150 else len(forwards) < all_at_once
    # The shorter result is still there, and a shorter run than any before starts cleanly too.
    forwards.clear()
    assert _equal(_moments(lm, tmp_path, tokens=first), _moments(lm, tmp_path / "shorter", tokens=first))


def test_layers_that_stand_at_different_places_share_one_pass(tmp_path, forwards):
    lm = tiny_model("llama")
    whole = _moments(lm, tmp_path / "whole")
    _moments(lm, tmp_path, [2], tokens=300)
    _moments(lm, tmp_path, [3], tokens=150)
    forwards.clear()
    assert _equal(_moments(lm, tmp_path), whole)
    met = list(dict.fromkeys(map(tuple, forwards)))
    assert met == [(0,), (0, 3), (0, 2, 3)]


def test_only_what_was_asked_for_and_one_state_to_go_on_from_stay_on_the_disk(tmp_path):
    lm = tiny_model("llama")
    counts = []
    for tokens in (500, 600, 640):
        _moments(lm, tmp_path, [1], tokens=tokens, flush_seconds=0.0)
        counts.append(len(_sums_on_disk(tmp_path)))
    # 500 and the chunks up to 450; 600 instead of the latter; then 640 too, going on from 600.
    assert counts == [2, 2, 3]


def test_what_a_longer_run_left_on_its_way_stays_once_it_is_asked_for(tmp_path):
    lm = tiny_model("llama")

    class Stop(Exception):  # noqa: N818
        pass

    def stop_after(position, save):
        def saving(store, sums, *, wanted):
            save(store, sums, wanted=wanted)
            if sums.position.tokens == position:
                raise Stop

        return saving

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MomentStore, "save", stop_after(300, MomentStore.save))
        with pytest.raises(Stop):
            _moments(lm, tmp_path, [1], flush_seconds=0.0)
    short = _moments(lm, tmp_path, [1], tokens=300)
    _moments(lm, tmp_path, [1], tokens=450)
    assert len(_sums_on_disk(tmp_path)) == 2
    assert _equal(short, _moments(lm, tmp_path / "fresh", [1], tokens=300))


def test_a_long_document_is_read_no_further_than_it_counts(tmp_path):
    lm = tiny_model("llama")
    long = "Paris is tall. " * 200_000
    assert _equal(_moments(lm, tmp_path, [1], [long], tokens=40), _moments(lm, tmp_path, [1], [long[:3000]], tokens=40))


def test_progress_tells_what_is_done(tmp_path):
    lm, stages = tiny_model("llama"), []

    class Sink:
        def stage(self, what, total, unit, *, done=0):
            stages.append([what, total, unit, done])
            return self

        def __enter__(self):
            return stages[-1].append

        def __exit__(self, *_):
            pass

        def note(self, text):
            raise AssertionError(text)

    _moments(lm, tmp_path, tokens=300, progress=Sink())
    _moments(lm, tmp_path, tokens=500, progress=Sink())
    _moments(lm, tmp_path, tokens=500, progress=Sink())
    assert [stage[:4] for stage in stages] == [
        ["second moments", 300, "tokens", 0],
        ["second moments", 500, "tokens", 300],
    ]
    assert [sum(stage[4:]) for stage in stages] == [300, 200]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"layers": []}, "at least one"),
        ({"layers": [4]}, "0 to 3"),
        ({"layers": [-1]}, "0 to 3"),
        ({"tokens": 0}, "tokens=0"),
        ({"tokens": -5}, "tokens=-5"),
        ({"max_length": 0}, "max_length=0"),
        ({"chunk_tokens": 0}, "chunk_tokens=0"),
        ({"batch_tokens": 0}, "batch_tokens=0"),
        ({"flush_seconds": -1.0}, "flush_seconds=-1"),
        ({"flush_seconds": math.nan}, "flush_seconds=nan"),
    ],
)
def test_bad_options(options, named, tmp_path, forwards):
    with pytest.raises(ConfigError, match=named):
        _moments(tiny_model("llama"), tmp_path, **options)
    assert not forwards
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_keys_that_are_not_finite_are_refused_by_layer(bad, tmp_path):
    lm = tiny_model("llama")

    def spoil(_module, arguments):
        keys = arguments[0].clone()
        keys[..., 0, 5] = bad
        return (keys,)

    hook = lm.down(2).register_forward_pre_hook(spoil)
    try:
        with pytest.raises(NumericsError, match=r"layer 2 .* first 150 tokens"):
            _moments(lm, tmp_path, [0, 2])
    finally:
        hook.remove()
    assert not list(tmp_path.glob("??/*.safetensors"))


def test_asking_for_a_layer_that_was_not_computed(tmp_path):
    found = _moments(tiny_model("llama"), tmp_path, [1], tokens=20)
    with pytest.raises(ConfigError, match=r"layer 3; there are those of \[1\]"):
        found[3]


def test_the_default_place_is_erratas_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path))
    second_moments(tiny_model("llama"), [1], corpus=Corpus.from_texts(TEXTS), tokens=20)
    assert len(_sums_on_disk(tmp_path / "moments")) == 1


def test_files_and_texts_give_the_same_numbers(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(TEXTS), encoding="utf-8")
    lm = tiny_model("llama")
    found = _moments(lm, tmp_path / "cache", texts=open_corpus(path), flush_seconds=0.0)
    assert _equal(found, _moments(lm, tmp_path / "cache", texts=TEXTS))
    assert found.source == "corpus.txt"


def test_a_request_knows_what_is_kept(tmp_path):
    lm, corpus = tiny_model("llama"), Corpus.from_texts(TEXTS)
    _moments(lm, tmp_path, [1], tokens=300)
    request = prepare(lm, [1, 2], corpus=corpus, tokens=500, max_length=40, chunk_tokens=150, cache=tmp_path)
    assert request.kept_tokens() == {1: 300, 2: 0}
