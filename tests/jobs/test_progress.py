import io
import sys
from random import Random

import pytest

from errata.core.progress import SILENT
from errata.jobs.terminal_progress import BarProgress, LineProgress, _Stage, duration, progress_on


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
    assert [line.split()[1] for line in between] == ["200", "400", "600", "800"]


def test_nothing_is_estimated_when_all_is_done(lines, clock):
    with lines.stage("held-out text after", 1, "texts") as advance:
        clock.now += 6
        advance(1)
    assert written(lines) == ["held-out text after: 0 of 1 text", "held-out text after: 1 of 1 text in 6.0 s"]


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


def estimates(total: int, units: list[tuple[int, float]], clock: Clock) -> list[float]:
    """The time left that a stage says after its second advance, over what is truly left, but for the very end.

    units: how much is done and how many seconds it took, one after another.
    """
    stage, said = _Stage(total, 0, clock.now), []
    for amount, seconds in units:
        clock.now += seconds
        stage.advance(amount, clock.now)
        said.append((clock.now, stage.left(clock.now)))
    took = clock.now - stage.started
    return [left / (clock.now - at) for at, left in said[1:] if clock.now - at > 0.03 * took]


def test_preparation_is_no_measure_of_what_follows(clock):
    ratios = estimates(100, [(1, 30.0), *[(1, 1.0)] * 99], clock)
    assert all(0.99 < ratio < 1.01 for ratio in ratios)


@pytest.mark.parametrize("seed", range(5))
def test_estimates_where_facts_leave_their_batch_early(clock, seed):
    """Batches of 32 facts and 20 evaluations each, with preparation; the later a step, the fewer facts are left."""
    random, units = Random(seed), []
    for _ in range(6):
        left, seconds = 32, 8.0
        for step in range(20):
            leaving = sum(random.random() < 0.08 for _ in range(left)) if 4 < step < 19 else 0
            units.append((left + leaving * (19 - step), seconds + 0.2 * left + 0.3))
            left, seconds = left - leaving, 0.0
    ratios = estimates(6 * 32 * 20, units, clock)
    assert sum(amount for amount, _ in units) == 6 * 32 * 20
    assert all(1 / 1.5 < ratio < 1.5 for ratio in ratios), ratios


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


def test_a_bar_says_what_a_line_says(clock):
    stream = Terminal()
    progress = BarProgress(stream, clock=clock)
    with progress.stage("keys", 1000, "facts") as advance:
        for _ in range(2):
            clock.now += 10
            advance(100)
        progress._bars.refresh()
    assert "about 1 min 20 s left" in stream.getvalue()


def test_one_of_a_unit_is_named_in_the_singular(lines):
    with lines.stage("held-out text", 1, "texts"), lines.stage("keys", 1, "layers of prompts"):
        pass
    assert written(lines)[:2] == ["held-out text: 0 of 1 text", "keys: 0 of 1 layer of prompts"]


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
