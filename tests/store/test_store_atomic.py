"""Writes are whole or absent: after errors, Ctrl-C and kill -9, over old content, and on disks that refuse."""

import errno
import io
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from errata.errors import StorageError
from errata.store import atomic
from errata.store.atomic import atomic_file, atomic_folder, atomic_write_bytes, atomic_write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failing(code: int):
    def fail(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    return fail


def test_bytes_and_text_replace_what_stood_there(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    atomic_write_bytes(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    atomic_write_text(path, "é\r\n東")
    assert path.read_bytes() == "é\r\n東".encode()
    assert names(path.parent) == ["a.txt"]


def test_files_get_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.touch(0o600)
        with atomic_folder(tmp_path / "f") as folder:
            (folder / "b").touch(0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "f" / "b").stat().st_mode) == 0o640


def test_a_symbolic_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    atomic_write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "new"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_regular_files_are_replaced(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null")  # written through the link: the device itself is what must survive
    with pytest.raises(StorageError, match="not a regular file"):
        atomic_write_text(path, "new")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permissions"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "reports an error"),
        (errno.EBUSY, "choose another place"),
    ],
)
@pytest.mark.parametrize("step", [(os, "fsync"), (os, "replace"), (io, "open"), (Path, "mkdir")])
def test_a_disk_that_refuses_leaves_the_old_file(tmp_path, monkeypatch, code, advice, step):
    path = tmp_path / "a.json"
    path.write_text("old")
    monkeypatch.setattr(*step, failing(code))
    with pytest.raises(StorageError) as caught:
        atomic_write_text(path, "new")
    monkeypatch.undo()
    message = str(caught.value)
    assert str(path) in message
    assert os.strerror(code) in message
    assert advice in message
    assert names(tmp_path) == ["a.json"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_disk_that_refuses_a_folder_leaves_nothing(tmp_path, monkeypatch, code, step):
    monkeypatch.setattr(os, step, failing(code))
    with pytest.raises(StorageError, match=os.strerror(code)), atomic_folder(tmp_path / "f") as folder:
        (folder / "a").write_text("new")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        Exception("No space left on device (os error 28)"),  # as tokenizers and safetensors say it
    ],
)
def test_a_full_disk_inside_the_block_is_a_storage_error(tmp_path, error):
    with pytest.raises(StorageError, match="No space left"), atomic_folder(tmp_path / "f"):
        raise error
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, FileNotFoundError, ConnectionError])
@pytest.mark.parametrize("writer", [atomic_file, atomic_folder])
def test_other_errors_pass_and_leave_nothing(tmp_path, writer, error):
    with pytest.raises(error), writer(tmp_path / "x"):
        raise error("mine")
    assert names(tmp_path) == []


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "file/below"])
def test_impossible_paths(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        atomic_write_text(tmp_path / path, "new")
    with pytest.raises(StorageError), atomic_folder(tmp_path / path) as folder:
        (folder / "a").touch()
    assert names(tmp_path) == ["file"]


def fill(folder: Path, text: str) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / text).write_text(text)


def test_folder_appears_whole(tmp_path):
    path = tmp_path / "deep" / "f"
    with atomic_folder(path) as folder:
        fill(folder, "new")
        assert not path.exists()
    assert names(path / "sub") == ["new"]
    assert names(path.parent) == ["f"]


def test_an_empty_folder_is_used_and_a_full_one_refused(tmp_path):
    (tmp_path / "f").mkdir()
    with atomic_folder(tmp_path / "f") as folder:
        fill(folder, "one")
    ran = False
    with pytest.raises(StorageError, match="not empty"), atomic_folder(tmp_path / "f"):
        ran = True
    assert not ran
    assert names(tmp_path / "f" / "sub") == ["one"]


def test_a_folder_that_got_content_meanwhile_is_not_lost(tmp_path):
    writing = atomic_folder(tmp_path / "f")
    fill(writing.__enter__(), "mine")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "theirs").touch()
    with pytest.raises(StorageError):
        writing.__exit__(None, None, None)
    assert names(tmp_path) == ["f"]
    assert names(tmp_path / "f") == ["theirs"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_overwriting_a_folder(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "f", overwrite=True) as folder:
            fill(folder, text)
    assert names(tmp_path / "f" / "sub") == ["two"]
    assert names(tmp_path) == ["f"]


def test_a_failed_swap_puts_the_old_folder_back(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / "f") as folder:
        fill(folder, "old")
    rename, calls = os.rename, []

    def second_fails(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(StorageError, match="No space"), atomic_folder(tmp_path / "f", overwrite=True) as folder:
        fill(folder, "new")
    assert names(tmp_path) == ["f"]
    assert names(tmp_path / "f" / "sub") == ["old"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_is_never_replaced_by_a_folder(tmp_path, overwrite):
    (tmp_path / "f").write_text("mine")
    with pytest.raises(StorageError, match="a file of that name"), atomic_folder(tmp_path / "f", overwrite=overwrite):
        pass
    assert (tmp_path / "f").read_text() == "mine"


KILLED = """
import sys, time
from pathlib import Path
from errata.store.atomic import atomic_file, atomic_folder
writer = {"file": atomic_file, "folder": atomic_folder}[sys.argv[1]]
with writer(Path(sys.argv[2])) as temporary:
    target = temporary / "part" if sys.argv[1] == "folder" else temporary
    with target.open("wb") as file:
        file.write(b"half")
        file.flush()
        print("writing", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_in_the_middle(tmp_path, kind):
    path = tmp_path / "x"
    process = subprocess.Popen([sys.executable, "-c", KILLED, kind, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    assert len(names(tmp_path)) == 1  # the staging folder of a live process ...
    atomic_write_text(tmp_path / "other", "")
    assert len(names(tmp_path)) == 2  # ... is left alone by others
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not path.exists()
    atomic_write_text(path, "whole")
    assert names(tmp_path) == ["other", "x"]


def test_what_another_machine_left_is_cleared_after_a_day(tmp_path):
    left = tmp_path / ".errata-00000000-1-00000000.tmp"
    left.mkdir()
    (left / "part").touch()
    atomic_write_text(tmp_path / "a", "")
    assert left.exists()
    yesterday = time.time() - 25 * 3600
    os.utime(left, (yesterday, yesterday))
    atomic_write_text(tmp_path / "a", "")
    assert names(tmp_path) == ["a"]


def test_nothing_else_is_cleared(tmp_path):
    alike = [".errata-00000000-1-00000000.tmp.bak", "x.tmp", ".errata-1.tmp"]
    for name in alike:
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    atomic_write_text(tmp_path / "a", "")
    assert names(tmp_path) == sorted([*alike, "a"])
