"""SIGTERM, SIGUSR1 and Ctrl-C: noticed between two steps, or as one kind of interrupt.

Whatever comes of them, a sentence on standard error says at once that they were noticed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread

STDERR = 2
ENDING = "Stopping ..."
SOON = "Stopping as soon as what is in hand is done; Ctrl-C again stops at once"


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it is taken for a Ctrl-C: what is half written is then removed, too."""


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated and Ctrl-C KeyboardInterrupt, after a word that they came.

    Not where they were ignored, or somebody else listens to them.
    """
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    if current_thread() is not main_thread():  # no other may ask for signals
        usual = {}
    before = {number: how for number, how in usual.items() if signal.getsignal(number) is how}
    said = False

    def end(number: int, frame: object) -> None:
        nonlocal said
        if not said:
            tell(ENDING)
        said = True
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, how in before.items():
            signal.signal(number, how)


@contextmanager
def told_to_stop(what: str = SOON) -> Iterator[Callable[[], bool]]:
    """Yields a question: has one of them come? A second one stops at once.

    what: is said when it comes; "": nothing. SIGUSR1 is what SLURM sends before a job's time is
    over, where it is asked to.
    """
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        signal.signal(number, before[signal.Signals(number)])
        if not asked:
            tell(what)
        asked = True

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


def is_another() -> bool:
    """Whether this process is not the first of those that train together here, which speaks."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


def tell(sentence: str) -> None:
    """A line on standard error, in the place of a bar that is drawn there.

    Written as it is: whatever the signal came into, a console or a buffer may be locked.
    """
    if not sentence or is_another():
        return
    with suppress(OSError):  # closed, or a pipe that nobody reads
        begin = "\r\x1b[K" if os.isatty(STDERR) else ""
        os.write(STDERR, f"{begin}{sentence}\n".encode())
