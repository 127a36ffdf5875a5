"""Fixtures shared by all tests."""

import os
import sys
from pathlib import Path

import hypothesis
import pytest

# The same examples on every run: a failure can be repeated, and a green suite stays green.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests")]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("ERRATA_DATA", ROOT / ".." / "shared" / "data"))
    if not (folder / "counterfact.json").is_file():
        pytest.skip(f"no development data at {folder} (set ERRATA_DATA)")
    return folder.resolve()


@pytest.fixture(scope="session")
def smollm2():
    """The real embedded model; tests that write to its weights must restore them."""
    from errata.models import load

    return load("smollm2")


@pytest.fixture
def one_thread():
    """For tests on tiny models: several threads would spend their time in barriers on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
