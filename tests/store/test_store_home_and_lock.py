import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from errata.errors import StorageError
from errata.store.home import home
from errata.store.lock import lock


def test_home_is_made_on_demand(tmp_path, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "a" / "b"))
    assert home() == tmp_path / "a" / "b"
    kinds = ["evaluations", "models", "moments", "neurons", "traces", "training", "values"]
    assert sorted(path.name for path in home().iterdir()) == kinds


def test_home_defaults_to_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in home().parents
    assert "errata" in home().name


def test_home_expands_the_tilde_and_is_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ERRATA_HOME", "~/x")
    assert home() == tmp_path / "x"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ERRATA_HOME", "y")
    assert home() == tmp_path / "y"


def test_home_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="Set ERRATA_HOME"):
        home()


def test_home_on_a_read_only_disk(tmp_path, monkeypatch):
    def fail(**_kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setenv("ERRATA_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    with pytest.raises(StorageError, match=r"Read-only file system.*Set ERRATA_HOME"):
        home()


HOLDER = """
import sys
from pathlib import Path
from errata.store.lock import lock
with lock(Path(sys.argv[1]), what="holding"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until it reads a line or is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "x.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_free_lock_says_nothing_and_can_be_taken_again(tmp_path):
    said = []
    for _ in range(2):
        with lock(tmp_path / "new" / "x.lock", what="testing", notify=said.append):
            pass
    assert said == []


def test_waiting_is_said_once_and_ends_with_the_holder(tmp_path, holder):
    said = []

    def notify(text):
        said.append(text)
        holder.stdin.write(b"\n")
        holder.stdin.flush()

    with lock(tmp_path / "x.lock", what="converting smollm2", notify=notify):
        assert said == ["Another process is converting smollm2; waiting for it."]


def test_a_killed_holder_frees_the_lock(tmp_path, holder):
    with lock(tmp_path / "x.lock", what="testing", timeout=20.0, notify=lambda _: holder.kill()):
        assert holder.wait() != 0


def test_timeout_is_a_storage_error(tmp_path, holder):
    said = []
    with (
        pytest.raises(StorageError, match=r"still converting after 0\.1 s.*x\.lock"),
        lock(tmp_path / "x.lock", what="converting", timeout=0.1, notify=said.append),
    ):
        pass
    assert len(said) == 1
    assert holder.poll() is None


def test_an_error_inside_frees_the_lock(tmp_path):
    with pytest.raises(OSError, match="mine"), lock(tmp_path / "x.lock", what="testing"):
        raise OSError("mine")
    with lock(tmp_path / "x.lock", what="testing", timeout=0.0):
        pass


def test_a_lock_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="lock"), lock(tmp_path / "file" / "x.lock", what="testing"):
        pass
    with pytest.raises(StorageError, match="lock"), lock(Path("/proc/x.lock"), what="testing"):
        pass
