"""Data sets from the hub, with a stand-in for the hub and the `datasets` package: neither is there offline."""

import importlib.metadata
import sys
import types

import pytest

from errata.errors import CorpusError
from errata.stats import open_corpus

ROWS = [{"text": text, "body": str(number)} for number, text in enumerate(["one", " ", None, "two"], 1)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub:
    """What would answer, and what it was asked for."""

    def __init__(self):
        self.rows, self.commit, self.version, self.asked = ROWS, COMMIT, "4.1.0", []
        self.failure: Exception | None = None

    def load_dataset(self, *arguments, **options):
        self.asked.append((arguments, options))
        if self.failure:
            raise self.failure
        return iter(self.rows)

    def dataset_info(self, _api, name):
        if name == "nobody/nothing":
            raise OSError("404: no such data set\nmore")
        return types.SimpleNamespace(sha=self.commit)


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub

    made = _Hub()
    version = importlib.metadata.version

    def installed(name):
        if name != "datasets":
            return version(name)
        if made.version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return made.version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=made.load_dataset))
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda api, name: made.dataset_info(api, name))
    return made


def test_rows_are_streamed_at_the_revision_that_was_found(hub):
    corpus = open_corpus("dataset:some-org/some.name@20231101.en:validation")
    assert list(corpus.documents()) == ["one", "two"]
    expected = (("some-org/some.name", "20231101.en"), {"split": "validation", "revision": COMMIT, "streaming": True})
    assert hub.asked
    assert all(asked == expected for asked in hub.asked)
    assert COMMIT[:12] in corpus.name
    assert not corpus.complete


@pytest.mark.parametrize(
    ("spec", "asked", "documents"),
    [
        ("dataset:name", ("name", None, "train"), ["one", "two"]),
        ("dataset:org/name:test", ("org/name", None, "test"), ["one", "two"]),
        ("dataset:org/name@en:test:body", ("org/name", "en", "test"), ["1", "2", "3", "4"]),
    ],
)
def test_the_form_of_a_name(hub, spec, asked, documents):
    assert list(open_corpus(spec).documents()) == documents
    (arguments, options) = hub.asked[-1]
    assert (*arguments, options["split"]) == asked


def test_the_digest_is_that_of_the_revision_and_the_part(hub):
    specs = ["dataset:a", "dataset:b", "dataset:a@en", "dataset:a:test", "dataset:a:train:body"]
    assert len({open_corpus(spec).digest for spec in specs}) == len(specs)
    before = open_corpus("dataset:a").digest
    assert open_corpus("dataset:a:train:text").digest == before
    hub.commit = COMMIT[::-1]
    assert open_corpus("dataset:a").digest != before


@pytest.mark.parametrize("rest", ["", "a/b/c", "a b", "../x", "/x", "~/x", ":train", "a:", "a:train[:10%]", "a:b:"])
def test_names_of_another_form(hub, rest):
    spec = f"dataset:{rest}"
    with pytest.raises(CorpusError, match="the form is dataset:NAME"):
        open_corpus(spec)
    assert not hub.asked


def test_without_the_package(hub):
    hub.version = None
    with pytest.raises(CorpusError, match=r"needs the package `datasets`.*JSON Lines"):
        open_corpus("dataset:a")


def test_versions_that_could_run_code_are_refused(hub):
    hub.version = "3.6.0"
    with pytest.raises(CorpusError, match="datasets 4 or later"):
        open_corpus("dataset:a")
    assert not hub.asked


def test_a_name_that_is_a_folder_here(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(CorpusError, match="is a file or folder here"):
        open_corpus("dataset:a")
    assert not hub.asked


def test_what_cannot_be_reached_or_found(hub):
    with pytest.raises(CorpusError, match=r"Cannot stream .*: 404: no such data set\. Or download"):
        open_corpus("dataset:nobody/nothing")
    hub.failure = ConnectionError()
    with pytest.raises(CorpusError, match="ConnectionError"):
        open_corpus("dataset:a")
    hub.commit = None
    with pytest.raises(CorpusError, match="no revision"):
        open_corpus("dataset:a")


def test_the_stream_breaks_off(hub):
    def broken():
        yield from ROWS
        raise TimeoutError("the hub went away")

    hub.rows = broken()
    corpus = open_corpus("dataset:a")
    hub.rows = broken()
    with pytest.raises(CorpusError, match="the hub went away"):
        list(corpus.documents())


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"body": "x"}, "row 0.*the field 'text'; the fields are 'body'"),
        ({"text": 5}, "row 0"),
        ({}, "none"),
    ],
)
def test_rows_without_text(hub, row, named):
    hub.rows = [row]
    with pytest.raises(CorpusError, match=named):
        open_corpus("dataset:a")


def test_a_dataset_of_blanks(hub):
    hub.rows = [{"text": " "}]
    with pytest.raises(CorpusError, match="no text"):
        open_corpus("dataset:a")
