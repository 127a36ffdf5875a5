"""Every error errata raises on purpose, in one tree.

    ErrataError
    ├── InputError                 what the caller gave cannot be used (exit code 2)
    │   ├── FactsError             one or more records of a fact file; `.problems` lists them all
    │   ├── ConfigError            a hyperparameter or option
    │   ├── CorpusError            the text for the second moments
    │   ├── ModelError             a model or tokenizer
    │   │   ├── ModelNotFoundError
    │   │   └── UnsupportedModelError
    │   └── PatchError             a patch
    │       ├── CorruptPatchError
    │       └── PatchMismatchError
    ├── StorageError               the disk is full, read-only or not ours to write (exit code 2)
    │   └── CorruptFileError       a file of ours that is missing, truncated or altered
    └── NumericsError              a computation that cannot give a meaningful answer (exit code 1)
        └── SingularSystemError

A message says what was asked, what was found, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from errata.facts.problems import Problem


class ErrataError(Exception):
    """Base of every error that errata raises on purpose."""


class InputError(ErrataError):
    """What the caller gave cannot be used."""


class FactsError(InputError):
    """Records that cannot be used, all of them at once."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class ConfigError(InputError):
    """A hyperparameter or option outside its domain, or unknown."""


class CorpusError(InputError):
    """A corpus that cannot be read or holds too little text."""


class ModelError(InputError):
    """A model or tokenizer that cannot be used."""


class ModelNotFoundError(ModelError):
    """No model at the given name or path."""


class UnsupportedModelError(ModelError):
    """A model that loads but that errata does not know how to edit."""


class PatchError(InputError):
    """A patch that cannot be used."""


class CorruptPatchError(PatchError):
    """A patch whose files are missing, truncated or altered."""


class PatchMismatchError(PatchError):
    """A patch made for other weights, or one that is not on this model."""


class StorageError(ErrataError):
    """A file that could not be written: disk full, read-only, no permission."""


class CorruptFileError(StorageError):
    """A file that errata wrote and that is missing, truncated or altered."""


class NumericsError(ErrataError):
    """A computation that cannot give a meaningful answer."""


class SingularSystemError(NumericsError):
    """A linear system that is not positive definite to working precision."""
