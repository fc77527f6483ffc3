"""What workers.py does, on other machines: on the workers of a dask scheduler.

The only place that knows dask, which is an optional extra. One job is one task. When a worker
dies, the scheduler gives its task to another; when the network breaks, two may work at one job.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from uuid import uuid4

from pipeline.errors import UserError
from pipeline.workers import Advance, WorkerDied

J = TypeVar("J")
R = TypeVar("R")

CONNECT_SECONDS = 10.0
LOOK_SECONDS = 2.0  # between two looks at whether there is a worker
IDLE_SECONDS = 600.0  # without any worker: they may wait in a cluster's queue
MAKERS = ("eddy", "zarr", "numcodecs")  # packages whose versions decide a store's bytes


@contextmanager
def connected(scheduler: str) -> Iterator[Any]:
    """Yields a client of the scheduler at an address, or of the one that wrote a scheduler file.

    Raises UserError when dask is not installed, when no scheduler answers, and for workers that
    run other versions than this machine.
    """
    try:
        import distributed
    except ImportError:
        raise UserError(
            "--scheduler needs dask.distributed; install it with: pip install 'eddy[cluster]'"
        ) from None
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is raised, and told once
    address = address_of(scheduler)
    try:
        asyncio.run(knock(address))  # a client that finds nobody would complain at its end again
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # what answers may be anything, and is taken for a scheduler
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, MemoryError):  # its first bytes, taken for a length
            reason = "something else does"
        raise UserError(
            f"{scheduler}: no dask scheduler answers ({reason}); start one with `dask scheduler`, "
            "or look at the address"
        ) from None
    with client:
        refuse_other_versions(client)
        yield client


async def knock(address: str) -> None:
    """Raise an error unless somebody who speaks as dask does is at the address."""
    from distributed import Security
    from distributed.comm import connect

    how = Security().get_connection_args("client")  # dask's own settings
    await (await connect(address, timeout=CONNECT_SECONDS, **how)).close()


def address_of(scheduler: str) -> str:
    """An address as it is, else what a scheduler file says. Raises UserError.

    The file is waited for a little: a job script starts the scheduler just before.
    """
    if "://" in scheduler or re.fullmatch(r"[^/]+:\d+", scheduler):
        return scheduler
    file, end = Path(scheduler), time.monotonic() + CONNECT_SECONDS
    while not file.is_file():
        if time.monotonic() > end:
            raise UserError(
                f"{scheduler}: no such scheduler file; expected one that `dask scheduler "
                "--scheduler-file` wrote, or an address like tcp://host:8786"
            )
        time.sleep(0.1)
    try:
        return str(json.loads(file.read_bytes())["address"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{scheduler}: not a scheduler file of dask: no address in it") from None


def for_each(
    client: Any,
    work: Callable[[J, Advance], R],
    jobs: Mapping[str, J],
    advance: Advance,
    steps: Callable[[J], int] = lambda _: 1,
) -> Iterator[tuple[str, R]]:
    """As workers.for_each; the bar moves by `steps` of a job when that is done.

    What the work raises is raised here; other jobs are cancelled, but one that has begun goes on.
    UserError: no workers, one of other versions that came late, a lost scheduler. WorkerDied: one
    job ended several workers.
    """
    batch = uuid4().hex[:8]
    futures = {
        client.submit(
            on_worker, versions(), work, job, key=f"eddy-{name}-{batch}", pure=False
        ): name
        for name, job in jobs.items()
    }
    done: SimpleQueue[Any] = SimpleQueue()
    for future in futures:
        future.add_done_callback(done.put)
    left, seen = len(futures), time.monotonic()
    try:
        while left:
            try:
                future = done.get(timeout=LOOK_SECONDS)
            except Empty:
                seen = seen if nobody_works(client, seen, advance) else time.monotonic()
                continue
            left, seen = left - 1, time.monotonic()
            name = futures[future]
            result = result_of(future, name, client)
            advance(steps(jobs[name]), name)
            yield name, result
    finally:
        with suppress(OSError):  # the scheduler is gone, and the tasks with it
            client.cancel(list(futures), force=True)


def result_of(future: Any, name: str, client: Any) -> Any:
    """What a finished task made. Raises as for_each says."""
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except CancelledError:
        raise lost(client) from None
    except KilledWorker as error:
        raise WorkerDied(
            f"{name}: {error.allowed_failures + 1} workers died of it, the last at "
            f"{error.last_worker.address} (out of memory?); look at its log, "
            "and run the same command again"
        ) from None
    except UserError:
        raise
    except OSError as error:
        if error.errno is None:  # of dask's connections, not of a disk
            raise lost(client) from None
        raise
    except Exception:
        refuse_other_versions(client)  # a likely cause, with a way out
        raise


def lost(client: Any) -> UserError:
    return UserError(
        f"{address(client)}: the connection to the dask scheduler is lost; "
        "run the same command again"
    )


def nobody_works(client: Any, since: float, advance: Advance) -> bool:
    """Whether no worker is there; then tells so. Raises UserError when that lasts."""
    try:
        if client.nthreads():
            return False
    except OSError:
        return False  # a lost scheduler: its tasks end by themselves
    if time.monotonic() - since > IDLE_SECONDS:
        raise UserError(
            f"{address(client)}: no worker for {IDLE_SECONDS / 60:g} minutes; start some with "
            f"`dask worker {address(client)} --nthreads 1` and run the same command again"
        )
    advance(0, f"no worker is at {address(client)} yet")
    return True


def on_worker(theirs: Mapping[str, str], work: Callable[[J, Advance], R], job: J) -> R:
    """One task: the work, unless this worker would do it otherwise than its client."""
    for package, expected in theirs.items():
        refuse_other(socket.gethostname(), package, versions()[package], expected)
    return work(job, lambda *_: None)


def versions() -> dict[str, str]:
    return {package: version(package) for package in MAKERS}


def refuse_other_versions(client: Any) -> None:
    """Ask all workers what they run, by no code of ours, which they may not have."""
    for package, expected in versions().items():
        found = client.run(version, package, on_error="return")
        for worker, its in found.items():
            if isinstance(its, PackageNotFoundError):
                refuse_other(worker, package, "none", expected)
            elif isinstance(its, str):  # else it has just died
                refuse_other(worker, package, its, expected)


def refuse_other(where: str, package: str, found: str, expected: str) -> None:
    if found != expected:
        raise UserError(
            f"worker {where}: {package} {found}, expected {expected} as here; "
            "install the same versions on all machines"
        )


def address(client: Any) -> str:
    return str(client.scheduler.address)
