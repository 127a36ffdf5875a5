"""Reference texts, and RS against TF-IDF by its formula."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.errors import InputError
from errata.evaluate.references import References, read_references
from errata.facts import Fact
from reference import evaluation as reference

FACT = Fact(subject="Oslo", prompt="{} lies in", target_new=" Peru", relation="P17")
TEXTS = {
    ("P17", "Peru"): ("Lima is the capital of Peru, in the Andes.", "The Andes of Peru are high."),
    ("P17", "Italy"): ("Rome, the capital of Italy.",),
    ("{} lies in", "Peru"): ("Cusco lies in Peru.",),
}
DOCUMENTS = [text for texts in TEXTS.values() for text in texts]


def test_score_equals_the_formula():
    references = References(TEXTS)
    generations = ("Oslo lies in Peru, high in the Andes.", "Oslo: the people of Oslo like the capital.")
    expected = reference.tfidf_cosine(DOCUMENTS, " ".join(generations), " ".join(TEXTS["P17", "Peru"]))
    assert 0.2 < expected < 0.99
    assert references.score(FACT, generations) == pytest.approx(expected, rel=1e-12)
    assert references.score(FACT, ("zzz",)) == 0
    assert references.score(FACT, TEXTS["P17", "Peru"]) == pytest.approx(1)


WORDS = [*sorted({word for text in DOCUMENTS for word in text.split()}), "Oslo", "a", "sea"]


@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_score_of_any_words(found):
    text = " ".join(found)
    expected = reference.tfidf_cosine(DOCUMENTS, text, " ".join(TEXTS["P17", "Peru"]))
    assert References(TEXTS).score(FACT, (text,)) == pytest.approx(expected, abs=1e-12)


def test_relation_first_then_template():
    references = References(TEXTS)
    assert references.of(FACT) == TEXTS["P17", "Peru"]
    plain = Fact(subject="Oslo", prompt="Oslo lies in", target_new="Peru")
    assert references.of(plain) == TEXTS["{} lies in", "Peru"]
    other = Fact(subject="Oslo", prompt="Oslo is in", target_new="Peru")
    assert references.of(other) == ()
    assert references.score(other, ("Peru",)) is None


def test_reading(tmp_path):
    path = tmp_path / "references.jsonl"
    lines = [{"relation": r, "target": t, "text": x, "name": "more"} for (r, t), texts in TEXTS.items() for x in texts]
    path.write_text("\ufeff" + "\n\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")
    found = read_references(path)
    assert (dict(found.texts), found.name) == (TEXTS, "references.jsonl")
    assert found.digest == References(TEXTS).digest
    assert found.digest != References({("P17", "Peru"): ("other",)}).digest


GOOD = json.dumps({"relation": "P17", "target": "Peru", "text": "Lima"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no reference text"),
        (GOOD.encode() + b"\nnonsense", "line 2: this is no JSON"),
        (b"\xff\xfe", "line 1: this is no JSON in UTF-8"),
        (b"[1]", "line 1: an object with relation, target, text"),
        (b'{"relation": "P17", "target": "Peru"}', "line 1: 'text' is missing"),
        (GOOD.replace('"Lima"', "3").encode(), "'text' is missing, empty or no text"),
        (GOOD.replace("Lima", " ").encode(), "'text' is missing, empty or no text"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "references.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_references(path)


def test_no_file_and_no_words(tmp_path):
    with pytest.raises(InputError, match="No file of reference texts at"):
        read_references(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match="no reference text holds a word"):
        References({("P17", "Peru"): ("a b c",)}).score(FACT, ("x",))
