"""Times of gridded data: read from a file, added up to longer steps, cut into tracks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np

UNITS = re.compile(
    r"\s*([a-z]+)\s+since\s+(\d{1,4})-(\d{1,2})-(\d{1,2})"
    r"(?:[T ]+(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.\d*)?)?)?\s*"
    r"(?:UTC|GMT|Z|[+-]00:?(?:00)?)?\s*",
    re.IGNORECASE,
)
SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hr": 3600}
SECONDS |= {"hour": 3600, "d": 86400, "day": 86400}
ABSOLUTE = "day as %Y%m%d.%f"  # CDO's absolute times
CALENDARS = ("standard", "gregorian", "proleptic_gregorian", "")
SEASONS = ("DJF", "MAM", "JJA", "SON")
DAY = 86400
DATE_IN_NAME = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_]?([01]\d)[-_]?([0-3]\d)(?:[-_T]?([0-2]\d)(?:[-_:]?([0-5]\d))?)?"
)


class MissingTime(ValueError):
    """One of many times is missing or makes no sense; the others may be right."""


def times(values: np.ndarray, attrs: Mapping[str, Any]) -> np.ndarray:
    """(n,) int64 seconds since 1970, UTC, of a CF time variable; rounded to whole seconds.

    Raises ValueError for another calendar than ours and units that are not understood, MissingTime
    for a time that is missing.
    """
    calendar = str(attrs.get("calendar", "")).lower()
    if calendar not in CALENDARS:
        raise ValueError(f"its calendar is {calendar!r}; expected the standard one")
    units = str(attrs.get("units", ""))
    if units == ABSOLUTE:
        return absolute(values)
    match = UNITS.fullmatch(units)
    word = match[1].lower() if match else ""
    size = SECONDS.get(word, SECONDS.get(word.removesuffix("s")))
    if match is None or size is None:
        raise ValueError(f"its time has units {units!r}; expected such as 'hours since 1900-01-01'")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[1:])
    try:
        since = np.datetime64(f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    except ValueError:
        raise ValueError(f"its time has units {units!r}, which is no date") from None
    if since < np.datetime64("1582-10-15") and calendar != "proleptic_gregorian":
        raise ValueError(f"its times count from {match[2]}, before the Gregorian calendar")
    seconds = values.astype(np.float64) * size
    if not (np.abs(seconds) < 1e12).all():
        raise MissingTime("a time is missing or absurd")
    whole = values.astype(np.int64) * size if values.dtype.kind in "iu" else np.rint(seconds)
    return since.astype("datetime64[s]").astype(np.int64) + whole.astype(np.int64)


def absolute(values: np.ndarray) -> np.ndarray:
    """(n,) int64 seconds since 1970 of days as 20230601.25; rounded to whole seconds."""
    days = np.floor(values.astype(np.float64))
    try:
        since = np.array([f"{int(day) // 10000:04}-{int(day) // 100 % 100:02}-{int(day) % 100:02}"
                          for day in days], "datetime64[s]")  # fmt: skip
    except (ValueError, OverflowError):
        raise MissingTime(f"a time in {ABSOLUTE!r} is missing, or no date") from None
    return since.astype(np.int64) + np.rint((values - days) * DAY).astype(np.int64)


def named(path: Path) -> int | None:
    """The time in a file's name, as in tp_1950-08-01.nc or 20201031_0510.nc; None without one."""
    match = DATE_IN_NAME.search(path.stem)
    if match is None:
        return None
    year, month, day, hour, minute = (int(part or 0) for part in match.groups())
    try:
        moment = np.datetime64(f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}")
    except ValueError:
        return None
    return int(moment.astype("datetime64[s]").astype(np.int64))


def rhythm(seconds: np.ndarray) -> Literal["monthly", "daily", "other"]:
    """Of times, (n,) in order: one in each month always at the same day and hour, or else one a
    day or fewer at 00 UTC; of one hour alone nothing is known.
    """
    if are_monthly(seconds) and not (seconds % DAY).any():
        return "monthly"
    return "daily" if len(seconds) > 1 and not (seconds % DAY).any() else "other"


def are_monthly(seconds: np.ndarray) -> bool:
    """Whether at least two times are one in each month, always on the same day of it."""
    if len(seconds) < 2:
        return False
    moments = seconds.astype("datetime64[s]")
    months = moments.astype("datetime64[M]").astype(np.int64)
    days = (moments.astype("datetime64[D]") - moments.astype("datetime64[M]")).astype(np.int64)
    far = np.diff(seconds) >= 28 * DAY
    return bool((np.diff(months) >= 1).all() and far.all() and (days == days[0]).all())


def month_seconds(second: int) -> int:
    """The length of the calendar month that a time lies in."""
    month = np.datetime64(second, "s").astype("datetime64[M]")
    first, after = (m.astype("datetime64[s]").astype(np.int64) for m in (month, month + 1))
    return int(after - first)


def track_of(second: int, file: str, by: str) -> str:
    """The track that a frame belongs to. by: as in options.TRACKS, or days as in 10d.

    Winter belongs to the year of its January; blocks of days count from each first of January.
    """
    day = np.datetime64(second, "s").astype("datetime64[D]").item()
    assert isinstance(day, date)
    if by == "year":
        return f"{day.year:04}"
    if by == "season":
        return f"{day.year + (day.month == 12):04}-{SEASONS[day.month % 12 // 3]}"
    if by == "month":
        return f"{day.year:04}-{day.month:02}"
    if by == "week":
        year, week, _ = day.isocalendar()
        return f"{year:04}-W{week:02}"
    if by == "day":
        return day.isoformat()
    if by in ("file", "none"):
        return file
    days = int(by.removesuffix("d"))
    january = date(day.year, 1, 1)
    first = january.toordinal() + (day - january).days // days * days
    return date.fromordinal(first).isoformat()


def fit_name(words: str) -> str:
    """Words as a track's id: letters, digits, dots, hyphens and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", words).strip("._-") or "track"
