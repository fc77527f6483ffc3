"""Writes the pages of this folder from what each command says of itself: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

import cli
from pipeline.commands import help

HERE = Path(__file__).parent

MADE = "<!-- Made from --help by `make docs`; edit the command's docstring and options. -->"


def pages() -> dict[str, str]:
    """By file name, the text of every page."""
    group: Any = typer.main.get_command(cli.app)
    context = typer.Context(group, info_name="cli")
    made = {"README.md": index(group, context)}
    for command, its in help.commands_of(group, context):
        made[file_of(its)] = text_of(command, its)
    return made


def file_of(context: Any) -> str:
    return "-".join(context.command_path.split()[1:]) + ".md"


def index(group: Any, context: Any) -> str:
    page = help.page_of(group, context)
    lines = ["# The commands", "", MADE, "", *paragraphs(page.about), *examples(page.examples)]
    for panel, names in page.commands.items():
        lines += [f"## {panel}", "", *table("command", "what it does", linked(names)), ""]
    return "\n".join([*lines, "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 finished with "
                      "inputs left out (each is named), 130 stopped by Ctrl-C, 143 by SIGTERM.",
                      "", "`cli --install-completion` makes Tab complete commands, options, runs, "
                      "settings, stores and typhoons in bash, zsh and fish.", ""])  # fmt: skip


def linked(names: dict[str, str], above: str = "") -> dict[str, str]:
    """Of each command a link to its page, and what it does."""
    return {
        f"[`cli {above.replace('-', ' ')}{name}`]({above}{name}.md)": cell(told)
        for name, told in names.items()
    }


def text_of(command: Any, context: Any) -> str:
    page = help.page_of(command, context)
    lines = [f"# {context.command_path}", "", MADE, "", *paragraphs(page.about)]
    lines += ["```text", page.usage, "```", "", *examples(page.examples)]
    for name, parameters in page.panels.items():
        rows = {title(each): meaning(each) for each in parameters}
        heads = ("argument" if name == help.ARGUMENTS else "option", "meaning")
        lines += [f"## {name}", "", *table(*heads, rows), ""]
    above = file_of(context).removesuffix(".md") + "-"
    for name, names in page.commands.items():
        lines += [f"## {name}", "", *table("command", "what it does", linked(names, above)), ""]
    for when, keys in page.json.items():
        rows = {f"`{key}`": cell(told) for key, told in keys.items()}
        head = f"## What --json writes{' ' if when else ''}{when}"
        lines += [head, "", *table("key", "meaning", rows), ""]
    return "\n".join([*lines, "[All commands](README.md)", ""])


def paragraphs(about: list[str]) -> list[str]:
    return [line for paragraph in about for line in (cell(paragraph), "")]


def examples(lines: list[str]) -> list[str]:
    """A block to copy from; sentences between the commands are its comments."""
    if not lines:
        return []
    told = [line if line.startswith("cli ") else f"# {line.rstrip(':')}" for line in lines]
    return ["```sh", *told, "```", ""]


def table(first: str, second: str, rows: dict[str, str]) -> list[str]:
    return [f"| {first} | {second} |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows.items())]


def title(each: help.Parameter) -> str:
    return cell(f"`{each.name}{' ' if each.value else ''}{each.value}`")


def meaning(each: help.Parameter) -> str:
    told = [each.help, f"Default: {each.default}." if each.default else ""]
    return cell(" ".join(filter(None, [*told, "**Required.**" if each.required else ""])))


def cell(text: str) -> str:
    """For Markdown, in a table too, without the backslash that typer wants before a bracket."""
    text = re.sub(r"\bdocs/(\w+\.md)", r"[docs/\1](../\1)", text)
    return text.replace("\\[", "[").replace("|", "\\|")


def main() -> None:
    made = pages()
    for stale in {file.name for file in HERE.glob("*.md")} - made.keys():
        (HERE / stale).unlink()
    for name, text in made.items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
