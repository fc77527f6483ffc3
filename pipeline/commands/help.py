"""How a command explains itself: what --help shows, and the same for docs/commands.

A command's docstring is its help. Its last part may be `Examples:`, lines that begin with `cli`,
each to be copied as it is, and sentences before those that need one.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

EXAMPLES = "Examples:"
PLAIN = "Options"  # the panel of options that name none
ARGUMENTS = "Arguments"


@dataclass(frozen=True)
class Parameter:
    """An argument or option."""

    name: str  # --codec, or STORE
    value: str  # what stands for its value; "" of a flag
    help: str
    default: str  # "" where there is none to tell
    required: bool


@dataclass
class Page:
    """All that a command says of itself."""

    usage: str
    about: list[str]  # paragraphs
    examples: list[str]  # lines; those that begin with `cli ` are commands
    panels: dict[str, list[Parameter]] = field(default_factory=dict)
    commands: dict[str, dict[str, str]] = field(default_factory=dict)  # of a group, by panel
    json: dict[str, dict[str, str]] = field(default_factory=dict)  # keys of --json, and when


def taken_apart(text: str) -> tuple[str, list[str]]:
    """A docstring without its examples, each paragraph one line; and the examples."""
    about, _, examples = inspect.cleandoc(text).partition(f"\n{EXAMPLES}\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in about.strip().split("\n\n")]
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    return "\n\n".join(paragraphs), lines


class Explained:
    """What commands and groups share: examples at the end, as lines that nothing breaks.

    Comes before typer's own class, whose methods it calls.
    """

    help: str | None

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.help, self.examples = taken_apart(self.help or "")

    def get_params(self, ctx: Any) -> list[Any]:
        return untyped(super().get_params(ctx))  # type: ignore[misc]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        legible()
        super().format_help(ctx, formatter)  # type: ignore[misc]
        show_examples(self.examples)


class Command(Explained, TyperCommand):
    """One command."""

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **more: Any) -> Any:
        from pipeline.commands import screen

        screen.console.quiet = False  # until --json - is read
        above = parent.command_path.split()[1:] if parent else []
        screen.typed = (*above, info_name, *args)
        try:
            return super().make_context(info_name, args, parent=parent, **more)
        except Exception as error:
            self.show_how(error)
            raise

    def show_how(self, error: Any) -> None:
        """An argument is missing or one too many: the message ends in an example."""
        example = next((line for line in self.examples if line.startswith("cli ")), "")
        kind = type(error).__name__  # of the click that typer has inside, or of click itself
        if example and kind == "MissingParameter":
            error.message = f"As in: {example}"
        elif example and kind == "UsageError":
            error.message = f"{error.message.rstrip('.')}. As in: {example}"


class Group(Explained, TyperGroup):
    """Several commands."""


def untyped(parameters: list[Any]) -> list[Any]:
    """Without `<bool>` behind a flag, which takes no value, and `<list[Path]>` behind SOURCE."""
    for each in parameters:
        if isinstance(each, TyperArgument) or each.is_flag:
            each.display_type_rich = lambda ctx: None
    return parameters


def legible() -> None:
    """Colours for light and dark terminals: neither dim nor yellow nor cyan, which vanish on white.

    Where typer has other names for them, they stay as typer has them.
    """
    from typer import rich_utils

    styles = {
        "OPTION": "bold",
        "SWITCH": "bold",
        "TYPES": "magenta",
        "TYPES_SEPARATOR": "magenta",
        "METAVAR": "magenta",
        "METAVAR_SEPARATOR": "magenta",
        "USAGE": "",
        "HELPTEXT": "",
        "OPTION_DEFAULT": "",
        "REQUIRED_LONG": "red",
        "OPTIONS_PANEL_BORDER": "",
        "COMMANDS_PANEL_BORDER": "",
        "COMMANDS_TABLE_FIRST_COLUMN": "bold",
        "ERRORS_SUGGESTION": "",
    }
    for name, style in styles.items():
        setattr(rich_utils, f"STYLE_{name}", style)


def show_examples(lines: Sequence[str]) -> None:
    from pipeline.commands.screen import console

    if not lines:
        return
    console.print(" [bold]Examples[/]")
    for line in lines:
        console.print(f"   {line}" if line.startswith("cli ") else f" {line}", markup=False)
    console.print()


def page_of(command: Any, ctx: Any) -> Page:
    """What `command` says of itself; ctx: its context, whose path the usage line begins with."""
    usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    page = Page(usage, (command.help or "").split("\n\n"), command.examples)
    if any(parameter.name == "json" for parameter in command.params):
        module = sys.modules[command.callback.__module__]
        told = {"": "KEYS", "with --dry-run": "DRY_KEYS"}
        page.json = {
            when: getattr(module, name) for when, name in told.items() if hasattr(module, name)
        }
    for parameter in command.get_params(ctx):
        if not parameter.hidden and parameter.name != "help":
            is_argument = isinstance(parameter, TyperArgument)
            panel = parameter.rich_help_panel or (ARGUMENTS if is_argument else PLAIN)
            page.panels.setdefault(panel, []).append(described(parameter, ctx))
    for name in command.list_commands(ctx) if isinstance(command, TyperGroup) else ():
        each = command.get_command(ctx, name)
        panel = getattr(each, "rich_help_panel", None) or "Commands"
        page.commands.setdefault(panel, {})[name] = first_sentence(each)
    first = [name for name in (ARGUMENTS, PLAIN) if name in page.panels]
    page.panels = {name: page.panels[name] for name in dict.fromkeys([*first, *page.panels])}
    return page


def first_sentence(command: Any) -> str:
    return " ".join((command.help or "").split("\n\n")[0].split())


def described(parameter: Any, ctx: Any) -> Parameter:
    given = parameter.get_default(ctx, call=False)
    is_told = parameter.show_default is not False and given not in (None, False, (), [])
    is_option = isinstance(parameter, TyperOption)
    shown = parameter.show_default if isinstance(parameter.show_default, str) else str(given)
    return Parameter(
        name=", ".join(parameter.opts) if is_option else parameter.metavar,
        value=(parameter.metavar or "") if is_option else "",
        help=" ".join((parameter.help or "").split()),
        default=shown if is_told or isinstance(parameter.show_default, str) else "",
        required=bool(parameter.required),
    )


def commands_of(group: Any, ctx: Any) -> Iterator[tuple[Any, Any]]:
    """Every command below a group, and groups too, each with its context, in order."""
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        inner = type(ctx)(command, info_name=name, parent=ctx)
        yield command, inner
        if isinstance(command, TyperGroup):
            yield from commands_of(command, inner)
