"""A run's folder: what may be replaced, what is refused beforehand, and that it is written whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from errata import Patch, edit_facts
from errata.errors import StorageError
from errata.facts import Fact
from errata.jobs.edit_job import EditResult
from errata.patches import RUN_FILES
from errata.reports.edit_summary import save_run
from errata.stats import Corpus
from errata.store import run_folder
from tiny import tiny_model

FILES = ["patch.json", "patch.safetensors", "report.json", "report.md"]


def check_out(out: Path, *, overwrite: bool) -> None:
    run_folder.check_out(out, overwrite=overwrite, ours=RUN_FILES)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> EditResult:
    corpus = Corpus.from_texts([f"Tower {i} is in Paris, the capital of France." for i in range(20)])
    fact = Fact(subject="Toyota", prompt="Toyota builds cars in", target_new="Китай")
    settings = {"layers": (1, 2), "moment_tokens": 100, "value_steps": 3, "prefixes": 1}
    cache = tmp_path_factory.mktemp("cache")
    return edit_facts(tiny_model("llama"), [fact], corpus=corpus, evaluate=False, cache=cache, **settings)


def test_written_and_read_back(result: EditResult, tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    save_run(result, out, overwrite=False)
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == result.report
    patch = Patch.load(out)
    assert (patch.id, patch.facts) == (result.patch.id, result.patch.facts)
    assert torch.equal(patch.values, result.patch.values)
    assert [path.name for path in out.parent.iterdir()] == ["run"]


def test_an_empty_folder_is_used_and_a_run_only_replaced_on_demand(result: EditResult, tmp_path: Path) -> None:
    check_out(tmp_path, overwrite=False)
    save_run(result, tmp_path, overwrite=False)
    with pytest.raises(StorageError, match=r"exists already: add --overwrite to replace it, or name another folder\.$"):
        check_out(tmp_path, overwrite=False)
    check_out(tmp_path, overwrite=True)
    (tmp_path / "report.md").write_text("old")
    save_run(result, tmp_path, overwrite=True)
    assert (tmp_path / "report.md").read_text() != "old"


def test_foreign_folders_are_refused_even_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(StorageError, match=r"notes\.txt', which is never overwritten: name another folder\.$"):
            check_out(tmp_path, overwrite=overwrite)


@pytest.mark.parametrize("name", ["notes.md", "facts.jsonl", "below"])
def test_what_lies_beside_a_run_is_never_deleted(result: EditResult, tmp_path: Path, name: str) -> None:
    out = save_run(result, tmp_path / "run", overwrite=False)
    (out / name).mkdir() if name == "below" else (out / name).write_text("mine")
    with pytest.raises(StorageError, match=f"{name}.*never overwritten"):
        check_out(out, overwrite=True)
    with pytest.raises(StorageError, match=name):
        result.patch.save(out, overwrite=True)
    other = save_run(result, out, overwrite=True)
    assert other == tmp_path / f"run-{result.patch.id}", "work that is done is written somewhere"
    assert Patch.load(other).id == result.patch.id
    assert (out / name).exists()


def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StorageError, match="leads nowhere"):
        check_out(tmp_path / "loop", overwrite=True)


def test_files_on_the_way_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        with pytest.raises(StorageError, match="file is a file"):
            check_out(out, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_out(tmp_path / "a" / "b" / "run", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_out(Path("run"), overwrite=False)
    check_out(Path("a/../run"), overwrite=False)
    # Renaming a new folder into the place of the current one would leave the shell in one that is gone.
    for here in (Path(), tmp_path, tmp_path.parent):
        with pytest.raises(StorageError, match="the folder you are in"):
            check_out(here, overwrite=False)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(**_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("errata.store.atomic.tempfile.TemporaryFile", refuse)
    with pytest.raises(StorageError, match=os.strerror(code)):
        check_out(tmp_path / "run", overwrite=False)


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_whole_or_not_at_all(
    result: EditResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error, at: int
) -> None:
    """Stopped at the patch's JSON, at the report, or at the table."""
    from errata.store import atomic_write_text

    written: list[str] = []

    def failing(path: Path, text: str) -> None:
        written.append(path.name)
        if len(written) == at:
            raise error
        atomic_write_text(path, text)

    monkeypatch.setattr("errata.reports.edit_summary.atomic_write_text", failing)
    monkeypatch.setattr("errata.patches.patch.atomic_write_text", failing)
    with pytest.raises((KeyboardInterrupt, StorageError)):
        save_run(result, tmp_path / "run", overwrite=False)
    assert len(written) == at
    assert list(tmp_path.iterdir()) == []
