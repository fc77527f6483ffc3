"""What commands say on the screen, and how they end."""

from __future__ import annotations

import typer
from rich.console import Console

MANY = 30  # rows of a table or list on the screen; the manifest has them all
SKIPPED = 3  # exit code: finished, with inputs left out

console = Console(soft_wrap=True, highlight=False)
complaints = Console(stderr=True, soft_wrap=True, highlight=False)


def fail(sentence: str, code: int) -> None:
    complaints.print("[bold red]Error:[/]", sentence.replace("[", r"\["))
    raise typer.Exit(code)


def finish_with(problems: list[str]) -> None:
    """Name the inputs that were left out; exit 3 when there are any."""
    for problem in problems[:MANY]:
        console.print("[yellow]Left out:[/]", problem.replace("[", r"\["))
    if len(problems) > MANY:
        console.print(f"... and {len(problems) - MANY} more")
    if problems:
        raise typer.Exit(SKIPPED)


def listed(ids: list[str]) -> str:
    return " ".join(ids[:8]) + (" ..." if len(ids) > 8 else "")


def brief(value: object) -> str:
    """For a cell: times without seconds, numbers without needless digits."""
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text[:13].replace("T", " ") + "h" if text[4:5] == "-" and "T" in text else text
