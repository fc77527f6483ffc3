"""What long work shows of itself: rates and times that are true, in a log and on a terminal."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from pipeline import progress


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (29_312.4, "29,300"),
        (1_234_567.0, "1,230,000"),
        (999.7, "1,000"),
        (99.96, "100"),
        (12.34, "12.3"),
        (1.0, "1"),
        (0.01264, "0.0126"),
        (0.0, "0"),
        (-1234.0, "-1,230"),
    ],
)
def test_numbers_are_written_out(number: float, told: str) -> None:
    assert progress.brief(number) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0123, "12.3 ms"),
        (3.2, "3.2 s"),
        (99.9, "99.9 s"),
        (1872.0, "31.2 min"),
        (9000.0, "2.5 h"),
    ],
)
def test_times_are_for_persons(seconds: float, told: str) -> None:
    assert progress.duration(seconds) == told


def test_a_time_of_two_digits() -> None:
    assert progress.duration(1872.0, 2) == "31 min"
    assert progress.duration(14_366.0, 2) == "4 h"
    assert progress.duration(400 * 3600.0, 2) == "400 h"


class Clock:
    """A log of work, and the time it takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))

    def passes(self, seconds: float) -> None:
        self.now += seconds


def test_the_first_step_of_a_log_counts_for_no_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with progress.progress("train", 2000, "steps") as advance:
        clock.passes(12)  # the first step, which loads and compiles
        advance()
        for _ in range(3):
            clock.passes(1)
            advance()
    assert capsys.readouterr().err == "train: 4/2,000 steps, 1/s, 33 min left\n"


def test_a_rate_is_of_the_last_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When discriminators join, the time that is left is soon told from their steps."""
    clock = Clock(monkeypatch)
    with progress.progress("train", 1000, "steps") as advance:
        for _ in range(100):
            clock.passes(0.5)
            advance()
        for _ in range(50):
            clock.passes(2)
            advance()
    *_, last = capsys.readouterr().err.splitlines()
    assert ", 0.5/s, 28 min left" in last  # 850 steps of 2 s


def test_a_log_goes_on_where_the_work_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with progress.progress("train", 124, "steps", before=100) as advance:
        for _ in range(24):
            clock.passes(0.5)
            advance()
    assert capsys.readouterr().err == "train: 124/124 steps, 2/s\n"


def test_a_note_stands_on_the_next_line_of_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with progress.progress("train", 100, "steps") as advance:
        advance(1, "loss 0.5")
        clock.passes(16)
        advance()
        advance(0, "epoch 1", keep=True)
        clock.passes(16)
        advance()
    said = [line.partition("  ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == ["loss 0.5", "epoch 1", ""]


def on_terminal(monkeypatch: pytest.MonkeyPatch, width: int = 80) -> io.StringIO:
    screen = io.StringIO()
    made = Console(
        file=screen, force_terminal=True, width=width, theme=progress.COLOURS, color_system=None
    )
    monkeypatch.setattr(progress, "Console", lambda **_: made)
    return screen


def test_what_is_said_beside_a_bar_has_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another console would write behind the bar, in its line."""
    screen = on_terminal(monkeypatch)
    with progress.progress("train", 10, "steps") as advance:
        advance()
        monkeypatch.setattr(progress, "Console", None)  # that of the bar is to be used
        progress.say("all players take part now")
    before, _, _ = screen.getvalue().partition("Note: all players")
    assert before.endswith("\x1b[2K")  # the bar's line was cleared


def test_a_bar_of_a_training_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_terminal(monkeypatch)
    with progress.progress("train", 12_000, "steps", before=4567) as advance:
        advance(1, "loss 0.02")
    *_, shown = (line for line in screen.getvalue().splitlines() if "train" in line)
    assert "4,568/12,000" in shown
    assert "loss 0.02" in shown
