"""A benchmark's folder: every finished cell and every finished single edit is a file that a later run finds."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from errata.edit import Settings
from errata.facts import Fact, facts_digest
from errata.jobs.bench.cells import UNEDITED, Cell, CellResult
from errata.jobs.eval_rows import result_columns
from errata.store import digest
from errata.store.json_records import Records, recorded
from errata.store.kept import BENCHMARKS
from errata.store.run_folder import check_run_folder
from errata.store.tables import write_parquet


class Folder:
    """`shared` is the digest of all that every figure depends on, `together` of what only facts edited together do."""

    def __init__(self, out: Path, shared: str, together: str) -> None:
        self.out, self.shared, self.together = out, shared, together
        self.cells: dict[str, Cell] = {}

    def key(self, cell: Cell, settings: Settings | None) -> str:
        """The digest of everything a cell's figures depend on."""
        together = None if cell.singly else self.together
        key = digest(self._edit_key(cell, settings), together, cell.singly, facts_digest(cell.facts))
        self.cells[key] = cell
        return key

    def load(self, key: str) -> CellResult | None:
        """A finished cell, or None where it is missing or was damaged; without the rows of its prompts."""
        return self._cells.load(key) if self.prompts(key).is_file() else None

    def save(self, key: str, result: CellResult) -> None:
        """Keep a cell: its prompts as Parquet, the rest as JSON. Raises StorageError."""
        columns = self.cells[key].columns
        rows = [{**columns, **row} for outcome in result.outcomes for row in outcome["rows"]]
        write_parquet(self.prompts(key), [rows], dict.fromkeys(columns, "string") | result_columns(("before", "after")))
        slim = replace(result, outcomes=[{k: v for k, v in one.items() if k != "rows"} for one in result.outcomes])
        self._cells.save(key, slim)

    def prompts(self, key: str) -> Path:
        """The Parquet file of a cell's prompts."""
        return self.out / "prompts" / f"{key[:32]}.parquet"

    def single_key(self, cell: Cell, settings: Settings | None, fact: Fact) -> str:
        """The key of a single edit: a cell with more of them takes those that are done."""
        return digest(self._edit_key(cell, settings), facts_digest([fact]))

    @property
    def singles(self) -> "CellStore":
        """Where single edits are kept, each by itself."""
        return CellStore(Records(self.out / "singles", digits=32))

    @property
    def _cells(self) -> "CellStore":
        return CellStore(Records(self.out / "cells", digits=32))

    def _edit_key(self, cell: Cell, settings: Settings | None) -> str:
        config = None if settings is None else [type(settings.config).__name__, asdict(settings.config)]
        return digest(BENCHMARKS.purpose, BENCHMARKS.version, self.shared, cell.method, config)

    def remember(self, name: str, depends_on: Any, work: Callable[[], Any]) -> Any:
        """Plain JSON that an earlier run made from the same things, or what `work` makes now."""
        return recorded(
            self.out / "cells" / f"{name}-{digest(self.shared, BENCHMARKS.version, depends_on)[:32]}.json", work
        )


@dataclass(frozen=True)
class CellStore:
    """Results of cells or of single edits as records."""

    records: Records

    def load(self, key: str) -> CellResult | None:
        """The result, or None where there is none that is intact."""
        record = self.records.load(key)
        return None if record is None else CellResult(**record)

    def save(self, key: str, result: CellResult) -> None:
        """Keep a result. Raises StorageError."""
        self.records.save(key, asdict(result))


def check_folder(out: Path) -> None:
    """InputError where the folder cannot be a benchmark's, before any work."""
    check_run_folder(out, "bench.json", ("bench.json", "cells"))


def is_edit(cell: Cell) -> bool:
    """Whether a method is at work in it."""
    return cell.method != UNEDITED
