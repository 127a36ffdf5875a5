"""The command line as a process of its own: signals, pipes, exit codes, and what `errata --help` must not import."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from errata.store.tensors import load_tensors

# Some seconds of target values, one fact at a time, so that there is a middle to stop in.
SLOW = ("layers=1-2", "moment_tokens=300", "value_steps=60", "stop_loss=0", "prefixes=2", "retries=0")


def values_kept(work: Path) -> list[Path]:
    return list((work / "home" / "values").glob("*/*.safetensors"))


@contextmanager
def stopped_midway(command: list[str], kept: Callable[[], list[Path]]) -> Iterator[subprocess.Popen]:
    """A running edit of which something has just been kept; ended at the latest on the way out."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as process:
        try:
            limit = time.monotonic() + 60
            while not kept() and process.poll() is None and time.monotonic() < limit:
                time.sleep(0.01)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(folder / "patch.safetensors")[0]


def test_kill_9_then_the_same_command_gives_the_same_patch(
    errata, work, command_line, edit_arguments, monkeypatch
) -> None:
    arguments = edit_arguments("--batch-size", "1", "--no-evaluate", settings=SLOW)
    with stopped_midway(command_line(*arguments), lambda: values_kept(work)) as process:
        process.kill()
        process.wait()
    assert not (work / "out").exists()
    kept = {path: path.stat().st_mtime_ns for path in values_kept(work)}
    assert 1 <= len(kept) < 3
    assert errata(*arguments).code == 0
    assert len(values_kept(work)) == 3
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    monkeypatch.setenv("ERRATA_HOME", str(work / "other-home"))
    arguments[arguments.index("out")] = "whole"
    assert errata(*arguments).code == 0
    resumed, whole = tensors(work / "out"), tensors(work / "whole")
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as on POSIX")
def test_ctrl_c(work, command_line, edit_arguments) -> None:
    arguments = edit_arguments("--batch-size", "1", settings=SLOW)
    with stopped_midway(command_line(*arguments), lambda: values_kept(work)) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, err.strip().splitlines()[-1].split(".")[0]) == ("", "errata: interrupted")
    assert "Traceback" not in err
    assert not (work / "out").exists()
    assert not list(work.glob(".errata-*"))


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as on POSIX")
def test_ctrl_c_within_a_batch_loses_seconds_and_no_bit(
    errata, work, command_line, edit_arguments, monkeypatch
) -> None:
    monkeypatch.setattr("errata.edit.values.halfway.EVERY", 0.0)
    arguments = edit_arguments("--no-evaluate", settings=SLOW)
    command = command_line(*arguments)
    command[2] = f"import errata.edit.values.halfway; errata.edit.values.halfway.EVERY = 0.0; {command[2]}"
    halfway = work / "home" / "values" / "halfway"
    with stopped_midway(command, lambda: list(halfway.glob("*/*.safetensors"))) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "target values" in err
    assert "are kept" in err
    assert not values_kept(work)  # all three facts are in the batch that was stopped
    arguments.remove("--quiet")
    resumed = errata(*arguments)
    assert resumed.code == 0
    first = next(line for line in resumed.err.splitlines() if line.startswith("target values: "))
    assert int(first.split()[2]) > 0
    assert not list(halfway.glob("*/*.safetensors"))
    monkeypatch.setenv("ERRATA_HOME", str(work / "other-home"))
    arguments[arguments.index("out")] = "whole"
    assert errata(*arguments).code == 0
    resumed, whole = tensors(work / "out"), tensors(work / "whole")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_exit_codes(command_line, edit_arguments) -> None:
    alone = run(command_line())
    assert (alone.returncode, alone.stderr) == (0, "")
    assert "Usage" in alone.stdout
    # Beartype would refuse this value first in the tests' own process.
    bad = run(command_line(*edit_arguments(settings=("schedule=quick",))))
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "schedule must be 'published' or 'fast', found 'quick'" in bad.stderr
    assert len(bad.stderr.splitlines()) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_output_to_a_full_disk(command_line) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(command_line("models"), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as on POSIX")
@pytest.mark.parametrize("delay", [0.15, 0.4, 0.6, 1.0])  # before that Python's own start-up may lose the signal
def test_ctrl_c_while_starting(command_line, edit_arguments, delay) -> None:
    # A shell starts its background jobs with this signal ignored, and the suite may be one.
    with subprocess.Popen(
        command_line(*edit_arguments()), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    # Before Python itself stands there is nobody to answer but the system.
    assert process.returncode in (130, -signal.SIGINT)
    if process.returncode == 130:
        assert "errata: interrupted" in err


def test_a_reader_that_goes_away(command_line) -> None:
    """`errata models | head -c 10`: no traceback, and the code that shells know for a broken pipe."""
    with subprocess.Popen(command_line("models"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        err = process.stderr.read().decode()
    assert (process.returncode, err) == (141, "")


def test_output_in_a_terminal_without_unicode(command_line, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run(command_line("models"))
    assert done.returncode == 0
    assert "6–8" in done.stdout


@pytest.mark.parametrize(
    "statement", ["import errata", "main(['--help'])", "main(['edit', '--help'])", "main(['--version'])"]
)
def test_light_commands_import_neither_torch_nor_transformers(work, statement: str) -> None:
    del work
    code = f"""
import sys
def main(arguments):
    sys.argv = ["errata", *arguments]
    from errata.cli import main
    try:
        main()
    except SystemExit as done:
        assert not done.code, done.code
{statement}
heavy = sorted({{"torch", "transformers", "numpy", "pyarrow"}} & set(sys.modules))
print("heavy:", heavy)
"""
    done = run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.fixture
def no_network(work, monkeypatch) -> None:
    """An address where nobody answers in the place of the hub, and an empty cache."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(work / "hub"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "said"), [("smolm2", "did you mean 'smollm2'"), ("some/model", "the hub (http://127.0.0.1:9) cannot be")]
)
def test_an_unknown_model_is_named_at_once_without_a_network(command_line, name: str, said: str) -> None:
    before = os.times()
    done = run(command_line("ask", "Paris is in", "--model", name))
    after = os.times()
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1  # no client's retries beside it
    # Of its own time, for a busy machine lets everything wait: imports, and no pause between attempts.
    assert after.children_user - before.children_user < 6


@pytest.mark.usefixtures("no_network")
def test_a_model_in_the_hub_s_cache_loads_without_a_network(command_line, work, model) -> None:
    folder = work / "hub" / "hub" / "models--some--model"
    shutil.copytree(model, folder / "snapshots" / "0123")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    done = run(command_line("ask", "Paris is in", "--model", "some/model", "--tokens", "2"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "goes on" in done.stdout
