"""What commands say on the screen, how they are stopped, and how they end."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console

from pipeline.commands.wide import Screen
from pipeline.interrupts import Terminated, is_another, terminable

MANY = 30  # rows of a table or list on the screen; the manifest has them all
SKIPPED = 3  # exit code: finished, with inputs left out
INTERRUPTED, TERMINATED = 130, 143  # exit codes: by Ctrl-C, by SIGTERM

typed: tuple[str, ...] = ()  # the words after `cli`
_led = False
console = Screen(soft_wrap=True, highlight=False)
complaints = Console(stderr=True, soft_wrap=True, highlight=False)


def fail(sentence: str, code: int, word: str = "Error") -> NoReturn:
    complain(sentence, word)
    raise typer.Exit(code)


def complain(sentence: str, word: str = "Error") -> None:
    from pipeline.progress import labelled

    complaints.print(labelled(word, sentence, "bold red"))


def note(sentence: object) -> None:
    """What to know beside the result: on standard error, as the stages' own notes are."""
    from pipeline.progress import say

    say(str(sentence))


@contextmanager
def starting() -> Iterator[None]:
    """While a command imports what it needs, which takes seconds."""
    from pipeline.progress import working

    with working("start", in_logs=False):
        yield


def told(word: str, value: object) -> None:
    """A line of the result: what it is, and where."""
    console.print(f"{word:<9} {value}", markup=False)


def next_step(*words: object) -> None:
    """The last line of a command: what to type next, ready to be copied; none where it is led."""
    if not _led:
        told("Next", command(*words))


@contextmanager
def led() -> Iterator[None]:
    """Inside, another command types what comes next."""
    global _led
    before, _led = _led, True
    try:
        yield
    finally:
        _led = before


def again(*without: str) -> list[str]:
    """The words that were typed, for good: without --dry-run, what goes with it, and those options.

    without: options that have values.
    """
    words = list(typed)
    valued = ("--json", "--memory", *without)
    for option in valued:
        while option in words:
            del words[words.index(option) : words.index(option) + 2]
    dropped = ("--dry-run", *(f"{option}=" for option in valued))
    return [word for word in words if not word.startswith(dropped)]


def command(*words: object) -> str:
    """`cli` and these words, as a shell takes them. Words in capitals are to be replaced."""
    return " ".join(["cli", *(shlex.quote(str(word)) for word in words)])


@contextmanager
def stoppable(way_on: str | Callable[[], str]) -> Iterator[None]:
    """Stopped inside, by Ctrl-C or SIGTERM, the command ends with what is kept and how to go on."""
    try:
        with terminable():
            yield
    except KeyboardInterrupt as stop:
        stopped(stop, way_on if isinstance(way_on, str) else way_on())


def stopped(stop: KeyboardInterrupt, way_on: str) -> NoReturn:
    code = TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    if is_another():
        raise typer.Exit(code)
    fail(way_on, code, "Stopped")


def finish_with(problems: list[str], *words: object) -> None:
    """Name the inputs that were left out, say what to type next; exit 3 if any were left out."""
    from pipeline.progress import labelled

    for problem in problems[:MANY]:
        console.print(labelled("Left out", problem))
    if len(problems) > MANY:
        console.print(f"... and {len(problems) - MANY} more")
    if words:
        next_step(*words)
    if problems:
        raise typer.Exit(SKIPPED)


def write_json(file: str | None, keys: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """What --json asks for: into that file, or on standard output, where nothing else is then.

    keys: what each of the facts means, for docs/commands.
    """
    assert keys.keys() == facts.keys()
    if file is None:
        return
    import sys

    from pipeline import atomic

    plain = as_plain(facts)
    if file == "-":
        sys.stdout.write(atomic.json_text(plain))
    else:
        atomic.write_json(Path(file), plain)
        told("JSON", file)


def as_plain(value: Any) -> Any:
    """As JSON knows it: paths are text, tuples lists, and what is not finite is null."""
    import math

    if isinstance(value, Mapping):
        return {str(key): as_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(each) for each in value]
    if isinstance(value, float):  # of numpy, too
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def ids_in(words: list[str] | None) -> list[str]:
    """The ids of an option that takes commas and may be repeated."""
    return [word for item in words or () for word in item.replace(",", " ").split()]


def listed(ids: list[str]) -> str:
    return " ".join(ids[:8]) + (" ..." if len(ids) > 8 else "")


def brief(value: object) -> str:
    """For a cell: times without seconds, numbers without needless digits."""
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text[:13].replace("T", " ") + "h" if text[4:5] == "-" and "T" in text else text
