"""Scores as tables and sentences."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.commands.screen import MANY

SHOWN_LEADS = 12


def track_table(tracks: dict[str, Any], units: dict[str, str]) -> Table:
    """RMSE by track: the methods side by side."""
    rows = list(next(iter(tracks.values())))
    heads = [f"{row} [{units['rmse']}]" for row in rows]
    lines = {
        id: [f"{found[row]['rmse']:.3f}" for row in rows]
        for id, found in list(tracks.items())[:MANY]
    }
    table = number_table("RMSE of", heads, lines)
    if len(tracks) > MANY:
        table.add_row(f"and {len(tracks) - MANY} more")
    return table


def method_table(rows: dict[str, dict[str, float]], units: dict[str, str]) -> Table:
    """Every score, the methods side by side."""
    lines = {
        f"{name} [{unit}]": [f"{round(scores[name], 3) + 0.0:.3f}" for scores in rows.values()]
        for name, unit in units.items()
    }
    return number_table("score", list(rows), lines)


def lead_table(leads: list[dict[str, dict[str, float]]], step: int, unit: str) -> Table:
    """RMSE by lead time, the methods side by side; of many leads some, evenly."""
    from pipeline.outputs.layout import lasting

    last = len(leads) - 1
    some = sorted({round(i * last / max(1, SHOWN_LEADS - 1)) for i in range(SHOWN_LEADS)})
    lines = {
        lasting((lead + 1) * step): [f"{scores['rmse']:.3f}" for scores in leads[lead].values()]
        for lead in (some if last >= SHOWN_LEADS else range(last + 1))
    }
    return number_table(f"rmse [{unit}] after", list(leads[0]), lines)


def number_table(first: str, heads: list[str], lines: dict[str, list[str]]) -> Table:
    """Numbers, by name; on a narrow screen names and heads fold, but no number is cut."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column(Text(first), overflow="fold")
    for head, values in zip(heads, zip(*lines.values(), strict=True), strict=True):
        table.add_column(Text(head), overflow="fold", min_width=max(map(len, values)))
    for name, told in lines.items():
        table.add_row(Text(name), *(Text(value, no_wrap=True, overflow="ignore") for value in told))
    return table


def scored(frames: int, leads: int, tracks: int) -> str:
    """How much was scored; leads: lead times that each window has, 0 where there are none."""
    from pipeline.reporting.words import count

    if leads:
        what = f"{count(frames // leads, 'window')} of {count(leads, 'lead time')}, in"
    else:
        what = f"{count(frames, 'frame')} of"
    return f"{what} {count(tracks, 'track')}"


def beside(difference: tuple[float, float, float], unit: str, tracks: int) -> str:
    """A difference and its interval over so many tracks."""
    from pipeline.reporting.words import after
    from pipeline.resampling import FEW

    told, low, high = (f"{value:+.3f}" for value in difference)
    rough = f" ({tracks} tracks: rough)" if tracks < FEW else ""
    return f"{told}{after(unit)}, with 95 % between {low} and {high}{rough}"


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
            table.add_row(id, row, *(f"{round(scores[n], 3) + 0.0:.3f}" for n in names))
    return table
