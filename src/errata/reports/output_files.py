"""The files that results go to: single ones by their kind, and a folder of tables and figures, each file whole."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from errata.errors import InputError
from errata.store.atomic import check_writable
from errata.store.tables import write_csv, write_rows
from errata.views.plotting import save_figures

SUFFIXES = {"html": (".html", ".htm"), "pdf": (".pdf",), "png": (".png",), "json": (".json",), "parquet": (".parquet",)}
_SUFFIXES = (".parquet", ".csv", ".pdf", ".png")


def check_outputs(outputs: dict[str, Path]) -> None:
    """InputError where a file cannot be meant, before the model is loaded."""
    for kind, path in outputs.items():
        if path.suffix.lower() not in SUFFIXES[kind]:
            raise InputError(f"--{kind} {path.name}: give it a name that ends in {SUFFIXES[kind][0]}.")
        if path.is_dir():
            raise InputError(f"--{kind} {path}: that is a folder; name a file in it.")
        check_writable(path)


def plain_json(report: dict[str, Any]) -> str:
    """A report as the text of its file; ValueError for a number that is not finite."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)


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
        paths = [self.out / "figures" / f"{name}.{kind}" for kind in ("pdf", "png")]
        self.written.update(save_figures(make(), paths))

    def forget_others(self, *prefixes: str) -> None:
        """Delete what an earlier run with other options left under such names: it would read as this run's."""
        for path in [path for part in ("tables", "figures") for path in (self.out / part).glob("*")]:
            if path not in self.written and path.name.startswith(prefixes) and path.suffix in _SUFFIXES:
                path.unlink()
