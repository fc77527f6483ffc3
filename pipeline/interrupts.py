"""SIGTERM, SIGUSR1 and Ctrl-C: noticed between two steps, or as one kind of interrupt."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it is taken for a Ctrl-C: what is half written is then removed, too."""


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated, unless it was ignored or somebody else listens to it."""
    here = current_thread() is main_thread()  # no other may ask for signals
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def told_to_stop() -> Iterator[Callable[[], bool]]:
    """Yields a question: has one of them come? A second one stops at once.

    SIGUSR1 is what SLURM sends before a job's time is over, where it is asked to.
    """
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[signal.Signals(number)])

    signals = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGUSR1"):  # Windows has none
        signals.append(signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in signals}
    for number in signals:
        signal.signal(number, ask)
    try:
        yield lambda: asked
    finally:
        for number in signals:
            signal.signal(number, before[number])
