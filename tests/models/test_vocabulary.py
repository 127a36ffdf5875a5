"""Answers that are no plain text: refused by edits, evaluation, tracing and the lens alike, in the same words."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from errata.edit import check_facts
from errata.errors import FactsError, InputError
from errata.evaluate import measure
from errata.facts import Fact, Neighbour
from errata.jobs.edit_job import edit_facts
from errata.jobs.trace_job import trace_facts
from errata.lens import backward_lens
from errata.models import encode_targets, token_reason, wrap
from errata.tracing import trace
from tiny import tiny_hf, tiny_tokenizer

PROMPT = "The Eiffel Tower is in"


def byte_level():
    return wrap(tiny_hf("llama"), tiny_tokenizer(), name="mine")


def word_level():
    """A tokenizer with an unknown token, as those of words and of characters have it."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "</s>", *PROMPT.split(), "Paris"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    return wrap(tiny_hf("llama"), wrapped, name="mine")


BAD = [
    (byte_level, "Rome</s>", "the special token '</s>'; a target is plain text"),
    (byte_level, "<s> Rome", "the special token '<s>'; a target is plain text"),
    (word_level, "Rome", "does not know, and reads as the special token '<unk>'; write it otherwise"),
    (word_level, "Paris Rome", "does not know, and reads as the special token '<unk>'"),
    (word_level, "Paris </s>", "the special token '</s>'"),
]


@pytest.mark.parametrize(("made", "target", "words"), BAD)
def test_every_reader_of_an_answer_refuses_it(made, target, words):
    lm = made()
    fact = Fact(subject="Eiffel Tower", prompt=PROMPT, target_new=target, id="bad")
    (problem,) = check_facts(lm, [fact])
    assert (problem.severity, problem.fact_id) == ("error", "bad")
    assert words in problem.reason
    with pytest.raises(FactsError) as caught:
        edit_facts(lm, [fact])
    assert words in str(caught.value)
    with pytest.raises(FactsError) as caught:
        trace_facts(lm, [fact])
    assert words in str(caught.value)
    for call in (
        lambda: measure(lm, [fact]),
        lambda: trace(lm, PROMPT, "Eiffel Tower", target),
        lambda: backward_lens(lm, PROMPT, target),
    ):
        with pytest.raises(InputError) as refused:
            call()
        assert words in str(refused.value)


def test_old_answers_and_those_of_neighbours_are_looked_at_too():
    lm = word_level()
    neighbour = Neighbour(prompt="Tower is in", answer="Berlin")
    fact = Fact(subject="Tower", prompt="Tower is in", target_new="Paris", target_true="Rome", neighbours=(neighbour,))
    with pytest.raises(InputError, match=r"prompt cannot be measured.*(\n.*)*neighbour 1 cannot be measured"):
        measure(lm, [fact])


@pytest.mark.parametrize("made", [byte_level, word_level])
def test_plain_answers_pass_also_after_a_prompt_with_special_tokens(made):
    lm = made()
    for prompt in (PROMPT, "</s> The Eiffel Tower is in"):
        ((row, _),) = encode_targets(lm.tokenizer, [(prompt, "Paris")])
        assert token_reason(lm, row.ids, row.target_ids) == ""
