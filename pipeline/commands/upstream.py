"""`cli upstream`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.screen import complaints, console
from pipeline.commands.tables import method_table


def upstream(
    config: Annotated[
        Path, typer.Argument(help="Settings of a training, and a section upstream; YAML or JSON.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("upstream"),
    store: Annotated[Path | None, typer.Option(help="Default: the settings' own.")] = None,
    split: Annotated[
        Path | None, typer.Option(help="Default: data_manifest/STORE.split.json.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Trainings of each arm, instead of the settings'.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE over the file, as in upstream.min_reached=0.5."),
    ] = None,
) -> None:
    """Does what lies upstream of a region help to forecast it? With controls, seeds, intervals.

    Stopped, the same command goes on.

    Example: cli upstream configs/upstream.yaml --store data/rain.zarr --out upstream
    """
    from pipeline import settings as run_settings
    from pipeline import train as training
    from pipeline import upstream as stage
    from pipeline.experiment import plan
    from pipeline.reporting.words import after

    more = [*(set_ or ()), *([f"upstream.seeds={seeds}"] if seeds else [])]
    settings, asked, notes = plan.load(config, more)
    settings = run_settings.located(settings, store, split)
    for note in notes:
        complaints.print(f"Note: {note}")

    def say(line: str) -> None:
        console.print(line, markup=False)

    done = stage.upstream(settings, asked, out, train=training.train, say=say)
    found = done.findings
    units = {name: found.units if name == "rmse" else "1" for name in found.scores["upstream"]}
    console.print(method_table(found.scores, units))
    for each in found.deciding:
        gain = "{:.3f}{} [{:.3f}, {:.3f}]".format(each.gain[0], after(found.units), *each.gain[1:])
        console.print(f"{each.other} minus upstream: RMSE {gain}", markup=False)
    for note in (str(done.sees), *found.notes()):
        console.print("[yellow]Note:[/]", note.replace("[", r"\["))
    console.print(f"\n{found.verdict()}\n", markup=False)
    console.print(f"Page      {done.page}\nAll       {done.file}")
