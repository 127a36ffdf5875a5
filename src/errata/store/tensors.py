"""Tensors and their description in one safetensors file that shows every later change of its content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from errata.errors import CorruptFileError
from errata.store.atomic import atomic_file, storage_errors
from errata.store.digest import digest, tensor_digest


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> None:
    """Write tensors (from any device, at their dtype) and JSON-able metadata at once; raises StorageError."""
    plain = {name: _own_memory(tensor) for name, tensor in tensors.items()}
    text = json.dumps(dict(metadata))
    header = {"errata": text, "sha256": _checksum(plain, text)}
    with atomic_file(path) as temporary:
        save_file(plain, temporary, metadata=header)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors (on the CPU) and metadata as saved; tuples in the metadata come back as lists.

    Raises CorruptFileError when the file is missing, truncated or altered, StorageError when it cannot be read.
    """
    with storage_errors(f"read {path}"):
        tensors, header = _read(path)
    text = header.get("errata", "")
    if not text or header.get("sha256") != _checksum(tensors, text):
        raise CorruptFileError(_corrupt(path, "its content does not match its checksum"))
    return tensors, json.loads(text)


def _own_memory(tensor: Tensor) -> Tensor:
    """The tensor on the CPU; copied when it is a part of a larger one, which safetensors refuses."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    return digest(tensor_digest(tensors.items()), text)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CorruptFileError(_corrupt(path, "it does not exist")) from error
    except OSError:
        raise
    except Exception as error:  # a damaged header fails in many ways, not only as SafetensorError
        raise CorruptFileError(_corrupt(path, str(error))) from error


def _corrupt(path: Path, reason: str) -> str:
    return f"{path} is damaged: {reason}. It has to be made again."
