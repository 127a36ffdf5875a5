"""Ctrl-C, noticed even where a library swallows it: transformers turns one that falls into a lazy import into an
ImportError of its own, which must not be told as an error of the user's."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """`pressed` is true from the first Ctrl-C on that came while `watched` was active."""

    pressed = False

    @classmethod
    @contextmanager
    def watched(cls) -> Iterator[None]:
        """Raise KeyboardInterrupt on Ctrl-C as Python does, and remember it. Outside the main thread: nothing."""
        cls.pressed = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(_signal: int, _frame: FrameType | None) -> None:
            cls.pressed = True
            raise KeyboardInterrupt

        previous = signal.signal(signal.SIGINT, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)
