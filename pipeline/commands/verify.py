"""`cli verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import completion, onward
from pipeline.commands.arguments import Json, Workers, option
from pipeline.commands.screen import (
    console,
    fail,
    next_step,
    note,
    stoppable,
    write_json,
)
from pipeline.errors import UsageError

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
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="STORE",
            help="What `cli convert` wrote. Default: data/WP.zarr.",
            autocompletion=completion.stores,
        ),
    ] = None,
    source: Annotated[
        list[Path] | None,
        option(
            "PATH",
            "The raw tree or archive too (all its parts, or one): read every frame again and "
            "compare, bit for bit.",
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
        An archive as it was downloaded:
        cli verify data/WP.zarr --source downloads/WP.tar.gz*
    """
    with stoppable("nothing is ever written; the same command starts over"):
        from pipeline import verify as stage
        from pipeline.progress import labelled
        from pipeline.reporting.words import size

        path, beside = places(paths or [], source or [])
        done = stage.verify(path, source=beside, workers=workers)
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
            "source": beside,
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
    console.print(
        f"{done.tracks} tracks, {done.frames} frames, {size(done.bytes)} read"
        f" in {done.seconds:.1f} s ({size(done.bytes / max(done.seconds, 1e-9))}/s)"
    )
    if done.equal is not None:
        console.print(f"{done.equal} of {done.compared} frames equal their files, bit for bit")
    for sentence in done.notes:
        note(sentence)
    if done.faults:
        fail(f"{path}: {len(done.faults)} faults, listed above", 1)
    console.print("Every byte is as it was written")
    next_step(*onward.to_split(path))


def places(paths: list[Path], sources: list[Path]) -> tuple[Path, Path | None]:
    """The store, and what to compare it with; of an archive all parts and their sums may be named.

    Where a shell has made many words of an unquoted WP.tar.gz*, --source takes the first of them,
    and the others stand beside the store. Raises UsageError.
    """
    from pipeline.sources import archive

    parts = [path for path in paths if sources and archive.belongs(path)]
    stores = [path for path in paths if path not in parts]
    if len(stores) > 1:
        told = f"{len(stores)} stores, {', '.join(map(str, stores))}; give one of them"
        raise UsageError(f"{told}, and raw files with --source")
    beside = archive.one_source([*sources, *parts]) if sources else None
    return (stores or [Path("data/WP.zarr")])[0], beside
