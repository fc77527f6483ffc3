"""Work done by threads before it is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
Answer = SimpleQueue[tuple[Any, BaseException | None]]  # of one piece of work


def made_ahead(make: Callable[[T], R], of: Iterable[T], threads: int) -> Iterator[R]:
    """make(x) for each x, in order, made by threads before they are asked for: one more than those.

    What make raises is raised where its turn comes. Queues hand results over faster than futures.
    """
    asked: SimpleQueue[tuple[T, Answer] | None] = SimpleQueue()
    ahead: deque[Answer] = deque()
    crew = [Thread(target=work, args=(make, asked), daemon=True) for _ in range(threads)]
    for thread in crew:
        thread.start()
    try:
        for x in of:
            ahead.append(SimpleQueue())
            asked.put((x, ahead[-1]))
            if len(ahead) > threads + 1:
                yield result(ahead.popleft())
        while ahead:
            yield result(ahead.popleft())
    finally:
        with suppress(Empty):
            while True:
                asked.get_nowait()
        for _ in crew:
            asked.put(None)
        for thread in crew:
            thread.join()


def work(make: Callable[[T], Any], asked: SimpleQueue[tuple[T, Answer] | None]) -> None:
    while job := asked.get():
        x, answer = job
        try:
            answer.put((make(x), None))
        except BaseException as error:
            answer.put((None, error))
        del job, x, answer  # nothing is kept while this thread waits


def result(answer: Answer) -> Any:
    value, error = answer.get()
    try:
        if error is not None:
            raise error
    finally:
        del error  # which would keep itself and all it knows
    return value
