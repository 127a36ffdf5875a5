"""Editing in batches: each batch on the model as the batches before left it, one patch in the end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from errata.core.progress import SILENT
from errata.core.updates import WeightUpdate, added
from errata.core.words import counted
from errata.edit import Edit, EditTask, Method, said_now, with_guard
from errata.errors import NumericsError
from errata.evaluate import measure
from errata.facts import Fact
from errata.models import LanguageModel, Place, weight_of, write_weight_

# With more batches than this, one line for each of their stages would bury the reader.
_SHOWN_BATCHES = 20

AfterBatch = Callable[[Sequence[Fact]], dict[str, Any]]


def edit_in_batches(task: EditTask, method: Method, size: int, after_batch: AfterBatch) -> Edit:
    """All facts of the task, `size` at a time and in their order; the model is as it was in the end.

    `guard` holds how many facts are said in the end, and under `said_right_after` how many of each batch were at first.
    `after_batch` is told each batch's facts while the model is edited as far as they are; what it gives stands beside
    the method's own metrics under `batches`. Second moments are those of the unedited model throughout, as in the
    papers. Keys of earlier batches reach methods that use them as `past_keys`. Raises what the method raises.
    """
    batches = [task.facts[at : at + size] for at in range(0, len(task.facts), size)]
    inner = SILENT if len(batches) > _SHOWN_BATCHES else task.progress
    sums, edits, told = _Sums(task.lm), [], []
    try:
        with task.progress.stage("batches", len(task.facts), "facts") as advance:
            for batch in batches:
                edit = checked_edit(method, replace(task, facts=batch, past_keys=sums.past_keys(), progress=inner))
                sums.add_(edit)
                edits.append(edit)
                told.append({"facts": len(batch), **edit.metrics, "immediately": after_batch(batch)})
                advance(len(batch))
        # Not the sum over batches: a later one may take away what an earlier one wrote.
        said = said_now(task.lm, task.facts)
    finally:
        sums.restore_()
    return _together(sums, edits, told, len(task.facts), said)


def right_after(lm: LanguageModel, batch: Sequence[Fact]) -> dict[str, Any]:
    """The batch's own metrics while nothing else has been written on top of it."""
    measured = measure(lm, batch)
    return {**measured.summary.to_json(), "zsre": measured.zsre.to_json()}


def checked_edit(method: Method, task: EditTask) -> Edit:
    """The method's edit, with what the guard finds; NumericsError where it gives a number that is not finite."""
    edit = method.edit(task)
    broken = [str(place) for place, update in edit.updates.items() if not update.is_finite()]
    if broken:
        raise NumericsError(
            f"{method.title} diverged: its update of {', '.join(broken)} is not finite. Lower its rate or strength, or "
            "edit fewer facts."
        )
    return with_guard(task.lm, task.facts, edit)


@dataclass
class _Sums:
    """What has been written so far, on the original bits."""

    lm: LanguageModel
    updates: dict[Place, WeightUpdate] = field(default_factory=dict)
    originals: dict[Place, Tensor] = field(default_factory=dict)
    keys: dict[int, list[Tensor]] = field(default_factory=dict)

    def add_(self, edit: Edit) -> None:
        for place, update in edit.updates.items():
            if place not in self.originals:
                self.originals[place] = weight_of(self.lm, place).clone()
            self.updates[place] = self.updates[place].plus(update) if place in self.updates else update
            # As the patch will do it: one addition on the original bits.
            write_weight_(self.lm, place, added(self.originals[place], self.updates[place]))
        for layer, keys in edit.keys.items():
            self.keys.setdefault(layer, []).append(keys)

    def restore_(self) -> None:
        for place, original in self.originals.items():
            write_weight_(self.lm, place, original)

    def past_keys(self) -> dict[int, Tensor]:
        return {layer: torch.cat(parts) for layer, parts in self.keys.items()}


def _together(sums: _Sums, edits: Sequence[Edit], batches: list[dict[str, Any]], facts: int, said: int) -> Edit:
    values = [edit.values for edit in edits if edit.values is not None]
    told_first = f"{counted(facts, 'fact')} in {counted(len(edits), 'batch', 'batches')}, one on top of the other."
    warnings = dict.fromkeys(warning for edit in edits for warning in edit.warnings)
    guard = {"said": said, "said_right_after": [edit.metrics["guard"]["said"] for edit in edits]}
    return Edit(
        updates=sums.updates,
        metrics={"batches": batches, "guard": guard},
        summary=(told_first, *edits[-1].summary),
        warnings=tuple(_few(warnings)),
        not_converged=tuple(one for edit in edits for one in edit.not_converged),
        per_fact=tuple(one for edit in edits for one in edit.per_fact),
        values=torch.cat(values) if len(values) == len(edits) else None,
        keys=sums.past_keys(),
        kept_seconds=sum((edit.kept_seconds for edit in edits), 0.0),
        failed=" ".join(dict.fromkeys(edit.failed for edit in edits if edit.failed)) or None,
    )


def _few(warnings: dict[str, None]) -> Iterator[str]:
    shown = 5
    yield from list(warnings)[:shown]
    if len(warnings) > shown:
        yield f"... and {len(warnings) - shown} more warnings of single batches."
