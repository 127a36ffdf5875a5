"""Sampled and greedy continuations: the same as with one prompt and a whole forward at a time, on every family."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from errata.errors import ConfigError, InputError, NumericsError
from errata.models import encode, wrap
from errata.models.run.generate import continue_texts, next_tokens, sample_ids
from reference import generation as reference
from tiny import VARIANTS, tiny_hf, tiny_model, tiny_tokenizer

PROMPTS = [[5, 9, 300, 7, 12, 44, 8, 91], [7], [400, 12, 9], [7], [300, 301, 302, 303, 304]]
NEW = 8  # the longest prompt goes past every sliding window of tests/tiny.py


def uniforms(seed, index):
    return np.random.default_rng((seed, index)).random(NEW).tolist()


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_to_plain_forwards_of_one_row(variant):
    lm = tiny_model(variant)
    for top_k in (5, None):
        found = sample_ids(lm, PROMPTS[:3], new_tokens=NEW, top_k=top_k, seed=3, first_index=40)
        for i, (prompt, row) in enumerate(zip(PROMPTS, found, strict=False)):
            start, chances = len(prompt), uniforms(3, 40 + i)
            assert row[:start] == prompt
            assert len(row) == start + NEW
            assert row[start:] == reference.drawn(lm, row, start, top_k, chances)


def test_greedy_equals_the_library_s_generate():
    lm = tiny_model("llama")
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        expected = lm.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert sample_ids(lm, [prompt], new_tokens=NEW, top_k=1, seed=0) == expected.tolist()


@pytest.mark.parametrize("variant", ["llama", "gpt2", "bloom", "gemma3_text"])
def test_batch_size_and_parts_change_nothing(variant):
    lm = tiny_model(variant)
    whole = sample_ids(lm, PROMPTS, new_tokens=NEW, top_k=None, seed=9, batch_size=16)
    assert whole == sample_ids(lm, PROMPTS, new_tokens=NEW, top_k=None, seed=9, batch_size=2)
    first = sample_ids(lm, PROMPTS[:2], new_tokens=NEW, top_k=None, seed=9)
    assert whole == first + sample_ids(lm, PROMPTS[2:], new_tokens=NEW, top_k=None, seed=9, first_index=2)


def test_rows_and_seeds_draw_their_own_numbers():
    lm = tiny_model("llama")
    rows = sample_ids(lm, [[7]] * 4, new_tokens=NEW, top_k=None, seed=9)
    other = sample_ids(lm, [[7]] * 4, new_tokens=NEW, top_k=None, seed=10)
    assert len({tuple(row) for row in rows + other}) == 8


@pytest.mark.parametrize("top_k", [4, None])
def test_draws_follow_the_distribution(top_k):
    lm = tiny_model("gpt2")
    rows = sample_ids(lm, [PROMPTS[0]] * 3000, new_tokens=1, top_k=top_k, seed=0, batch_size=1000)
    logits = lm.hf(torch.tensor([PROMPTS[0]])).logits[0, -1].double()
    if top_k:
        logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
    expected = torch.softmax(logits, -1)
    counts = torch.bincount(torch.tensor([row[-1] for row in rows]), minlength=len(expected))
    assert not counts[expected == 0].any()
    deviation = (counts - 3000 * expected).abs() / (3000 * expected * (1 - expected)).sqrt().clamp_min(1)
    assert deviation.max() < 4.5


def test_stopping_at_end_tokens_leaves_the_other_rows_alone():
    lm = wrap(tiny_hf("llama"), tiny_tokenizer(), name="own")
    whole = sample_ids(lm, PROMPTS, new_tokens=NEW, top_k=1, seed=0)
    new = [row[len(prompt) :] for prompt, row in zip(PROMPTS, whole, strict=True)]
    ends = [new[0][2], new[2][5]]
    lm.hf.generation_config.eos_token_id = ends
    stopped = sample_ids(lm, PROMPTS, new_tokens=NEW, top_k=1, seed=0, stop_at_eos=True)
    for prompt, row, tokens in zip(PROMPTS, stopped, new, strict=True):
        at = min((tokens.index(end) for end in [*ends, 1] if end in tokens), default=NEW - 1)
        assert row == prompt + tokens[: at + 1]
    assert len({len(row) - len(prompt) for prompt, row in zip(PROMPTS, stopped, strict=True)}) > 1
    assert sample_ids(lm, PROMPTS, new_tokens=NEW, top_k=1, seed=0) == whole


@pytest.mark.parametrize("bos", [False, True])
def test_only_the_new_text_is_returned(bos):
    lm = tiny_model("llama", bos=bos)
    texts = ["The capital of France is", "Bill Gates", "埃菲尔铁塔"]
    found = continue_texts(lm, texts, new_tokens=6)
    for text, new in zip(texts, found, strict=True):
        ids = list(encode(lm.tokenizer, [text])[0].ids)
        assert ids[0] == 0 if bos else ids[0] != 0
        (whole,) = sample_ids(lm, [ids], new_tokens=6, top_k=1, seed=0)
        whole = whole[: whole.index(1)] if 1 in whole else whole
        assert text + new == lm.tokenizer.decode(whole, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_an_appended_end_token_is_not_continued():
    tokenizer = tiny_tokenizer(True)
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    appending = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    assert appending("The tower")["input_ids"][-1] == 1
    hf = tiny_hf("llama")
    texts = ["The tower", "Paris"]
    plain, other = wrap(hf, tokenizer, name="plain"), wrap(hf, appending, name="appending")
    assert continue_texts(plain, texts, new_tokens=5) == continue_texts(other, texts, new_tokens=5)
    assert next_tokens(plain, texts, top=3) == next_tokens(other, texts, top=3)


def test_leading_spaces_survive_tokenizers_that_strip_them():
    words = ["<s>", "</s>", "<unk>", "▁the", "▁tower", "▁is", "tall", "▁red"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    assert tokenizer.decode([4]) == "tower"
    lm = wrap(tiny_hf("llama", vocab_size=len(words)), tokenizer, name="words")
    texts = ["the tower", "the"]
    named = {token: text for row in next_tokens(lm, texts, top=8) for text, token, _ in row}
    assert {i: named[i] for i in (0, 4, 6)} == {0: "<s>", 4: " tower", 6: "tall"}
    for text, new in zip(texts, continue_texts(lm, texts, new_tokens=3), strict=True):
        assert not new or new.startswith(" ") == (tokenizer(text + new)["input_ids"][len(text.split())] != 6)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "bloom", "gemma2", "granite", "cohere"])
def test_next_tokens(variant):
    lm = tiny_model(variant)
    texts = ["The Eiffel Tower is", "Rome", "The official language of Canada is English and"]
    for text, found in zip(texts, next_tokens(lm, texts, top=4, batch_size=2), strict=True):
        ids = encode(lm.tokenizer, [text])[0].ids
        expected = torch.softmax(lm.hf(torch.tensor([ids])).logits[0, -1].double(), -1)
        assert [i for _, i, _ in found] == expected.topk(4).indices.tolist()
        for name, i, probability in found:
            assert name == lm.tokenizer.decode([i])
            assert probability == pytest.approx(float(expected[i]), rel=1e-4)


def test_lower_precision_is_accepted():
    lm = tiny_model("llama", dtype=torch.bfloat16)
    assert [len(row) for row in sample_ids(lm, PROMPTS, new_tokens=4, top_k=5, seed=0)] == [12, 5, 7, 5, 9]
    assert sum(p for _, _, p in next_tokens(lm, ["Paris"], top=10**6)[0]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"new_tokens": 0}, ConfigError, "new_tokens is 0"),
        ({"top_k": 0}, ConfigError, "top_k is 0"),
        ({"batch_size": 0}, ConfigError, "batch_size is 0"),
        ({"seed": -1}, ConfigError, "seed=-1"),
        ({"first_index": -2}, ConfigError, "first_index=-2"),
        ({"prompts": [[5], []]}, InputError, "Prompt 1 holds no token"),
        ({"prompts": [[5] * 250]}, InputError, "250 tokens, which with 7 new ones is more than the 256"),
        ({"prompts": [[5], [480]]}, InputError, "knows 0 to 479"),
        ({"prompts": [[-1]]}, InputError, "Token ids -1 to -1"),
    ],
)
def test_bad_input(options, error, words):
    lm = tiny_model("llama")
    with pytest.raises(error, match=words):
        sample_ids(lm, **{"prompts": [[5]], "new_tokens": 7, "top_k": None, "seed": 0, **options})


def test_text_without_a_token():
    with pytest.raises(InputError, match="Prompt 1 holds no token"):
        continue_texts(tiny_model("llama"), ["The", ""], new_tokens=3)
    with pytest.raises(InputError, match="Prompt 0 holds no token"):
        next_tokens(tiny_model("llama"), [""], top=3)
    assert len(next_tokens(tiny_model("llama", bos=True), [""], top=3)[0]) == 3
    assert sample_ids(tiny_model("llama"), [], new_tokens=3, top_k=1, seed=0) == []


def test_broken_weights_are_an_error():
    lm = wrap(tiny_hf("llama"), tiny_tokenizer(), name="broken")
    with torch.no_grad():
        lm.down_weight(1)[:] = torch.nan
    with pytest.raises(NumericsError, match="broken gives NaN"):
        sample_ids(lm, [[5, 6]], new_tokens=2, top_k=None, seed=0)
