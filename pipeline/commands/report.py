"""`cli report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands.arguments import Device
from pipeline.commands.screen import console


def report(
    run: Annotated[Path, typer.Argument(help="Run folder, after `cli evaluate`.")],
    on: Annotated[Literal["eval", "test"], typer.Option(help="Which tracks.")] = "eval",
    out: Annotated[
        Path | None, typer.Option(help="Default: report.html in the run folder.")
    ] = None,
    frames: Annotated[
        int,
        typer.Option(
            min=1,
            help="Frames to show, beside those of the largest and smallest gain; of a forecast "
            "windows.",
        ),
    ] = 3,
    store: Annotated[Path | None, typer.Option(help="Default: the one that was scored.")] = None,
    device: Device = "auto",
) -> None:
    """Make one page of a run's scores, curves and pictures; it opens in any browser, offline.

    Example: cli report runs/first
    """
    from pipeline import report as stage
    from pipeline.reporting.words import count

    done = stage.report(run, on=on, out=out, frames=frames, store_path=store, device=device)
    loop = f", and a loop of {done.loop}" if done.loop else ""
    console.print(f"{count(done.stills, done.shown)}{loop}; {done.size / 2**20:.1f} MiB")
    console.print(f"Report    {done.file}")
