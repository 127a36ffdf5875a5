"""The subject's place in a prompt and the join of prompt and answer, against the most obvious definitions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.facts import join_target
from errata.facts.text import UNSPACED_BLOCKS, find_subject, is_unspaced

PLACES = [
    pytest.param("Paris is the capital of", "Paris", 0, id="start"),
    pytest.param("The city of Paris lies in", "Paris", 12, id="middle"),
    pytest.param("I was born in Paris", "Paris", 14, id="end"),
    pytest.param("Paris, oh Paris, lies in", "Paris", 10, id="twice"),
    pytest.param("In Paris, Parisians speak", "Paris", 3, id="later-inside-a-word"),
    pytest.param("Parisians live in", "Paris", 0, id="only-inside-a-word"),
    pytest.param("Art by Artemisia Gentileschi, art lover", "Art", 0, id="beginning-of-a-word"),
    pytest.param("Le Havre or Havre", "Havre", 12, id="part-of-a-name"),
    pytest.param("Is it U2? U2, born in", "U2", 10, id="digits"),
    pytest.param("snake_case and case", "case", 15, id="underscore"),
    pytest.param("case and snake_case", "case", 0, id="underscore-joins"),
    pytest.param("(Paris) is in", "Paris", 1, id="brackets"),
    pytest.param("Paris's mayor is", "Paris", 0, id="apostrophe"),
    pytest.param("Yahoo! was founded by", "Yahoo!", 0, id="punctuation-in-subject"),
    pytest.param("C++ was designed by", "C++", 0, id="plus-signs"),
    pytest.param("C++17 and C++", "C++", 10, id="punctuation-is-a-boundary"),
    pytest.param("aaa", "aa", 1, id="overlapping"),
    pytest.param("法国的首都是", "法国", 0, id="chinese"),
    pytest.param("東京は日本の首都。東京の人口は", "東京", 9, id="japanese-twice"),
    pytest.param("Parisの首都、Paris", "Paris", 9, id="latin-in-japanese"),
    pytest.param("東京 は日本の首都東京の", "東京", 9, id="japanese-boundary-everywhere"),
    pytest.param("Parisの人とParisian", "Paris", 0, id="latin-word-before-kana"),
    pytest.param("서울은 어디에 있는가", "서울", 0, id="korean-particle"),
    pytest.param("서울특별시 말고 서울 은", "서울", 9, id="korean-boundary"),
    pytest.param("Столица России Россия", "Россия", 15, id="cyrillic"),
    pytest.param("عاصمة فرنسا هي", "فرنسا", 6, id="arabic"),
    pytest.param("กรุงเทพอยู่ใน", "กรุงเทพ", 0, id="thai"),
    pytest.param("भारत की राजधानी", "भारत", 0, id="devanagari"),
    pytest.param("Cafe\u0301 or Cafe", "Cafe", 9, id="combining-mark-continues-a-word"),
    pytest.param("Cafe\u0301 and", "Cafe", 0, id="combining-mark-nothing-better"),
    pytest.param("🗼 is in", "🗼", 0, id="emoji"),
    pytest.param("Rome is in", "Paris", -1, id="absent"),
]


@pytest.mark.parametrize(("prompt", "subject", "expected"), PLACES)
def test_place(prompt: str, subject: str, expected: int) -> None:
    assert find_subject(prompt, subject) == expected


@given(st.text("ab _.", max_size=12), st.text("ab_", min_size=1, max_size=3))
def test_place_is_the_last_one_a_regular_expression_finds(prompt: str, subject: str) -> None:
    """For ASCII, boundaries are those of the regular expressions; every start is tried, overlapping ones too."""
    inside = r"(?<!\w)" + re.escape(subject) + r"(?!\w)"
    starts = [start for start in range(len(prompt)) if prompt.startswith(subject, start)]
    whole = [start for start in starts if any(found.start() == start for found in re.finditer(inside, prompt))]
    assert find_subject(prompt, subject) == max(whole or starts or [-1])


JOINS = [
    ("The capital is", "Paris", "The capital is Paris", 15),
    ("The capital is", " Paris", "The capital is Paris", 15),
    ("The capital is ", "Paris", "The capital is Paris", 15),
    ("The capital is ", " Paris", "The capital is Paris", 15),
    ("The capital is", "  Paris", "The capital is  Paris", 16),
    ("The capital is  ", "  Paris", "The capital is  Paris", 16),
    ("Q: capital?\nA:", "Paris", "Q: capital?\nA: Paris", 15),
    ("Answer:\n", "Paris", "Answer:\nParis", 8),
    ("Answer:\n", " Paris", "Answer:\n Paris", 9),
    ("Answer:", "\nParis", "Answer:\nParis", 8),
    ("法国的首都是", "巴黎", "法国的首都是巴黎", 6),
    ("法国的首都是：", "巴黎", "法国的首都是：巴黎", 7),
    ("フランスの首都は", "パリ", "フランスの首都はパリ", 8),
    ("首都は", "Paris", "首都は Paris", 4),
    ("The capital is", "巴黎", "The capital is 巴黎", 15),
    ("เมืองหลวงคือ", "ปารีส", "เมืองหลวงคือปารีส", 12),
    ("ເມືອງຫຼວງແມ່ນ", "ປາຣີ", "ເມືອງຫຼວງແມ່ນປາຣີ", 13),
    ("រដ្ឋធានីគឺ", "ប៉ារីស", "រដ្ឋធានីគឺប៉ារីស", 10),
    ("မြို့တော်မှာ", "ပါရီ", "မြို့တော်မှာပါရီ", 12),
    ("수도는", "파리", "수도는 파리", 4),
    ("", "Paris", "Paris", 0),
    ("The code is", "42 .", "The code is 42 .", 12),
]


@pytest.mark.parametrize(("text", "target", "joined", "offset"), JOINS)
def test_join(text: str, target: str, joined: str, offset: int) -> None:
    assert join_target(text, target) == (joined, offset)


@given(st.text(max_size=8), st.text(max_size=8).filter(str.strip))
def test_join_keeps_both_parts_and_finds_the_target(text: str, target: str) -> None:
    joined, offset = join_target(text, target)
    assert joined.startswith(text)
    assert joined[offset:] == target.lstrip()
    assert not joined[len(text) : offset].strip()
    assert len(joined) <= len(text) + 1 + len(target)


@pytest.mark.parametrize("char", "法かカㄅกລကខ。，")
def test_unspaced(char: str) -> None:
    assert is_unspaced(char)


@pytest.mark.parametrize("char", "aéЖعभ한5 .,\u2019🗼\uffa1")
def test_spaced(char: str) -> None:
    assert not is_unspaced(char)


def test_blocks_are_sorted_and_apart() -> None:
    ends = [code for block in UNSPACED_BLOCKS for code in block]
    assert ends == sorted(ends)
