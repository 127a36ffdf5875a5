"""Ctrl-C, noticed even where a library swallows it: transformers turns one that falls into a lazy import into an
ImportError of its own, which must not be told as an error of the user's."""

import os
import signal
import sys
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
            if _loading("torch"):
                # Native code that is loading turns an exception that passes through it into an abort. Nothing has begun
                # yet, so the system may end the process as it ends others.
                print("errata: interrupted.", file=sys.stderr, flush=True)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGINT)
            raise KeyboardInterrupt

        previous = signal.signal(signal.SIGINT, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


def _loading(name: str) -> bool:
    """Whether a module is being imported right now."""
    return bool(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False))
