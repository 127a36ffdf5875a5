"""Keep freed memory in the process: on a CPU, large temporaries otherwise cost page faults at every step."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory(limit: int = 1 << 30) -> bool:
    """Tell glibc to reuse freed blocks up to `limit` bytes instead of returning them; true where it took effect.

    Changes the whole process and raises its resting memory by up to `limit`, so only programs of our own call it (the
    command line, the benchmarks). About a fifth of the time of a batch of target values (benchmarks/README.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, limit)) and bool(mallopt(_M_TRIM_THRESHOLD, limit))
