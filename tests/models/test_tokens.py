"""Token positions from offset mappings, against the tokenizer's own decoding."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from errata.errors import InputError, ModelError
from errata.facts import join_target
from errata.models import Encoding, encode, encode_targets, pad_right
from reference.answers import answer_tokens
from tiny import tiny_tokenizer

_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda text: text.strip()
)


@given(st.lists(_TEXT, min_size=1, max_size=4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_encoding_many_texts_is_encoding_each(texts, bos):
    tokenizer = tiny_tokenizer(bos)
    for text, encoding in zip(texts, encode(tokenizer, texts), strict=True):
        assert list(encoding.ids) == tokenizer(text)["input_ids"]
        assert len(encoding.offsets) == len(encoding.ids)
        assert tokenizer.decode(encoding.ids, skip_special_tokens=True) == text
        if bos:
            assert encoding.offsets[0] == (0, 0)


@given(_TEXT, st.booleans(), st.data())
@settings(max_examples=100, deadline=None)
def test_tokens_over_covers_the_characters_and_no_more(text, bos, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    (encoding,) = encode(tiny_tokenizer(bos), [text])
    first, last = encoding.tokens_over(start, end)
    inside = encoding.offsets[first : last + 1]
    assert min(a for a, _ in inside) <= start
    assert max(b for _, b in inside) >= end
    outside = [*encoding.offsets[:first], *encoding.offsets[last + 1 :]]
    assert all(b <= start or a >= end for a, b in outside)


def test_characters_beyond_the_text_are_an_error():
    (encoding,) = encode(tiny_tokenizer(), ["The tower"])
    with pytest.raises(InputError, match="characters 50–60"):
        encoding.tokens_over(50, 60)
    with pytest.raises(InputError):
        Encoding((0,), ((0, 0),)).tokens_over(0, 1)


@given(_TEXT, _TEXT, st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_target_is_the_last_tokens_of_the_whole_text(prompt, target, bos):
    tokenizer = tiny_tokenizer(bos)
    text = join_target(prompt, target)
    ((row, encoding),) = encode_targets(tokenizer, [(prompt, target)])
    assert (list(row.ids), row.start) == answer_tokens(tokenizer, prompt, text)
    assert row.ids == encoding.ids
    assert row.merged == (list(row.ids[: row.start]) != tokenizer(prompt)["input_ids"])


def test_a_target_s_first_token_holds_the_space_before_it():
    ((row, _),) = encode_targets(tiny_tokenizer(), [("The Eiffel Tower is in", "Rome")])
    assert tiny_tokenizer().decode(row.target_ids) == " Rome"
    assert tiny_tokenizer().decode(row.ids[: row.start]) == "The Eiffel Tower is in"


def test_an_end_token_that_the_tokenizer_appends_is_cut_off():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer, eos_token="</s>")
    plain = tokenizer("The tower is Rome")["input_ids"]
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    appending = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token="<s>")
    assert appending("The tower is Rome")["input_ids"] == [0, *plain, 1]
    ((row, encoding),) = encode_targets(appending, [("The tower is", "Rome")])
    assert list(row.ids) == [0, *plain]
    assert len(encoding.offsets) == len(row.ids)


def test_a_tokenizer_without_offsets_is_an_error():
    class Slow:
        is_fast = False

    check = getattr(encode, "__wrapped__", encode)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        check(Slow(), ["text"])


def test_nothing_to_encode_is_nothing():
    assert encode(tiny_tokenizer(), []) == []
    assert encode_targets(tiny_tokenizer(), []) == []


@given(st.lists(st.lists(st.integers(0, 479), max_size=9), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_padding_keeps_every_row_and_marks_what_is_real(rows):
    ids, mask = pad_right(rows)
    assert ids.shape == mask.shape == (len(rows), max(map(len, rows)))
    assert ids.dtype == mask.dtype == torch.long
    for i, row in enumerate(rows):
        assert ids[i][mask[i].bool()].tolist() == row
        assert mask[i].tolist() == [1] * len(row) + [0] * (mask.shape[1] - len(row))


@given(_TEXT, st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_text_that_brings_its_bos_gets_no_second_one(text, bos):
    tokenizer = tiny_tokenizer(bos)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with_bos, twice = encode(tokenizer, ["<s>" + text, "<s><s>" + text])
    expected = tokenizer("<s>" + text, add_special_tokens=False)["input_ids"]
    assert list(with_bos.ids) == expected
    assert len(with_bos.offsets) == len(expected)
    first, last = with_bos.tokens_over(3, 3 + len(text))
    assert (first, last) == (1, len(expected) - 1)
    assert list(twice.ids) == [0, *expected], "one that a text brings twice was meant twice"
    assert [str(one.message) for one in said] == [
        "A text begins with <s>, which this tokenizer adds by itself; the model reads it once."
    ] * (2 * bos)


def test_it_is_said_once(recwarn):
    warnings.simplefilter("default")
    for _ in range(3):
        encode(tiny_tokenizer(True), ["<s>The tower", "<s>The city"])
    assert len([one for one in recwarn if "begins with <s>" in str(one.message)]) == 1
