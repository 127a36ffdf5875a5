"""What a patch says of the model it is made on and of what made it; evaluations of a patch say the same."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import torch

from errata.models import LanguageModel, tokenizer_digest


class ModelOrigin(TypedDict):
    """Where a model came from and how it was loaded; `name` is a name on the hub or a folder's full path."""

    name: str
    revision: str | None
    family: str
    dtype: str


class Provenance(TypedDict):
    """A part of a patch's info, written as it stands; `versions` by library."""

    model: ModelOrigin
    base_digest: str
    tokenizer_digest: str
    versions: dict[str, str]
    device: str


def provenance(lm: LanguageModel) -> Provenance:
    """What a patch's info says of the model it is made on, and of what made it."""
    return {
        "model": {
            # From wherever it is asked later, a folder must be found again.
            "name": str(Path(lm.name).resolve()) if Path(lm.name).is_dir() else lm.name,
            "revision": lm.revision,
            "family": lm.family.name,
            "dtype": str(lm.dtype).removeprefix("torch."),
        },
        "base_digest": lm.digest(),
        "tokenizer_digest": tokenizer_digest(lm.tokenizer),
        "versions": {
            "errata": version("errata"),
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "python": platform.python_version(),
        },
        "device": str(lm.device),
    }
