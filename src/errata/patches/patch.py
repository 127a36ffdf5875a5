"""A patch: the edit itself, small enough to keep, with everything needed to check it, undo it and make it again."""

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from errata.core.updates import WeightUpdate
from errata.errors import (
    CorruptFileError,
    CorruptPatchError,
    ErrataError,
    InputError,
    PatchError,
    PatchMismatchError,
    StorageError,
)
from errata.facts import Fact, Neighbour
from errata.models import (
    LanguageModel,
    Place,
    add_to_weight_,
    expect_wrapped,
    tokenizer_digest,
    weight_of,
    write_weight_,
)
from errata.store import atomic_folder, atomic_write_text, digest
from errata.store.digest import tensor_digest
from errata.store.run_folder import foreign_file
from errata.store.tensors import load_tensors, save_tensors

FORMAT = 3
_JSON, _TENSORS = "patch.json", "patch.safetensors"
RUN_FILES = frozenset({_JSON, _TENSORS, "report.json", "report.md"})
_INFO = ("method", "model", "base_digest", "tokenizer_digest", "config")


def provenance(lm: LanguageModel) -> dict[str, Any]:
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
        self.check(lm)
        if not lm.applied:
            lm.pristine_digest = lm.digest()  # fresh: the check has just looked at every weight
        _rebuild(lm, [*lm.applied, self])

    def check(self, lm: LanguageModel) -> None:
        """Raise the PatchError that `apply_` would raise, and change nothing: for jobs that apply it hours later."""
        if any(patch is self or patch.id == self.id for patch in lm.applied):
            raise PatchError(f"Patch {self.id} is already on {lm.name}; remove_ it first.")
        _expect_untouched(lm)
        self._expect_fits(lm)

    def remove_(self, lm: LanguageModel) -> None:
        """Take the patch off again: with no other patch left, every weight has its original bits.

        Patches made on the same weights come off in any order. One that others were made on top of is refused
        (PatchMismatchError) until those are off.
        """
        expect_wrapped(lm, "patch.remove_")
        held = next((patch for patch in lm.applied if patch is self or patch.id == self.id), None)
        if held is None:
            on = ", ".join(patch.id for patch in lm.applied) or "none"
            raise PatchMismatchError(f"Patch {self.id} is not on {lm.name} (on it: {on}).")
        _expect_untouched(lm)
        later = lm.applied[lm.applied.index(held) + 1 :]
        resting = [patch.id for patch in later if patch.base_digest != lm.pristine_digest]
        if resting:
            raise PatchMismatchError(
                f"Patch {self.id} carries {', '.join(resting)}, made on the model with it applied; remove_ those first."
            )
        _rebuild(lm, [patch for patch in lm.applied if patch is not held])

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

    def _expect_fits(self, lm: LanguageModel) -> None:
        current = lm.digest(fresh=True)
        if self.base_digest not in {current, lm.pristine_digest if lm.applied else current}:
            made_on = self.info["model"]
            on = f" with {', '.join(patch.id for patch in lm.applied)} on it" if lm.applied else ""
            dtype = str(lm.dtype).removeprefix("torch.")
            cause = f" It is loaded in {dtype}, not {made_on['dtype']}." if dtype != made_on["dtype"] else ""
            raise PatchMismatchError(
                f"Patch {self.id} was made on {made_on['name']} (weights {self.base_digest[:12]}), but {lm.name}{on} "
                f"has weights {current[:12]}.{cause} Load that model in {made_on['dtype']}, or edit this one anew."
            )
        if self.info["tokenizer_digest"] != tokenizer_digest(lm.tokenizer):
            raise PatchMismatchError(f"Patch {self.id} was made with another tokenizer than {lm.name}'s.")


def _expect_untouched(lm: LanguageModel) -> None:
    if lm.applied and lm.digest(fresh=True) != lm.patched_digest:
        raise PatchMismatchError(
            f"The weights of {lm.name} were changed by something else while patches were on it; "
            "load the model again and apply them in order."
        )


@torch.no_grad()
def _rebuild(lm: LanguageModel, patches: list[Patch]) -> None:
    """Set the touched weights to original + each patch in turn; on any interruption, back to how they were."""
    touched = sorted({place for patch in [*patches, *lm.applied] for place in patch.updates})
    before = {place: weight_of(lm, place).clone() for place in touched}
    originals = {place: lm.original_weights.get(place, before[place]) for place in touched}
    try:
        for place in touched:
            write_weight_(lm, place, originals[place])
        for patch in patches:
            for place, update in patch.updates.items():
                add_to_weight_(lm, place, update)
        digest_after = lm.digest()
    except BaseException:
        for place, weight in before.items():
            write_weight_(lm, place, weight)
        raise
    lm.applied, lm.patched_digest = patches, digest_after
    lm.original_weights = originals if patches else {}


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
    parts = [name.split(".") for name in tensors if ".update." in name]
    return sorted({Place(int(layer), matrix) for _, layer, matrix, *_ in parts})


def _update_at(place: Place, tensors: Mapping[str, Tensor]) -> WeightUpdate:
    names = ("left", "right", "dense")
    parts = {name: tensors.get(f"layers.{place.layer}.{place.matrix}.update.{name}") for name in names}
    if parts["dense"] is None and (parts["left"] is None or parts["right"] is None):
        raise CorruptPatchError(f"The update of {place} is not whole in the file.")
    return WeightUpdate(**parts)
