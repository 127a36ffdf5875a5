import io
import sys

import pytest

from errata.core.progress import SILENT
from errata.jobs.progress import BarProgress, LineProgress, duration, progress_on


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(clock):
    return LineProgress(io.StringIO(), clock=clock)


def written(progress: LineProgress) -> list[str]:
    return progress._stream.getvalue().splitlines()


def test_first_and_last_line_always(lines):
    with lines.stage("keys", 1000, "facts") as advance:
        advance(1000)
    assert written(lines) == ["keys: 0 of 1,000 facts", "keys: 1,000 of 1,000 facts in 0.0 s"]


def test_a_line_at_most_every_interval(lines, clock):
    with lines.stage("keys", 1000, "facts") as advance:
        for _ in range(100):
            clock.now += 0.25
            advance(10)
    between = written(lines)[1:-1]
    assert between[0] == "keys: 200 of 1,000 facts, about 20 s left"
    assert [line.split()[1] for line in between] == ["200", "400", "600", "800", "1,000"]


def test_what_an_earlier_run_did_does_not_hasten_the_estimate(lines, clock):
    with lines.stage("keys", 1000, "facts", done=900) as advance:
        clock.now += 10
        advance(0)
        clock.now += 10
        advance(10)
    assert written(lines) == [
        "keys: 900 of 1,000 facts",
        "keys: 900 of 1,000 facts, time left unknown",
        "keys: 910 of 1,000 facts, about 3 min 00 s left",
        "keys: 910 of 1,000 facts in 20 s",
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_stage_says_how_far_it_came(lines, error):
    def fail_after(advance, amount):
        advance(amount)
        raise error

    with pytest.raises(error), lines.stage("keys", 10, "facts") as advance:
        fail_after(advance, 3)
    assert written(lines)[-1] == "keys: stopped at 3 of 10 facts after 0.0 s"


def test_stages_within_stages_and_notes(lines):
    with lines.stage("outer", 1, "layer") as outer:
        with lines.stage("inner", 2, "facts"):
            lines.note("[a note]")
        outer(1)
    assert [line.split(":")[0] for line in written(lines)] == ["outer", "inner", "[a note]", "inner", "outer"]


def test_bars_on_a_terminal():
    stream = Terminal()
    progress = progress_on(stream)
    assert isinstance(progress, BarProgress)
    for name in ("outer", "again"):
        with progress.stage(name, 100, "facts", done=20) as advance:
            with progress.stage("inner [x]", 10, "tokens") as inner:
                inner(10)
            progress.note("see [bold] here")
            advance(80)
    text = stream.getvalue()
    assert "100/100" in text
    assert "10/10" in text
    assert "inner [x]" in text
    assert "see [bold] here" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 2  # the cursor comes back


def test_an_interrupted_bar_gives_the_terminal_back():
    stream = Terminal()
    progress = BarProgress(stream)
    with pytest.raises(KeyboardInterrupt), progress.stage("keys", 10, "facts"):
        raise KeyboardInterrupt
    assert stream.getvalue().count("\x1b[?25h") == 1
    with progress.stage("keys", 10, "facts") as advance:
        advance(10)
    assert "10/10" in stream.getvalue()


def test_what_suits_the_stream(monkeypatch, capsys):
    assert isinstance(progress_on(io.StringIO()), LineProgress)
    assert progress_on(Terminal(), quiet=True) is SILENT
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_on(Terminal()), LineProgress)
    progress_on().note("to stderr")
    assert capsys.readouterr() == ("", "to stderr\n")
    monkeypatch.setattr(sys, "stderr", None)
    assert progress_on() is SILENT


def test_silence(capsys):
    with SILENT.stage("keys", 10, "facts", done=3) as advance:
        advance(7)
        SILENT.note("nothing")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.99, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200.0, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500.0, "2 h 05 min"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words
