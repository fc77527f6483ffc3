"""`cli verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.screen import console, fail


def verify(
    path: Annotated[Path, typer.Argument(metavar="STORE")] = Path("data/WP.zarr"),
    source: Annotated[
        Path | None,
        typer.Option(
            help="The raw tree or archive too: read every frame again and compare, bit for bit."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one per core.")
    ] = None,
) -> None:
    """Look for damage: read every byte of a store, and say what is not as it was written.

    Example: cli verify data/WP.zarr --source data/WP
    """
    from pipeline import verify as stage

    done = stage.verify(path, source=source, workers=workers)
    for fault in done.faults:
        line = f"{fault.where}: {fault.what}".replace("[", r"\[")
        console.print(f"[red]Fault:[/] {line}")
    ways_out = dict.fromkeys(fault.way_out for fault in done.faults)
    for way_out in ways_out:
        console.print(f"[yellow]Way out:[/] {way_out}")
    gib = done.bytes / 2**30
    console.print(
        f"{done.tracks} tracks, {done.frames} frames, {gib:.2f} GiB read"
        f" in {done.seconds:.1f} s ({gib / max(done.seconds, 1e-9):.2f} GiB/s)"
    )
    if done.equal is not None:
        console.print(f"{done.equal} of {done.frames} frames equal their files, bit for bit")
    if done.faults:
        fail(f"{path}: {len(done.faults)} faults, listed above", 1)
    console.print("Every byte is as it was written")
