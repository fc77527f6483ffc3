"""One piece of work over many jobs, in this process or in several; cluster.py has other machines.

Knows nothing of what the work is. `work(job, advance)` must be importable by name, since it is
sent to other processes; it calls advance() as it gets on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from pipeline.errors import UserError, few

J = TypeVar("J")
R = TypeVar("R")
Advance = Callable[..., None]  # advance(steps=1, note=""), as progress.progress yields

POLL_SECONDS = 0.2  # between two looks at how far the processes are


class WorkerDied(UserError):
    """A process ended in the middle of its work; what other jobs have done stands."""


def for_each(
    work: Callable[[J, Advance], R],
    jobs: Mapping[str, J],
    advance: Advance,
    count: int | None = None,
) -> Iterator[tuple[str, R]]:
    """Yields the name of each job and what the work made of it, as they are done.

    count: processes, one per core where it is None. What the work raises is raised here, when the
    jobs at work have ended; those not begun are dropped. WorkerDied: a process was killed.
    """
    count = min(count or cores(), len(jobs))
    if count <= 1:
        for name, job in jobs.items():
            yield name, work(job, advance)
        return
    yield from in_pool(work, jobs, advance, count)


def cores() -> int:
    """Cores that this process may use: under SLURM fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Linux alone tells
        return os.cpu_count() or 1


def in_pool(
    work: Callable[[J, Advance], R], jobs: Mapping[str, J], advance: Advance, count: int
) -> Iterator[tuple[str, R]]:
    # spawn: HDF5 and Zarr keep threads and locks that a fork would copy in any state.
    context = get_context("spawn")
    steps = context.Value("q", 0)  # done by all processes together
    told = 0
    with ProcessPoolExecutor(count, context, count_in, (steps,)) as pool:
        futures = {pool.submit(in_process, work, job): name for name, job in jobs.items()}
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                now = steps.get_obj().value  # without the lock: who held it may have been killed
                if now > told:
                    advance(now - told, *(futures[future] for future in list(done)[-1:]))
                told = now
                for future in done:
                    yield futures[future], future.result()
        except BrokenProcessPool:
            broken = [futures[f] for f in futures if not f.done() or f.exception()]
            raise WorkerDied(
                f"a worker process died at one of {few(broken[:count])} (out of memory?); "
                "run the same command again, with fewer --workers"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_steps: Any = None  # in a worker process: the counter that it shares with the others


def count_in(steps: Any) -> None:
    global _steps
    _steps = steps
    Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """However the parent ends: nobody may write into a store that the next conversion sweeps."""
    parent = parent_process()
    assert parent is not None
    parent.join()  # its end closes a pipe: known at once
    os._exit(1)


def in_process(work: Callable[[J, Advance], R], job: J) -> R:
    def advance(steps: int = 1, *_: object) -> None:
        with _steps.get_lock():
            _steps.value += steps

    return work(job, advance)
