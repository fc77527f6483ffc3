"""Scores as tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.commands.screen import MANY, console

SHOWN_LEADS = 12
UNDEFINED = ("\N{EN DASH}", "none")  # and where the terminal has no such letter
ARROWS = {
    "lower": ("\N{DOWNWARDS ARROW}", "-"),
    "higher": ("\N{UPWARDS ARROW}", "+"),
    "zero": ("\N{RIGHTWARDS ARROW}0", "0"),
    "one": ("\N{RIGHTWARDS ARROW}1", "1"),
}


def track_table(tracks: dict[str, Any], units: dict[str, str]) -> Table:
    """RMSE by track: the methods side by side."""
    rows = list(next(iter(tracks.values())))
    heads = [f"{row} [{units['rmse']}]" for row in rows]
    lines = {
        id: cells([found[row]["rmse"] for row in rows], "lower")
        for id, found in list(tracks.items())[:MANY]
    }
    table = number_table("RMSE of", heads, lines)
    if len(tracks) > MANY:
        table.add_row(f"and {len(tracks) - MANY} more")
    return table


def method_table(rows: dict[str, dict[str, float]], units: dict[str, str]) -> Table:
    """Every score, the methods side by side."""
    lines = {
        named(name, unit): cells([scores[name] for scores in rows.values()], better(name))
        for name, unit in units.items()
    }
    return number_table("score", list(rows), lines)


def key(rows: Mapping[str, Mapping[str, float]], units: Mapping[str, str]) -> list[str]:
    """Lines below `method_table`: what its signs mean, and why a score is undefined."""
    from pipeline.reporting.tables import BETTER, needed
    from pipeline.reporting.words import listed

    ways = {better(name) for name in units}
    said = [", ".join(f"{shown(*ARROWS[way])} {BETTER[way]}" for way in ARROWS if way in ways)]
    undefined: dict[str, list[str]] = {}
    for name in units:
        if any(math.isnan(scores[name]) for scores in rows.values()):
            undefined.setdefault(needed(name), []).append(name)
    if undefined:
        why = [
            listed(names) + f" need{'s' * (len(names) == 1)} {what}" * bool(what)
            for what, names in undefined.items()
        ]
        said.append(f"{shown(*UNDEFINED)} undefined here: {'; '.join(why)}")
    return [line for line in said if line]


def better(name: str) -> str:
    """Which way: a key of ARROWS, or none."""
    from pipeline.metrics import ABOUT

    return ABOUT[name].better if name in ABOUT else "none"


def named(name: str, unit: str) -> str:
    """A score, behind the direction that is better, with its unit where it has one."""
    arrow = shown(*ARROWS.get(better(name), ("", "")))
    return f"{arrow:<2} {name}" + (f" [{unit}]" if unit != "1" else "")


def cells(values: Sequence[float], way: str) -> list[Text]:
    """Scores of one kind, with three decimals; the best is bold, where they differ.

    way: of ARROWS the direction that is better, or none.
    """
    from pipeline.reporting.tables import distance

    rounded = [None if math.isnan(value) else round(value, 3) + 0.0 for value in values]
    near = [distance(value, way) for value in rounded]
    return [
        Text(
            shown(*UNDEFINED) if value is None else f"{value:.3f}",
            style="bold" if value is not None and far == min(near) < max(near) else "",
        )
        for value, far in zip(rounded, near, strict=True)
    ]


def shown(letters: str, plain: str) -> str:
    """`letters`, or `plain` where the terminal's encoding has none of them."""
    try:
        letters.encode(console.encoding)
    except UnicodeEncodeError:
        return plain
    return letters


def lead_table(leads: list[dict[str, dict[str, float]]], step: int, unit: str) -> Table:
    """RMSE by lead time, the methods side by side; of many leads some, evenly."""
    from pipeline.outputs.layout import lasting

    last = len(leads) - 1
    some = sorted({round(i * last / max(1, SHOWN_LEADS - 1)) for i in range(SHOWN_LEADS)})
    lines = {
        lasting((lead + 1) * step): cells([of["rmse"] for of in leads[lead].values()], "lower")
        for lead in (some if last >= SHOWN_LEADS else range(last + 1))
    }
    return number_table(f"rmse [{unit}] after", list(leads[0]), lines)


def number_table(first: str, heads: list[str], lines: dict[str, list[Text]]) -> Table:
    """Numbers, by name; on a narrow screen names and heads fold, but no number is cut."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column(Text(first), overflow="fold")
    widths = [max(map(len, values)) for values in zip(*lines.values(), strict=True)]
    for head, width in zip(heads, widths, strict=True):
        table.add_column(Text(head), overflow="fold", min_width=width)
    for name, values in lines.items():
        for value, width in zip(values, widths, strict=True):
            value.no_wrap, value.overflow = True, "ignore"
            value.pad_left(width - len(value))  # so that decimals stand below one another
        table.add_row(Text(name), *values)
    return table


def scored(frames: int, leads: int, tracks: int) -> str:
    """How much was scored; leads: lead times that each window has, 0 where there are none."""
    from pipeline.reporting.words import count

    if leads:
        what = f"{count(frames // leads, 'window')} of {count(leads, 'lead time')}, in"
    else:
        what = f"{count(frames, 'frame')} of"
    return f"{what} {count(tracks, 'track')}"


def verdict(
    differences: Mapping[str, tuple[float, float, float]],
    against: str,
    unit: str,
    tracks: int,
    of: str = "the model",
) -> list[str]:
    """How far apart two RMSEs are, and which of the others that lets us tell from `of`.

    differences: RMSE of `of` minus each other's, with the ends of its 95 % interval, by the other's
    name; NaN where those are not known. against: the one of them whose difference is told.
    """
    from pipeline.reporting.words import listed
    from pipeline.resampling import FEW

    value, *ends = differences[against]
    said = f"The RMSE of {of} is {apart(value, unit)} than that of {against}"
    if any(map(math.isnan, ends)):
        return [said]
    if (ends[0] < 0) == (ends[1] < 0):
        near, far = sorted(ends, key=abs)
        between = f"{abs(near):.3f} and {apart(far, unit)}"
    else:
        between = " and ".join(apart(end, unit) for end in ends)
    rough = f" ({tracks} tracks: rough)" if tracks < FEW else ""
    groups: dict[str, list[str]] = {
        "smaller than": [],
        "larger than": [],
        "not told apart from": [],
    }
    for other, (_, low, high) in differences.items():
        if not math.isnan(low):
            word = (
                "smaller than" if high < 0 else "larger than" if low > 0 else "not told apart from"
            )
            groups[word].append(other)
    so = "; ".join(f"{word} that of {listed(others)}" for word, others in groups.items() if others)
    return [f"{said}, with 95 % between {between}{rough}", f"So its error is {so}"]


def apart(difference: float, unit: str) -> str:
    from pipeline.reporting.words import after

    return f"{abs(difference):.3f}{after(unit)} {'smaller' if difference < 0 else 'larger'}"


def score_table(
    tracks: dict[str, dict[str, dict[str, float]]],
    rows_of_all: dict[str, dict[str, float]],
    units: dict[str, str],
) -> Table:
    names = list(units)
    heads = (escape(f"{n} [{units[n]}]") for n in names)
    table = Table("track", "method", *heads, box=None, padding=(0, 2, 0, 0))
    each = list(tracks.items())[:MANY] if len(tracks) > 1 else []
    for id, rows in [*each, ("all", rows_of_all)]:
        for row, scores in rows.items():
            table.add_row(id, row, *(cells([scores[n]], "none")[0] for n in names))
    return table
