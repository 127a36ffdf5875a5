"""Where errata keeps what it can make again: converted models, second moments, neurons, target values."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

from errata.store.atomic import storage_errors
from errata.store.kept import KINDS, Kind


def home() -> Path:
    """`$ERRATA_HOME`, or errata's folder in the platform's cache, with the folders of the table in kept.py.

    Made on demand. Raises StorageError when it cannot be made or written to.
    """
    chosen = os.environ.get("ERRATA_HOME") or platformdirs.user_cache_dir("errata", appauthor=False)
    path = Path(os.path.abspath(os.path.expanduser(chosen)))
    advice = "Set ERRATA_HOME to a folder that you can write to."
    with storage_errors(f"use {path} as errata's home", advice=advice):
        for kind in KINDS:
            if kind.folder is not None:
                (path / kind.folder).mkdir(parents=True, exist_ok=True)
        # Asking for permissions does not tell what a read-only mount or a network disk will do.
        with tempfile.TemporaryFile(dir=path):
            pass
    return path


def folder_of(kind: Kind, cache: str | Path | None = None) -> Path:
    """Where things of a kind are kept: in errata's home, or in `cache`, a folder that stands for it. StorageError."""
    assert kind.folder is not None, f"{kind.purpose}: kept in a run's folder"
    return (home() if cache is None else Path(cache).expanduser()) / kind.folder
