"""`cli inspect`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.commands.screen import SKIPPED, complaints, console, fail, finish_with


def inspect(
    path: Annotated[
        Path, typer.Argument(help="An H5 file, a tree of them or its archive, or a store.")
    ],
    ids: Annotated[list[str] | None, typer.Option(help="Only these typhoons; commas.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tree by its names, sizes and tables only.")
    ] = False,
    max_missing: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="As of `cli convert`: flag frames with more. 0.01."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that read a tree. Default: as needed.")
    ] = None,
    json: Annotated[
        str | None, typer.Option(metavar="FILE", help="Also write all of it here; - for stdout.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a page with pictures.")
    ] = None,
    palette: Annotated[
        Literal["enhanced", "grey"], typer.Option(help="Colours of cold cloud, or grey alone.")
    ] = "enhanced",
) -> None:
    """Look at raw files or a store: what is there, what is wrong, what converting would give.

    Example: cli inspect data/WP --html WP.html
    """
    from pipeline import inspection as stage

    chosen = [word for item in ids or () for word in item.replace(",", " ").split()]
    to_stdout = json == "-"
    data = Path(json) if json and not to_stdout else None
    stage.refuse_places(data, html)
    done = stage.inspect(
        path,
        ids=chosen,
        workers=workers,
        quick=quick,
        max_missing=max_missing,
        pictures=html is not None,
    )
    if to_stdout:
        sys.stdout.write(stage.as_json(done))
    else:
        for part in stage.screen(done, console, palette):
            console.print(part)
    stage.write(done, data, html, palette)
    if not to_stdout:
        for file in filter(None, (data, html)):
            console.print(f"Written   {file}", markup=False)
    for note in done.notes:
        complaints.print("[yellow]Note:[/]", note.replace("[", r"\["))
    if done.refusal:
        fail(done.refusal, 1)
    if to_stdout and done.problems:
        raise typer.Exit(SKIPPED)
    finish_with(done.problems)
