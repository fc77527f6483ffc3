"""`cli train`."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pipeline.commands.screen import complaints, console
from pipeline.errors import UsageError


def train(
    config: Annotated[Path | None, typer.Argument(help="Settings, YAML or JSON.")] = None,
    store: Annotated[Path | None, typer.Option(help="Default: data/WP.zarr.")] = None,
    split: Annotated[
        Path | None, typer.Option(help="Default: data_manifest/STORE.split.json.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/MODEL-TIME.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE over the file, as in training.batch_size=8."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print all settings and stop.")] = False,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Short for --set training.devices=N.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what it would take: steps, memory, time."),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(help="With --dry-run: of a GPU, as 12GB; propose what fits into that."),
    ] = None,
) -> None:
    """Train a model into a run folder; --show lists every setting and its value.

    SIGTERM or Ctrl-C saves and stops; --resume goes on.

    Example: cli train configs/tempogan.yaml --store data/WP.zarr --run runs/first

    Example: cli train configs/tempogan.yaml --dry-run --memory 12GB
    """
    if memory and not dry_run:
        raise UsageError("--memory: what fits into so much is for a --dry-run to find out")
    if config and not config.is_file():  # said before torch is imported, which takes seconds
        raise UsageError(f"{config}: no such settings file")
    from pipeline import settings as run_settings
    from pipeline import train as stage
    from pipeline.reporting.words import count

    base = None
    if resume:
        if run is None:
            raise UsageError("--resume: say which run with --run DIR")
        base = run_settings.of_run(run)
    more = [*(set_ or ()), *([f"training.devices={devices}"] if devices else [])]
    settings, notes = run_settings.load(config, more, base)
    settings = run_settings.located(settings, store, split)
    for note in notes:
        complaints.print(f"Note: {note}")
    if show:
        console.print(run_settings.text(settings), end="")
        return
    if dry_run:
        rehearsed(settings, memory)
        return
    run = run or Path("runs") / f"{settings.model_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    done = stage.train(settings, run, resume=resume)
    if not done.first:
        return
    at = done.position
    console.print(
        f"{count(at.step, 'step')}, {count(at.epoch, 'epoch')}"
        + (f"; {done.stopped}" if done.stopped else "")
        + (
            f". Best validation RMSE {at.best:.3f} in epoch {at.best_epoch}"
            if at.best < math.inf
            else ""
        )
    )
    console.print(f"Run       {run}\nNext      cli evaluate {run}")


def rehearsed(settings: Any, memory: str | None) -> None:
    from pipeline import budget
    from pipeline import rehearse as stage

    done = stage.rehearse(settings, budget.bytes_of(memory) if memory else None)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for word, told in done.rows():
        table.add_row(Text(word), Text(told, overflow="fold"))
    console.print(table)
