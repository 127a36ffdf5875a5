"""Digests: the names under which results are kept, and the proof that they are what they were."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from errata.store.atomic import storage_errors

if TYPE_CHECKING:
    from torch import Tensor


def digest(*parts: object) -> str:
    """SHA-256 (hex) of plain values: 1, 1.0, True and "1" differ, the order of dict keys does not matter.

    Takes None, bool, int, float, str, bytes, Path, list, tuple (the same as list), dict and dataclasses (by name and
    fields), nested at will; TypeError for anything else.
    """
    canonical = json.dumps([_canonical(part) for part in parts], separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; raises StorageError when it cannot be read."""
    with storage_errors(f"read {path}"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 (hex) of the names, dtypes, shapes and exact bits of tensors, whatever their order and device."""
    threads = min(8, os.cpu_count() or 1)
    entries: list[list[object]] = []
    # A short queue: the tensors may be read or copied from a device one by one and need not all fit into memory.
    pending: deque[Future[list[object]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for name, tensor in tensors:
            if len(pending) == 2 * threads:
                entries.append(pending.popleft().result())
            pending.append(pool.submit(_tensor_entry, name, tensor))
        entries += [future.result() for future in pending]
    return digest(sorted(entries, key=repr))


def _tensor_entry(name: str, tensor: Tensor) -> list[object]:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    # hashlib lets other threads run while it reads the tensor's memory in place.
    bits = hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
    return [name, str(tensor.dtype), list(tensor.shape), bits]


def _canonical(value: object) -> list[object]:
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return [kind.__name__, value]
    # A subclass (an enum, a NumPy scalar) may print differently in another version.
    if kind is float:
        return ["float", repr(value)]
    if type(value) is bytes:
        return ["bytes", value.hex()]
    if type(value) is list or type(value) is tuple:
        return ["list", [_canonical(item) for item in value]]
    if type(value) is dict:
        return ["dict", sorted([_canonical(key), _canonical(item)] for key, item in value.items())]
    if isinstance(value, PurePath):
        return ["path", str(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [kind.__qualname__, [[field.name, _canonical(getattr(value, field.name))] for field in fields(value)]]
    raise TypeError(f"No digest for {kind.__qualname__}: {value!r}. Give plain Python values.")
