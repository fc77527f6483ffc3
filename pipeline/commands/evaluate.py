"""`cli evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pipeline import runs
from pipeline.commands.arguments import (
    DATA,
    MACHINE,
    OUTPUT,
    Device,
    On,
    Run,
    Which,
    option,
    store_option,
)
from pipeline.commands.screen import console, next_step, note, starting, stoppable, told
from pipeline.commands.tables import key, lead_table, method_table, scored, track_table, verdict

FORECASTS = "Forecasts"


def evaluate(
    run: Run,
    on: Annotated[Literal["eval", "test"], On] = "eval",
    checkpoint: Which = "best",
    site: Annotated[
        list[str] | None,
        option(
            "LAT,LON",
            "Follow this place date by date, degrees: 50.1,8.7, or @row,column; may be "
            "repeated. Default: of rain the wettest, the median and the driest.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        option(
            "N",
            "Frames ahead; beyond the trained ones on its own. Default: as trained.",
            FORECASTS,
            min=1,
        ),
    ] = None,
    store: Annotated[
        Path | None,
        store_option("Score on this store. Default: the run's own.", DATA),
    ] = None,
    split: Annotated[
        Path | None,
        option("FILE", "And by this split. Default: the run's own.", DATA),
    ] = None,
    arrays: Annotated[
        Path | None,
        option("DIR", "Keep inputs, truth and predictions here as .npy files, by track.", OUTPUT),
    ] = None,
    resamples: Annotated[
        int,
        option("N", "Draws of whole tracks for the 95 % intervals.", OUTPUT, min=100),
    ] = 1000,
    batch_size: Annotated[
        int,
        option("N", "Frames or windows at once; more are faster on a GPU.", MACHINE, min=1),
    ] = 1,
    workers: Annotated[
        int,
        option("N", "Processes, each with whole tracks.", MACHINE, min=1),
    ] = 1,
    device: Device = "auto",
) -> None:
    """Score a run on tracks that it has not seen, beside baselines.

    In kelvin or mm, with a 95 % interval over whole tracks. Writes scores.json (scores-test.json
    with --on test: all of it, for scripts) and scores.csv into the run folder.

    Examples:
        cli evaluate runs/first
        cli evaluate runs/first --on test --batch-size 16
        cli evaluate runs/ahead --steps 24 --arrays runs/ahead/arrays
    """
    from pipeline import beforehand

    runs.in_run(run, checkpoint)
    beforehand.refuse_data_of(run, store, split)
    with stoppable("no scores were written; the same command starts over"):
        with starting():
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
    for line in key(scores.rows, scores.units):
        console.print(line, markup=False)
    found = {row: scores.differences("model", row) for row in list(scores.rows)[1:]}
    if differences := {row: each["rmse"] for row, each in found.items() if each}:
        unit = scores.units["rmse"]
        for line in verdict(differences, scores.baseline, unit, len(scores.tracks)):
            console.print(line, markup=False)
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
    for sentence in done.notes:
        note(sentence)
    if done.sites:
        told("Sites", done.sites)
    if arrays:
        told("Arrays", arrays)
    told("Scores", done.file)
    next_step("report", run, *(("--on", "test") if on == "test" else ()))
