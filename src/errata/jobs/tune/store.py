"""A tuning's folder: every finished piece of work is a file that a later run finds, and so is every decision."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from errata.errors import InputError
from errata.jobs.bench.store import read_record, write_record
from errata.store import digest
from errata.store.atomic import check_writable

# Raise it when the same setting no longer gives the same figures.
CODE_VERSION = 1
_PARTS = "trials"


class TuneFolder:
    """`shared` is the digest of all that every figure depends on; `request` of what the run was asked for.

    Figures belong to whatever asks for them; decisions (how much is tried) to one request: they were made by the clock,
    and a run that is started again must make the same ones.
    """

    def __init__(self, out: Path, shared: str, request: str) -> None:
        self.out, self.shared, self.request = out, shared, digest(CODE_VERSION, shared, request)
        self._decisions = self._path(f"decisions-{self.request[:32]}")
        self.decided: dict[str, Any] = read_record(self._decisions) or {}

    def keep(self, what: str, depends_on: Any, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Plain JSON that an earlier run made of the same things, or what `work` makes now."""
        path = self._path(f"{what}-{digest(CODE_VERSION, self.shared, what, depends_on)[:32]}")
        found = read_record(path)
        if found is None:
            found = json.loads(json.dumps(work(), allow_nan=False))
            write_record(path, found)
        return found

    def decide(self, name: str, make: Callable[[], Any]) -> Any:
        """What an earlier run of this request decided, or what `make` says now; plain JSON."""
        if name not in self.decided:
            self.decided[name] = json.loads(json.dumps(make(), allow_nan=False))
            write_record(self._decisions, self.decided)
        return self.decided[name]

    def _path(self, name: str) -> Path:
        return self.out / _PARTS / f"{name}.json"


def check_tune_folder(out: Path) -> None:
    """InputError where the folder cannot be a tuning's, before any work."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: that is a file; name a folder.")
    check_writable(out / "preset.json")
    if out.is_dir() and any(out.iterdir()) and not (out / _PARTS).is_dir():
        raise InputError(f"--out {out}: other things lie in that folder; name an empty one or an earlier tuning's.")
