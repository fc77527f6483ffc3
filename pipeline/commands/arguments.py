"""Options that several commands have, and the panels that --help puts options in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands import completion

MACHINE = "Machine"
DATA = "Data"
OUTPUT = "Files"
SCRIPTS = "For scripts"


def as_json(ctx: typer.Context, file: str | None) -> str | None:
    """Refuses a place where no file can be written; for - nobody is spoken to on stdout."""
    from pipeline.commands.screen import console

    if not ctx.resilient_parsing:
        console.quiet = file == "-"
        if file and file != "-":
            from pipeline import atomic

            atomic.refuse_place(Path(file))
    return file


def flag(name: str, help: str, panel: str | None = None) -> Any:
    """An option without a value."""
    return typer.Option(name, help=help, rich_help_panel=panel)


Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=as_json,
        rich_help_panel=SCRIPTS,
        help="Also write the result here as JSON; - for standard output, and nothing else there.",
    ),
]
ManifestDir = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Where manifests and splits lie.", rich_help_panel=OUTPUT),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto (a GPU if there is one), cpu, cuda or cuda:1.",
        autocompletion=completion.devices,
        rich_help_panel=MACHINE,
    ),
]
Which = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        metavar="NAME",
        help="Which weights: best, last, or an epoch's, as in epoch-0010.",
        autocompletion=completion.checkpoints,
    ),
]
Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="Run folder, as `cli train` made it.",
        autocompletion=completion.runs,
    ),
]
On = typer.Option(metavar="eval|test", help="Which tracks of the split.")
Store = Annotated[
    Path,
    typer.Argument(
        metavar="STORE", help="What `cli convert` wrote.", autocompletion=completion.stores
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting, over the file's; may be repeated: --set training.batch_size=8.",
        autocompletion=completion.settings,
    ),
]
