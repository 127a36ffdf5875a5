"""How long work tells that it goes on, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class ProgressSink(Protocol):
    """What long work reports to.

    with progress.stage("target values", total=1000, unit="facts", done=200) as advance:
        advance(32)
    """

    def stage(
        self, what: str, total: int, unit: str, *, done: int = 0
    ) -> AbstractContextManager[Callable[[int], None]]:
        """A piece of work of `total` units, `done` of them by an earlier run; yields what is called on each advance."""
        ...

    def note(self, text: str) -> None:
        """One line for the reader."""
        ...


class _Silent:
    @contextmanager
    def stage(self, what: str, total: int, unit: str, *, done: int = 0) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        yield lambda amount: None  # noqa: ARG005

    def note(self, text: str) -> None:
        pass


SILENT: ProgressSink = _Silent()
