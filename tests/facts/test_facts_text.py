"""The subject's place in a prompt and the join of prompt and answer, against the most obvious definitions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.facts import PromptTarget, join_target
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
    ("The capital is", "Paris", "The capital is Paris"),
    ("The capital is", " Paris", "The capital is Paris"),
    ("The capital is ", "Paris", "The capital is Paris"),
    ("The capital is ", " Paris", "The capital is Paris"),
    ("The capital is", "  Paris", "The capital is  Paris"),
    ("The capital is  ", "  Paris", "The capital is  Paris"),
    ("Q: capital?\nA:", "Paris", "Q: capital?\nA: Paris"),
    ("Answer:\n", "Paris", "Answer:\nParis"),
    ("Answer:\n", " Paris", "Answer:\n Paris"),
    ("Answer:", "\nParis", "Answer:\nParis"),
    ("法国的首都是", "巴黎", "法国的首都是巴黎"),
    ("法国的首都是：", "巴黎", "法国的首都是：巴黎"),
    ("フランスの首都は", "パリ", "フランスの首都はパリ"),
    ("我的年龄是", "23岁", "我的年龄是23岁"),
    ("首都は", "Paris", "首都はParis"),
    ("首都は", " Paris", "首都は Paris"),
    ("The capital is", "巴黎", "The capital is 巴黎"),
    ("เมืองหลวงคือ", "ปารีส", "เมืองหลวงคือปารีส"),
    ("เมืองหลวงคือ", "Paris", "เมืองหลวงคือ Paris"),
    ("ເມືອງຫຼວງແມ່ນ", "ປາຣີ", "ເມືອງຫຼວງແມ່ນປາຣີ"),
    ("រដ្ឋធានីគឺ", "ប៉ារីស", "រដ្ឋធានីគឺប៉ារីស"),
    ("မြို့တော်မှာ", "ပါရီ", "မြို့တော်မှာပါရီ"),
    ("수도는", "파리", "수도는 파리"),
    ("", "Paris", "Paris"),
    ("The code is", "42 .", "The code is 42 ."),
    # What opens goes with what follows.
    ("He lives in (", "Paris", "He lives in (Paris"),
    ("See [", "1", "See [1"),
    ('He said "', "yes", 'He said "yes'),
    ('The word "yes"', "means", 'The word "yes" means'),
    ("Er sagte „", "ja", "Er sagte „ja"),
    ("Das Wort „ja“", "heißt", "Das Wort „ja“ heißt"),
    ("He said “", "yes", "He said “yes"),
    ("The word “yes”", "means", "The word “yes” means"),
    ("He said '", "yes", "He said 'yes"),
    # Guillemets point either way: German and Danish »…«, French «…», Swedish and Finnish »…».
    ("Er sagte: »", "Hallo", "Er sagte: »Hallo"),
    ("Das Wort »ja«", "heißt", "Das Wort »ja« heißt"),
    ("Erst »ja«, dann »", "nein", "Erst »ja«, dann »nein"),
    ("Er sagte »Das Wort ›", "ja", "Er sagte »Das Wort ›ja"),
    ("Er sagte »Das Wort ›ja‹", "heißt", "Er sagte »Das Wort ›ja‹ heißt"),
    ("Er sagte", "»Hallo«", "Er sagte »Hallo«"),
    ("Er sagte »Hallo", "«", "Er sagte »Hallo«"),
    ("Il a dit «", "oui", "Il a dit «oui"),
    ("Le mot «oui»", "signifie", "Le mot «oui» signifie"),
    ("D'abord «oui», puis «", "non", "D'abord «oui», puis «non"),
    ("Il a dit «le mot «", "oui", "Il a dit «le mot «oui"),
    ("Il a dit «le mot «oui»", "est court", "Il a dit «le mot «oui» est court"),
    ("Il a dit «oui", "»", "Il a dit «oui»"),
    ("Il a dit", "«oui»", "Il a dit «oui»"),
    ("Hon sade: »", "hej", "Hon sade: »hej"),
    ("Ordet »hej»", "betyder", "Ordet »hej» betyder"),
    ("Först »ja», sedan »", "nej", "Först »ja», sedan »nej"),
    ("Hon sade »hej", "»", "Hon sade »hej»"),
    ("The price is $", "5", "The price is $5"),
    ("The price is €", "5", "The price is €5"),
    ("Der Preis in €", "ist", "Der Preis in € ist"),
    ("and/", "or", "and/or"),
    ("Write to info@", "example.org", "Write to info@example.org"),
    ("Il habite à L'", "Isle", "Il habite à L'Isle"),
    ("La ville qu’", "il aime", "La ville qu’il aime"),
    ("La capitale dell'", "Italia", "La capitale dell'Italia"),
    ("It is the boys'", "house", "It is the boys' house"),
    ("We are No. #", "1", "We are No. #1"),
    ("C#", "is", "C# is"),
    ("They trained GPT-", "2", "They trained GPT-2"),
    ("Paris -", "France", "Paris - France"),
    # What closes goes with what stands before.
    ("He is right", ".", "He is right."),
    ("Paris", ", France", "Paris, France"),
    ("He lives (in Paris", ")", "He lives (in Paris)"),
    ('He said "yes', '"', 'He said "yes"'),
    ("He said", '"yes"', 'He said "yes"'),
    ("The boy", "'s house", "The boy's house"),
    ("Then", "'twas", "Then 'twas"),
    ("It rose by 5", "%", "It rose by 5%"),
    ("It runs on", ".NET", "It runs on .NET"),
    ("The Eiffel Tower is", "🗼", "The Eiffel Tower is 🗼"),
]


@pytest.mark.parametrize(("text", "target", "joined"), JOINS)
def test_join(text: str, target: str, joined: str) -> None:
    assert join_target(text, target) == joined
    assert PromptTarget(text, target).text == joined


@given(st.text(max_size=8), st.text(max_size=8).filter(str.strip))
def test_join_keeps_both_parts(text: str, target: str) -> None:
    joined = join_target(text, target)
    assert joined.startswith(text)
    assert joined.endswith(target.lstrip())
    assert not joined[len(text) : len(joined) - len(target.lstrip())].strip()
    assert len(joined) <= len(text) + 1 + len(target)


@given(st.text(max_size=8), st.text(max_size=8), st.sampled_from(["", " ", "\n"]))
def test_a_join_that_is_given_is_taken_as_it_is(text: str, target: str, join: str) -> None:
    assert join_target(text, target, join) == text + join + target


@pytest.mark.parametrize("char", "法かカㄅกລကខ。，")
def test_unspaced(char: str) -> None:
    assert is_unspaced(char)


@pytest.mark.parametrize("char", "aéЖعभ한5 .,\u2019🗼\uffa1")
def test_spaced(char: str) -> None:
    assert not is_unspaced(char)


def test_blocks_are_sorted_and_apart() -> None:
    ends = [code for block in UNSPACED_BLOCKS for code in block]
    assert ends == sorted(ends)
