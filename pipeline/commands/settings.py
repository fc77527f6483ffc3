"""`cli settings`."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pipeline import shipped
from pipeline.commands import completion, help
from pipeline.commands.arguments import Json, Set, flag, option
from pipeline.commands.screen import (
    complain,
    console,
    next_step,
    note,
    starting,
    told,
    write_json,
)
from pipeline.errors import UsageError

KEYS = {
    "settings": "all, by section",
    "changed": "those that differ from their defaults: by key value and default",
    "notes": "sentences",
}

app = typer.Typer(
    cls=help.Group,
    no_args_is_help=True,
    help="""Look at settings, check a file of them, list eddy's own.

    A settings file is YAML or JSON with the sections model, task, data, scaling and training; what
    it leaves out has its default. A run keeps all of its settings in settings.yaml.

    Examples:
        cli settings list
        cli settings show tempogan
        cli settings check my.yaml
    """,
)


@app.command("list", cls=help.Command)
def list_() -> None:
    """List the settings files that come with eddy, by name.

    A name is enough for `cli train`, `cli upstream` and `cli settings show`.

    Examples:
        cli settings list
    """
    names = shipped.names()
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    for name, sentence in names.items():
        table.add_row(Text(name, style="bold"), Text(sentence))
    console.print(table, soft_wrap=False)
    next_step("settings", "show", next(name for name in names if name.startswith("tempogan")))


@app.command(cls=help.Command)
def show(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG",
            help="A settings file, or one of eddy's own by name. Default: a model's defaults.",
            autocompletion=completion.configs,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="KEY",
            help="This setting, as training.lr, or section alone; may be repeated.",
            autocompletion=completion.keys,
        ),
    ] = None,
    changed: Annotated[
        bool, flag("--changed", "Only what differs from its default, beside that.")
    ] = False,
    model: Annotated[
        str | None,
        option(
            "NAME",
            "Of this model; short for --set model.name=NAME.",
            autocompletion=completion.models,
        ),
    ] = None,
    set_: Set = None,
    json: Json = None,
) -> None:
    """Show every setting with its value and meaning, as YAML to use.

    Examples:
        cli settings show tempogan
        cli settings show --model simvp > my.yaml
        cli settings show st_rainnet --changed
        cli settings show --only training.lr --only data
    """
    from pipeline import settings_file

    more = [*([f"model.name={model}"] if model else []), *(set_ or ())]
    given = settings_file.gathered(config, more)
    with starting():
        from pipeline import settings as run_settings

    experiment = None
    if config:
        checked = run_settings.checked(config, given)
        settings, notes, experiment = checked.settings, checked.notes, checked.upstream
    else:
        settings, notes = run_settings.of(given)
    keys = run_settings.asked(settings, only or None, experiment)
    differing = run_settings.changed(settings) if changed or json else {}
    write_json(
        json,
        KEYS,
        {
            "settings": {
                **({"upstream": experiment.model_dump(mode="json")} if experiment else {}),
                **settings.model_dump(mode="json"),
            },
            "changed": {key: {"value": v, "default": d} for key, (v, d) in differing.items()},
            "notes": notes,
        },
    )
    for sentence in notes:
        note(sentence)
    if not changed:
        console.print(
            run_settings.explained(settings, only or None, experiment), end="", markup=False
        )
        return
    table = Table("setting", "value", "default", box=None, padding=(0, 2, 0, 0))
    differing = {key: values for key, values in differing.items() if key in keys}
    if not differing:
        console.print("All have their defaults")
        return
    for key, values in differing.items():
        table.add_row(Text(key), *(Text(dumps(value), overflow="fold") for value in values))
    console.print(table)


@app.command(cls=help.Command)
def check(
    configs: Annotated[
        list[Path],
        typer.Argument(
            metavar="CONFIG",
            help="Settings files, or eddy's own by name.",
            autocompletion=completion.configs,
        ),
    ],
    set_: Set = None,
) -> None:
    """Say of each file whether it is fine, or what is wrong with it.

    Exit code 2 where one of them is wrong: an unknown key (with those near it), a value that is
    none, settings that contradict one another. Data are not looked at.

    Examples:
        cli settings check my.yaml
        cli settings check configs/*.yaml
    """
    from pipeline import settings_file

    wrong = 0
    for file in configs:
        try:
            given = settings_file.gathered(file, set_ or ())
            with starting():
                from pipeline import settings as run_settings

            found = run_settings.checked(file, given)
        except UsageError as error:
            for fault in error.args:
                complain(str(fault))
            wrong += 1
            continue
        told("Fine", f"{file}: {found.settings.model_name}" + (", upstream" * bool(found.upstream)))
        for sentence in found.notes:
            note(f"{file}: {sentence}")
    if wrong:
        raise typer.Exit(UsageError.code)
    sound = found.upstream is None
    next_step("train" if sound else "upstream", configs[-1], *(("--dry-run",) if sound else ()))


@app.command(cls=help.Command)
def schema(
    out: Annotated[Path | None, option("FILE", "Default: on the screen.")] = None,
) -> None:
    """Write the JSON Schema by which editors check settings files.

    They complete keys and show their meaning, too. Point yours at it: a first line
    `# yaml-language-server: $schema=FILE` in a YAML file, or "$schema": "FILE" in JSON.

    Examples:
        cli settings schema --out settings.schema.json
    """
    from pipeline import atomic

    with starting():
        from pipeline import settings_schema

    if out is None:
        console.print(settings_schema.text(), end="", markup=False)
        return
    atomic.refuse_place(out)
    atomic.write_json(out, settings_schema.schema())
    told("Schema", out)
