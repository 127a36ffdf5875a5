import errno
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from errata.errors import CorruptFileError, StorageError
from errata.store import tensors as store_tensors
from errata.store.cache import Cache
from errata.store.digest import digest
from errata.store.tensors import load_tensors, save_tensors

METADATA = {"layer": 3, "rate": 0.1, "names": ["a", "é"], "none": None}


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "f32": torch.randn(4, 5, generator=generator),
        "bf16": torch.randn(7, generator=generator).to(torch.bfloat16),
        "f64": torch.randn(2, 2, generator=generator, dtype=torch.float64),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
    }


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, some_tensors(), METADATA)
    return path


def check(loaded):
    tensors, metadata = loaded
    assert metadata == METADATA
    expected = some_tensors()
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])


def test_round_trip(saved):
    check(load_tensors(saved))
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_views_transposes_and_leaves_are_saved_by_value(tmp_path):
    base = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    save_tensors(tmp_path / "x", {"row": base[0], "rows": base[1:], "t": base.T}, {})
    loaded, _ = load_tensors(tmp_path / "x")
    assert torch.equal(loaded["row"], base[0])
    assert torch.equal(loaded["rows"], base[1:])
    assert torch.equal(loaded["t"], base.T)


def test_metadata_that_is_not_json_writes_nothing(tmp_path):
    with pytest.raises(TypeError):
        save_tensors(tmp_path / "x", some_tensors(), {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_is_seen(saved):
    """Every byte of the file: a change is refused, or is one of the header's that changes no content."""
    whole = saved.read_bytes()
    messages = []
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        saved.write_bytes(damaged)
        try:
            check(load_tensors(saved))
        except CorruptFileError as error:
            messages.append(str(error))
    assert len(messages) > 0.95 * len(whole)
    assert all(str(saved) in message for message in messages)


def test_every_truncation_is_seen(saved):
    whole = saved.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with pytest.raises(CorruptFileError, match="damaged"):
            load_tensors(saved)


def test_appended_bytes_are_seen(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(CorruptFileError):
        load_tensors(saved)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(CorruptFileError, match="does not exist"):
        load_tensors(tmp_path / "x")
    save_file({"a": torch.zeros(2)}, tmp_path / "y")
    with pytest.raises(CorruptFileError, match="checksum"):
        load_tensors(tmp_path / "y")
    save_file({"a": torch.zeros(2)}, tmp_path / "z", metadata={"errata": json.dumps({}), "sha256": "0" * 64})
    with pytest.raises(CorruptFileError, match="checksum"):
        load_tensors(tmp_path / "z")
    with pytest.raises(StorageError):
        load_tensors(tmp_path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_refuses(saved, monkeypatch, step):
    def fail(*_args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(StorageError, match="Read-only"):
        save_tensors(saved, {"a": torch.ones(1)}, {})
    check(load_tensors(saved))
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from errata.errors import StorageError
from errata.store.tensors import save_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_tensors(Path(sys.argv[1]), {"a": torch.zeros(100_000)}, {})
except StorageError as error:
    print(error)
"""


def test_safetensors_own_disk_errors_are_storage_errors(tmp_path):
    """A real refusal in the middle of safetensors' own writing, not one that a test puts in Python's way."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert os.strerror(errno.EFBIG) in done.stdout
    assert str(tmp_path / "x") in done.stdout
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from errata.store import tensors
real = tensors.save_file
def save_then_die(*args, **kwargs):
    real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
tensors.save_file = save_then_die
tensors.save_tensors(Path(sys.argv[1]), {"a": torch.zeros(10)}, {})
"""


def test_killed_before_the_rename(saved):
    done = subprocess.run([sys.executable, "-c", KILLED, str(saved)], check=False)
    assert done.returncode == -signal.SIGKILL
    check(load_tensors(saved))
    save_tensors(saved, some_tensors(), METADATA)
    check(load_tensors(saved))
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


KEY = digest("key")


def test_cache_returns_what_was_saved(tmp_path):
    cache = Cache(tmp_path / "values")
    assert cache.load(KEY) is None
    cache.save(KEY, some_tensors(), METADATA)
    check(cache.load(KEY))
    assert cache.load(digest("other")) is None


@pytest.mark.parametrize("key", ["", "abc", "../../x", KEY.upper(), KEY + "\n", f"{KEY[:-2]}/x"])
def test_cache_takes_digests_only(tmp_path, key):
    with pytest.raises(ValueError, match="SHA-256"):
        Cache(tmp_path).path(key)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "other key"])
def test_a_damaged_entry_counts_as_absent(tmp_path, damage):
    said = []
    cache = Cache(tmp_path, notify=said.append)
    cache.save(KEY, some_tensors(), METADATA)
    path = cache.path(KEY)
    whole = path.read_bytes()
    if damage == "other key":
        cache.save(digest("other"), some_tensors(), METADATA)
        os.replace(cache.path(digest("other")), path)
    else:
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        path.write_bytes({"truncated": whole[:-8], "flipped": flipped, "emptied": b""}[damage])
    assert cache.load(KEY) is None
    assert len(said) == 1
    assert str(path) in said[0]
    assert cache.load(KEY) is None
    assert len(said) == 1
    cache.save(KEY, some_tensors(), METADATA)
    check(cache.load(KEY))


def test_a_damaged_entry_on_a_read_only_disk_counts_as_absent(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    cache.save(KEY, some_tensors(), METADATA)
    cache.path(KEY).write_bytes(b"")

    def fail(*_args, **_kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "unlink", fail)
    monkeypatch.setattr(os, "mkdir", fail)
    assert cache.load(KEY) is None
    with pytest.raises(StorageError, match="read-only"):
        cache.save(KEY, some_tensors(), METADATA)


def test_an_entry_that_cannot_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    cache.save(KEY, some_tensors(), METADATA)

    def fail(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(store_tensors, "safe_open", fail)
    with pytest.raises(StorageError, match="Permission denied"):
        cache.load(KEY)
    monkeypatch.undo()
    check(cache.load(KEY))
