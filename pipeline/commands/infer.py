"""`cli infer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline import runs
from pipeline.commands import completion
from pipeline.commands.arguments import MACHINE, Device, Json, Which, flag, option
from pipeline.commands.screen import (
    again,
    console,
    finish_with,
    note,
    starting,
    stoppable,
    told,
    write_json,
)
from pipeline.commands.tables import lead_table, method_table, score_table

FORECASTS = "Forecasts"
PICTURES = "Pictures"
READING = "Input (NetCDF)"
KEYS = {
    "file": "the output, a file or folder",
    "format": "NetCDF, Zarr or GeoTIFF",
    "mode": "enhance, check or forecast",
    "track": "its id",
    "frames": "number that was written",
    "rows": "pixels of a frame",
    "columns": "pixels of a frame",
    "first": "time of the first frame",
    "last": "time of the last frame",
    "bytes": "of the output without pictures; with --dry-run before compression",
    "pictures": "files",
    "animations": "files",
    "scores": "with --mode check, by method, the model first",
    "scores_by_lead": "of a forecast, one such for each lead time",
    "units": "of the scores",
    "left_out": "files that could not be read, a sentence each",
    "notes": "sentences",
}


def infer(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Run folder, or a model that `cli export` made.",
            autocompletion=completion.runs,
        ),
    ],
    input: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="A typhoon's raw folder, one H5 file, a raw tree; NetCDF files; or a store.",
        ),
    ],
    out: Annotated[
        Path,
        option("PATH", "To write: a .nc file, a .zarr, or a folder of GeoTIFFs (.tif)."),
    ],
    mode: Annotated[
        Literal["enhance", "check", "forecast"] | None,
        option(
            "MODE",
            "enhance: frames finer than the input. forecast: those that come after it. check: "
            "coarsen and restore, or forecast, what is known, and compare. Default: enhance or "
            "forecast, as the model does.",
        ),
    ] = None,
    id: Annotated[
        str | None,
        option("ID", "Which typhoon, where there are several.", autocompletion=completion.ids),
    ] = None,
    dry_run: Annotated[
        bool, flag("--dry-run", "Only say what would be written: frames, size, times.")
    ] = False,
    checkpoint: Which = "best",
    ensemble: Annotated[
        int | None,
        option("N", "Mean and spread of so many of the run's weights: its checkpoints'.", min=2),
    ] = None,
    format: Annotated[
        Literal["netcdf", "zarr", "geotiff"] | None,
        option(
            "FORMAT",
            "netcdf, zarr, geotiff (one file per frame). Default: as the ending of --out says.",
        ),
    ] = None,
    pictures: Annotated[
        str,
        option(
            "WHICH", "How many PNGs, or all, none, or UTC hours 2021071900,2021071912.", PICTURES
        ),
    ] = "3",
    mp4: Annotated[
        bool,
        flag(
            "--mp4", "An animation of all frames as MP4. Default, unless --gif is given.", PICTURES
        ),
    ] = False,
    gif: Annotated[bool, flag("--gif", "As GIF instead; with --mp4 as both.", PICTURES)] = False,
    no_animation: Annotated[bool, flag("--no-animation", "Neither MP4 nor GIF.", PICTURES)] = False,
    palette: Annotated[
        Literal["enhanced", "grey"],
        option("enhanced|grey", "Colours of cold cloud, or grey alone.", PICTURES),
    ] = "enhanced",
    at: Annotated[
        str | None,
        option(
            "HOUR", "Forecast from this UTC hour, as 2021071912. Default: the latest.", FORECASTS
        ),
    ] = None,
    steps: Annotated[
        int | None,
        option("N", "Frames to forecast. Default: as many as trained.", FORECASTS, min=1),
    ] = None,
    variable: Annotated[
        list[str] | None,
        option("NAME", "Where it has another name than in training.", READING),
    ] = None,
    units: Annotated[
        str | None,
        option("UNITS", "Of its values, where the files do not say.", READING),
    ] = None,
    step: Annotated[
        str | None,
        option("TIME", "Between steps or files that bear no time, as 24h.", READING),
    ] = None,
    start: Annotated[
        str | None,
        option("DATE", "Time of the first of them, as 2023-08-01.", READING),
    ] = None,
    tile: Annotated[
        int,
        option(
            "PIXELS",
            "Side of what goes through the model at once, input pixels; smaller needs less memory.",
            MACHINE,
            min=1,
        ),
    ] = 256,
    device: Device = "auto",
    json: Json = None,
) -> None:
    """Run a model on a new typhoon or on gridded fields.

    Writes NetCDF, Zarr or GeoTIFFs in kelvin or mm, and beside them pictures and an animation, in a
    folder of the output's name; docs/PRODUCTS.md says what they hold. Stopped, the same command
    goes on.

    Examples:
        cli infer runs/first data/WP/image/202107 --out 202107.nc --dry-run
        cli infer runs/first data/WP/image/202107 --out 202107.nc
        Is it any good on this typhoon? Coarsen, restore, compare:
        cli infer runs/first data/WP/image/202107 --out check.nc --mode check
        The hours after a time, of a model that forecasts:
        cli infer runs/ahead data/WP/image/202107 --out next.nc --at 2021071912
    """
    runs.in_run(run, checkpoint)
    with stoppable(
        f"{out} is not written; frames that are done are kept, the same command goes on"
    ):
        with starting():
            from pipeline import infer as stage
            from pipeline.reporting.words import count
            from pipeline.reporting.words import size as in_bytes
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
            dry_run=dry_run,
        )
    write_json(
        json,
        KEYS,
        {
            "file": done.file,
            "format": done.format,
            "mode": done.mode,
            "track": done.id,
            "frames": done.frames,
            "rows": done.shape[0],
            "columns": done.shape[1],
            "first": done.times[0],
            "last": done.times[1],
            "bytes": done.bytes,
            "pictures": done.pictures,
            "animations": done.animations,
            "scores": done.scores,
            "scores_by_lead": done.leads,
            "units": done.units,
            "left_out": done.problems,
            "notes": done.notes,
        },
    )
    for sentence in done.notes:
        note(sentence)
    if done.leads:
        console.print(lead_table(list(done.leads), done.step, done.units["rmse"]))
        console.print(method_table(done.scores, done.units))
    elif done.scores:
        console.print(score_table({}, done.scores, done.units))
    what = f"{done.id}: {count(done.frames, 'frame')} of {done.shape[0]}x{done.shape[1]}"
    if done.since:
        from pipeline.outputs.layout import lasting

        what += f", one every {lasting(done.step)} from {done.since} on"
    console.print(what, markup=False)
    told("Times", f"{done.times[0]} to {done.times[1]}")
    size = f"about {in_bytes(done.bytes)} before compression" if dry_run else in_bytes(done.bytes)
    told(done.format, f"{done.file}, {size}")
    for path in done.pictures:
        told("Picture", path)
    for path in done.animations:
        told("Animation", path)
    words: list[object]
    if dry_run:
        console.print("Nothing was written")
        words = [*again()]
    elif done.mode != "check" and done.checkable:  # what it is worth
        beside = out.with_name(f"check-{out.name}")
        # of a forecast the hours are others
        hours = ("--at", "--pictures") if done.mode == "forecast" else ()
        words = [*again("--out", "--mode", *hours), "--out", beside, "--mode", "check"]
    else:  # what was exported is not exported once more
        words = ["export", run] if (run / "checkpoints").is_dir() else []
    finish_with(done.problems, *words)
