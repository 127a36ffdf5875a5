"""Where a subject ends and a target begins, token by token, against the tokenizer's own account of the whole text."""

import pytest
import torch
from edit_helpers import FACTS

from errata.edit.values.prompt_rows import essence_rows, key_rows, rewriting_rows, shared_lengths, states_at
from errata.errors import InputError
from errata.facts import Fact, join_target
from reference.answers import answer_tokens
from tiny import tiny_model

PREFIXES = ["", "The answer is here. ", "因为。 "]
CASES = {
    "start": Fact(subject="Toyota", prompt="Toyota builds cars in", target_new="France"),
    "middle": Fact(subject="Canada", prompt="The language of Canada is", target_new="French"),
    "end": Fact(subject="Bill Gates", prompt="Microsoft was founded by Bill Gates", target_new="Rome"),
    "the whole prompt": Fact(subject="Paris", prompt="Paris", target_new="is in Italy"),
    "twice, the last counts": Fact(subject="Paris", prompt="Paris is Paris and so", target_new="Rome"),
    "twice, the first by placeholder": Fact(subject="Paris", prompt="{} is Paris and so", target_new="Rome"),
    "inside another word first": Fact(subject="Ada", prompt="Canada has Ada as its", target_new="queen"),
    "many tokens": Fact(subject="Zbigniew Brzeziński-O'Quux XVII", prompt="Where {} lives is", target_new="Warszawa"),
    "one character": Fact(subject="X", prompt="The letter X is", target_new="tall"),
    "non-Latin, no spaces": Fact(subject="埃菲尔铁塔", prompt="{}位于", target_new="罗马市"),
    "non-Latin, never seen": Fact(subject="서울", prompt="{}의 나라는", target_new="대한민국"),
    "Cyrillic": Fact(subject="Эйфелева башня", prompt="Где стоит {}? Она стоит в городе", target_new="Риме"),
    "emoji of many code points": Fact(subject="👩‍🚀", prompt="The sign {} means", target_new="astronaut"),
    "combining mark": Fact(subject="cafe\u0301", prompt="A {} is a", target_new="bar"),
    "trailing punctuation": Fact(subject="Yahoo!", prompt="The site {} was founded by", target_new="Bill Gates"),
    "full stop at its end": Fact(subject="Apple Inc.", prompt="The boss of {} is", target_new="Toyota"),
    "punctuation right after": Fact(subject="Rome", prompt="In {}, the tower is", target_new="tall."),
    "quotes around": Fact(subject="The Wall", prompt='"{}" is in', target_new='"China"'),
    "subject then target at once": Fact(subject="埃菲尔铁塔", prompt="他看见了{}", target_new="罗马"),
    "prompt ends with a space": Fact(subject="Japan", prompt="Japan speaks ", target_new="English"),
    "target starts with a space": Fact(subject="Japan", prompt="Japan speaks", target_new=" English and French"),
    "new line in the prompt": Fact(subject="Italy", prompt="Q: {}?\nA:", target_new="Rome\nParis"),
}


def _whole(lm, prefix, fact):
    text = join_target(prefix + fact.text, fact.target_new)
    encoding = lm.tokenizer(text, return_offsets_mapping=True)
    _, begin = answer_tokens(lm.tokenizer, prefix + fact.text, text)
    return text, begin, encoding["input_ids"], encoding["offset_mapping"]


@pytest.mark.parametrize("variant", ["llama"])
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_positions(variant, bos, case):
    lm, fact = tiny_model(variant, bos=bos), CASES[case]
    for prefix, row in zip(PREFIXES, rewriting_rows(lm, [fact], PREFIXES), strict=True):
        text, begin, ids, offsets = _whole(lm, prefix, fact)
        assert (*row.ids, row.targets[-1]) == tuple(ids)
        _expect_last_subject_token(row.edited, offsets, prefix, fact)
        assert row.targets == tuple(ids[i + 1] for i in row.read)
        assert row.read == tuple(range(row.read[0], len(ids) - 1))
        assert row.edited <= row.read[0]
        assert lm.tokenizer.decode(row.targets).strip() == fact.target_new.strip()
        assert row.read[0] + 1 == begin
        assert text.endswith(fact.target_new.lstrip())
        assert (row.ids[0] == lm.tokenizer.bos_token_id) == bos


def _expect_last_subject_token(edited, offsets, prefix, fact):
    start, end = (len(prefix) + at for at in fact.subject_span)
    low, high = offsets[edited]
    assert low < end <= max(high, end)
    assert low <= end - 1 < high, "the token holds the subject's last character"
    assert high > start
    later = offsets[edited + 1 :]
    assert all(a >= end or b <= start or a == b for a, b in later), "no later token holds any of the subject"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bos", [False, True])
def test_key_rows_end_with_the_subject(case, bos):
    lm, fact = tiny_model("llama", bos=bos), CASES[case]
    whole = rewriting_rows(lm, [fact], PREFIXES)
    for row, full in zip(key_rows(lm, [fact], PREFIXES), whole, strict=True):
        assert row.ids == full.ids[: full.edited + 1]
        assert row.edited == len(row.ids) - 1
        assert (row.fact, row.context, row.targets) == (full.fact, full.context, ())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bos", [False, True])
def test_essence_rows_are_the_subject_s_tokens_before_is_a(case, bos):
    lm, fact = tiny_model("llama", bos=bos), CASES[case]
    (row,) = essence_rows(lm, [fact], context=3)
    ids = lm.tokenizer(f"{fact.subject} is a")["input_ids"]
    assert row.ids == tuple(ids[: len(row.ids)])
    assert lm.tokenizer.decode(row.ids, skip_special_tokens=True) == fact.subject
    assert (row.context, row.read, row.targets, row.edited) == (3, (), (), len(row.ids) - 1)


def test_a_subject_with_braces_is_taken_literally():
    fact = Fact(subject="set {1}", prompt="The set {1} has", target_new="one element")
    (row,) = essence_rows(tiny_model("llama"), [fact], context=0)
    assert tiny_model("llama").tokenizer.decode(row.ids) == "set {1}"


def test_one_token_over_subject_and_target_is_an_error():
    # The tiny tokenizer has learnt "tower" as one token; written as subject "to", target "wer" the two would share it.
    lm = tiny_model("llama")
    (fact,) = [Fact(subject="埃", prompt="{}", target_new="菲尔铁塔", id="shared")]
    encoding = lm.tokenizer("埃菲尔铁塔", return_offsets_mapping=True)
    shares = any(low < 1 < high for low, high in encoding["offset_mapping"])
    assert shares, "the tokenizer of tiny.py merges these characters"
    with pytest.raises(InputError, match=r"'shared'.*one token"):
        rewriting_rows(lm, [fact], [""])


def test_shared_lengths_stop_before_the_first_difference_and_the_edited_token():
    lm = tiny_model("llama", bos=True)
    rows = rewriting_rows(lm, FACTS, PREFIXES)
    for context, length in shared_lengths(rows).items():
        mine = [row for row in rows if row.context == context]
        assert len({row.ids[:length] for row in mine}) == 1
        assert all(length <= row.edited for row in mine)
        longer = {row.ids[: length + 1] for row in mine}
        assert len(longer) > 1 or any(row.edited == length for row in mine)
    assert shared_lengths(rows)[0] == 1, "the BOS"
    assert shared_lengths(rows)[1] > 3


def test_context_zero_must_be_the_bare_prompt():
    with pytest.raises(AssertionError):
        rewriting_rows(tiny_model("llama"), FACTS, ["The. ", ""])


def test_each_row_has_its_own_position():
    states, positions = torch.randn(3, 5, 2), torch.tensor([4, 0, 2])
    expected = torch.stack([states[0, 4], states[1, 0], states[2, 2]])
    assert torch.equal(states_at(states, positions), expected)
