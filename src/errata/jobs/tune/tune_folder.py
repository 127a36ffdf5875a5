"""A tuning's folder: every finished piece of work is a file that a later run finds, and so is every decision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from errata.store import digest
from errata.store.json_records import read_record, recorded, write_record
from errata.store.kept import TUNINGS
from errata.store.run_folder import check_run_folder

_PARTS = "trials"


class TuneFolder:
    """`shared` is the digest of all that every figure depends on; `request` of what the run was asked for.

    Figures belong to whatever asks for them; decisions (how much is tried) to one request: they were made by the clock,
    and a run that is started again must make the same ones.
    """

    def __init__(self, out: Path, shared: str, request: str) -> None:
        self.asked = request
        self.out, self.shared, self.request = out, shared, digest(TUNINGS.version, shared, request)
        self._decisions = self._path(f"decisions-{self.request[:32]}")
        self.decided: dict[str, Any] = read_record(self._decisions) or {}

    def keep(self, what: str, depends_on: Any, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Plain JSON that an earlier run made of the same things, or what `work` makes now."""
        return recorded(self._path(f"{what}-{digest(TUNINGS.version, self.shared, what, depends_on)[:32]}"), work)

    def decide(self, name: str, make: Callable[[], Any]) -> Any:
        """What an earlier run of this request decided, or what `make` says now; plain JSON."""
        if name not in self.decided:
            self.decided = write_record(self._decisions, {**self.decided, name: make()})
        return self.decided[name]

    def _path(self, name: str) -> Path:
        return self.out / _PARTS / f"{name}.json"


def check_tune_folder(out: Path) -> None:
    """InputError where the folder cannot be a tuning's, before any work."""
    check_run_folder(out, "preset.json", (_PARTS,))
