"""SIGTERM, SIGUSR1 and Ctrl-C, noticed between two steps instead of anywhere."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
