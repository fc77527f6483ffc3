"""Progress of long work: a bar with rate and ETA on a terminal, now and then a line in a log."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text
from rich.theme import Theme

# Neither yellow nor cyan, which vanish on white.
COLOURS = Theme({f"progress.{part}": "none" for part in ("elapsed", "remaining", "download")})
LOG_SECONDS = 15.0  # between two lines where there is no terminal
RATED_OVER = 60.0  # seconds: the latest, of which a rate is; and so the time that is left


_muted = False
_drawn: Console | None = None  # where a bar is drawn now: what is said meanwhile goes above it


@contextmanager
def muted() -> Iterator[None]:
    """Inside, nothing is said and no progress shown: of several processes one speaks for all."""
    global _muted
    before, _muted = _muted, True
    try:
        yield
    finally:
        _muted = before


class Rate(ProgressColumn):
    """Units per second."""

    def __init__(self, unit: str, table_column: Column | None = None) -> None:
        super().__init__(table_column)
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{brief(speed)} {self.unit}/s" if speed else "")


def brief(number: float, digits: int = 3) -> str:
    """So many digits that count, written out: 29,300, 1.41, 0.0126."""
    if not number:
        return "0"
    rounded = round(number, digits - 1 - math.floor(math.log10(abs(number))))
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


def duration(seconds: float, digits: int = 3) -> str:
    """For a person: 12 ms, 3.2 s, 5 min, 2.5 h."""
    for most, part, unit in ((1, 1e-3, "ms"), (100, 1, "s"), (100 * 60, 60, "min")):
        if seconds < most:
            return f"{brief(seconds / part, digits)} {unit}"
    return f"{brief(seconds / 3600, digits)} h"


def say(note: str) -> None:
    """A line beside the progress, on standard error."""
    if _muted:
        return
    console = _drawn or Console(stderr=True)
    console.print(labelled("Note", note), soft_wrap=True, highlight=False)


@contextmanager
def drawn(bar: Progress) -> Iterator[None]:
    """Inside, the bar is on the screen."""
    global _drawn
    before, _drawn = _drawn, bar.console
    try:
        with bar:
            yield
    finally:
        _drawn = before


def labelled(word: str, sentence: str, style: str = "bold") -> Text:
    """A sentence after a word that says what it is."""
    return Text.assemble((f"{word}:", style), " ", sentence)


@contextmanager
def working(what: str, *, in_logs: bool = True) -> Iterator[None]:
    """Around a stretch that has no steps to count: what is done, on standard error.

    A terminal shows for how long, and forgets it at the end; a log has a line, unless not wanted.
    """
    console = Console(stderr=True, theme=COLOURS)
    if _muted:
        yield
    elif console.is_terminal:
        columns = (SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn())
        bar = Progress(*columns, console=console, transient=True)
        with drawn(bar):
            bar.add_task(what, total=None)
            yield
    else:
        if in_logs:
            console.print(f"{what} ...", highlight=False, soft_wrap=True, markup=False)
        yield


@contextmanager
def progress(what: str, total: int, unit: str, before: int = 0) -> Iterator[Callable[..., None]]:
    """Yields advance(n=1, note="", keep=False); what is done is drawn on standard error.

    A note stands beside the bar until the next one; to be kept, it has a line of its own. before:
    how much of the total an earlier start of the same work has done.
    """
    if _muted:
        yield lambda n=1, note="", keep=False: None
        return
    console = Console(stderr=True, theme=COLOURS)
    if not console.is_terminal:
        with logged(console, what, total, unit, before) as advance:
            yield advance
        return
    unbroken = Column(no_wrap=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}", table_column=unbroken),
        Rate(unit, table_column=unbroken),
        TimeElapsedColumn(table_column=unbroken),
        TextColumn("ETA"),
        TimeRemainingColumn(table_column=unbroken),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, ratio=1)),
        console=console,
        expand=True,
        speed_estimate_period=RATED_OVER,
    )
    with drawn(bar):
        task = bar.add_task(what, total=total, completed=before, note="")

        def advance_bar(n: int = 1, note: str = "", keep: bool = False) -> None:
            bar.update(task, advance=n)
            if note and keep:
                bar.console.print(note, highlight=False, markup=False, soft_wrap=True)
            if note or keep:
                bar.update(task, note="" if keep else note)

        yield advance_bar


@contextmanager
def logged(
    console: Console, what: str, total: int, unit: str, before: int = 0
) -> Iterator[Callable[..., None]]:
    last = time.monotonic()
    done, beside = before, ""
    # Times, and what was done by then: the first as the first of it was done, for that takes longer
    marks: deque[tuple[float, int]] = deque()

    def rate(now: float) -> float:
        while len(marks) > 1 and now - marks[1][0] >= RATED_OVER:
            marks.popleft()
        since, then = marks[0] if marks else (now, done)
        return (done - then) / (now - since) if now > since else 0.0

    def line(now: float, note: str) -> None:
        speed = rate(now)
        told = f", {brief(speed)}/s" if speed else ""
        left = f", {duration((total - done) / speed, 2)} left" if speed and done < total else ""
        console.print(
            f"{what}: {done:,}/{total:,} {unit}{told}{left}{'  ' + note if note else ''}",
            highlight=False,
            soft_wrap=True,
        )
        marks.append((now, done))

    def advance(n: int = 1, note: str = "", keep: bool = False) -> None:
        nonlocal done, last, beside
        now = time.monotonic()
        done += n
        beside = note or beside
        if not marks:
            marks.append((now, done))
        if keep or now - last >= LOG_SECONDS or (n and done == total):
            last = now
            line(now, beside)
            beside = "" if keep else beside

    yield advance
