"""Work done by threads before it is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def made_ahead(make: Callable[[T], R], of: Iterable[T], threads: int) -> Iterator[R]:
    """make(x) for each x, in order, made by threads before they are asked for: one more than those.

    What make raises is raised where its turn comes.
    """
    with ThreadPoolExecutor(threads, "ahead") as pool:
        ahead: deque[Future[R]] = deque()
        try:
            for x in of:
                ahead.append(pool.submit(make, x))
                if len(ahead) > threads + 1:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
