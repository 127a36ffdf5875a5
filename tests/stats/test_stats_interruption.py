"""Runs that are killed, interrupted, or that meet damaged entries and broken disks."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from errata.core.moments import zero_panels
from errata.errors import StorageError
from errata.stats import Corpus, one_pass, second_moments
from errata.stats.running import MomentStore, RunningSum
from errata.stats.token_stream import Position
from errata.store import lock
from errata.store.cache import Cache
from tiny import tiny_model

TEXTS = [f"The tower number {i} is in the city of Paris, because {i % 7} is a capital of France." for i in range(80)]
LAYERS = [1, 3]
OPTIONS = {"tokens": 1500, "max_length": 24, "chunk_tokens": 100, "batch_tokens": 100}


def _moments(folder, **options):
    return second_moments(
        tiny_model("llama"), LAYERS, corpus=Corpus.from_texts(TEXTS), cache=folder, **(OPTIONS | options)
    )


def _equal(first, second):
    return all(torch.equal(first[layer], second[layer]) for layer in LAYERS)


def _entries(folder):
    """The files that hold sums; those that list what there is are small."""
    return sorted(path for path in folder.glob("??/*.safetensors") if _size(path) > 10_000)


def _size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.fixture
def forwards(monkeypatch):
    seen = []
    add = one_pass.add_batch_
    monkeypatch.setattr(one_pass, "add_batch_", lambda sums, *rest: (seen.append(len(sums)), add(sums, *rest)))
    return seen


_SLOW_RUN = """
import sys, time
import torch
torch.set_num_threads(1)
sys.path[:0] = [{tests!r}]
from pathlib import Path
from stats import test_stats_interruption as here
from errata.stats import one_pass
add = one_pass.add_batch_
def slow(*arguments):
    time.sleep(0.15)
    add(*arguments)
one_pass.add_batch_ = slow
here._moments(Path({folder!r}), flush_seconds=0.0)
"""


def test_kill_9_in_the_middle_loses_at_most_one_chunk(tmp_path, forwards):
    whole = _moments(tmp_path / "whole")
    whole_count = len(forwards)
    folder = tmp_path / "killed"
    tests = str(Path(__file__).parent.parent)
    child = subprocess.Popen([sys.executable, "-c", _SLOW_RUN.format(tests=tests, folder=str(folder))])
    try:
        saved = _wait_for_saves(folder, child, 4)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert saved >= 4, "the run ended before it could be killed"
    forwards.clear()
    assert _equal(_moments(folder), whole)
    # Of 15 chunks at least three were done; saving one of the two layers when killed costs at most another.
    assert len(forwards) <= whole_count * 12 / 15
    assert len(_entries(folder)) == len(LAYERS)
    assert not list(folder.glob("**/.errata-*"))


def _wait_for_saves(folder, child, wanted):
    """How many different entries have been seen: each flush writes one for each layer and deletes its predecessor."""
    seen = set()
    deadline = time.monotonic() + 60
    while len(seen) < wanted * len(LAYERS) and child.poll() is None and time.monotonic() < deadline:
        seen |= set(_entries(folder))
        time.sleep(0.01)
    return len(seen) // len(LAYERS)


@pytest.mark.parametrize("at", [1, 5, 15])
def test_ctrl_c_and_again(at, tmp_path, forwards):
    whole = _moments(tmp_path / "whole")
    whole_count = len(forwards)

    class Sink:
        advances = 0

        def stage(self, *_, **__):
            return self

        def __enter__(self):
            return self.advance

        def __exit__(self, *_):
            pass

        def advance(self, _):
            self.advances += 1
            if self.advances == at:
                raise KeyboardInterrupt

        def note(self, text): ...

    with pytest.raises(KeyboardInterrupt):
        _moments(tmp_path / "cut", flush_seconds=0.0, progress=Sink())
    forwards.clear()
    assert _equal(_moments(tmp_path / "cut"), whole)
    # A batch that ends its chunk has been added but not saved yet.
    assert whole_count - at < len(forwards) <= whole_count - at + 2


def test_saves_are_spaced_in_time_and_take_a_tenth_of_it(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    store = MomentStore(Cache(tmp_path), "0" * 64, 100)
    saver, sums = one_pass.Saver(store, 5.0, last=0.0), RunningSum(0, zero_panels(64))

    def saved_after(seconds):
        now[0] += seconds
        sums.position = Position(sums.position.tokens + 100)
        saver.save_if_due([sums])
        return sums.saved == sums.position.tokens

    assert [saved_after(seconds) for seconds in (3, 3, 3, 1, 1)] == [False, True, False, False, True]
    save = MomentStore.save

    def slowly(store, sums, *, wanted):
        now[0] += 2
        save(store, sums, wanted=wanted)

    monkeypatch.setattr(MomentStore, "save", slowly)
    assert [saved_after(seconds) for seconds in (5, 19, 1, 19)] == [True, False, True, False]
    assert len(_entries(tmp_path)) == 1


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def _flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def _empty(path):
    path.write_bytes(b"")


def _swap(path):
    other = next(entry for entry in _entries(path.parent.parent) if entry != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [_truncate, _flip_a_bit, _empty, _swap])
def test_a_damaged_entry_is_reported_and_made_again(damage, tmp_path, forwards):
    whole, told = _moments(tmp_path), []
    damage(_entries(tmp_path)[0])
    forwards.clear()
    assert _equal(_moments(tmp_path, notify=told.append), whole)
    assert forwards
    assert any("again" in line for line in told)
    forwards.clear()
    assert _equal(_moments(tmp_path), whole)
    assert not forwards


def test_a_damaged_flush_is_started_over(tmp_path):
    whole, told = _moments(tmp_path / "whole"), []
    _moments(tmp_path, tokens=1000)
    for path in _entries(tmp_path):
        _flip_a_bit(path)
    assert _equal(_moments(tmp_path, notify=told.append), whole)
    assert told


def test_two_processes_do_not_compute_the_same_twice(tmp_path, forwards):
    """A second run waits for the first, says so, and finds its result."""
    whole = _moments(tmp_path)
    for path in _entries(tmp_path):
        path.rename(path.with_suffix(".aside"))
    (lock_file,) = tmp_path.glob("*.lock")
    told, found = [], []
    forwards.clear()
    with lock(lock_file, what="testing"):
        other = threading.Thread(target=lambda: found.append(_moments(tmp_path, notify=told.append)))
        other.start()
        while not told:
            time.sleep(0.01)
        for path in tmp_path.glob("??/*.aside"):
            path.rename(path.with_suffix(".safetensors"))
    other.join(30)
    assert "Another process" in told[0]
    assert _equal(found[0], whole)
    assert not forwards


def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(tmp_path, forwards):
    file = tmp_path / "file"
    file.write_text("")
    for place in (file, file / "below", Path("/proc/errata")):
        with pytest.raises(StorageError):
            _moments(place)
    assert not forwards


def test_a_disk_that_is_too_small_is_refused_before_the_work(tmp_path, forwards, monkeypatch):
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="MB are free"):
        _moments(tmp_path)
    assert not forwards


def test_a_disk_that_fills_up_leaves_what_was_saved(tmp_path, forwards, monkeypatch):
    whole = _moments(tmp_path / "whole")
    forwards_in_all = len(forwards)
    folder = tmp_path / "full"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up_after_three(saver, sums):
        if sums[0].position.tokens == 300:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        saver.save(sums)

    monkeypatch.setattr(one_pass.Saver, "save_if_due", fill_up_after_three)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(StorageError, match=r"Could not write .*safetensors"):
            _moments(folder, flush_seconds=0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    monkeypatch.setattr(one_pass.Saver, "save_if_due", lambda *_: None)
    assert not list(folder.glob("**/.errata-*"))
    forwards.clear()
    assert _equal(_moments(folder), whole)
    assert len(forwards) < forwards_in_all
    assert len(_entries(folder)) == len(LAYERS)


def test_a_damaged_list_of_what_there_is_costs_only_time(tmp_path):
    whole, told = _moments(tmp_path / "whole"), []
    _moments(tmp_path, tokens=1000)
    lists = [path for path in tmp_path.glob("??/*.safetensors") if _size(path) < 10_000]
    assert len(lists) == len(LAYERS)
    for path in lists:
        _truncate(path)
    assert _equal(_moments(tmp_path, notify=told.append), whole)
    assert told


def test_errors_other_than_a_missing_file_are_not_swallowed(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    _moments(tmp_path)
    monkeypatch.setattr("errata.store.tensors.safe_open", refuse)
    with pytest.raises(StorageError, match="Input/output"):
        _moments(tmp_path)
