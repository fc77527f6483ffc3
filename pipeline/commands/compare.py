"""`cli compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline import runs as run_folders
from pipeline.commands import completion
from pipeline.commands.arguments import DATA, OUTPUT, Device, On, option, store_option
from pipeline.commands.screen import console, next_step, note, starting, stoppable, told
from pipeline.commands.tables import key, method_table, scored, verdict


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Two run folders or more, each after `cli evaluate`; the first is the measure.",
            autocompletion=completion.runs,
        ),
    ],
    on: Annotated[Literal["eval", "test"], On] = "eval",
    pictures: Annotated[int, option("N", "Frames to draw; of forecasts windows.", min=0)] = 3,
    out: Annotated[Path, option("DIR", "Folder to write.", OUTPUT)] = Path("comparison"),
    store: Annotated[
        Path | None,
        store_option("Take frames from this store. Default: the first run's own.", DATA),
    ] = None,
    device: Device = "auto",
) -> None:
    """Compare runs on the same tracks: differences with intervals, maps.

    Frame by frame against the first run: scores rise and fall together, so differences say more
    than two scores. Writes pictures and a JSON file with all of it.

    Examples:
        cli compare runs/first runs/second
        cli compare runs/first runs/second runs/third --on test --out thirds
    """
    from pipeline import beforehand

    run_folders.refuse_unscored(runs, on)
    if store:
        beforehand.refuse_no_store(store)
    with stoppable("the same command starts over"):
        with starting():
            from pipeline import compare as stage

        done = stage.compare(runs, out, on=on, count=pictures, store_path=store, device=device)
    console.print(method_table(done.rows, done.units))
    for line in key(done.rows, done.units):
        console.print(line, markup=False)
    first, unit = next(iter(done.rows)), done.units["rmse"]
    for run, by_score in done.differences.items():
        for line in verdict({first: by_score["rmse"]}, first, unit, done.tracks, run):
            console.print(line, markup=False)
    if not done.differences:
        console.print("One track: how far another might differ cannot be said")
    for sentence in done.notes:
        note(sentence)
    console.print(scored(done.frames, done.leads, done.tracks))
    told("All", done.file)
    for path in done.pictures:
        told("Picture", path)
    next_step("export", runs[0])
