"""The tracks of a tree or a store as a table, or as several where the terminal is narrow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.inspecting import words
from pipeline.inspecting.words import NOT_KNOWN, Facts

MANY = 30  # tracks of a table; --json and --html have them all


@dataclass(frozen=True)
class Column:
    """One column of the table of tracks."""

    head: str
    of: Callable[[Facts], str]
    group: str  # where the table is too wide, each group is a table of that name
    right: bool = True
    wraps: bool = False
    quiet: bool = False  # left out where it is 0 for every track, which the totals say too


def prose(text: str) -> Table:
    """Wrapped between words."""
    table = Table.grid()
    table.add_row(Text(text))
    return table


def table_of(
    tracks: Mapping[str, Facts], columns: Sequence[Column], console: Console
) -> list[RenderableType]:
    """One table, or where the console is too narrow for it one for each group of columns."""
    shown = chosen(tracks)
    columns = [
        column
        for column in columns
        if not column.quiet or any(column.of(track) not in ("0", "") for track in tracks.values())
    ]
    whole = drawn(shown, columns)
    if width_of(whole, console) <= console.width:
        parts: list[RenderableType] = [whole]
    else:
        parts = []
        for group in dict.fromkeys(column.group for column in columns):
            within = [column for column in columns if column.group == group]
            parts += [Text(group, style="italic"), drawn(shown, within), Text("")]
    if len(tracks) > len(shown):
        parts.append(prose(
            f"{len(shown)} of {len(tracks)} tracks are shown, those with most to see to first; "
            "--json and --html have them all"
        ))  # fmt: skip
    return [*parts, Text("")] if parts[-1] is whole else parts


def width_of(table: Table, console: Console) -> int:
    """What it would take where there was room enough."""
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum


def chosen(tracks: Mapping[str, Facts]) -> dict[str, Facts]:
    """All tracks where they are few; else those with most left out, flagged or absent."""
    if len(tracks) <= MANY:
        return dict(tracks)

    def trouble(item: tuple[str, Facts]) -> tuple[float, str]:
        names = ("unreadable", "other_shapes", "duplicates", "flagged", "hours_missing")
        return -sum(item[1].get(name) or 0 for name in names), item[0]

    return dict(sorted(tracks.items(), key=trouble)[:MANY])


def drawn(tracks: Mapping[str, Facts], columns: Sequence[Column]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("track", no_wrap=True)
    for column in columns:
        width = max(map(len, column.head.replace("\\[", "[").split("\n")))
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.head, justify=justify, no_wrap=not column.wraps, min_width=width)
    for id, track in tracks.items():
        table.add_row(id, *(cell(column.of(track)) for column in columns))
    return table


def cell(text: str) -> Text:
    """Zeros recede, so that what is there stands out."""
    return Text(text, style="dim" if text == "0" else "")


def count(name: str) -> Callable[[Facts], str]:
    """What was not read is not known; where no frame can be read there is nothing to know."""
    return lambda track: words.number(track[name]) if name in track else ""


def listed(name: str) -> Callable[[Facts], str]:
    return lambda track: str(len(track.get(name, ())))


def frame_shape(track: Facts) -> str:
    return "x".join(map(str, track["shape"][1:])) if track.get("shape") else NOT_KNOWN


def end(name: str) -> Callable[[Facts], str]:
    return lambda track: words.hour(track[name]).replace(":00", "h") if name in track else ""


def mean_share(track: Facts) -> str:
    share = (track.get("missing_fraction") or {}).get("mean")
    return NOT_KNOWN if share is None else f"{100 * share:.3g} %"


def first(track: Facts, name: str) -> str:
    value = track["statistics"][name][0]
    return "" if value is None else f"{value:.1f}"


def seen_by(track: Facts) -> str:
    """The satellites, in the order of their names, and how often one took over."""
    names = " ".join(name or "unknown" for name in track.get("satellites", ()))
    changes = len(track["satellite_changes"])
    return f"{names}, {words.counted(changes, 'change')}" if changes else names


def season(track: Facts) -> str:
    """And the name where it is known."""
    told = (str(part) for part in (track.get("season"), track.get("name")) if part)
    return words.printable(" ".join(told))


def step(track: Facts) -> str:
    """Hours between frames; nothing for a single frame."""
    minutes = track.get("step_minutes")
    return f"{minutes / 60:g}" if minutes else ""


def hours(track: Facts) -> str:
    return f"{track['hours_missing']:g}"


THERE, LACKS, REST, VALUES = (
    "What is there",
    "What is missing or wrong",
    "Where it is from, and the rest",
    "Values, of the first channel",
)

NAMED = (Column("season", season, THERE, right=False),)

ENDS = (
    Column("first hour\n\\[UTC]", end("start"), THERE, right=False),
    Column("last hour\n\\[UTC]", end("end"), THERE, right=False),
)

TIMES = (
    Column("step\n\\[h]", step, LACKS),
    Column("gaps", listed("gaps"), LACKS),
    Column("hours\nmissing", hours, LACKS, quiet=True),
)

WORTH = (
    Column("partly\nmissing", count("frames_with_missing_pixels"), LACKS, quiet=True),
    Column("too much\nmissing", count("too_many_missing"), LACKS, quiet=True),
    Column("blank", count("blank"), LACKS, quiet=True),
)

SEEN_BY = (
    Column("satellites", seen_by, REST, right=False, wraps=True),
    Column("size", lambda track: words.size(track["bytes"]), REST),
)

TABLES = (
    Column("frames\nwithout\nbest track", count("frames_without_best_track"), REST, quiet=True),
    Column(
        "best track\nrows without\nframe", count("best_track_rows_without_frame"), REST, quiet=True
    ),
)

TREE = (
    *NAMED,
    Column("frames", count("frames"), THERE),
    Column("triplets", count("triplets"), THERE),
    *ENDS,
    *TIMES,
    *WORTH,
    Column("un-\nreadable", count("unreadable"), LACKS, quiet=True),
    Column("other\nshape", count("other_shapes"), LACKS, quiet=True),
    Column("twice", count("duplicates"), LACKS, quiet=True),
    *SEEN_BY,
    Column("shape", frame_shape, REST),
    *TABLES,
)

TREE_QUICK = (
    *NAMED,
    Column("files", count("files"), THERE),
    Column("triplets\nat most", count("triplets_at_most"), THERE),
    *ENDS,
    *TIMES,
    Column("small\nfiles", count("small_files"), LACKS, quiet=True),
    Column("twice", count("duplicates"), LACKS, quiet=True),
    *SEEN_BY,
    *TABLES,
)

STORE = (
    Column("frames", count("frames"), THERE),
    Column("triplets", count("triplets"), THERE),
    *ENDS,
    *TIMES,
    *WORTH,
    Column("missing\nin all", mean_share, LACKS),
    *SEEN_BY,
    Column("shape", frame_shape, REST),
    *TABLES,
    Column("min", lambda track: first(track, "min"), VALUES),
    Column("max", lambda track: first(track, "max"), VALUES),
    Column("mean", lambda track: first(track, "mean"), VALUES),
    Column("std", lambda track: first(track, "std"), VALUES),
)
