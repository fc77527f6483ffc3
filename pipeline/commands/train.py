"""`cli train`."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pipeline.commands import completion
from pipeline.commands.arguments import MACHINE, Json, Set, Split, flag, option, store_option
from pipeline.commands.screen import (
    INTERRUPTED,
    again,
    console,
    next_step,
    note,
    starting,
    stoppable,
    told,
    write_json,
)
from pipeline.errors import UsageError

AHEAD = "Before training"
KEYS = {
    "model": "its name",
    "parameters": "number by player (network with an optimizer)",
    "train_windows": "windows of the training tracks",
    "windows_per_epoch": "shown, crops counted",
    "eval_windows": "windows of the validation",
    "epochs": "of the training",
    "steps_per_epoch": "of all players",
    "steps": "of all epochs",
    "macs_per_answer": "multiplications and additions for the answer to one window",
    "macs_per_step": "and for all that a training step does with one window",
    "bytes_needed": "of a GPU's memory",
    "bytes_of_gpu": "the memory asked for or found; null: none",
    "fits": "which batch and patch fit into that; null: none was asked for",
    "seconds": "of all steps and validations, as estimated; null: too little memory",
    "timed": "what was timed here: device, seconds of a validation, load of the machine per core, "
    "reserved bytes, and by stage (in which the same players take part) its first step and "
    "number of steps, how many were timed, their windows, seconds of a whole step, of these "
    "waiting for data, and whether that is rough; null: too little memory",
}


def train(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG",
            help="Settings, YAML or JSON: a file, or one of eddy's own by name (`cli settings "
            "list`). Default: TempoGAN with eddy's own defaults.",
            autocompletion=completion.configs,
        ),
    ] = None,
    store: Annotated[
        Path | None,
        store_option("What `cli convert` wrote. Default: the settings' own, data/WP.zarr."),
    ] = None,
    split: Split = None,
    run: Annotated[
        Path | None,
        option(
            "DIR", "Run folder to make. Default: runs/MODEL-TIME.", autocompletion=completion.runs
        ),
    ] = None,
    resume: Annotated[
        bool, flag("--resume", "Go on from the last checkpoint of --run, bit for bit.")
    ] = False,
    set_: Set = None,
    dry_run: Annotated[
        bool, flag("--dry-run", "Only say what it would take: steps, memory, time.", AHEAD)
    ] = False,
    memory: Annotated[
        str | None,
        option(
            "SIZE",
            "With --dry-run: of a GPU, as 12GB; propose the batch and patch that fit.",
            AHEAD,
        ),
    ] = None,
    show: Annotated[bool, flag("--show", "Print all settings and stop.", AHEAD)] = False,
    devices: Annotated[
        int | None,
        option(
            "N", "GPUs that share each batch; short for --set training.devices=N.", MACHINE, min=1
        ),
    ] = None,
    json: Json = None,
) -> int | None:
    """Train a model into a run folder, or say what that would take.

    Reads a store and its split; writes settings.yaml, metrics.jsonl, tensorboard/, samples/ and
    checkpoints/ into the run folder. Ctrl-C or SIGTERM saves and stops; --resume goes on.
    `cli settings show` lists every setting with its meaning. --json is for --dry-run: metrics.jsonl
    has what a training came to.

    Examples:
        cli train tempogan --store data/WP.zarr --dry-run --memory 12GB
        cli train tempogan --store data/WP.zarr --run runs/first
        cli train --run runs/first --resume
        cli train my.yaml --set training.batch_size=4 --set training.lr=1e-4
        Some minutes of training without a GPU:
        cli train tempogan_cpu --run runs/small
    """
    if memory and not dry_run:
        raise UsageError("--memory: what fits into so much is for a --dry-run to find out")
    if json and not dry_run:
        raise UsageError("--json: is for --dry-run; a training's numbers are in metrics.jsonl")
    from pipeline import beforehand, settings_file

    base = None
    if resume:
        if run is None:
            raise UsageError("--resume: say which run with --run DIR, as in --run runs/first")
        base = settings_file.of_run(run)
    elif run and not (show or dry_run):
        beforehand.refuse_taken(run)
    more = [*(set_ or ()), *([f"training.devices={devices}"] if devices else [])]
    given = settings_file.gathered(config, more)
    if not show:
        beforehand.refuse_data_asked(given, base, store, split)
    with (
        stoppable("nothing was begun; the same command starts over"),
        starting(),
    ):
        from pipeline import settings as run_settings
        from pipeline import train as stage
        from pipeline.reporting.words import count

    settings, notes = run_settings.of(given, base)
    settings = run_settings.located(settings, store, split)
    for sentence in notes:
        note(sentence)
    if show:
        console.print(run_settings.text(settings), end="", markup=False)
        return None
    if dry_run:
        with stoppable("nothing was written; the same command starts over"):
            rehearsed(settings, memory, json)
        console.print("Nothing was written")
        next_step(*again())
        return None
    run = run or Path("runs") / f"{settings.model_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with stoppable(lambda: way_on(run)):  # before its first step, or a second time
        done = stage.train(settings, run, resume=resume)
    if not done.first:
        return None
    at = done.position
    console.print(
        f"{count(at.step, 'step')}, {count(at.epoch, 'epoch')}"
        + (f"; {done.stopped}" if done.stopped else "")
        + (
            f". Best validation RMSE {at.best:.3f}{done.unit} in epoch {at.best_epoch}"
            if at.best < math.inf
            else ""
        )
    )
    told("Run", run)
    if done.stopped.startswith("told to stop"):
        next_step("train", "--run", run, "--resume")
        return INTERRUPTED  # to `cli demo` alone: saved as it was asked to is no failure
    next_step("evaluate", run)
    return None


def way_on(run: Path) -> str:
    if (run / "checkpoints" / "last.ckpt").is_file():
        return f"the last checkpoint is kept; go on with: cli train --run {run} --resume"
    return "nothing was saved yet; the same command starts over"


def rehearsed(settings: Any, memory: str | None, json: str | None) -> None:
    from pipeline import budget
    from pipeline import rehearse as stage

    done = stage.rehearse(settings, budget.bytes_of(memory) if memory else None)
    pace = None if done.pace is None else asdict(done.pace)
    write_json(
        json,
        KEYS,
        {
            "model": settings.model_name,
            "parameters": done.parameters,
            "train_windows": done.train_windows,
            "windows_per_epoch": done.samples,
            "eval_windows": done.eval_windows,
            "epochs": settings.training.epochs,
            "steps_per_epoch": done.steps_per_epoch,
            "steps": done.total_steps,
            "macs_per_answer": done.forward_macs,
            "macs_per_step": done.step_macs,
            "bytes_needed": done.present.needs,
            "bytes_of_gpu": done.memory,
            "fits": done.fits() if done.memory else None,
            "seconds": done.seconds,
            "timed": pace,
        },
    )
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for word, sentence in done.rows():
        table.add_row(Text(word), Text(sentence, overflow="fold"))
    console.print(table)
