"""Writing files and folders so that a reader finds the old content or the new, never a part of it.

Everything is first written into a staging folder beside its destination, forced to the disk, and renamed. A process
that is killed leaves only its staging folder; the next write beside it clears that away.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from errata.errors import StorageError

_STAGING = re.compile(r"\.errata-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.tmp")
_STALE_SECONDS = 24 * 3600
_ADVICE = {
    errno.ENOSPC: "Free some space there, or choose another disk.",
    errno.EDQUOT: "Your quota there is used up: free some space, or choose another disk.",
    errno.EROFS: "That disk is mounted read-only: choose another place.",
    errno.EFBIG: "The file is larger than that disk or a limit of this shell (ulimit -f) allows.",
    errno.EIO: "The disk reports an error: choose another one.",
    errno.EACCES: "Change its permissions, or choose another place.",
    errno.EPERM: "Change its permissions, or choose another place.",
    errno.ENOTDIR: "A part of that path is a file, not a folder: choose another place.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}
# The body of a `with` may fail for reasons of its own (a download, a missing input): only these are surely the disk's.
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO})


@contextmanager
def storage_errors(what: str, *, advice: str | None = None) -> Iterator[None]:
    """Turn an OSError met while doing `what` ("write /a/b") into a StorageError that names the way out."""
    try:
        yield
    except OSError as error:
        raise _storage_error(what, error, advice) from error


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file at once; raises StorageError, and then leaves what stood there untouched."""
    with atomic_file(path) as temporary, storage_errors(f"write {path}"):
        temporary.write_bytes(data)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file at once, line ends as given; raises StorageError."""
    atomic_write_bytes(path, text.encode("utf-8"))


def check_writable(path: Path) -> None:
    """Fail before any long work where a file could not be written at its end; nothing is left behind. StorageError."""
    with storage_errors(f"write {path}"):
        there = next(parent for parent in path.absolute().parents if parent.exists())
        if not there.is_dir():
            raise StorageError(f"Could not write {path}: {there} is a file, not a folder. Choose another name.")
        # Asking for permissions does not tell what a read-only mount will do.
        with tempfile.TemporaryFile(dir=there):
            pass


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Path of a file to be written, which becomes `path` when the block ends well and vanishes when it does not.

    Missing parent folders are made; a symbolic link is written through. Raises StorageError.
    """
    path = _resolved(path)
    with storage_errors(f"write {path}"):
        # A rename would silently put a file in the place of /dev/stdout or of a named pipe.
        if path.exists() and not path.is_file():
            raise StorageError(f"Could not write {path}: it exists and is not a regular file. Choose another name.")
    with _staging(path) as folder:
        yield folder / path.name
        with storage_errors(f"write {path}"):
            _settle(folder / path.name)
            os.replace(folder / path.name, path)
            _fsync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Folder to be filled, which becomes `path` when the block ends well and vanishes when it does not.

    An empty folder at `path` is used; one with content is replaced as a whole if `overwrite`, and refused before the
    block runs otherwise. Callers that overwrite make sure that what stands there is theirs. Raises StorageError.
    """
    path = _resolved(path)
    _refuse_occupied(path, overwrite)
    with _staging(path) as folder:
        yield folder
        with storage_errors(f"write {path}"):
            for parent, _, names in os.walk(folder):
                for name in names:
                    _settle(Path(parent, name))
                _fsync_folder(Path(parent))
            _put_folder(folder, path, overwrite)
            _fsync_folder(path.parent)


def _storage_error(what: str, error: OSError, advice: str | None = None) -> StorageError:
    advice = advice or _ADVICE.get(error.errno or 0, "Check the path and its permissions, or choose another place.")
    return StorageError(f"Could not {what}: {error.strerror or error}. {advice}")


def _disk_error(error: Exception) -> int | None:
    """The error number, when the disk is what failed."""
    # safetensors and tokenizers do not raise OSError: "I/O error: No space left on device (os error 28)".
    number = re.search(r"\(os error (\d+)\)", str(error))
    code = error.errno if isinstance(error, OSError) else int(number[1]) if number else None
    return code if code in _DISK_ERRORS else None


def _resolved(path: Path) -> Path:
    if "\0" in str(path):
        raise StorageError(f"Could not write {str(path)!r}: a path cannot hold a NUL character. Choose another name.")
    with storage_errors(f"write {path}"):
        return Path(os.path.realpath(path))


def _refuse_occupied(path: Path, overwrite: bool) -> None:
    with storage_errors(f"write {path}"):
        if not path.exists():
            return
        if not path.is_dir():
            raise StorageError(f"Could not write the folder {path}: a file of that name exists. Choose another name.")
        if not overwrite and any(path.iterdir()):
            raise StorageError(f"{path} exists and is not empty. Choose another folder, or ask to overwrite this one.")


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, removed at the end whatever happens."""
    folder = path.parent / f".errata-{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        with storage_errors(f"write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            _clear_stale(path.parent)
            folder.mkdir()
        yield folder
    except Exception as error:
        if (code := _disk_error(error)) is None:
            raise
        raise _storage_error(f"write {path}", OSError(code, os.strerror(code))) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear_stale(parent: Path) -> None:
    with os.scandir(parent) as entries:
        stale = [entry.path for entry in entries if _is_stale(entry)]
    for path in stale:
        shutil.rmtree(path, ignore_errors=True)


def _is_stale(entry: os.DirEntry[str]) -> bool:
    staging = _STAGING.fullmatch(entry.name)
    if not staging:
        return False
    # A process number means something on its own machine only; on a shared disk the folder may be another one's, alive.
    if staging["host"] == _host() and not _is_running(int(staging["pid"])):
        return True
    with suppress(OSError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_SECONDS
    return False


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_running(pid: int) -> bool:
    if os.name != "posix":  # there os.kill(pid, 0) would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _put_folder(folder: Path, path: Path, overwrite: bool) -> None:
    if not (overwrite and path.exists()):
        os.rename(folder, path)  # refuses a folder that got content meanwhile
    elif not _exchange(folder, path):
        # Not one step here, so the old folder keeps a name that nothing clears away until the new one is in place.
        aside = path.with_name(f"{path.name}.old-{secrets.token_hex(4)}")
        os.rename(path, aside)
        try:
            os.rename(folder, path)
        except BaseException:
            os.rename(aside, path)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (Linux, renameat2); False where the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    at_cwd, rename_exchange = -100, 2
    return renameat2(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), rename_exchange) == 0


def _settle(path: Path) -> None:
    """Force a finished file to the disk."""
    # safetensors makes its files private; the umask decides, as it did for the folder, so that a team can share them.
    path.chmod(stat.S_IMODE(path.parent.stat().st_mode) & 0o666)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _fsync_folder(path: Path) -> None:
    """Make a rename last through a power cut, where folders can be synchronised at all."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
