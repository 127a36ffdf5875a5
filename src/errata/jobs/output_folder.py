"""A folder of results: tables as Parquet and CSV, figures as PDF and PNG, each file whole or not at all."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from errata.store.tables import write_rows
from errata.views.plotting import save_figure

_SUFFIXES = (".parquet", ".csv", ".pdf", ".png")


class OutputFolder:
    """`written` are the files of this run; those of an earlier one are told apart by them."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.written: set[Path] = set()

    def table(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Write a table as Parquet and as CSV."""
        self.written |= {self.out / "tables" / f"{name}.{kind}" for kind in ("parquet", "csv")}
        write_rows(self.out / "tables" / f"{name}.parquet", rows)
        write_csv(self.out / "tables" / f"{name}.csv", rows)

    def figure(self, name: str, make: Callable[[], Any]) -> None:
        """Write the figure that `make` draws, as PDF and as PNG."""
        # Drawn twice: a figure is closed when it is written.
        for kind in ("pdf", "png"):
            self.written.add(save_figure(make(), self.out / "figures" / f"{name}.{kind}"))

    def forget_others(self, *prefixes: str) -> None:
        """Delete what an earlier run with other options left under such names: it would read as this run's."""
        for path in [path for part in ("tables", "figures") for path in (self.out / part).glob("*")]:
            if path not in self.written and path.name.startswith(prefixes) and path.suffix in _SUFFIXES:
                path.unlink()
