"""The command line: gathers the commands, and turns what goes wrong into a sentence and a code."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

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
    infer,
    inspect,
    report,
    split,
    train,
    upstream,
    verify,
)
from pipeline.commands.screen import fail
from pipeline.errors import UserError

INTERRUPTED = 130  # exit code


class Group(TyperGroup):
    """Turns a user's mistake into one sentence and an exit code; our own defects keep a trace."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            fail(str(error), error.code)
        except BrokenPipeError:  # whoever reads our output has seen enough, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:
            if error.errno is None:
                raise
            fail(on_disk(error), 1)
        except KeyboardInterrupt:
            fail("stopped; nothing half written is left. Run the same command again", INTERRUPTED)


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


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="From raw weather-satellite files to trained spatio-temporal models, through one Zarr "
    "store: inspect, convert, split, train, evaluate, report, infer. Try `cli demo` first.",
)

for command in (
    inspect.inspect,
    convert.convert,
    verify.verify,
    split.split,
    train.train,
    evaluate.evaluate,
    report.report,
    infer.infer,
    compare.compare,
    export.export,
    upstream.upstream,
    demo.demo,
):
    app.command()(command)


if __name__ == "__main__":
    app()
