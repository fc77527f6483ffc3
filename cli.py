"""The command line: gathers the commands, and turns what goes wrong into a sentence and a code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import models
import pipeline

ROOT = Path(__file__).resolve().parent
for package in (models, pipeline):
    if Path(str(package.__file__)).resolve().parent.parent != ROOT:
        sys.exit(
            f"'{package.__name__}' was imported from {package.__file__}, not from {ROOT}: another "
            "project has a package of the same name. Install eddy in an environment of its own."
        )

from pipeline.commands import (
    compare,
    convert,
    demo,
    evaluate,
    export,
    help,
    infer,
    inspect,
    report,
    settings,
    split,
    train,
    upstream,
    verify,
)
from pipeline.commands.screen import complain, fail, stopped
from pipeline.errors import UserError


class Group(help.Group):
    """Turns a user's mistake into one sentence and an exit code; our own defects keep a trace."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            *others, last = error.args or ("",)
            for fault in others:
                complain(str(fault))
            fail(str(last), error.code)
        except BrokenPipeError:  # whoever reads our output has seen enough, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:
            if error.errno is None:
                raise
            fail(on_disk(error), 1)
        except KeyboardInterrupt as stop:  # where no command says what is kept
            stopped(stop, "nothing half written is left; the same command starts again")


def on_disk(error: OSError) -> str:
    """What the operating system refused, where, and the way out."""
    place = error.filename2 or error.filename  # the second is what a temporary was to become
    where = f"{place}: " if place else ""
    ways = {
        errno.ENOSPC: "free some space and run the same command again; what is finished is kept",
        errno.EDQUOT: "free some space and run the same command again; what is finished is kept",
        errno.EACCES: "choose a place that you may write to",
        errno.EROFS: "choose a place that you may write to",
    }
    way = ways.get(error.errno or 0)
    return f"{where}{(error.strerror or str(error)).lower()}" + (f"; {way}" if way else "")


def version(asked: bool) -> None:
    if asked:
        typer.echo(pipeline.software())
        raise typer.Exit


app = typer.Typer(cls=Group, no_args_is_help=True, pretty_exceptions_show_locals=False)


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=version, is_eager=True, help="Say which eddy this is."),
    ] = False,
) -> None:
    """From raw weather-satellite files to trained spatio-temporal models, through one Zarr store.

    Try `cli demo` first: it needs no data. `cli COMMAND --help` explains a command, and ends with
    examples to copy.

    Examples:
        cli demo
        Your own data, in the order of work:
        cli inspect data/WP --quick
        cli convert data/WP data/WP.zarr
        cli split data/WP.zarr --eval-ids 2015-2018 --test-ids 2019-2022
        cli train tempogan --store data/WP.zarr --run runs/first
        cli evaluate runs/first
        cli report runs/first
        cli infer runs/first data/WP/image/202107 --out 202107.nc --mode check
    """


# By panel, in the order of work.
COMMANDS: dict[str, tuple[Callable[..., int | None], ...]] = {
    "Start here": (demo.demo,),
    "Look": (inspect.inspect,),
    "Prepare data": (convert.convert, verify.verify, split.split),
    "Train": (train.train,),
    "Judge": (evaluate.evaluate, report.report, compare.compare),
    "Use": (infer.infer, export.export),
    "Experiment": (upstream.upstream,),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(cls=help.Command, rich_help_panel=panel)(command)
    if panel == "Train":
        app.add_typer(settings.app, name="settings", rich_help_panel=panel)


if __name__ == "__main__":
    app()
