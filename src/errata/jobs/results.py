"""A run's folder: the patch, report.json and report.md, whole or not at all."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errata.errors import StorageError
from errata.patches import RUN_FILES, foreign_file
from errata.store import atomic_folder, atomic_write_text, storage_errors
from errata.store.atomic import check_writable

if TYPE_CHECKING:
    from errata.jobs.edit_job import EditResult


def check_out(out: Path, *, overwrite: bool, ours: Collection[str] = RUN_FILES) -> None:
    """Fail before any long work where the folder could not be written at its end; nothing is left behind.

    `ours`: names of files that such a run writes; a folder with any other is never replaced.
    """
    with storage_errors(f"write the folder {out}"):
        if _stands(out):
            _check_replaceable(out, overwrite, ours)
    check_writable(out)


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


def save_run(result: "EditResult", out: Path, *, overwrite: bool) -> Path:
    """Write patch.json, patch.safetensors, report.json and report.md as one folder; returns which."""
    from errata.jobs.summary import summary
    from errata.jobs.verdict_text import every_fact

    with folder_for(out, overwrite=overwrite, other=result.patch.id) as (out, staging):
        result.patch.write_into(staging)
        atomic_write_text(staging / "report.json", plain_json(result.report) + "\n")
        told = [summary(result), *filter(None, [every_fact(result.report)])]
        atomic_write_text(staging / "report.md", "\n\n".join(told) + "\n")
    return out


@contextmanager
def folder_for(
    out: Path, *, overwrite: bool, other: str, ours: Collection[str] = RUN_FILES
) -> Iterator[tuple[Path, Path]]:
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


def plain_json(report: dict[str, Any]) -> str:
    """A report as the text of its file; ValueError for a number that is not finite."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
