"""Fixtures shared by all tests."""

import os
import sys
from pathlib import Path

import hypothesis
import pytest

# Before torch is loaded: on tiny models several threads spend their time in barriers. A number that is set is kept.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every run: a failure can be repeated, and a green suite stays green.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

# How many tests of the opt-in model were deselected.
_LEFT_OUT = pytest.StashKey[int]()

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests")]


# What `--quick` keeps: of the families one with a gate and one that stores (in, out), no real model, no browser, and of
# what runs whole jobs one command.
_QUICK_FAMILIES, _QUICK_FOLDERS = {"llama", "gpt2"}, ("core", "store", "facts", "edit", "models", "patches")
_QUICK_TESTS = ("tests/test_house.py", "tests/cli/test_cli_edit.py::test_what_it_writes")
# Of the folders: what compiles, converts, kills processes or runs whole jobs.
_SLOW_FILES = {
    "test_chat.py", "test_undisturbed.py", "test_embedded.py", "test_handover.py", "test_collect.py", "test_hub.py",
    "test_facts_properties.py", "test_facts_bad_files.py", "test_fine_tuning.py", "test_shift.py", "test_guard.py",
}  # fmt: skip
_SLOW_FIXTURES = {"smollm2", "browser", "data_dir", "gemma"}


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="the inner loop's tests alone (make quick)")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--quick"):
        kept = [item for item in items if _is_quick(item)]
        config.hook.pytest_deselected(items=[item for item in items if not _is_quick(item)])
        items[:] = kept


def _is_quick(item):
    path = item.path.relative_to(ROOT)
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    families = {value for value in parameters if isinstance(value, str) and value in _families()}
    return (
        (item.nodeid.startswith(_QUICK_TESTS) or (path.parts[1] in _QUICK_FOLDERS and path.name not in _SLOW_FILES))
        and families <= _QUICK_FAMILIES
        and not _SLOW_FIXTURES & set(item.fixturenames)
    )


def _families():
    from tiny import VARIANTS

    return VARIANTS


def pytest_deselected(items):
    """Count what an opt-in marker leaves out: in several processes pytest itself says nothing of it."""
    for item in items:
        if (config := item.config) and item.get_closest_marker("gemma"):
            config.stash[_LEFT_OUT] = config.stash.get(_LEFT_OUT, 0) + 1


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(_LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    # Every process collects all tests.
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter, config):
    if count := config.stash.get(_LEFT_OUT, 0):
        tests = "1 test of gemma3-270m was" if count == 1 else f"{count} tests of gemma3-270m were"
        terminalreporter.write_line(f"{tests} left out; make test-gemma runs them.")


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
def no_figures(monkeypatch):
    """For tests that look at numbers: drawing takes longer than what is drawn, and others look at the figures."""
    from errata.reports.output_files import OutputFolder

    monkeypatch.setattr(OutputFolder, "figure", lambda *_: None)
