"""`cli verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pipeline.commands.arguments import Json, Store, Workers, option
from pipeline.commands.screen import (
    console,
    fail,
    next_step,
    note,
    stoppable,
    write_json,
)

KEYS = {
    "store": "the store",
    "sound": "whether nothing is wrong",
    "tracks": "number of tracks",
    "frames": "number of frames",
    "bytes": "of the store that were read",
    "seconds": "that took",
    "source": "what it was compared with; null: nothing",
    "frames_compared": "frames that were read from the source again; null: not compared",
    "frames_equal_to_source": "frames that equal their files bit for bit; null: not compared",
    "faults": "of each where, what and way_out",
    "notes": "sentences",
}


def verify(
    path: Store = Path("data/WP.zarr"),
    source: Annotated[
        Path | None,
        option(
            "PATH", "The raw tree or archive too: read every frame again and compare, bit for bit."
        ),
    ] = None,
    json: Json = None,
    workers: Workers = None,
) -> None:
    """Find damage: read every byte of a store, and of its source too.

    A changed byte is named by typhoon and hour, with the way out. Nothing is written. Exit code 1
    where there is damage.

    Examples:
        cli verify data/WP.zarr
        cli verify data/WP.zarr --source data/WP
    """
    with stoppable("nothing is ever written; the same command starts over"):
        from pipeline import verify as stage
        from pipeline.progress import labelled

        done = stage.verify(path, source=source, workers=workers)
    write_json(
        json,
        KEYS,
        {
            "store": path,
            "sound": not done.faults,
            "tracks": done.tracks,
            "frames": done.frames,
            "bytes": done.bytes,
            "seconds": done.seconds,
            "source": source,
            "frames_compared": done.compared,
            "frames_equal_to_source": done.equal,
            "faults": [asdict(fault) for fault in done.faults],
            "notes": done.notes,
        },
    )
    for fault in done.faults:
        console.print(labelled("Fault", f"{fault.where}: {fault.what}", "red"))
    ways_out = dict.fromkeys(fault.way_out for fault in done.faults)
    for way_out in ways_out:
        console.print(labelled("Way out", way_out))
    gib = done.bytes / 2**30
    console.print(
        f"{done.tracks} tracks, {done.frames} frames, {gib:.2f} GiB read"
        f" in {done.seconds:.1f} s ({gib / max(done.seconds, 1e-9):.2f} GiB/s)"
    )
    if done.equal is not None:
        console.print(f"{done.equal} of {done.compared} frames equal their files, bit for bit")
    for sentence in done.notes:
        note(sentence)
    if done.faults:
        fail(f"{path}: {len(done.faults)} faults, listed above", 1)
    console.print("Every byte is as it was written")
    next_step("split", path, "--eval-fraction", "0.1")
