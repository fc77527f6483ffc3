"""`cli evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands.arguments import Device, Which
from pipeline.commands.screen import console
from pipeline.commands.tables import beside, lead_table, method_table, scored, track_table


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    on: Annotated[Literal["eval", "test"], typer.Option(help="Which tracks.")] = "eval",
    checkpoint: Which = "best",
    store: Annotated[Path | None, typer.Option(help="Default: the run's own.")] = None,
    split: Annotated[Path | None, typer.Option(help="Default: the run's own.")] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Frames or windows at once; more are faster on a GPU.")
    ] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with whole tracks.")] = 1,
    resamples: Annotated[
        int, typer.Option(min=100, help="Draws of tracks for the 95 % intervals.")
    ] = 1000,
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="Follow this place date by date, 50.1,8.7 or @row,column; may be repeated. Rain: "
            "else the wettest, the median and the driest."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Forecasts: so many steps ahead; beyond the trained ones on its own."
        ),
    ] = None,
    arrays: Annotated[
        Path | None,
        typer.Option(help="Folder for inputs, truth and predictions as .npy files, by track."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Score a run on whole tracks that it has not seen, with the baselines beside it.

    Example: cli evaluate runs/first --on test

    Example: cli evaluate runs/forecast --steps 24 --arrays runs/forecast/arrays
    """
    from pipeline import evaluate as stage
    from pipeline.reporting.words import count

    done = stage.evaluate(
        run,
        on=on,
        which=checkpoint,
        store_path=store,
        split_path=split,
        device=device,
        batch_size=batch_size,
        processes=workers,
        resamples=resamples,
        sites=site or (),
        steps=steps,
        arrays=arrays,
    )
    scores = done.scores
    if len(scores.tracks) > 1:
        console.print(track_table(scores.tracks, scores.units))
    console.print(method_table(scores.rows, scores.units))
    if differences := scores.differences("model", scores.baseline):
        told = beside(differences["rmse"], scores.units["rmse"], len(scores.tracks))
        console.print(f"Model minus {scores.baseline}: RMSE {told}")
    else:
        console.print("One track: how far another might score otherwise cannot be said")
    if scores.is_forecast:
        step = scores.about["step_seconds"]
        console.print(lead_table(scores.leads, step, scores.units["rmse"]))
    left_out = f"; {count(done.left_out, 'flagged frame')} left out" if done.left_out else ""
    leads = len(scores.leads) if scores.is_forecast else 0
    rate = scores.frames / (leads or 1) / max(done.seconds, 1e-9)
    console.print(
        f"{scored(scores.frames, leads, len(scores.tracks))}{left_out}; "
        f"{rate:.2f} {'windows' if leads else 'frames'}/s"
    )
    for note in done.notes:
        console.print("[yellow]Note:[/]", note.replace("[", r"\["))
    if done.sites:
        console.print(f"Sites     {done.sites}")
    which = " --on test" if on == "test" else ""
    if arrays:
        console.print(f"Arrays    {arrays}")
    console.print(f"Scores    {done.file}\nNext      cli report {run}{which}")
