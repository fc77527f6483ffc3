"""Progress of long work: a bar with rate and ETA on a terminal, now and then a line in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
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


_muted = False


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
        return Text(f"{speed:.3g} {self.unit}/s" if speed else "")


def say(note: str) -> None:
    """A line beside the progress, on standard error."""
    if _muted:
        return
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(labelled("Note", note))


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
        with Progress(*columns, console=console, transient=True) as bar:
            bar.add_task(what, total=None)
            yield
    else:
        if in_logs:
            console.print(f"{what} ...", highlight=False, soft_wrap=True, markup=False)
        yield


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    """Yields advance(n=1, note="", keep=False); what is done is drawn on standard error.

    A note stands beside the bar until the next one; to be kept, it has a line of its own.
    """
    if _muted:
        yield lambda n=1, note="", keep=False: None
        return
    console = Console(stderr=True, theme=COLOURS)
    if not console.is_terminal:
        with logged(console, what, total, unit) as advance:
            yield advance
        return
    unbroken = Column(no_wrap=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(table_column=unbroken),
        Rate(unit, table_column=unbroken),
        TimeElapsedColumn(table_column=unbroken),
        TextColumn("ETA"),
        TimeRemainingColumn(table_column=unbroken),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, ratio=1)),
        console=console,
        expand=True,
    )
    with bar:
        task = bar.add_task(what, total=total, note="")

        def advance_bar(n: int = 1, note: str = "", keep: bool = False) -> None:
            bar.update(task, advance=n)
            if note and keep:
                bar.console.print(note, highlight=False, markup=False, soft_wrap=True)
            elif note:
                bar.update(task, note=note)

        yield advance_bar


@contextmanager
def logged(console: Console, what: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    begun = last = time.monotonic()
    done = 0

    def line(note: str) -> None:
        seconds = time.monotonic() - begun
        rate = done / seconds if seconds > 0 else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        console.print(
            f"{what}: {done}/{total} {unit}, {rate:.3g}/s{left}{'  ' + note if note else ''}",
            highlight=False,
            soft_wrap=True,
        )

    def advance(n: int = 1, note: str = "", keep: bool = False) -> None:
        nonlocal done, last
        done += n
        if keep or time.monotonic() - last >= LOG_SECONDS or (n and done == total):
            last = time.monotonic()
            line(note)

    yield advance
