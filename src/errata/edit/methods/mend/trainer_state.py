"""A training's state on disk, whole or absent: the editor, Adam's moments, and how far it has come."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errata.edit.methods.mend.trainer import Standing, Trainer
from errata.edit.methods.mend.validation import Validation
from errata.errors import ConfigError, CorruptFileError
from errata.store.tensors import load_tensors, save_tensors

FORMAT = "errata MEND training 1"


def checkpoint_path(out: Path) -> Path:
    """Where the state of the training of `out` is kept, beside it."""
    return out.with_name(f"{out.name}.checkpoint")


def save_checkpoint(path: Path, trainer: Trainer, request: Mapping[str, Any]) -> None:
    """Write the state; `request` is all that the training depends on, as plain JSON. Raises StorageError."""
    tensors = {f"editor.{name}": tensor for name, tensor in trainer.editor.tensors().items()}
    for number, parameter in enumerate(_parameters(trainer)):
        state: Mapping[str, Tensor] = trainer.adam.state.get(parameter, {})
        tensors |= {f"adam.{number}.{name}": tensor for name, tensor in state.items()}
    standing = asdict(trainer.standing)
    save_tensors(path, tensors, {"format": FORMAT, "request": dict(request), "standing": standing})


def load_checkpoint_(path: Path, trainer: Trainer, request: Mapping[str, Any]) -> None:
    """Put the trainer where the checkpoint was written.

    Raises ConfigError where it is that of another training, naming what differs, and CorruptFileError where it is
    damaged.
    """
    tensors, stored = load_tensors(path)
    if stored.get("format") != FORMAT:
        raise ConfigError(f"{path} is not a training's checkpoint; name another --out.")
    expect_same_training(path, stored["request"], request)
    try:
        own = {name.removeprefix("editor."): t for name, t in tensors.items() if name.startswith("editor.")}
        trainer.editor.load_tensors_(own)
        for number, parameter in enumerate(_parameters(trainer)):
            trainer.adam.state[parameter] = _adam_state(tensors, number, parameter)
        standing = stored["standing"]
        best = standing.pop("best")
        trainer.standing = Standing(**standing, best=None if best is None else Validation(**best))
    except (KeyError, TypeError, ConfigError) as error:
        raise CorruptFileError(f"{path} is damaged: {error}. Delete it to train anew.") from error


def expect_same_training(path: Path, stored: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    """ConfigError, naming what differs, where a checkpoint is not that of this request."""
    differ = sorted(name for name in {*stored, *request} if stored.get(name) != request.get(name))
    if differ:
        raise ConfigError(
            f"{path} is the checkpoint of another training: {', '.join(differ)} differ. Name another --out, or add "
            "--overwrite to train anew."
        )


def _adam_state(tensors: Mapping[str, Tensor], number: int, parameter: Tensor) -> dict[str, Tensor]:
    prefix = f"adam.{number}."
    state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    # Adam counts its steps on the CPU.
    return {name: tensor if name == "step" else tensor.to(parameter.device) for name, tensor in state.items()}


def _parameters(trainer: Trainer) -> list[torch.nn.Parameter]:
    return [parameter for group in trainer.adam.param_groups for parameter in group["params"]]
