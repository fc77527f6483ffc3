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


def option(metavar: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """An option with a value, named as its parameter is. more: of typer.Option."""
    return typer.Option(metavar=metavar, help=help, rich_help_panel=panel, **more)


def store_option(help: str, panel: str | None = None) -> Any:
    """Another store than the usual one."""
    return option("STORE", help, panel, autocompletion=completion.stores)


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
    option("DIR", "Where manifests and splits lie.", OUTPUT),
]
Device = Annotated[
    str,
    option(
        "NAME",
        "auto (a GPU if there is one), cpu, cuda or cuda:1.",
        MACHINE,
        autocompletion=completion.devices,
    ),
]
Which = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        metavar="NAME",
        help="Which weights: best, last, previous, an epoch's as in epoch-0010, or pretrained: a "
        "GAN's best from before its discriminators joined.",
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
On = option("eval|test", "Which tracks of the split.")
Split = Annotated[
    Path | None,
    option("FILE", "What `cli split` wrote. Default: data_manifest/STORE.split.json."),
]
Ids = Annotated[
    list[str] | None,
    option(
        "IDS",
        "Only these typhoons: 202107,202110. Default: all.",
        autocompletion=completion.ids,
    ),
]
Workers = Annotated[int | None, option("N", "Processes. Default: one per core.", MACHINE, min=1)]
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
