"""Which hours of a track there are, and what each is worth: the same for a raw tree and a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from pipeline import windows
from pipeline.quality import Sums
from pipeline.store import BLANK, TOO_MANY_MISSING

SOUND, PARTLY, TOO_MANY, EMPTY = "sound", "partly missing", "too much missing", "blank"
UNREADABLE, OTHER_SHAPE, NO_FILE, UNKNOWN = "unreadable", "other shape", "no frame", "not read"
STATES = (SOUND, PARTLY, TOO_MANY, EMPTY, UNREADABLE, OTHER_SHAPE, NO_FILE, UNKNOWN)


def state(missing: float, flag: int) -> str:
    """One word for a frame that could be read."""
    if flag & BLANK:
        return EMPTY
    if flag & TOO_MANY_MISSING:
        return TOO_MANY
    return PARTLY if missing > 0 else SOUND


def hours_missing(times: np.ndarray) -> float:
    """Hours for which a track has no frame though its step says so; (n,) int64 seconds."""
    step = windows.usual_step(times)
    if not step:
        return 0.0
    steps = np.diff(times) // step
    return float((steps[steps > 1] - 1).sum() * step / 3600)


def satellite_changes(times: np.ndarray, satellites: Sequence[str]) -> list[list[str]]:
    """[time, from, to] wherever a frame's satellite is not the one before's."""
    return [
        [moment(times[i]), satellites[i - 1], satellites[i]]
        for i in range(1, len(satellites))
        if satellites[i] != satellites[i - 1]
    ]


def moment(seconds: int) -> str:
    """As the manifest writes a time: UTC, without a zone."""
    return str(np.datetime64(int(seconds), "s"))


def numbers(sums: Sums) -> dict[str, list[float | None]]:
    """Minimum, maximum, mean and standard deviation of each channel; None where nothing counted."""
    low, high = (np.where(sums.count > 0, end, np.nan) for end in (sums.min, sums.max))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums.sum / sums.count
        std = np.sqrt(np.maximum(sums.sum_of_squares / sums.count - mean**2, 0))
    named = {"min": low, "max": high, "mean": mean, "std": std}
    return {name: [plain(number) for number in each] for name, each in named.items()}


def plain(number: float) -> float | None:
    """A float that JSON can write; None for one that is not defined."""
    return float(number) if np.isfinite(number) else None


def shares(missing: Iterable[float]) -> dict[str, float | None]:
    """Mean and largest fraction missing of frames."""
    values = np.array(list(missing), float)
    if not len(values):
        return {"mean": None, "max": None}
    return {"mean": float(values.mean()), "max": float(values.max())}


def strip(by_frame: dict[str, list[Any]], step_seconds: int) -> list[dict[str, Any]]:
    """Runs of hours of one state: {state, start, steps, first, last}, gaps included.

    by_frame: `time` (ISO) and `state` of each frame. start and steps count in steps from the
    first frame on; a track of one frame has a step of an hour.
    """
    times = np.array(by_frame["time"], "datetime64[s]").astype(np.int64)
    if not len(times):
        return []
    step = step_seconds or 3600
    places = (times - times[0]) // step
    cells = [NO_FILE] * (int(places[-1]) + 1)
    for place, found in zip(places, by_frame["state"], strict=True):
        cells[int(place)] = found
    runs, start = [], 0
    for found, group in groupby(cells):
        count = len(list(group))
        first, last = (int(times[0]) + step * n for n in (start, start + count - 1))
        runs.append(
            {
                "state": found,
                "start": start,
                "steps": count,
                "first": moment(first),
                "last": moment(last),
            }
        )
        start += count
    return runs
