"""Peak memory of this process, or of the accelerator it used."""

import sys

import torch


def peak_memory_mib(device: torch.device) -> int:
    """Highest memory so far in MiB: allocated on a CUDA device, resident otherwise (0 where it cannot be told)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 20 if sys.platform == "darwin" else peak >> 10
