"""The patches on a model: how one goes on and comes off again, and the original bits that make that exact."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from errata.core.updates import WeightUpdate
from errata.errors import PatchError, PatchMismatchError
from errata.models import LanguageModel, Place, add_to_weight_, tokenizer_digest, weight_of, write_weight_


@runtime_checkable
class PatchLike(Protocol):
    """What the stack asks of a patch (patches/patch.py, which imports this module)."""

    @cached_property
    def id(self) -> str: ...
    @property
    def base_digest(self) -> str: ...
    @property
    def info(self) -> Mapping[str, Any]: ...
    @property
    def updates(self) -> Mapping[Place, WeightUpdate]: ...


@dataclass(frozen=True, eq=False)
class Stack:
    """The patches on a model in the order they went on, and the original bits of every weight that they touch.

    base_digest, digest: of all weights without the patches and with them; empty where no patch is on.
    """

    patches: tuple[PatchLike, ...] = ()
    originals: Mapping[Place, Tensor] = field(default_factory=dict)
    base_digest: str = ""
    digest: str = ""

    def __len__(self) -> int:
        return len(self.patches)

    def find(self, patch: PatchLike) -> PatchLike | None:
        """The patch of this content that is on the model, be it the same object or not."""
        return next((one for one in self.patches if one is patch or one.id == patch.id), None)

    @property
    def ids(self) -> str:
        """The ids of the patches, for messages."""
        return ", ".join(patch.id for patch in self.patches)


def patches_on(lm: LanguageModel) -> Stack:
    """What is on a model now: an empty stack where no patch is."""
    # The model only holds it: its package is below this one.
    return lm.patches if isinstance(lm.patches, Stack) else Stack()


def expect_goes_on(lm: LanguageModel, patch: PatchLike) -> None:
    """Raise PatchError where the patch is on `lm` already, PatchMismatchError where it was made for other weights."""
    if patches_on(lm).find(patch):
        raise PatchError(f"Patch {patch.id} is already on {lm.name}; remove_ it first.")
    _expect_untouched(lm)
    _expect_fits(lm, patch)


def put_on_(lm: LanguageModel, patch: PatchLike) -> None:
    """Add a patch's updates on top of what is on the model; errors of `expect_goes_on`."""
    expect_goes_on(lm, patch)
    stack = patches_on(lm)
    # Not fresh: the check has just looked at every weight.
    base_digest = stack.base_digest if stack else lm.digest()
    _rebuild_(lm, (*stack.patches, patch), base_digest)


def take_off_(lm: LanguageModel, patch: PatchLike) -> None:
    """Take a patch off from anywhere in the stack; PatchMismatchError where it is not on, or others rest on it."""
    stack = patches_on(lm)
    on_model = stack.find(patch)
    if on_model is None:
        raise PatchMismatchError(f"Patch {patch.id} is not on {lm.name} (on it: {stack.ids or 'none'}).")
    _expect_untouched(lm)
    later = stack.patches[stack.patches.index(on_model) + 1 :]
    resting = [one.id for one in later if one.base_digest != stack.base_digest]
    if resting:
        raise PatchMismatchError(
            f"Patch {patch.id} carries {', '.join(resting)}, made on the model with it applied; remove_ those first."
        )
    _rebuild_(lm, tuple(one for one in stack.patches if one is not on_model), stack.base_digest)


def _expect_fits(lm: LanguageModel, patch: PatchLike) -> None:
    stack, current = patches_on(lm), lm.digest(fresh=True)
    if patch.base_digest not in {current, stack.base_digest if stack else current}:
        made_on = patch.info["model"]
        on = f" with {stack.ids} on it" if stack else ""
        dtype = str(lm.dtype).removeprefix("torch.")
        cause = f" It is loaded in {dtype}, not {made_on['dtype']}." if dtype != made_on["dtype"] else ""
        raise PatchMismatchError(
            f"Patch {patch.id} was made on {made_on['name']} (weights {patch.base_digest[:12]}), but {lm.name}{on} "
            f"has weights {current[:12]}.{cause} Load that model in {made_on['dtype']}, or edit this one anew."
        )
    if patch.info["tokenizer_digest"] != tokenizer_digest(lm.tokenizer):
        raise PatchMismatchError(f"Patch {patch.id} was made with another tokenizer than {lm.name}'s.")


def _expect_untouched(lm: LanguageModel) -> None:
    stack = patches_on(lm)
    if stack and lm.digest(fresh=True) != stack.digest:
        raise PatchMismatchError(
            f"The weights of {lm.name} were changed by something else while patches were on it; "
            "load the model again and apply them in order."
        )


@torch.no_grad()
def _rebuild_(lm: LanguageModel, patches: tuple[PatchLike, ...], base_digest: str) -> None:
    """Set the touched weights to original + each patch in turn; on any interruption, back to how they were."""
    stack = patches_on(lm)
    touched = sorted({place for patch in [*patches, *stack.patches] for place in patch.updates})
    before = {place: weight_of(lm, place).clone() for place in touched}
    originals = {place: stack.originals.get(place, before[place]) for place in touched}
    try:
        # From the originals each time: to subtract an update would not give the bits back.
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
    lm.patches = Stack(patches, originals, base_digest, digest_after) if patches else ()
