"""`cli upstream`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import shipped
from pipeline.commands import completion
from pipeline.commands.arguments import Set, Split, flag, option, store_option
from pipeline.commands.screen import again, console, next_step, note, starting, stoppable, told
from pipeline.commands.tables import method_table


def upstream(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG",
            help="Settings of a training, and a section upstream; YAML or JSON, or one of eddy's "
            "own by name.",
            autocompletion=completion.configs,
        ),
    ],
    store: Annotated[
        Path | None,
        store_option("What `cli convert` wrote. Default: the settings' own."),
    ] = None,
    split: Split = None,
    out: Annotated[Path, option("DIR", "Folder to write.")] = Path("upstream"),
    seeds: Annotated[
        int | None,
        option("N", "Trainings of each arm. Default: the settings'.", min=1),
    ] = None,
    set_: Set = None,
    dry_run: Annotated[
        bool, flag("--dry-run", "Only say what would be trained; nothing is written.")
    ] = False,
) -> None:
    """Does what lies upstream of a region help to forecast it?

    Trains the same model with the region alone, with what lies upstream, and with controls, by
    several seeds, and judges all on the same windows, with intervals. Writes runs, tables,
    upstream.json and a page. Stopped, the same command goes on.

    Examples:
        cli upstream upstream --store data/rain.zarr --dry-run
        cli upstream upstream --store data/rain.zarr --out upstream
        More seeds, added to those that are done:
        cli upstream upstream --store data/rain.zarr --out upstream --seeds 10
    """
    shipped.find(config)  # a wrong name is said before torch is imported, which takes seconds
    with stoppable("nothing was begun; the same command starts over"), starting():
        from pipeline import settings as run_settings
        from pipeline import train as training
        from pipeline import upstream as stage
        from pipeline.experiment import plan
        from pipeline.reporting.words import after

    more = [*(set_ or ()), *([f"upstream.seeds={seeds}"] if seeds else [])]
    settings, asked, notes = plan.load(config, more)
    settings = run_settings.located(settings, store, split)
    for sentence in notes:
        note(sentence)

    def say(line: str) -> None:
        console.print(line, markup=False)

    if dry_run:
        for line in stage.rehearsed(settings, asked, out):
            say(line)
        console.print("Nothing was written")
        next_step(*again())
        return
    with stoppable(f"what was trained is kept in {out}; the same command goes on"):
        done = stage.upstream(settings, asked, out, train=training.train, say=say)
    found = done.findings
    units = {name: found.units if name == "rmse" else "1" for name in found.scores["upstream"]}
    console.print(method_table(found.scores, units))
    for each in found.deciding:
        gain = "{:.3f}{} [{:.3f}, {:.3f}]".format(each.gain[0], after(found.units), *each.gain[1:])
        console.print(f"{each.other} minus upstream: RMSE {gain}", markup=False)
    for sentence in (str(done.sees), *found.notes()):
        note(sentence)
    console.print(f"\n{found.verdict()}\n", markup=False)
    told("Page", done.page)
    told("All", done.file)
    next_step(*again("--seeds"), "--seeds", asked.seeds + 2)
