"""Whatever the bytes: a result or a FactsError. Whatever the facts: written, they are read back equal."""

import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.errors import FactsError, StorageError
from errata.facts import Fact, FactFile, Neighbour, Problem, format_problems, read_facts, require, write_facts
from errata.facts.names import FIELDS
from errata.facts.shapes import BY_NAME, SHAPES

CONTAINERS = ["jsonl", "json", "csv"]
FORMATS = ["auto", *CONTAINERS, *BY_NAME]
NAMES = [*FIELDS, "case_id", "neighbors", "requested_rewrite", "src", "alt", "answers", "ground_truth", "str"]
NAMES += [
    "rephrase_prompt",
    "locality_prompt",
    "paraphrase_prompts",
    "generation_prompts",
    "neighborhood_prompts",
    "loc",
    "rephrase",
    "answer",
]
NAMES = sorted({*NAMES, *(name for shape in SHAPES for name in shape.names)})

words = st.sampled_from(["Paris", "Paris is", "{}", "{} is", "", " ", "\0", "\ud800", "[", "a;b", 'a"b']) | st.text(
    max_size=4
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
names = st.sampled_from(NAMES) | words
flat = st.lists(scalars, max_size=3) | st.dictionaries(names, scalars, max_size=3)
values = scalars | flat | st.lists(flat, max_size=2)
records = st.dictionaries(names, values, max_size=6) | st.fixed_dictionaries(
    {"subject": st.just("Paris"), "prompt": words, "target_new": words}, optional={"id": scalars, "neighbours": values}
)
fragments = st.sampled_from(
    [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\n", b"\xff", b"\xef\xbb\xbf", b"\x00", b";", b"subject"]
)
noise = st.lists(fragments | st.binary(max_size=4), max_size=12).map(b"".join)


def read(content: bytes, suffix: str, format: str) -> FactFile | None:
    """The file read, every invariant of the result checked; None where it was refused as a whole."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"facts{suffix}"
        path.write_bytes(content)
        try:
            found = read_facts(path, format=format)
        except FactsError as error:
            str(error).encode()
            return None
    assert found.facts or found.errors
    assert len({fact.id for fact in found.facts}) == len(found.facts)
    lines = content.count(b"\n") + content.count(b"\r") + 1  # CSV readers end lines at either
    assert all(problem.line is None or 1 <= problem.line <= lines for problem in found.problems)
    format_problems(found.problems).encode()
    if not found.facts:
        with pytest.raises(FactsError):
            require(found, skip_bad=True)
    return found


def told(problem: Problem) -> tuple[str, str, str | None]:
    """What a problem says, without where: a list has records and lines, JSON Lines has lines."""
    reason = re.sub(r"record \d+ \(line (\d+)\)", r"line \1", problem.reason)
    return problem.severity, reason, problem.fact_id


@settings(max_examples=200)
@given(noise, st.sampled_from([".jsonl", ".json", ".csv"]), st.sampled_from(FORMATS))
def test_arbitrary_bytes(content: bytes, suffix: str, format: str) -> None:
    read(content, suffix, format)


@settings(max_examples=150)
@given(st.lists(values | records, max_size=4), st.sampled_from(FORMATS), st.booleans())
def test_arbitrary_json(content: list, format: str, ascii_only: bool) -> None:
    try:
        lines = [json.dumps(value, ensure_ascii=ascii_only).encode() for value in content]
    except UnicodeEncodeError:
        lines = [json.dumps(value).encode() for value in content]
    joined = read(b"[" + b",\n".join(lines) + b"]", ".json", "auto" if format in CONTAINERS else format)
    apart = read(b"\n".join(lines), ".jsonl", "auto" if format in CONTAINERS else format)
    assert joined is not None
    assert apart is not None
    # A JSON Lines file that begins with a list is refused as a JSON list.
    if lines and lines[0].startswith(b"["):
        assert ["a JSON list where" in problem.reason for problem in apart.problems] == [True]
    else:
        assert joined.facts == apart.facts
        assert [told(problem) for problem in joined.problems] == [told(problem) for problem in apart.problems]
    if format in CONTAINERS:
        read(b"\n".join(lines), ".jsonl", format)


cells = st.sampled_from(
    ["Paris", "Paris is", "Italy", "", '["a"]', '[{"prompt": "b"}]', '"', '""', "[", "\n"]
) | st.text(max_size=3)


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from([*FIELDS, "neighbour_prompt", "neighbour_answer", "x"]), max_size=6),
    st.lists(st.lists(cells, max_size=6), max_size=4),
    st.sampled_from(",;\t"),
)
def test_arbitrary_csv(header: list[str], rows: list[list[str]], delimiter: str) -> None:
    text = "\n".join(delimiter.join(row) for row in [["subject", "prompt", "target_new", *header], *rows])
    read(text.encode(errors="replace"), ".csv", "auto")


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8).filter(
    str.strip
)
neighbours = st.builds(Neighbour, prompt=texts.filter(lambda text: "{}" not in text), answer=st.none() | texts)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def facts(draw: st.DrawFn) -> Fact:
    subject = draw(texts.map(str.strip).filter(lambda text: "{}" not in text))
    around = st.text("ab {}é東", max_size=4).filter(lambda text: "{}" not in text)
    middle = draw(st.sampled_from([subject, "{}"]))
    try:
        return Fact(
            subject=subject,
            prompt=draw(around) + middle + draw(around),
            target_new=draw(texts),
            target_true=draw(st.none() | texts),
            paraphrases=tuple(draw(st.lists(texts, max_size=2))),
            neighbours=tuple(draw(st.lists(neighbours, max_size=2))),
            id=draw(st.just("") | st.integers(0, 9).map(str)),
            relation=draw(st.none() | texts),
            generation_prompts=tuple(draw(st.lists(texts, max_size=2))),
            join=draw(st.sampled_from([None, "", " ", "\n"])),
            chat=draw(st.booleans()),
            metadata=draw(st.dictionaries(st.text(max_size=3), plain, max_size=2)),
        )
    except FactsError:  # target_true equal to target_new, or braces that met: both refused for good reason
        return Fact(subject=subject, prompt="{} is", target_new=draw(texts))


@settings(max_examples=60)
@given(st.lists(facts(), min_size=1, max_size=4, unique_by=(lambda fact: fact.id, lambda fact: fact.text)))
def test_round_trip(written: list[Fact]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "facts.jsonl"
        write_facts(path, written)
        assert read_facts(path).facts == tuple(written)
        first = path.read_bytes()
        write_facts(path, read_facts(path).facts)
        assert path.read_bytes() == first
        assert [found.name for found in Path(folder).iterdir()] == ["facts.jsonl"]


def test_write_into_nowhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        write_facts(tmp_path / "file" / "facts.jsonl", [Fact(subject="a", prompt="a is", target_new="b")])
    assert (tmp_path / "file").read_text() == "x"


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "facts.jsonl"
    write_facts(path, [Fact(subject="a", prompt="a is", target_new="b")])
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StorageError, match="No space left"):
        write_facts(path, [Fact(subject="c", prompt="c is", target_new="d")])
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["facts.jsonl"]
