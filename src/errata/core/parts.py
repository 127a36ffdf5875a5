"""Long work in parts: finished ones are kept, missing ones are done by a back end, all are folded in a fixed order.

    parts = [Part(key, payload, size), ...]        each key a digest of everything that its result depends on
    complete(work, state, parts, store, ...)       `work` is a pure function; only this loop keeps what it gives
    for result in results(parts, store): ...       in the order of the parts, whoever did them and when

A run that is stopped has lost the parts on their way and no other; the same call goes on with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from errata.core.progress import SILENT, ProgressSink
from errata.errors import CorruptFileError

State = TypeVar("State")
Payload = TypeVar("Payload")
Result = TypeVar("Result")
# Told how many units of a part's size are done.
Advance = Callable[[int], None]
# state: what stays the same for all parts, as a loaded model.  It must be as it was when the work is done.
Work = Callable[[State, Payload, Advance], Result]


@dataclass(frozen=True)
class Part(Generic[Payload]):
    """A piece of work. key: digest of all that its result depends on.  size: in the units of the progress.

    begun: units of it that an earlier run has done and kept on its way.
    """

    key: str
    payload: Payload
    size: int = 1
    begun: int = 0


@runtime_checkable
class PartStore(Protocol[Result]):
    """Where finished parts are kept."""

    def load(self, key: str, /) -> Result | None:
        """What an earlier run kept under this key; None where there is none that is intact."""
        ...

    def save(self, key: str, result: Result, /) -> object:
        """Keep a result, whole or not at all. Raises StorageError."""
        ...


@runtime_checkable
class Backend(Protocol):
    """Where parts are done: in this process, or in others that hold the same state."""

    def map(
        self, work: Work[State, Payload, Result], state: State, parts: Sequence[Part[Payload]], advance: Advance
    ) -> Iterator[tuple[int, Result]]:
        """Do the parts; gives each one's number and result when it is done, in any order. Raises what `work` raises.

        `advance` is told of every unit of every part once, as it is done or when the part is.
        """
        ...


def complete(
    work: Work[State, Payload, Result],
    state: State,
    parts: Sequence[Part[Payload]],
    store: PartStore[Result],
    *,
    backend: Backend,
    what: str,
    unit: str,
    progress: ProgressSink = SILENT,
    finished: int = 0,
) -> None:
    """Do the parts that are not kept yet, and keep each when it is done. Raises what `work` raises, StorageError.

    finished: units that count in the progress and belong to no part, since they are kept in another shape.
    """
    missing = [part for part in parts if store.load(part.key) is None]
    total, left = (sum(part.size for part in group) for group in (parts, missing))
    done = finished + total - left + sum(part.begun for part in missing)
    with progress.stage(what, finished + total, unit, done=done) as advance:
        for number, result in backend.map(work, state, missing, advance):
            store.save(missing[number].key, result)


def results(parts: Sequence[Part[Payload]], store: PartStore[Result]) -> Iterator[Result]:
    """What is kept of the parts, in their order, one in memory at a time. Raises CorruptFileError where one is gone."""
    for part in parts:
        result = store.load(part.key)
        if result is None:
            raise CorruptFileError("A part that was kept is gone or damaged; run it again to remake it.")
        yield result
