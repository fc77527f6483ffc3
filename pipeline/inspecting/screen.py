"""What `cli inspect` shows on a terminal: tables as wide as it is, and a picture of one file."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.inspecting import words
from pipeline.inspecting.thumbnails import (
    HALF_BLOCK,
    MISSING_HERE,
    NO_VALUE,
    RAMP,
    Thumbnail,
    in_terminal,
)
from pipeline.inspecting.track_table import MANY, STORE, TREE, TREE_QUICK, prose, table_of
from pipeline.inspecting.words import Facts
from pipeline.pictures import Palette, look


def of(
    facts: Facts, thumbnails: Sequence[Thumbnail], console: Console, palette: Palette
) -> list[RenderableType]:
    """What to print, in order."""
    if facts["kind"] == "file":
        return of_file(facts, thumbnails[0], console, palette)
    if facts["kind"] == "store":
        return of_store(facts, console)
    return of_tree(facts, console)


def of_tree(facts: Facts, console: Console) -> list[RenderableType]:
    total, tracks = facts["totals"], facts["tracks"]
    parts: list[RenderableType] = [heading(f"Raw tree {facts['path']}")]
    parts += table_of(tracks, TREE_QUICK if facts["quick"] else TREE, console)
    low, high = (facts["channels"][0][end] for end in ("valid_min", "valid_max"))
    most = facts["settings"]["max_missing"]
    if facts["quick"]:
        parts.append(prose(
            "Looked at names, sizes and tables only: not known are missing pixels, blank and "
            "unreadable frames, other shapes, and so the triplets. Without --quick they are."
        ))  # fmt: skip
        if total["small_files"]:
            small = words.counted(total["small_files"], "file")
            told = f"{small} of less than a tenth of the typhoon's usual size: likely blank or cut."
            parts.append(prose(told))
    else:
        parts.append(prose(
            f"Missing: outside {low:g}..{high:g} {facts['channels'][0]['units']}. Flagged, so in "
            f"no triplet: blank, or more than {100 * most:.3g} % of a frame missing (too much)."
        ))  # fmt: skip
    parts.append(grid(words.totals_of_tree(facts)))
    for line in facts["duplicates"][:MANY]:
        parts.append(Text(f"Twice     {words.printable(line, longest=1000)}", style="yellow"))
    if len(facts["duplicates"]) > MANY:
        parts.append(Text(f"... and {len(facts['duplicates']) - MANY} more"))
    return parts


def of_store(facts: Facts, console: Console) -> list[RenderableType]:
    parts: list[RenderableType] = [heading(f"Store {facts['path']}")]
    parts += table_of(facts["tracks"], STORE, console)
    parts.append(grid(words.rows_of_store(facts)))
    if count := len(facts["problems"]):
        parts.append(Text(f"{words.counted(count, 'raw file')} left out of it; --json names them"))
    return parts


def of_file(
    facts: Facts, thumbnail: Thumbnail, console: Console, palette: Palette
) -> list[RenderableType]:
    parts: list[RenderableType] = [
        heading(f"H5 file {facts['path']}, {words.size(facts['bytes'])}")
    ]
    parts.append(contents(facts["contents"]))
    rows = [*words.attributes(facts["contents"]), *words.named(facts)]
    parts.append(grid([*rows, *words.worth(facts["image"], facts["settings"])]))
    coloured = is_coloured(console)
    style = look(facts["channels"][0], palette, facts.get("accumulation_hours"))
    parts.append(Text(""))
    parts += in_terminal(thumbnail.image, style, console.width, coloured=coloured)
    letters = "" if coloured else f" {RAMP[-1]} is cold, a space warm;"
    told = f"North is up, scale in {facts['image']['units']};{letters} missing: "
    key = (HALF_BLOCK * 2, MISSING_HERE) if coloured else NO_VALUE
    return [*parts, Text.assemble(told, key)]


def is_coloured(console: Console) -> bool:
    """Whether half-block characters would show as they are meant to."""
    plain = console.color_system in (None, "standard", "windows") or console.no_color
    return not plain and console.encoding.lower().startswith("utf")


def contents(entries: Sequence[Facts]) -> Table:
    heads = ("holds", "shape", "type", "chunks", "filters", "in the file", "unpacked")
    table = Table(*heads, box=None, padding=(0, 2, 0, 0))
    for entry in entries:
        name = Text(words.printable(entry["name"]))
        if entry["is"] != "dataset":
            table.add_row(name, Text(entry["is"]))
            continue
        table.add_row(
            name,
            "x".join(map(str, entry["shape"])) or "one value",
            Text(entry["dtype"]),
            "x".join(map(str, entry["chunks"])) if entry["chunks"] else "no",
            ", ".join(entry["filters"]) or "none",
            words.size(entry["stored"]),
            words.size(entry["plain"]),
        )
    return table


def heading(text: str) -> Text:
    return Text(text, style="bold")


def grid(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(words.printable(value, longest=400)))
    return table
