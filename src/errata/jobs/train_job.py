"""Training of a MEND editor as a job: what will be done, the work, the file, and going on where a run stopped."""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.core.progress import SILENT, ProgressSink
from errata.core.words import counted
from errata.edit.methods.mend.editor_file import load_editor, new_editor, save_editor
from errata.edit.methods.mend.trainer import Standing, StepReport, Trainer, train
from errata.edit.methods.mend.trainer_state import checkpoint_path, load_checkpoint_, save_checkpoint
from errata.edit.methods.mend.validation import Validation
from errata.errors import ConfigError, NumericsError, StorageError
from errata.facts import FactsLike, taken
from errata.jobs.terminal_progress import duration
from errata.jobs.train_work import TrainOptions, TrainWork, checked_work
from errata.models import LanguageModel, takes_model
from errata.stats import Corpus
from errata.store import digest, home, lock, storage_errors
from errata.store.atomic import check_writable

MAX_STEPS = 100_000
_NOTE_SECONDS = 20.0


@dataclass(frozen=True)
class TrainResult:
    """What a training gave: the file, the best validation and its step, and how long it took in all."""

    out: Path
    steps: int
    best_step: int
    validation: Validation
    seconds: float


@takes_model
def train_mend(
    lm: LanguageModel,
    facts: FactsLike,
    out: str | Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    corpus: Corpus | str | Path | None = None,
    valid: int = 100,
    skip_bad: bool = False,
    overwrite: bool = False,
    cache: str | Path | None = None,
    flush_seconds: float = 60.0,
    progress: ProgressSink = SILENT,
    **overrides: Any,
) -> TrainResult:
    """Train a MEND editor for `lm` on `facts` and write the best one by validation to `out`.

    The training ends after `steps`, after `minutes` of work in all, or when the validation on `valid` held-out facts
    (drawn by the seed) has not got better for `patience` steps. Its state is kept beside `out`, at most every
    `flush_seconds`: the same call goes on there, with the same bits, and one with more steps continues. The unrelated
    text is each fact's neighbours, or `corpus` where one is given, or the model's own samples for facts without
    neighbours. `overrides` replace fields of MendConfig. Raises ConfigError, FactsError, CorpusError, StorageError,
    NumericsError.
    """
    out = Path(out).expanduser()
    check_limits(steps=steps, minutes=minutes, valid=valid)
    check_editor_out(out, overwrite=overwrite)
    given = taken(facts, skip_bad=skip_bad, notify=progress.note)
    options = TrainOptions(
        corpus=corpus, valid=valid, skip_bad=skip_bad, cache=cache, places=given.places,
        overrides=overrides,
    )  # fmt: skip
    with lock(_lock_path(out), what=f"training {out.name}", timeout=0.0):
        work = checked_work(lm, given.facts, options, progress)
        run = _Run(lm, work, out, progress)
        run.begin(overwrite=overwrite, flush_seconds=flush_seconds)
        return run.train(steps=steps, minutes=minutes)


def check_limits(*, steps: int | None, minutes: float | None, valid: int) -> None:
    """ConfigError for limits that make no training."""
    if steps is not None and minutes is not None:
        raise ConfigError("steps and minutes were both given; choose one.")
    if steps is not None and steps < 1:
        raise ConfigError(f"steps must be at least 1, found {steps}.")
    if minutes is not None and not 0 < minutes < 1e6:
        raise ConfigError(f"minutes must be positive, found {minutes}.")
    if valid < 1:
        raise ConfigError(f"valid must be at least 1, found {valid}: the best editor is told by held-out facts.")


def check_editor_out(out: Path, *, overwrite: bool) -> None:
    """StorageError where `out` cannot be written, or holds what this training would not continue."""
    with storage_errors(f"write {out}"):
        if out.exists() and not out.is_file():
            raise StorageError(f"--out {out} is a folder; name a file for the editor.")
        stands, goes_on = out.exists(), checkpoint_path(out).exists()
    if stands and not goes_on and not overwrite:
        raise StorageError(
            f"--out {out} exists already, and no checkpoint of its training lies beside it; add --overwrite to replace "
            "it, or name another file."
        )
    check_writable(out)


@dataclass(frozen=True)
class _Limit:
    """When a training ends: after so many steps, or minutes of work in all."""

    steps: int | None
    minutes: float | None

    @property
    def total(self) -> int:
        return (self.steps or MAX_STEPS) if self.minutes is None else max(1, round(60 * self.minutes))

    @property
    def unit(self) -> str:
        return "steps" if self.minutes is None else "seconds"

    def reached(self, standing: Standing) -> int:
        return min(standing.step if self.minutes is None else int(standing.seconds), self.total)


class _Run:
    """One call's share of a training."""

    def __init__(self, lm: LanguageModel, work: TrainWork, out: Path, progress: ProgressSink) -> None:
        self.lm, self.work, self.out, self.progress = lm, work, out, progress
        self.checkpoint = checkpoint_path(out)
        config, held_out = work.config, work.held_out
        count = len(held_out.examples)
        batches = [
            held_out.rows(range(at, min(at + held_out.batch, count)), 0) for at in range(0, count, held_out.batch)
        ]
        self.trainer = Trainer(lm, new_editor(lm, config), config, work.schedule, batches)
        self.recent: list[StepReport] = []
        self.noted = time.monotonic()

    def begin(self, *, overwrite: bool, flush_seconds: float) -> None:
        """Take up an earlier run's state, and say what will be done."""
        self.flush_seconds = flush_seconds
        if overwrite:
            with storage_errors(f"delete {self.checkpoint}"):
                self.checkpoint.unlink(missing_ok=True)
        for line in self._announcement():
            self.progress.note(line)
        if not self.checkpoint.exists():
            self._keep()  # at once: an editor without a checkpoint beside it is never replaced
            return
        load_checkpoint_(self.checkpoint, self.trainer, self.work.request)
        standing = self.trainer.standing
        self.progress.note(f"Going on after step {standing.step:,} ({duration(standing.seconds)} of work).")
        if standing.best is not None and not self.out.exists():
            raise StorageError(
                f"{self.out}, the best editor so far, is gone; put it back, or add --overwrite to train anew."
            )

    def train(self, *, steps: int | None, minutes: float | None) -> TrainResult:
        """Train to the end; the best editor then lies at `out`."""
        limit = _Limit(steps, minutes)
        reached = limit.reached(self.trainer.standing)
        with self.progress.stage("training", limit.total, limit.unit, done=reached) as advance:

            def on_step(report: StepReport) -> None:
                nonlocal reached
                before, reached = reached, limit.reached(self.trainer.standing)
                advance(reached - before)
                self._note_losses(report)

            train(
                self.trainer,
                lambda standing: limit.reached(standing) >= limit.total,
                clock=time.monotonic,
                on_step=on_step,
                on_validation=self._on_validation,
                flush=self._keep,
                flush_seconds=self.flush_seconds,
            )
        return self._result()

    def _keep(self) -> None:
        save_checkpoint(self.checkpoint, self.trainer, self.work.request)

    def _result(self) -> TrainResult:
        standing = self.trainer.standing
        if standing.best is None:
            raise NumericsError("No validation gave a finite loss, so there is no editor; lower the learning rates.")
        load_editor(self.lm, self.out)  # what lies there is whole and for this model
        if self.trainer.is_stuck:
            self.progress.note(
                f"Stopped: no better validation for {counted(self.work.config.patience, 'step')} (patience)."
            )
        return TrainResult(self.out, standing.step, standing.best_step, standing.best, standing.seconds)

    def _on_validation(self, validation: Validation, is_best: bool) -> None:
        standing = self.trainer.standing
        self.progress.note(
            f"step {standing.step:,}, validation: {validation.line()}{'; the best so far' if is_best else ''}"
        )
        if is_best:
            about = {
                "step": standing.step, "facts": len(self.work.schedule.examples), "validation": validation.to_json(),
                "locality": self.work.request["locality"],
            }  # fmt: skip
            save_editor(self.out, self.trainer.editor, self.lm, self.work.config, about)

    def _note_losses(self, report: StepReport) -> None:
        self.recent.append(report)
        now = time.monotonic()
        if now - self.noted < _NOTE_SECONDS:
            return
        count = len(self.recent)
        loss, edit, locality, norm = (
            sum(getattr(one, name) for one in self.recent) / count
            for name in ("loss", "edit", "locality", "gradient_norm")
        )
        rates = self.trainer.editor.rates.detach()
        self.progress.note(
            f"step {self.trainer.standing.step:,}: loss {loss:.4f} (NLL {edit:.3f}, KL {locality:.4f}), gradient "
            f"{norm:.3g}, rates {float(rates.min()):.2g} to {float(rates.max()):.2g}; mean of {counted(count, 'step')}"
        )
        self.recent, self.noted = [], now

    def _announcement(self) -> list[str]:
        config, editor = self.work.config, self.trainer.editor
        numbers = sum(parameter.numel() for parameter in editor.parameters())
        matrices = ", ".join(dict.fromkeys(place.matrix for place in editor.places))
        return [
            f"MEND editor for {self.lm.name}: {matrices} of layers {', '.join(map(str, config.layers))}; "
            f"{len(editor.nets)} shared networks, {numbers:,} numbers ({self.work.source}).",
            f"To learn from: {counted(len(self.work.schedule.examples), 'fact')}, {config.batch} a step; held out: "
            f"{len(self.work.held_out.examples):,}, looked at every {config.validate_every:,} steps; what must stay: "
            f"{self.work.request['locality']}.",
            f"State: {self.checkpoint} (about {4 * 3 * numbers / 1e6:,.0f} MB; it may be deleted at the end).",
        ]


def _lock_path(out: Path) -> Path:
    folder = out
    with suppress(OSError):
        folder = out.resolve()
    return home() / "locks" / f"{digest(str(folder))[:32]}.lock"
