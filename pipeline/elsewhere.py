"""Converting a track on another machine, which must see the same source and the same store.

Nobody can stop a task that has begun on a machine that the network has lost. So a conversion
leaves its mark in the store, and who works for another mark writes nothing.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import store_writer
from pipeline.errors import UserError
from pipeline.ingest import Job, convert_track
from pipeline.provenance import fingerprint, is_done, record_of
from pipeline.workers import Advance

SEEN_SECONDS = 70.0  # until all machines see a change: NFS remembers a folder for up to a minute


def convert_elsewhere(mark: int, job: Job, advance: Advance) -> dict[str, Any]:
    """convert_track on a machine of its own, for the conversion of that mark.

    Raises UserError where that machine sees another source or store, and stops, with nothing
    written, once the store bears another mark.
    """
    here, id = socket.gethostname(), job.raw.id
    if not soon(partial(is_at_work, mark, job.store)):
        raise UserError(
            f"worker {here}: does not see this conversion at {job.store}; expected the store on a "
            "disk that all machines share, under one path"
        )
    if fingerprint(job.raw, job.settings) != job.fingerprint:
        raise UserError(
            f"worker {here}: sees other files of {id} than were found here, as "
            f"{job.raw.frames[0].paths[0]}; expected the source on a disk that all machines "
            "share, under one path, and at rest"
        )
    if is_done(job.store, id, job.fingerprint):
        return record_of(job.store, id)  # by a worker that was lost before it could say so

    def still(*_: object) -> None:  # at every frame: the TrackWriter itself may have come too late
        if not is_at_work(mark, job.store):
            raise stopped(job.store)

    return convert_track(job, still)


def is_at_work(mark: int, target: Path) -> bool:
    """Whether the store bears that mark; not yet where False. Raises UserError for a later one."""
    found = store_writer.mark(target)
    if found is not None and found > mark:
        raise stopped(target)
    return found == mark


def stopped(target: Path) -> UserError:
    return UserError(f"{target}: this conversion was stopped")


def await_tracks(target: Path, jobs: Sequence[Job]) -> None:
    """Wait until this machine sees what others wrote. Raises UserError if it never does."""
    for job in jobs:
        if not soon(partial(is_done, target, job.raw.id, job.fingerprint)):
            raise UserError(
                f"{target / job.raw.id}: a worker wrote it, but it is not here; expected the "
                "store on a disk that all machines share, under one path"
            )


def soon(true: Callable[[], bool]) -> bool:
    """Whether that is so, or becomes so while other machines' changes are still to be seen."""
    end = time.monotonic() + SEEN_SECONDS
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
