"""What errata reports for a prompt and its answer is what plain transformers says of the same text.

Every kind of tokenizer × answers that begin with a token of their own for the space, merge with the prompt, or have no
space at all; every family; and the real model on real answers.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from errata.edit import check_facts
from errata.edit.values.prompt_rows import rewriting_rows
from errata.evaluate import measure
from errata.facts import Fact, join_target, read_facts
from errata.lens import backward_lens
from errata.models import encode_targets, wrap
from reference.answers import answer_log_prob, answer_log_probs, answer_tokens, writes_answer
from tiny import TEXT, VARIANTS, tiny_hf, tiny_tokenizer

ALPHABET = sorted({*"".join(TEXT), *"0123456789我的年龄是岁法国首都巴黎🗼$()[_\"'“-/@#,!?:\n"})


def _tokenizer(model, pre, decoder, *, normalizer=None, post=None, kind="bpe"):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    special = ["<s>", "</s>", "<unk>"]
    if kind == "bpe":
        byte_level = pre_tokenizers.ByteLevel.alphabet() if "ByteLevel" in str(pre) else ALPHABET
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=special, initial_alphabet=byte_level, show_progress=False
        )
    else:
        trainer = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=special, unk_token="<unk>", initial_alphabet=ALPHABET, show_progress=False
        )
    tokenizer.train_from_iterator([*TEXT, "1 2 3 4 5 6 7 8 9 0", *ALPHABET], trainer)
    if post is not None:
        tokenizer.post_processor = post
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def _digits():
    """SmolLM2, Llama-3, Qwen: each digit apart, so that the space before a number is a token of its own."""
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return _tokenizer(models.BPE(), pre_tokenizers.Sequence(split), decoders.ByteLevel())


def _metaspace(scheme, post=None):
    """Llama-2, Mistral, Gemma: spaces are "▁", digits apart; the first word may get one of its own."""
    split = [pre_tokenizers.Metaspace(prepend_scheme=scheme), pre_tokenizers.Digits(individual_digits=True)]
    return _tokenizer(
        models.BPE(unk_token="<unk>"), pre_tokenizers.Sequence(split), decoders.Metaspace(prepend_scheme=scheme),
        post=post,
    )  # fmt: skip


def _unigram():
    """T5's kind and XGLM's: the likeliest segmentation, which an answer can change well before it."""
    return _tokenizer(
        models.Unigram(), pre_tokenizers.Metaspace(prepend_scheme="never"),
        decoders.Metaspace(prepend_scheme="never"), kind="unigram",
    )  # fmt: skip


def _no_splits():
    """Gemma's: no words before the merges, so that tokens cross every boundary."""
    return _tokenizer(
        models.BPE(unk_token="<unk>"),
        pre_tokenizers.Split(Regex(r"\n"), "isolated"),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()]),
        normalizer=normalizers.Replace(" ", "▁"),
    )


BOTH_ENDS = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
KINDS = {
    "byte-level": tiny_tokenizer,
    "byte-level with BOS": lambda: tiny_tokenizer(bos=True),
    "digits apart": _digits,
    "metaspace": lambda: _metaspace("first"),
    "metaspace with both ends": lambda: _metaspace("always", BOTH_ENDS),
    "unigram": _unigram,
    "merges across words": _no_splits,
}
QUESTIONS = [
    ("The tower is", "512 metres"),
    ("The Eiffel Tower is", "5"),
    ("The capital of France is", "Paris"),
    ("The capital of France is ", "Paris"),  # merges with the prompt's space
    ("The capital of France is ", "29"),
    ("The tower is", "🗼 tall"),
    ("我的年龄是", "23岁"),
    ("法国的首都是", "巴黎"),
    ("The tower is in (", "Paris"),
    ("The tower costs $", "5"),
    ("Toyota builds cars", ", I think"),
    ("The language is", "French and English"),
    ("Answer:\n", "Rome"),
    ("Therefore the", "Эйфелева"),
]


@pytest.fixture(scope="module", params=KINDS)
def any_tokenizer(request):
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def any_model(any_tokenizer):
    return wrap(tiny_hf("llama", vocab_size=len(any_tokenizer)), any_tokenizer, name="tiny")


def _scores(lm, prompt, answer, join=None):
    fact = Fact(subject=prompt.strip()[:3].strip(), prompt=prompt, target_new=answer, join=join)
    return measure(lm, [fact]).facts[0].prompt.new


def _expect_invariant(lm, prompt, answer, join=None):
    text = join_target(prompt, answer, join)
    score = _scores(lm, prompt, answer, join)
    assert score.log_prob == pytest.approx(answer_log_prob(lm.hf, lm.tokenizer, prompt, text), rel=1e-4, abs=1e-4)
    assert score.correct == writes_answer(lm.hf, lm.tokenizer, prompt, text)
    return score


def test_the_kinds_differ_in_where_an_answer_begins():
    """Without this, a kind that is built wrongly would test nothing of its own."""
    begins = {}
    for name, kind in KINDS.items():
        tokenizer = kind()
        for prompt, answer in QUESTIONS:
            ids, start = answer_tokens(tokenizer, prompt, join_target(prompt, answer))
            begins[name, prompt, answer] = tokenizer.convert_ids_to_tokens(ids[start:])
    assert begins["digits apart", "The Eiffel Tower is", "5"] == ["Ġ", "5"]
    assert begins["metaspace", "The Eiffel Tower is", "5"][0] == "▁"
    assert begins["byte-level", "The capital of France is ", "Paris"] == ["ĠParis"]
    assert begins["merges across words", "The capital of France is", "Paris"] != ["▁Paris"]
    assert all(tokens[-1] != "</s>" for tokens in begins.values())


@pytest.mark.parametrize(("prompt", "answer"), QUESTIONS)
def test_the_score_is_what_plain_transformers_says(any_model, prompt, answer):
    _expect_invariant(any_model, prompt, answer)


WORDS = ["The", "tower", "is", "Paris", "5", "29", " ", "我", "巴黎", "🗼", "(", ")", ",", "$", "\n", "'s", "-", "“"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=4),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("".join).filter(str.strip),
    st.sampled_from([None, "", " "]),
)
def test_whatever_prompt_and_answer(any_model, words, answer, join):
    _expect_invariant(any_model, " ".join(["Toyota", *words]), answer, join)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_with_a_space_of_its_own(variant):
    """The model is made to say the answer or to miss its last token, and either is reported."""
    tokenizer = _digits()
    hf = tiny_hf(variant, vocab_size=len(tokenizer))
    lm = wrap(hf, tokenizer, name=variant)
    prompt, wrong = "The Eiffel Tower is", "29"
    assert len(encode_targets(tokenizer, [(prompt, wrong)])[0][0].target_ids) == 3
    assert not _expect_invariant(lm, prompt, wrong).correct
    ids, start = answer_tokens(tokenizer, prompt, prompt)
    given = torch.tensor([ids])
    written = hf.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=3, do_sample=False, pad_token_id=0,
        eos_token_id=None,
    )  # fmt: skip
    own = tokenizer.decode(written[0, start:])
    if answer_tokens(tokenizer, prompt, prompt + own)[0] == written[0].tolist() and own.isprintable() and own.strip():
        assert _expect_invariant(lm, prompt, own, join="").correct


def test_every_user_of_an_answer_begins_where_it_begins():
    tokenizer = _digits()
    lm = wrap(tiny_hf("llama", vocab_size=len(tokenizer)), tokenizer, name="tiny")
    fact = Fact(subject="Eiffel Tower", prompt="The Eiffel Tower is", target_new="29")
    ids, start = answer_tokens(tokenizer, fact.text, "The Eiffel Tower is 29")
    (row,) = rewriting_rows(lm, [fact], [""])
    assert (row.targets, row.read[0]) == (tuple(ids[start:]), start - 1)
    lens = backward_lens(lm, fact.text, "29")
    assert (lens.target, lens.example.ids) == (ids[start], tuple(ids[:start]))
    assert any("only the space before it" in note for note in lens.notes)
    assert not any("only the space" in note for note in backward_lens(lm, fact.text, "29", loss="target").notes)
    joined = replace(fact, join="", id="")
    (row,) = rewriting_rows(lm, [joined], [""])
    assert tokenizer.decode(row.targets) == "29"


def test_an_answer_that_changes_the_prompt_is_said():
    lm = wrap(tiny_hf("llama"), tiny_tokenizer(), name="tiny")
    spaced = Fact(subject="France", prompt="The capital of {} is ", target_new="Paris")
    plain = replace(spaced, prompt="The capital of {} is", id="")
    assert [p.reason for p in check_facts(lm, [spaced]) if "last token" in p.reason]
    assert not [p.reason for p in check_facts(lm, [plain]) if "last token" in p.reason]


def test_real_answers_on_the_real_model(smollm2, data_dir):
    """300 of zsRE, a fifth of them with a space that is a token of its own; and what the model itself goes on with."""
    lm = smollm2
    records = read_facts(data_dir / "zsre.json").facts
    facts = [replace(fact, target_true=None, paraphrases=(), neighbours=()) for fact in records]
    digits = [fact for fact in facts if fact.target_new[0].isdigit()]
    chosen = [*digits[:60], *[fact for fact in facts if fact not in digits][:240]]
    assert len(chosen) == 300
    found = [fact.prompt.new for fact in measure(lm, chosen).facts]
    expected = answer_log_probs(lm.hf, lm.tokenizer, [(fact.text, fact.wanted.text) for fact in chosen])
    assert [score.log_prob for score in found] == pytest.approx(expected, rel=1e-4, abs=1e-3)
    # Decoding is slow, so of a few; and of their own answers, since the model gives hardly one of the data's.
    few = chosen[::30]
    texts = [(fact, _continuation(lm, fact)) for fact in few]
    own = [replace(fact, target_new=text, join="", id="") for fact, text in texts if text.strip()]
    scores = [*found[::30], *(fact.prompt.new for fact in measure(lm, own).facts)]
    for fact, score in zip([*few, *own], scores, strict=True):
        assert score.correct == writes_answer(lm.hf, lm.tokenizer, fact.text, fact.wanted.text), fact.id
    assert any(score.correct for score in scores)


def _continuation(lm, fact):
    ids = torch.tensor([lm.tokenizer(fact.text)["input_ids"]])
    written = lm.hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    return lm.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
