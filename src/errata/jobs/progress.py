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
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from errata.core.progress import SILENT, ProgressSink

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

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._bars: Progress | None = None

    @contextmanager
    def stage(self, what: str, total: int, unit: str, *, done: int = 0) -> Iterator[Callable[[int], None]]:
        with self._running() as bars:
            task = bars.add_task(what, total=total, completed=done, unit=unit)
            yield lambda amount: bars.advance(task, amount)

    def note(self, text: str) -> None:
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
            TextColumn("left"),
            TimeRemainingColumn(),
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
        stage = _Stage(total, done, self._clock())
        self.note(f"{what}: {stage.count(unit)}")
        last_line = stage.started

        def advance(amount: int) -> None:
            nonlocal last_line
            stage.done += amount
            now = self._clock()
            if now - last_line >= self._interval:
                last_line = now
                self.note(f"{what}: {stage.count(unit)}, {stage.estimate(now)}")

        try:
            yield advance
        except BaseException:
            self.note(f"{what}: stopped at {stage.count(unit)} after {duration(self._clock() - stage.started)}")
            raise
        self.note(f"{what}: {stage.count(unit)} in {duration(self._clock() - stage.started)}")

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class _Stage:
    def __init__(self, total: int, done: int, started: float) -> None:
        self.total, self.done, self.started = total, done, started
        self._found = done

    def count(self, unit: str) -> str:
        return f"{self.done:,} of {self.total:,} {unit}"

    def estimate(self, now: float) -> str:
        """Time left at the mean speed of this run; what an earlier run did took none of its time."""
        made = self.done - self._found
        if made <= 0:
            return "time left unknown"
        left = (now - self.started) * max(0, self.total - self.done) / made
        return f"about {duration(left)} left"


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
