"""`cli infer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands.arguments import Device, Which
from pipeline.commands.screen import console, finish_with
from pipeline.commands.tables import lead_table, method_table, score_table


def infer(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    input: Annotated[
        Path,
        typer.Argument(
            help="A typhoon's raw folder, one H5 file, a raw tree; NetCDF files; or a store."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="To write: a .nc file, a .zarr, or a folder of GeoTIFFs (.tif).")
    ],
    mode: Annotated[
        Literal["enhance", "check", "forecast"] | None,
        typer.Option(
            help="enhance: frames finer than the input. forecast: those that come after it. check: "
            "coarsen and restore, or forecast, what is known, and compare. Default: not check."
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Forecast from this UTC hour, as 2021071912. Default: the latest."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Frames to forecast. Default: as many as trained.")
    ] = None,
    format: Annotated[
        Literal["netcdf", "zarr", "geotiff"] | None,
        typer.Option(help="Default: what the ending of --out says. geotiff: one per frame."),
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(
            min=2, help="Mean and spread of so many of the run's weights: its checkpoints'."
        ),
    ] = None,
    id: Annotated[str | None, typer.Option(help="Which typhoon, where there are several.")] = None,
    variable: Annotated[
        list[str] | None, typer.Option(help="NetCDF: where it has another name than in training.")
    ] = None,
    units: Annotated[
        str | None, typer.Option(help="NetCDF: of its values, where the files do not say.")
    ] = None,
    step: Annotated[
        str | None, typer.Option(help="NetCDF: between files that bear no time, as 24h.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="NetCDF: time of the first of them, as 2023-08-01.")
    ] = None,
    pictures: Annotated[
        str, typer.Option(help="How many PNGs, or all, none, or UTC hours 2021071900,2021071912.")
    ] = "3",
    mp4: Annotated[
        bool, typer.Option("--mp4", help="Animate all frames; the default without --gif.")
    ] = False,
    gif: Annotated[bool, typer.Option("--gif", help="Animate them as a GIF.")] = False,
    no_animation: Annotated[bool, typer.Option("--no-animation", help="Neither.")] = False,
    palette: Annotated[
        Literal["enhanced", "grey"], typer.Option(help="Colours of cold cloud, or grey alone.")
    ] = "enhanced",
    tile: Annotated[
        int, typer.Option(min=1, help="Input pixels per side; smaller needs less memory.")
    ] = 256,
    checkpoint: Which = "best",
    device: Device = "auto",
) -> None:
    """Run a model on a typhoon or gridded fields: NetCDF, Zarr or GeoTIFFs, pictures, an animation.

    Stopped, the same command goes on. docs/PRODUCTS.md says what an output holds.

    Example: cli infer runs/first data/WP/image/202107 --out 202107.nc --mode check

    Example: cli infer runs/ahead data/WP/image/202107 --out next.nc --at 2021071912
    """
    from pipeline import infer as stage
    from pipeline.reporting.words import count
    from pipeline.sources import options

    done = stage.infer(
        run,
        input,
        out,
        mode=mode,
        at=at,
        steps=steps,
        format=format,
        which=checkpoint,
        members=ensemble or 0,
        id=id,
        options=options.asked(variable=variable, units=units, step=step, start=start),
        tile=tile,
        device=device,
        pictures=pictures,
        animations=stage.wanted(mp4=mp4, gif=gif, none=no_animation),
        palette=palette,
    )
    for note in done.notes:
        console.print(f"Note: {note}", markup=False)
    if done.leads:
        console.print(lead_table(list(done.leads), done.step, done.units["rmse"]))
        console.print(method_table(done.scores, done.units))
    elif done.scores:
        console.print(score_table({}, done.scores, done.units))
    told = f"{done.id}: {count(done.frames, 'frame')} of {done.shape[0]}x{done.shape[1]}"
    if done.since:
        from pipeline.outputs.layout import lasting

        told += f", one every {lasting(done.step)} from {done.since} on"
    console.print(told, markup=False)
    console.print(f"{done.format:<9} {done.file}", markup=False)
    for path in done.pictures:
        console.print(f"Picture   {path}", markup=False)
    for path in done.animations:
        console.print(f"Animation {path}", markup=False)
    finish_with(done.problems)
