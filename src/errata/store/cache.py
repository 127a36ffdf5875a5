"""Results kept under a digest of everything they depend on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from errata.errors import CorruptFileError
from errata.store.tensors import load_tensors, save_tensors


@dataclass(frozen=True)
class Cache:
    """Tensors with metadata in a folder, one file for each key (a SHA-256 in hex, from `digest`).

    A damaged entry is reported through `notify`, deleted, and counts as absent.
    """

    folder: Path
    notify: Callable[[str], None] | None = None

    def path(self, key: str) -> Path:
        """The file of this key, if it is there; ValueError for what is no SHA-256 in hex."""
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            raise ValueError(f"Not a SHA-256 in hex: {key!r}")
        # Two levels: a folder of a hundred thousand target values would be slow to write to.
        return self.folder / key[:2] / f"{key}.safetensors"

    def load(self, key: str) -> tuple[dict[str, Tensor], dict] | None:
        """The entry, or None when there is none that is intact. Raises StorageError when it cannot be read."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            tensors, stored = load_tensors(path)
            if stored.get("key") != key:
                raise CorruptFileError(f"{path} holds the entry of another key. It has to be made again.")
        except CorruptFileError as error:
            if self.notify:
                self.notify(f"{error} This is done now.")
            with suppress(OSError):  # a read-only disk: the save that follows says so
                path.unlink(missing_ok=True)
            return None
        return tensors, stored["metadata"]

    def save(self, key: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> None:
        """Write the entry at once, over one that is there. Raises StorageError."""
        save_tensors(self.path(key), tensors, {"key": key, "metadata": dict(metadata)})


Entry = tuple[dict[str, Tensor], dict]


@dataclass(frozen=True)
class EntryStore:
    """A cache as the store of parts whose results are tensors with metadata."""

    cache: Cache

    def load(self, key: str) -> Entry | None:
        """The entry, or None when there is none that is intact. Raises StorageError when it cannot be read."""
        return self.cache.load(key)

    def save(self, key: str, entry: Entry) -> None:
        """Write the entry at once. Raises StorageError."""
        self.cache.save(key, *entry)
