"""Corpora: every format, and what is wrong with those that cannot be used."""

import codecs
import json
import os

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from errata.errors import CorpusError
from errata.stats import Corpus, corpus_files, open_corpus
from errata.stats import corpus as corpus_module

DOCUMENTS = ["Paris is in France.\nIt is tall.", "北京 is in China.", "Одна башня.", "e\u0301 \U0001f600"]


def _jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _parquet(path, column, name="text"):
    parquet.write_table(pa.table({"id": list(range(len(column))), name: column}), path, row_group_size=2)
    return path


def _make(path, documents):
    if path.suffix in (".txt", ".text", ".md"):
        path.write_text("\n\n".join(documents), encoding="utf-8")
    elif path.suffix == ".parquet":
        _parquet(path, documents)
    else:
        _jsonl(path, [{"text": text} for text in documents])
    return path


@pytest.mark.parametrize("suffix", [".txt", ".text", ".md", ".jsonl", ".ndjson", ".parquet", ".TXT"])
def test_every_format_gives_the_documents_in_order_any_number_of_times(suffix, tmp_path):
    path = tmp_path / f"corpus{suffix}"
    if suffix == ".TXT":
        path.write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    corpus = open_corpus(_make(path, DOCUMENTS) if suffix != ".TXT" else str(path))
    assert list(corpus.documents()) == DOCUMENTS == list(corpus.documents())
    assert list(corpus.documents(2)) == DOCUMENTS[2:]
    assert (corpus.checked, corpus.complete) == (4, True)
    assert corpus.name.startswith(path.name)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30), max_size=8))
@settings(max_examples=50, deadline=None)
def test_any_text_survives_json_lines(tmp_path_factory, documents):
    path = _jsonl(tmp_path_factory.mktemp("any") / "any.jsonl", [{"text": text} for text in documents])
    kept = [text for text in documents if text.strip()]
    if kept:
        assert list(open_corpus(path).documents()) == kept
    else:
        with pytest.raises(CorpusError, match="no text"):
            open_corpus(path)


@given(st.binary(max_size=60), st.sampled_from([".txt", ".jsonl", ".parquet"]))
@settings(max_examples=150, deadline=None)
def test_arbitrary_bytes_are_documents_or_a_corpus_error(tmp_path_factory, data, suffix):
    path = tmp_path_factory.mktemp("bytes") / f"bytes{suffix}"
    path.write_bytes(data)
    try:
        documents = list(open_corpus(path).documents())
    except CorpusError as error:
        assert path.name in str(error)  # noqa: PT017
    else:
        assert all(text.strip() for text in documents)
        "".join(documents).encode()


def test_paragraphs_line_ends_and_byte_order_marks(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"one\r\ntwo\r\n \t\r\n\r\nthree\r\n\n\nfour")
    assert list(open_corpus(path).documents()) == ["one\ntwo", "three", "four"]


def test_text_without_any_break_becomes_documents_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_files, "MAX_PARAGRAPH", 100)
    text = "".join(f"é{i} " for i in range(300))
    path = tmp_path / "a.txt"
    path.write_text(text + "\nnext\n\nlast", encoding="utf-8")
    documents = list(open_corpus(path).documents())
    assert max(map(len, documents)) <= 100
    assert "".join("".join(documents).split()) == "".join((text + "nextlast").split())
    assert documents[-1] == "last"


def test_memory_stays_bounded_on_long_files(tmp_path):
    import tracemalloc

    path = tmp_path / "long.txt"
    with path.open("w") as file:
        for _ in range(200):
            file.write("word " * 20_000)  # a single line of 20 MB
    tracemalloc.start()
    try:
        corpus = open_corpus(path)
        assert sum(map(len, corpus.documents())) > 19_000_000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_only_the_beginning_of_a_long_corpus_is_checked_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "CHECKED_CHARS", 50)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ten chars."}\n' * 20 + "broken\n")
    corpus = open_corpus(path)
    assert (corpus.checked, corpus.complete) == (5, False)
    with pytest.raises(CorpusError, match="line 21: not JSON"):
        list(corpus.documents())


def test_fields_and_columns_by_name(tmp_path):
    rows = [{"text": "no", "body": "yes", "n": 1}, {"body": None}, {"body": " "}, {"body": "more", "text": 5}]
    assert list(open_corpus(_jsonl(tmp_path / "a.jsonl", rows), field="body").documents()) == ["yes", "more"]
    path = _parquet(tmp_path / "a.parquet", ["yes", None, "", "more"], "body")
    assert list(open_corpus(path, field="body").documents()) == ["yes", "more"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_string_column_of_parquet(kind, tmp_path):
    path = tmp_path / "a.parquet"
    values = pa.array(["one", "two", "one"]).cast(kind)
    parquet.write_table(pa.table({"text": values}), path)
    assert list(open_corpus(path).documents()) == ["one", "two", "one"]


def test_a_folder_is_its_files_by_name_whatever_the_place(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "b").mkdir(parents=True)
    _make(folder / "b" / "x.txt", ["three"])
    _make(folder / "a.jsonl", ["one", "two"])
    _make(folder / "c.parquet", ["four"])
    (folder / "README").write_text("not a document")
    (folder / ".hidden.txt").write_text("nor this")
    corpus = open_corpus(folder)
    assert list(corpus.documents()) == ["one", "two", "three", "four"]
    assert corpus.name == "corpus (field text)"
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert open_corpus(moved).digest == corpus.digest
    assert open_corpus([moved / "a.jsonl", moved / "b" / "x.txt", moved / "c.parquet"]).digest == corpus.digest
    assert open_corpus([moved / "b" / "x.txt", moved / "a.jsonl", moved / "c.parquet"]).digest != corpus.digest


def test_the_digest_is_that_of_the_content(tmp_path):
    first = open_corpus(_jsonl(tmp_path / "a.jsonl", [{"text": "one", "body": "two"}]))
    assert open_corpus(_jsonl(tmp_path / "b.jsonl", [{"text": "one", "body": "two"}])).digest == first.digest
    assert open_corpus(_jsonl(tmp_path / "c.jsonl", [{"text": "one", "body": "3"}])).digest != first.digest
    assert open_corpus(tmp_path / "a.jsonl", field="body").digest != first.digest
    text = open_corpus(_make(tmp_path / "a.txt", ["one"]))
    assert open_corpus(tmp_path / "a.txt", field="body").digest == text.digest, "paragraphs have no fields"


def test_a_corpus_that_changes_after_it_was_opened_is_refused(tmp_path):
    path = _make(tmp_path / "a.txt", ["one", "two"])
    corpus = open_corpus(path)
    path.write_text("three")
    with pytest.raises(CorpusError, match="has changed"):
        list(corpus.documents())
    path.unlink()
    with pytest.raises(CorpusError, match="Cannot read"):
        list(corpus.documents())


def test_a_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.txt").symlink_to(_make(tmp_path / "a.txt", ["one"]))
    assert list(open_corpus(tmp_path / "folder").documents()) == ["one"]


def test_reading_a_lot_for_the_digest_is_announced(tmp_path):
    path = _make(tmp_path / "a.txt", ["one"])
    large = corpus_files.CorpusFile(path, 3 << 30, 0)
    told = []
    corpus_module._from_files([large], [path], "text", told.append)
    assert "3.2 GB" in told[0]


def _write(name, data):
    def make(folder):
        path = folder / name
        path.write_bytes(data)
        return path

    return make


def _rows(*rows):
    return _write("a.jsonl", b"".join(row + b"\n" for row in rows))


def _broken_parquet(folder):
    path = _parquet(folder / "a.parquet", ["text " * 100] * 50)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def _damaged_page(folder):
    path = folder / "a.parquet"
    parquet.write_table(
        pa.table({"text": ["some words " * 50] * 50}),
        path,
        compression="gzip",
        use_dictionary=False,
        write_statistics=False,
    )
    data = bytearray(path.read_bytes())
    data[60:160] = bytes(100)
    path.write_bytes(data)
    return path


def _parquet_with_bytes(folder):
    column = pa.array([b"good", b"\xff\xfe"]).view(pa.string())
    parquet.write_table(pa.table({"text": column}), folder / "a.parquet")
    return folder / "a.parquet"


def _two_columns(folder):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    parquet.write_table(table, folder / "a.parquet")
    return folder / "a.parquet"


def _other_column(folder):
    return _parquet(folder / "a.parquet", ["a"], "body")


def _pipe(folder):
    os.mkfifo(folder / "a.txt")
    return folder / "a.txt"


def _empty_folder(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


BAD = {
    "missing": (lambda folder: folder / "nothing.txt", "no such file"),
    "empty path": (lambda _: "", "empty path"),
    "NUL in the path": (lambda _: "a\0b.txt", "Cannot read|no such file"),
    "path too long": (lambda _: "x" * 5000 + ".txt", "Cannot read|no such file"),
    "address": (lambda _: "https://example.org/a.txt", "download it"),
    "no sources": (lambda _: [], "empty list"),
    "pipe": (_pipe, "neither a file nor a folder"),
    "device": (lambda _: "/dev/null", "Cannot tell the format"),
    "folder without corpora": (_empty_folder, "no corpus file"),
    "unknown format": (_write("a.docx", b"x"), "Cannot tell the format .* known: .txt"),
    "no extension": (_write("corpus", b"x"), "Cannot tell the format"),
    "packed": (_write("a.jsonl.gz", b"x"), "unpack it"),
    "json": (_write("a.json", b"[]"), "JSON Lines"),
    "csv": (_write("a.csv", b"text\na\n"), "JSON Lines"),
    "empty file": (_write("a.txt", b""), "holds no text"),
    "only blank lines": (_write("a.txt", b" \n\n\t\n"), "holds no text"),
    "not UTF-8": (_write("a.txt", b"good\n\nbad \xe9\n"), "line 3: not UTF-8"),
    "UTF-16": (_write("a.txt", "text".encode("utf-16")), "UTF-16"),
    "UTF-32": (_write("a.txt", codecs.BOM_UTF32_BE + "text".encode("utf-32-be")), "UTF-32"),
    "binary": (_write("a.txt", b"PNG\0\0"), "line 1: holds a NUL"),
    "jsonl not UTF-8": (_rows(b'{"text": "a"}', b'{"text": "\xff"}'), "line 2: not UTF-8"),
    "jsonl broken": (_rows(b'{"text": "a"}', b"", b'{"text": "a"'), "line 3: not JSON"),
    "jsonl deep": (_rows(b"[" * 100_000), "line 1: not JSON"),
    "jsonl list": (_rows(b'["a"]'), "line 1: list where an object"),
    "jsonl number": (_rows(b"5"), "line 1: int where an object"),
    "jsonl without the field": (_rows(b'{"text": "a"}', b'{"body": "a"}'), "line 2: no field 'text'; it has 'body'"),
    "jsonl without fields": (_rows(b"{}"), "it has none"),
    "jsonl number in the field": (_rows(b'{"text": 5}'), "holds int; a string"),
    "jsonl half a surrogate pair": (_rows(b'{"text": "a\\ud800"}'), "line 1 .*surrogate"),
    "jsonl only nulls": (_rows(b'{"text": null}'), "holds no text"),
    "jsonl empty": (_write("a.jsonl", b""), "holds no text"),
    "parquet is text": (_write("a.parquet", b"text"), "not a Parquet file"),
    "parquet is empty": (_write("a.parquet", b""), "not a Parquet file"),
    "parquet cut": (_broken_parquet, "not a Parquet file"),
    "parquet damaged": (_damaged_page, "not a Parquet file"),
    "parquet not UTF-8": (_parquet_with_bytes, "not a Parquet file"),
    "parquet without the column": (
        lambda folder: _parquet(folder / "a.parquet", ["a"], "body"),
        "no column 'text'; it has 'id', 'body'",
    ),
    "parquet column twice": (_two_columns, "column 'text'"),
    "parquet numbers": (lambda folder: _parquet(folder / "a.parquet", [1, 2]), "holds int64"),
    "parquet lists": (lambda folder: _parquet(folder / "a.parquet", [["a"]]), "holds list"),
    "parquet without rows": (lambda folder: _parquet(folder / "a.parquet", pa.array([], pa.string())), "holds no text"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_corpora_are_refused_when_they_are_opened(name, tmp_path):
    make, named = BAD[name]
    with pytest.raises(CorpusError, match=named):
        open_corpus(make(tmp_path))


def test_a_line_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_files, "MAX_LINE", 100)
    path = _jsonl(tmp_path / "a.jsonl", [{"text": "short"}, {"text": "x" * 200}])
    with pytest.raises(CorpusError, match="line 2: longer than 100"):
        open_corpus(path)


def test_an_empty_field_name(tmp_path):
    with pytest.raises(CorpusError, match="field=''"):
        open_corpus(_make(tmp_path / "a.jsonl", ["x"]), field="")


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ("one text", "a list of texts"),
        ([], "no text"),
        ([" "], "no text"),
        (["a", "\udc80"], "Text 1 .*surrogate"),
    ],
)
def test_bad_texts(texts, named):
    with pytest.raises(CorpusError, match=named):
        Corpus.from_texts(texts)
