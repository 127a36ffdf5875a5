"""A patch: the edit itself, small enough to keep, with everything needed to check it, undo it and make it again."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from errata.core.updates import WeightUpdate
from errata.errors import (
    CorruptFileError,
    CorruptPatchError,
    ErrataError,
    InputError,
    StorageError,
)
from errata.facts import Fact, Neighbour
from errata.models import LanguageModel, Place, expect_wrapped
from errata.patches.stack import expect_goes_on, put_on_, take_off_
from errata.store import atomic_folder, atomic_write_text, digest
from errata.store.digest import tensor_digest
from errata.store.run_folder import foreign_file
from errata.store.tensors import load_tensors, save_tensors

FORMAT = 3
_JSON, _TENSORS = "patch.json", "patch.safetensors"
RUN_FILES = frozenset({_JSON, _TENSORS, "report.json", "report.md"})
_INFO = ("method", "model", "base_digest", "tokenizer_digest", "config")


@dataclass(frozen=True, eq=False)
class Patch:
    """Updates of the edited matrices, low-rank where they can be, and what they were made from.

    info: method, model, family, configuration, prefixes, base and tokenizer digests, second moments, versions, metrics
    (plain JSON). updates are by matrix of a block, fused or not. Of methods that have them: values[i] is fact i's
    target value at the last edited layer, keys are by layer.
    """

    info: Mapping[str, Any]
    facts: tuple[Fact, ...]
    updates: Mapping[Place, WeightUpdate]
    values: Float[Tensor, "fact d_model"] | None = None
    keys: Mapping[int, Float[Tensor, "fact d_mlp"]] = field(default_factory=dict, repr=False)

    @property
    def base_digest(self) -> str:
        """Digest of the weights it was made on."""
        return self.info["base_digest"]

    @property
    def warning(self) -> str | None:
        """What whoever uses it has to know: that the edit behind it failed, and why."""
        failed = self.info.get("failed")
        return f"The edit behind this patch FAILED: {failed}" if failed else None

    @cached_property
    def id(self) -> str:
        """Short name from its content, to the last bit: equal patches have equal ids."""
        bits = tensor_digest(_tensors(self).items())
        return digest(self.base_digest, self.info["config"], [f.id for f in self.facts], bits)[:12]

    def apply_(self, lm: LanguageModel) -> None:
        """Add the updates to `lm` in place, keeping the original bits; all layers or none.

        Allowed on the weights it was made on, or together with other patches made on those same weights. Raises
        PatchMismatchError otherwise, PatchError if it is on already.
        """
        expect_wrapped(lm, "patch.apply_")
        put_on_(lm, self)

    def check(self, lm: LanguageModel) -> None:
        """Raise the PatchError that `apply_` would raise, and change nothing: for jobs that apply it hours later."""
        expect_goes_on(lm, self)

    def remove_(self, lm: LanguageModel) -> None:
        """Take the patch off again: with no other patch left, every weight has its original bits.

        Patches made on the same weights come off in any order. One that others were made on top of is refused
        (PatchMismatchError) until those are off.
        """
        expect_wrapped(lm, "patch.remove_")
        take_off_(lm, self)

    @contextmanager
    def applied(self, lm: LanguageModel) -> Iterator[LanguageModel]:
        """The model with this patch on, for the length of a `with` block."""
        self.apply_(lm)
        try:
            yield lm
        finally:
            self.remove_(lm)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the patch as one folder (JSON and safetensors), whole or not at all.

        `overwrite` replaces an earlier patch or run. Raises StorageError, also where other files lie in the folder.
        """
        target = Path(folder).expanduser()
        if overwrite and target.is_dir() and (name := foreign_file(target, RUN_FILES)):
            raise StorageError(f"{target} holds {name!r}, which is no part of a patch; name another folder.")
        with atomic_folder(target, overwrite=overwrite) as staging:
            self.write_into(staging)
        return target

    def write_into(self, folder: Path) -> None:
        """Write the two files of a patch into an existing folder."""
        record = {"format": FORMAT, "id": self.id, **self.info, "facts": [asdict(fact) for fact in self.facts]}
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        # Each file vouches for the other: the tensors' own checksum covers the record's digest.
        save_tensors(folder / _TENSORS, _tensors(self), {"id": self.id, "record": digest(json.loads(text))})
        atomic_write_text(folder / _JSON, text)

    @classmethod
    def load(cls, folder: str | Path) -> "Patch":
        """Read a patch back. Raises CorruptPatchError where a file is missing, truncated, altered or foreign."""
        path = Path(folder).expanduser()
        for name in (_JSON, _TENSORS):
            if not (path / name).is_file():
                raise CorruptPatchError(
                    f"{path} is not a patch: it has no file {name}. Give the folder that `errata edit` wrote."
                )
        try:
            record = json.loads((path / _JSON).read_text(encoding="utf-8"))
            record_digest = digest(record)
            tensors, metadata = load_tensors(path / _TENSORS)
            patch = _from_record(record, tensors)
            expected = record["id"]
        except (CorruptFileError, InputError) as error:
            raise CorruptPatchError(f"{path}: {error}") from error
        except ErrataError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            raise CorruptPatchError(
                f"{path} cannot be read as a patch ({type(error).__name__}: {error}). Copy it again from where it was "
                "made, or make it anew with errata edit."
            ) from error
        if not patch.id == expected == metadata.get("id") or record_digest != metadata.get("record"):
            raise CorruptPatchError(f"{path}: {_JSON} and {_TENSORS} are not of the same patch, or one was altered.")
        return patch


def _tensors(patch: Patch) -> dict[str, Tensor]:
    tensors = {} if patch.values is None else {"values": patch.values.float().contiguous()}
    for place, update in patch.updates.items():
        prefix = f"layers.{place.layer}.{place.matrix}.update"
        tensors |= {f"{prefix}.{name}": t.contiguous() for name, t in update.tensors().items()}
    return tensors | {f"layers.{layer}.keys": keys.float().contiguous() for layer, keys in patch.keys.items()}


def _from_record(record: Any, tensors: dict[str, Tensor]) -> Patch:
    missing = {"format", "id", "facts", *_INFO} - (set(record) if isinstance(record, dict) else set())
    if missing:
        raise CorruptPatchError(f"{_JSON} is not the record of a patch: it lacks {', '.join(sorted(missing))}.")
    if record.pop("format") != FORMAT:
        raise CorruptPatchError(f"This errata reads patch format {FORMAT}; another version of it wrote this patch.")
    facts = tuple(
        Fact(
            **{
                **fact,
                "paraphrases": tuple(fact["paraphrases"]),
                "generation_prompts": tuple(fact.get("generation_prompts", ())),
                "neighbours": tuple(Neighbour(**n) for n in fact["neighbours"]),
            }
        )
        for fact in record.pop("facts")
    )
    updates = {place: _update_at(place, tensors) for place in _places(tensors)}
    keys = {int(name.split(".")[1]): tensor for name, tensor in tensors.items() if name.endswith(".keys")}
    info = {name: value for name, value in record.items() if name != "id"}
    return Patch(info, facts, updates, tensors.get("values"), keys)


def _places(tensors: Mapping[str, Tensor]) -> list[Place]:
    paths = [name.split(".") for name in tensors if ".update." in name]
    return sorted({Place(int(layer), matrix) for _, layer, matrix, *_ in paths})


def _update_at(place: Place, tensors: Mapping[str, Tensor]) -> WeightUpdate:
    names = ("left", "right", "dense")
    factors = {name: tensors.get(f"layers.{place.layer}.{place.matrix}.update.{name}") for name in names}
    if factors["dense"] is None and (factors["left"] is None or factors["right"] is None):
        raise CorruptPatchError(f"The update of {place} is not whole in the file.")
    return WeightUpdate(**factors)
