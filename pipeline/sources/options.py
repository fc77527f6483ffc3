"""How a source is to be read: what a user may say about fields, folders of pictures and digits.

The options of a conversion lie in its store with the other settings, so that `cli verify --source`
reads the source as `cli convert` did.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel

from pipeline.errors import UsageError

Regrid = Literal["bilinear", "nearest", "conservative"]
Basin = Literal["WP", "AU"]  # western North Pacific, around Australia
DURATION = re.compile(r"(\d+(?:\.\d+)?) *(min|minutes?|h|hours?|d|days?)", re.IGNORECASE)
SECONDS = {"m": 60, "h": 3600, "d": 86400}
TRACKS = ("day", "week", "month", "season", "year", "file", "none")


class Options(BaseModel, frozen=True, extra="forbid"):
    """Nothing given: a source is read as it lies there."""

    variables: tuple[str, ...] = ()  # names in the files; each a channel, or one per level
    basin: Basin | None = None  # of a release of typhoons that holds several
    levels: tuple[float, ...] = ()  # hPa, in the order of the channels; (): all, as in the file
    region: tuple[float, float, float, float] | None = None  # W, E, S, N in degrees
    resolution: float | None = None  # degrees; side of a cell after regridding
    regrid: Regrid | None = None  # None: conservative where coarser than the file, else bilinear
    covers: int | None = None  # seconds that each amount is of, where the file does not say
    accumulate: int | None = None  # seconds; sums of amounts and means of all else over so long
    track_by: str = "year"  # TRACKS, or a number of days as in 10d
    units: str | None = None  # of the values in the files, where those do not say, or say wrongly
    value_range: tuple[float, float] | None = None  # what black and white stand for in a picture
    step: int | None = None  # seconds between frames that bear no time of their own
    start: str | None = None  # of the first of them; 1970-01-01 if nothing is said
    clips: int | None = None  # drawn from each file of digits
    clip_frames: int | None = None  # of one clip
    digits: int | None = None  # in one clip
    image_size: int | None = None  # pixels, of the square that they move in
    seed: int | None = None  # of what is drawn

    def given(self) -> dict[str, Any]:
        """Those that were said, as plain data for JSON."""
        return self.model_dump(mode="json", exclude_defaults=True)


NONE = Options()
WORDS = {  # how the command line calls each
    "variables": "--variable",
    "basin": "--basin",
    "levels": "--levels",
    "region": "--region",
    "resolution": "--resolution",
    "regrid": "--regrid",
    "covers": "--covers",
    "accumulate": "--accumulate",
    "track_by": "--track-by",
    "units": "--units",
    "value_range": "--range",
    "step": "--step",
    "start": "--start",
    "clips": "--clips",
    "clip_frames": "--clip-frames",
    "digits": "--digits",
    "image_size": "--image-size",
    "seed": "--seed",
}
LIMITS = {  # of whole numbers: the least and the largest; a window of one frame has no step
    "clips": (1, 1_000_000),
    "clip_frames": (2, 10_000),
    "digits": (1, 100),
    "image_size": (1, 4096),
    "seed": (0, 2**63 - 1),
}


def asked(
    *,
    variable: Iterable[str] | None = None,
    basin: Basin | None = None,
    levels: str | None = None,
    region: str | None = None,
    resolution: float | None = None,
    regrid: Regrid | None = None,
    covers: str | None = None,
    accumulate: str | None = None,
    track_by: str | None = None,
    units: str | None = None,
    value_range: str | None = None,
    step: str | None = None,
    start: str | None = None,
    clips: int | None = None,
    clip_frames: int | None = None,
    digits: int | None = None,
    image_size: int | None = None,
    seed: int | None = None,
) -> Options:
    """The options in a user's words. Raises UsageError for what cannot be understood."""
    if resolution is not None and not 0 < resolution <= 90:
        raise UsageError(f"--resolution {resolution:g}: expected degrees, more than 0, as 0.25")
    if track_by is not None and track_by not in TRACKS and not re.fullmatch(r"[1-9]\d*d", track_by):
        raise UsageError(
            f"--track-by {track_by}: expected one of {', '.join(TRACKS)}, or days as in 10d"
        )
    if start is not None and not re.fullmatch(r"\d{4}-\d\d-\d\d([T ]\d\d(:\d\d)?)?", start):
        raise UsageError(f"--start {start}: expected a UTC time, as 2023-08-01 or 2023-08-01T06:00")
    if accumulate is not None and seconds("--accumulate", accumulate) % 3600:
        raise UsageError(f"--accumulate {accumulate}: expected whole hours or days, as 24h")
    whole = {
        "clips": clips,
        "clip_frames": clip_frames,
        "digits": digits,
        "image_size": image_size,
        "seed": seed,
    }
    for name, number in whole.items():
        least, largest = LIMITS[name]
        if number is not None and not least <= number <= largest:
            raise UsageError(f"{WORDS[name]} {number}: expected {least} to {largest}")
    return Options(
        variables=tuple(word for item in variable or () for word in split(item)),
        basin=basin,
        levels=numbers("--levels", levels) if levels else (),
        region=box(region) if region else None,
        resolution=resolution,
        regrid=regrid,
        covers=seconds("--covers", covers) if covers else None,
        accumulate=seconds("--accumulate", accumulate) if accumulate else None,
        track_by=track_by or NONE.track_by,
        units=units,
        value_range=ends(value_range) if value_range else None,
        step=seconds("--step", step) if step else None,
        start=start,
        **whole,
    )


def split(words: str) -> list[str]:
    return words.replace(",", " ").split()


def numbers(option: str, words: str) -> tuple[float, ...]:
    try:
        found = tuple(float(word) for word in split(words))
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise UsageError(f"{option} {words}: expected numbers with commas between them")
    if len(set(found)) < len(found):
        raise UsageError(f"{option} {words}: names one of them twice; give each once")
    return found


def box(words: str) -> tuple[float, float, float, float]:
    """W,E,S,N in degrees; W may be larger than E, for a box across the seam of longitudes."""
    try:
        west, east, south, north = (float(word) for word in split(words))
    except ValueError:
        raise UsageError(f"--region {words}: expected W,E,S,N in degrees, as 5,15,47,55") from None
    sound = all(-360 <= lon <= 360 for lon in (west, east)) and -90 <= south < north <= 90
    if not sound:
        raise UsageError(
            f"--region {words}: expected W,E,S,N in degrees, south below north within -90..90 "
            "and longitudes within -360..360"
        )
    return west, east, south, north


def ends(words: str) -> tuple[float, float]:
    found = numbers("--range", words)
    if len(found) != 2:
        raise UsageError(f"--range {words}: expected two values, of black and of white, as 150,330")
    return found[0], found[1]


def seconds(option: str, words: str) -> int:
    """10min, 24h or 1d, in seconds."""
    match = DURATION.fullmatch(words.strip())
    found = float(match[1]) * SECONDS[match[2][0].lower()] if match else 0
    if not found or found != int(found):
        raise UsageError(f"{option} {words}: expected a duration, as 10min, 6h or 1d")
    return int(found)


def said(seconds: float) -> str:
    """A duration for a sentence: 10 min, 6 h, 31 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0 and not (unit == "d" and seconds == 86400):
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
