"""Published ways of dividing Digital Typhoon, applied to whole tracks; what differs is said.

ss-l2: the last two seasons are the test. neurips23 (Kitamoto et al. 2023): frames of grade < 7
between 100 and 180 degrees east; seasons before 2005, 2005 to 2014, 2015 and later.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from pipeline.errors import UserError, few
from pipeline.store import Store, Track

Name = Literal["ss-l2", "neurips23"]
NAMES: tuple[str, ...] = get_args(Name)
TYPHOON = re.compile(r"(\d{4})\d{2}", re.ASCII)  # season and number
ENTERING = 7  # grades from here on are not of neurips23
WEST, EAST = 100.0, 180.0  # degrees east, both included
EVAL, TEST = 2005, 2015  # the first season of each part


@dataclass(frozen=True)
class Parts:
    """What a preset makes of a store's tracks; train is what is left."""

    eval: list[str] | None  # None: it leaves open which
    test: list[str]
    left_out: list[str]
    how: str


def parts(name: str, opened: Store) -> Parts:
    """The store's tracks divided as published.

    Raises UserError for tracks that are no typhoons or have no best track where it decides, and
    where a part would be empty.
    """
    seasons = {id: season(id) for id in opened.ids}
    if others := [id for id, year in seasons.items() if year is None]:
        raise UserError(
            f"{opened.path}: the preset {name} goes by seasons, and {few(others)} are no typhoons "
            "named by season and number as 202107; give --eval-ids"
        )
    years = {id: year for id, year in seasons.items() if year is not None}
    return ss_l2(opened, years) if name == "ss-l2" else neurips23(opened, years)


def season(id: str) -> int | None:
    match = TYPHOON.fullmatch(id)
    return int(match[1]) if match else None


def ss_l2(opened: Store, years: dict[str, int]) -> Parts:
    known = sorted(set(years.values()))
    if len(known) < 3:
        raise UserError(
            f"{opened.path}: the preset ss-l2 takes the last two seasons for the test, and here "
            f"are only {', '.join(map(str, known))}; give --eval-ids"
        )
    last = known[-2:]
    test = [id for id, year in years.items() if year in last]
    return Parts(None, test, [], f"preset ss-l2: test: the last two seasons, {last[0]}, {last[1]}")


def neurips23(opened: Store, years: dict[str, int]) -> Parts:
    inside = {id: frames_inside(opened.track(id)) for id in opened.ids}
    if without := [id for id, frames in inside.items() if frames is None]:
        raise UserError(
            f"{opened.path}: the preset neurips23 goes by grade and longitude, and {few(without)} "
            "have no best track; convert with metadata/ beside image/"
        )
    counts = {id: (int(f.sum()), len(f)) for id, f in inside.items() if f is not None}
    left_out = [id for id, (fit, _) in counts.items() if not fit]
    kept = [id for id in opened.ids if id not in set(left_out)]
    evaluated = [id for id in kept if EVAL <= years[id] < TEST]
    test = [id for id in kept if years[id] >= TEST]
    for part, ids, when in (
        ("train", [id for id in kept if years[id] < EVAL], f"before {EVAL}"),
        ("eval", evaluated, f"{EVAL} to {TEST - 1}"),
        ("test", test, f"from {TEST} on"),
    ):
        if not ids:
            raise UserError(
                f"{opened.path}: the preset neurips23 has no {part} tracks here: none of seasons "
                f"{when}; the store has {few(sorted({str(y) for y in years.values()}))}"
            )
    frames = sum(n for id, (_, n) in counts.items() if id in set(kept))
    stay = frames - sum(fit for fit, _ in counts.values())
    return Parts(
        evaluated,
        test,
        left_out,
        f"preset neurips23: train: seasons before {EVAL}; eval: {EVAL}-{TEST - 1}; test: from "
        f"{TEST} on; published are frames of grade < {ENTERING} within {WEST:g}..{EAST:g} E, here "
        f"whole tracks: {stay} of {frames} frames are others and stay in; left out: "
        f"{few(left_out) if left_out else 'no track'}" + (", without any" if left_out else ""),
    )


def frames_inside(track: Track) -> np.ndarray | None:
    """(T,) bool: which frames neurips23 is of, unknown ones not; None without best track."""
    if not (track.has("grade") and track.has("longitude")):
        return None
    grade, longitude = track.values("grade"), track.values("longitude") % 360
    inside: np.ndarray = (grade < ENTERING) & (longitude >= WEST) & (longitude <= EAST)
    return inside


def last_season(ids: Iterable[str]) -> list[str]:
    """The tracks of the latest season among these."""
    years = {id: season(id) or 0 for id in ids}
    return [id for id, year in years.items() if year == max(years.values())]
