"""`cli inspect`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline.commands import onward
from pipeline.commands.arguments import MACHINE, OUTPUT, Ids, Json, flag, option
from pipeline.commands.screen import (
    console,
    fail,
    finish_with,
    ids_in,
    note,
    stoppable,
    told,
)


def inspect(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="An H5 file, a tree of them, its archive (all parts or one of them), or a store.",
        ),
    ],
    ids: Ids = None,
    quick: Annotated[
        bool, flag("--quick", "Of a tree read names, sizes and tables only: seconds, not minutes.")
    ] = False,
    max_missing: Annotated[
        float | None,
        option(
            "SHARE",
            "Flag frames that lack more of their pixels, as in `cli convert`. Default: 0.01.",
            min=0,
            max=1,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        option("FILE", "Also write a page with pictures.", OUTPUT),
    ] = None,
    palette: Annotated[
        Literal["enhanced", "grey"],
        option("enhanced|grey", "Colours of cold cloud, or grey alone.", OUTPUT),
    ] = "enhanced",
    json: Json = None,
    workers: Annotated[
        int | None,
        option("N", "Processes that read a tree. Default: as needed.", MACHINE, min=1),
    ] = None,
) -> None:
    """Look at raw files or a store before hours are spent on them.

    Says what is there, what is wrong (gaps, blank, damaged and double frames), and what converting
    would give: frames, triplets, GB. Nothing is written but what --json and --html ask for.

    Examples:
        cli inspect data/WP --quick
        cli inspect data/WP --html WP.html
        cli inspect data/WP/image/202107/2021071900-202107-HMW8-1.h5
        cli inspect data/WP.zarr --ids 202107
    """
    with stoppable("nothing was written; the same command starts over"):
        from pipeline import inspection as stage

        path = one_of(paths)
        data = Path(json) if json and json != "-" else None
        stage.refuse_places(data, html)
        done = stage.inspect(
            path,
            ids=ids_in(ids),
            workers=workers,
            quick=quick,
            max_missing=max_missing,
            pictures=html is not None,
        )
        if json == "-":
            sys.stdout.write(stage.as_json(done))
        else:
            for part in stage.screen(done, console, palette):
                console.print(part)
        stage.write(done, data, html, palette)
    for file in filter(None, (data, html)):
        told("Written", file)
    for sentence in done.notes:
        note(sentence)
    if done.refusal:
        fail(done.refusal, 1)
    finish_with(done.problems, *way_on(done.facts, path))


def one_of(paths: list[Path]) -> Path:
    """Several only where they are the parts of one archive. Raises UserError."""
    from pipeline.sources import archive

    return paths[0] if len(paths) == 1 else archive.one_source(paths)


def way_on(facts: dict[str, Any], path: Path) -> list[object]:
    """path: as it was given, of a track of a store too."""
    if facts["kind"] == "store":
        return onward.to_split(Path(facts["path"]))
    if facts["kind"] == "tree":
        return onward.to_convert(path)
    return ["inspect", path.parent]
