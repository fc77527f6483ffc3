"""`cli report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pipeline import runs
from pipeline.commands.arguments import DATA, OUTPUT, Device, On, Run, option, store_option
from pipeline.commands.screen import console, next_step, starting, stoppable, told


def report(
    run: Run,
    on: Annotated[Literal["eval", "test"], On] = "eval",
    frames: Annotated[
        int,
        option(
            "N",
            "Frames to show, beside those of the largest and smallest gain; of a forecast windows.",
            min=1,
        ),
    ] = 3,
    out: Annotated[
        Path | None,
        option(
            "FILE",
            "Default: report.html in the run folder, report-test.html with --on test.",
            OUTPUT,
        ),
    ] = None,
    store: Annotated[
        Path | None,
        store_option("Take frames from this store. Default: the one that was scored.", DATA),
    ] = None,
    device: Device = "auto",
) -> None:
    """Make one page of a run's scores, curves and pictures.

    After `cli evaluate`, whose scores it reads. Writes one HTML file that opens in any browser,
    offline: mail it as it is.

    Examples:
        cli report runs/first
        cli report runs/first --on test --frames 6 --out first.html
    """
    from pipeline import beforehand

    runs.refuse_unscored([run], on)
    if store:
        beforehand.refuse_no_store(store)
    with stoppable("no page was written; the same command starts over"):
        with starting():
            from pipeline import report as stage
            from pipeline.reporting.words import count, size

        done = stage.report(run, on=on, out=out, frames=frames, store_path=store, device=device)
    loop = f", and a loop of {done.loop}" if done.loop else ""
    console.print(f"{count(done.stills, done.shown)}{loop}; {size(done.size)}")
    told("Report", done.file)
    next_step("infer", run, "INPUT", "--out", "out.nc")
