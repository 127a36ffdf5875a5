"""A run's folder: the patch, report.json and report.md, whole or not at all."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from errata.errors import StorageError
from errata.store import atomic_folder, atomic_write_text, storage_errors

if TYPE_CHECKING:
    from errata.jobs.edit_job import EditResult

_OURS = "patch.json"


def is_run(folder: Path) -> bool:
    """Whether a folder is an earlier run of ours, or empty: what may be replaced."""
    return folder.is_dir() and ((folder / _OURS).is_file() or not any(folder.iterdir()))


def check_out(out: Path, *, overwrite: bool) -> None:
    """Fail before any long work where the folder could not be written at its end; nothing is left behind."""
    with storage_errors(f"write the folder {out}"):
        if out.exists():
            _check_replaceable(out, overwrite)
        there = next(parent for parent in out.absolute().parents if parent.exists())
        if not there.is_dir():
            raise StorageError(f"--out {out}: {there} is a file, not a folder; name another folder.")
        # Asking for permissions does not tell what a read-only mount will do.
        with tempfile.TemporaryFile(dir=there):
            pass


def _check_replaceable(out: Path, overwrite: bool) -> None:
    if not out.is_dir():
        raise StorageError(f"--out {out} is a file; name a folder that does not exist yet.")
    ours = is_run(out)
    if any(out.iterdir()) and not (overwrite and ours):
        hint = "add --overwrite to replace it" if ours else "it holds other files, which are never overwritten"
        raise StorageError(f"--out {out} exists already: {hint}, or name another folder.")


def save_run(result: "EditResult", out: Path, *, overwrite: bool) -> None:
    """Write patch.json, patch.safetensors, report.json and report.md as one folder."""
    from errata.jobs.summary import summary

    empty = out.is_dir() and not any(out.iterdir())
    with atomic_folder(out, overwrite=overwrite or empty) as staging:
        result.patch.write_into(staging)
        atomic_write_text(staging / "report.json", json.dumps(result.report, indent=1, ensure_ascii=False) + "\n")
        atomic_write_text(staging / "report.md", summary(result) + "\n")
