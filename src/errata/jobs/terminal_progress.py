"""Progress of long work on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from errata.core.progress import SILENT, ProgressSink
from errata.core.words import counted

if TYPE_CHECKING:  # notebooks and test runners put objects in the place of stderr that are no TextIO when checked
    from typing import TextIO


def progress_on(stream: TextIO | None = None, *, quiet: bool = False) -> ProgressSink:
    """What suits `stream` (default: stderr): a bar on a terminal, plain lines otherwise, nothing when `quiet`."""
    stream = sys.stderr if stream is None else stream
    if quiet or stream is None:  # a process without a console has no stderr
        return SILENT
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return BarProgress(stream)
    return LineProgress(stream)


class BarProgress:
    """Bars with the time left, for terminals; stages within a stage get bars of their own."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = Console(file=stream), clock
        self._bars: Progress | None = None

    @contextmanager
    def stage(self, what: str, total: int, unit: str, *, done: int = 0) -> Iterator[Callable[[int], None]]:
        """A bar for this piece of work, below that of the stage it belongs to."""
        with self._running() as bars:
            stage = _Stage(total, done, self._clock())
            task = bars.add_task(what, total=total, completed=done, unit=unit, stage=stage)

            def advance(amount: int) -> None:
                stage.advance(amount, self._clock())
                bars.advance(task, amount)

            yield advance

    def note(self, text: str) -> None:
        """One line above the bars."""
        self._console.print(text, markup=False, highlight=False)

    @contextmanager
    def _running(self) -> Iterator[Progress]:
        """The bars on the screen: shown by the outermost stage, and left there as they were when it ends."""
        if self._bars is not None:
            yield self._bars
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            TimeElapsedColumn(),
            _TimeLeft(self._clock),
        )
        with Progress(*columns, console=self._console) as self._bars:
            try:
                yield self._bars
            finally:
                self._bars = None


class LineProgress:
    """Plain lines for logs and pipes: the first and the last of each stage, in between one every `interval` seconds."""

    def __init__(self, stream: TextIO, *, interval: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._interval, self._clock = stream, interval, clock

    @contextmanager
    def stage(self, what: str, total: int, unit: str, *, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Lines for this piece of work: at its start, now and then, and at its end or where it was stopped."""
        stage = _Stage(total, done, self._clock())
        self.note(f"{what}: {stage.count(unit)}")
        last_line = stage.started

        def advance(amount: int) -> None:
            nonlocal last_line
            now = self._clock()
            stage.advance(amount, now)
            # The last advance needs no line: that of the stage's end says as much.
            if now - last_line >= self._interval and stage.done < total:
                last_line = now
                self.note(f"{what}: {stage.count(unit)}, {stage.estimate(now)}")

        try:
            yield advance
        except BaseException:
            self.note(f"{what}: stopped at {stage.count(unit)} after {duration(self._clock() - stage.started)}")
            raise
        self.note(f"{what}: {stage.count(unit)} in {duration(self._clock() - stage.started)}")

    def note(self, text: str) -> None:
        """One line, written at once."""
        print(text, file=self._stream, flush=True)


class _Stage:
    """How far a stage is, and when its end is to be expected.

    What stands before the first advance is mostly preparation that does not come again, so speed is measured from there
    as soon as there is a second one; what an earlier run did took none of this run's time.
    """

    def __init__(self, total: int, done: int, started: float) -> None:
        self.total, self.done, self.started = total, done, started
        self._from = (done, started)
        self._first: tuple[int, float] | None = None

    def advance(self, amount: int, now: float) -> None:
        self.done += amount
        if self._first is not None and now > self._first[1]:
            self._from = self._first
        elif amount > 0:
            self._first = (self.done, now)

    def count(self, unit: str) -> str:
        return f"{self.done:,} of {counted(self.total, *_forms(unit))}"

    def left(self, now: float) -> float | None:
        """Seconds to the end at the speed so far; None where nothing is done yet."""
        done, since = self._from
        made = self.done - done
        return None if made <= 0 else (now - since) * max(0, self.total - self.done) / made

    def estimate(self, now: float) -> str:
        left = self.left(now)
        return "time left unknown" if left is None else f"about {duration(left)} left"


def _forms(unit: str) -> tuple[str, str]:
    """A unit, which is named in the plural, in both forms: "fact" and "facts", "layer of prompts"."""
    head, space, rest = unit.partition(" of ")
    return f"{head.removesuffix('s')}{space}{rest}", unit


class _TimeLeft(ProgressColumn):
    """The stage's own estimate, so that a terminal and a log say the same."""

    max_refresh = 0.5

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock

    def render(self, task: Task) -> Text:
        left = task.fields["stage"].left(self._clock())
        return Text("" if task.finished else "time left unknown" if left is None else f"about {duration(left)} left")


def duration(seconds: float) -> str:
    """Seconds in words: "0.4 s", "12 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
