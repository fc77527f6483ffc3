"""`cli compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands.arguments import Device
from pipeline.commands.screen import console
from pipeline.commands.tables import beside, method_table, scored


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; the first is the measure.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("comparison"),
    on: Annotated[Literal["eval", "test"], typer.Option(help="Which tracks.")] = "eval",
    pictures: Annotated[int, typer.Option(min=0, help="Frames to draw; of forecasts windows.")] = 3,
    store: Annotated[Path | None, typer.Option(help="Default: the first run's own.")] = None,
    device: Device = "auto",
) -> None:
    """Hold runs that were evaluated on the same tracks against the first: differences and maps.

    Example: cli compare runs/first runs/second
    """
    from pipeline import compare as stage

    done = stage.compare(runs, out, on=on, count=pictures, store_path=store, device=device)
    console.print(method_table(done.rows, done.units))
    first = next(iter(done.rows))
    for run, by_score in done.differences.items():
        told = beside(by_score["rmse"], done.units["rmse"], done.tracks)
        console.print(f"{run} minus {first}: RMSE {told}")
    if not done.differences:
        console.print("One track: how far another might differ cannot be said")
    for note in done.notes:
        console.print(f"Note: {note}")
    console.print(scored(done.frames, done.leads, done.tracks))
    console.print(f"All       {done.file}")
    for path in done.pictures:
        console.print(f"Picture   {path}")
