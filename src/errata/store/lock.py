"""One process at a time, across processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from errata.errors import StorageError
from errata.store.atomic import storage_errors


@contextmanager
def lock(
    path: Path, *, what: str, timeout: float | None = None, notify: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock file `path` while doing `what` ("converting smollm2"); it is free again even after kill -9.

    Waits `timeout` seconds (None: for ever), saying so once through `notify`, then raises StorageError.
    """
    held = filelock.FileLock(path)
    with storage_errors(f"lock {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()  # filelock takes some places where no file can be made for busy ones, and waits for ever
        _acquire(held, what, timeout, notify)
    try:
        yield
    finally:
        held.release()


def _acquire(
    held: filelock.BaseFileLock, what: str, timeout: float | None, notify: Callable[[str], None] | None
) -> None:
    try:
        held.acquire(timeout=0)
        return
    except filelock.Timeout:
        if notify:
            notify(f"Another process is {what}; waiting for it.")
    try:
        held.acquire(timeout=-1 if timeout is None else timeout)
    except filelock.Timeout as error:
        raise StorageError(
            f"Another process is still {what} after {timeout:g} s (it holds {held.lock_file}). "
            "Wait for it or end it, then try again."
        ) from error
