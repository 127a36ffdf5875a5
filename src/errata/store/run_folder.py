"""Folders that runs write into: checked before long work; replaced whole or not at all, or filled file by file."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from errata.errors import InputError, StorageError
from errata.store.atomic import atomic_folder, check_writable, storage_errors


def check_out(out: Path, *, overwrite: bool, ours: Collection[str]) -> None:
    """Fail before any long work where the folder could not be written at its end; nothing is left behind.

    `ours`: names of files that such a run writes; a folder with any other is never replaced.
    """
    with storage_errors(f"write the folder {out}"):
        if _stands(out):
            _check_replaceable(out, overwrite, ours)
    check_writable(out)


@contextmanager
def folder_for(out: Path, *, overwrite: bool, other: str, ours: Collection[str]) -> Iterator[tuple[Path, Path]]:
    """Where the run will lie, and the folder to write it into, which takes that place whole or not at all.

    Where something else has come to lie in `out` during the run, the folder gets `other` behind its name: hours of work
    are not lost to a name.
    """
    try:
        if _stands(out):
            _check_replaceable(out, overwrite, ours)
    except StorageError:
        out = out.with_name(f"{out.name}-{other}")
    empty = out.is_dir() and not any(out.iterdir())
    with atomic_folder(out, overwrite=overwrite or empty) as staging:
        yield out, staging


def check_run_folder(out: Path, result: str, signs: Collection[str]) -> None:
    """InputError before any work where `out` cannot hold a run's files.

    `result`: a file that the run will write.  `signs`: names of which one lies in the folder of an earlier run.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: that is a file; name a folder.")
    check_writable(out / result)
    if out.is_dir() and any(out.iterdir()) and not any((out / sign).exists() for sign in signs):
        raise InputError(f"--out {out}: other things lie in that folder; name an empty one or that of an earlier run.")


def check_records_folder(out: Path) -> None:
    """`check_run_folder` for a run that keeps its steps in `records` and describes itself in run.json."""
    check_run_folder(out, "run.json", ("run.json", "records"))


def foreign_file(folder: Path, ours: Collection[str]) -> str | None:
    """The name of something in `folder` that no run of ours wrote; None where all of it may be replaced."""
    return next((path.name for path in sorted(folder.iterdir()) if path.name not in ours), None)


def _stands(out: Path) -> bool:
    """Whether anything has this name, a link that leads nowhere included; OSError where it cannot be a name."""
    try:
        out.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _check_replaceable(out: Path, overwrite: bool, ours: Collection[str]) -> None:
    if not out.is_dir():
        what = "a link that leads nowhere" if out.is_symlink() and not out.exists() else "a file"
        raise StorageError(f"--out {out} is {what}; name a folder that does not exist yet.")
    if Path.cwd().is_relative_to(out.resolve()):
        raise StorageError(f"--out {out} is the folder you are in, or holds it; name one below it.")
    foreign = foreign_file(out, ours)
    if any(out.iterdir()) and not (overwrite and foreign is None):
        held = f"and holds {foreign!r}, which is never overwritten: name another folder"
        replaceable = "already: add --overwrite to replace it, or name another folder"
        raise StorageError(f"--out {out} exists {held if foreign else replaceable}.")
