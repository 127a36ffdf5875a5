"""How long each stage of a job takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds spent in each named stage, and in all since it was made."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    def report(self) -> dict[str, float]:
        """Seconds of each stage, and in `total` since it was made, to two digits after the point."""
        rounded = {name: round(seconds, 2) for name, seconds in self.seconds.items()}
        return {**rounded, "total": round(time.monotonic() - self.started, 2)}
