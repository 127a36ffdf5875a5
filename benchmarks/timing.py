"""Medians of several interleaved runs in one process, as a table and as one line of JSON.

Interleaving spreads whatever else the machine does over all that is compared; ratios are those of the medians.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of each run."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleaved(work: Mapping[str, Callable[[], object]], *, runs: int = 3, warm_up: bool = True) -> list[Timing]:
    """Time each piece of work `runs` times, in turns, after one run of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(runs + warm_up):
        for name, run in work.items():
            took = measured(run)
            print(
                f"  {name}: {took:.3f} s{' (warm-up)' if warm_up and not number else ''}", file=sys.stderr, flush=True
            )
            if number or not warm_up:
                seconds[name].append(took)
    return [Timing(name, tuple(values)) for name, values in seconds.items()]


def measured(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def report(title: str, timings: Sequence[Timing], *, required: float | None = None, **facts: object) -> float:
    """Print the timings against the first of them, and return how much faster the last is.

    `facts` join the line of JSON. With `required` the process ends with status 1 when the ratio is below it.
    """
    reference, ratio = timings[0], timings[0].median / timings[-1].median
    width = max(len(timing.name) for timing in timings)
    print(f"\n{title}\n{'':{width}}  median s     min     max   ratio")
    for timing in timings:
        low, high = min(timing.seconds), max(timing.seconds)
        print(
            f"{timing.name:{width}}  {timing.median:8.3f}{low:8.3f}{high:8.3f}{reference.median / timing.median:7.2f}×"
        )
    for name, value in facts.items():
        print(f"{name.replace('_', ' ')}: {value}")
    line = {
        "benchmark": title,
        "seconds": {timing.name: [round(value, 4) for value in timing.seconds] for timing in timings},
        "ratio": round(ratio, 3),
        "required": required,
        **facts,
        **_machine(),
    }
    print(json.dumps(line, ensure_ascii=False, default=str))
    if required is not None and ratio < required:
        print(f"{ratio:.2f}× is less than the {required}× that is required.", file=sys.stderr)
        sys.exit(1)
    return ratio


def _machine() -> dict[str, object]:
    torch = sys.modules.get("torch")
    return {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "torch": torch.__version__ if torch else None,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
