"""Which of the scored frames a report shows, and of forecasts which windows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np

from pipeline.answers import MODEL
from pipeline.store import Store

Key = tuple[str, int]  # track, and number in it
Wetness = Mapping[Key, float]  # mean of a frame, mm

LOOP_FRAMES = 48
APART = 24 * 3600  # seconds, at least, between two frames that are shown for their rain
READ = 64  # frames at once
LATE = 1.5  # of the usual step: a longer one is a gap
WET_PART = 4  # of the windows of rain the wettest one in so many may be shown: most are dry


class Timed(Protocol):
    """A frame of some track."""

    @property
    def key(self) -> Key: ...
    @property
    def seconds(self) -> int: ...


T = TypeVar("T", bound=Timed)


@dataclass(frozen=True)
class Scored:
    """One frame of a track that was scored."""

    track: str
    number: int  # in the track
    time: str  # UTC, as in 2021-07-19T00:00Z
    satellite: str
    rmse: Mapping[str, float | None]  # by method
    reason: str = ""  # why it was chosen

    @property
    def key(self) -> Key:
        return self.track, self.number

    @property
    def seconds(self) -> int:
        """Since 1970."""
        return int(datetime.fromisoformat(self.time).timestamp())

    @property
    def when(self) -> str:
        return self.time.replace("T", " ").removesuffix("Z") + " UTC"


@dataclass(frozen=True)
class Window:
    """One forecast that was scored."""

    frames: tuple[Scored, ...]  # one per lead time
    reason: str = ""  # why it was chosen

    @property
    def track(self) -> str:
        return self.frames[0].track

    def rmse(self, row: str) -> float | None:
        """Over all lead times; None where no pixel was scored."""
        known = [rmse for frame in self.frames if (rmse := frame.rmse.get(row)) is not None]
        return math.sqrt(sum(rmse**2 for rmse in known) / len(known)) if known else None


def scored(by_frame: Mapping[str, Any]) -> list[Scored]:
    """Every frame of scores.json, track by track."""
    made = []
    for id, told in by_frame.items():
        rows = told["rmse"]
        for place, number in enumerate(told["frame"]):
            rmse = {row: values[place] for row, values in rows.items()}
            made.append(Scored(id, number, told["time"][place], told["satellite"][place], rmse))
    return made


def windows(by_frame: Mapping[str, Any]) -> list[Window]:
    """Every window of a forecast's scores.json, track by track."""
    made = []
    for id, told in by_frame.items():
        frames = scored({id: told})
        firsts = [place for place, lead in enumerate(told["lead"]) if lead == 0]
        made += [Window(tuple(frames[a:b])) for a, b in pairwise([*firsts, len(frames)])]
    return made


def chosen_windows(every: Sequence[Window], count: int, wet: Wetness | None = None) -> list[Window]:
    """So many, evenly from the smallest RMSE of the model to the largest; one alone from between.

    wet: of rain, of every frame; of the wettest windows only.
    """
    ranked = [window for window in every if window.rmse(MODEL) is not None] or list(every)
    among = "all windows"
    if wet is not None:
        ranked.sort(key=lambda window: -sum(wet[frame.key] for frame in window.frames))
        ranked = ranked[: max(count, -(-len(ranked) // WET_PART))]
        among = f"the {len(ranked)} wettest windows"
    ranked.sort(key=lambda window: window.rmse(MODEL) or 0.0)
    last = len(ranked) - 1
    wanted = np.linspace(0, last, min(count, len(ranked))) if count > 1 else np.array([last / 2])
    told = {round(last / 2): "A typical one: in the middle of", 0: "The smallest error of"}
    told |= {last: "The largest error of"} if last else {}
    return [
        replace(
            ranked[place],
            reason=f"{told.get(place, f'Number {place + 1} by its error, smallest first, of')} "
            f"{among}",
        )
        for place in wanted.round().astype(int).tolist()
    ]


def chosen(
    frames: Sequence[Scored], count: int, against: str, wet: Wetness | None = None
) -> list[Scored]:
    """The frames of the largest and the smallest gain, and `count` others.

    The others are spread over the tracks; of rain, where `wet` is known, they are the wettest,
    since most frames are dry. In the order of `frames`, each with the reasons for it. A gain is how
    much smaller the model's RMSE is than that of the method `against`.
    """
    reasons: dict[Key, str] = {}
    gains = {f.key: gain for f in frames if (gain := gain_of(f, against)) is not None}
    if len(gains) > 1:
        least, most = (pick(gains, key=lambda key: gains[key]) for pick in (min, max))
        reasons[most] = f"Largest gain over {against} of all frames"
        reasons[least] = f"Smallest gain over {against} of all frames"
        if gains[least] < 0:
            reasons[least] = f"Furthest behind {against} of all frames"
    if wet is None:
        for frame in spread([f for f in frames if f.key not in reasons], count):
            reasons[frame.key] = "Evenly spread over tracks and time"
    else:
        for place, frame in enumerate(wettest(frames, wet, count)):
            why = (
                "among the wettest, at least a day apart" if place else "the wettest of all frames"
            )
            said = reasons.get(frame.key)
            reasons[frame.key] = f"{said}; {why}" if said else why.capitalize()
    return [replace(frame, reason=reasons[frame.key]) for frame in frames if frame.key in reasons]


def gain_of(frame: Scored, against: str) -> float | None:
    ours, theirs = frame.rmse.get(MODEL), frame.rmse.get(against)
    return None if ours is None or theirs is None else theirs - ours


def spread(frames: Sequence[Scored], count: int) -> list[Scored]:
    """So many frames: as many of each track as can be, evenly within each."""
    tracks: dict[str, list[Scored]] = {}
    for frame in frames:
        tracks.setdefault(frame.track, []).append(frame)
    share = dict.fromkeys(tracks, 0)
    if count < len(tracks):  # evenly over the tracks too
        ids = list(tracks)
        for place in (np.arange(count) + 0.5) * len(ids) / max(count, 1):
            share[ids[int(place)]] = 1
    else:
        for _ in range(min(count, len(frames))):
            open_ = [id for id in tracks if share[id] < len(tracks[id])]
            share[min(open_, key=lambda id: share[id])] += 1
    return [
        tracks[id][int((k + 0.5) * len(tracks[id]) / n)]
        for id, n in share.items()
        for k in range(n)
    ]


def looped(frames: Sequence[Scored], most: int = LOOP_FRAMES) -> tuple[list[Scored], int]:
    """The frames of the track with most of them, and of how many each is one; none of one alone."""
    counts: dict[str, int] = {}
    for frame in frames:
        counts[frame.track] = counts.get(frame.track, 0) + 1
    if not counts or max(counts.values()) < 2:
        return [], 1
    id = max(counts, key=lambda id: counts[id])
    every = -(-counts[id] // most)
    return [frame for frame in frames if frame.track == id][::every], every


def wetness(opened: Store, keys: Iterable[Key], channel: int = 0) -> dict[Key, float]:
    """The mean of a channel over each of these frames, mm; 0 where no pixel was seen."""
    found: dict[Key, float] = {}
    wanted = set(keys)
    for id in sorted({id for id, _ in wanted}):
        numbers = [number for track, number in wanted if track == id]
        for first in range(min(numbers), max(numbers) + 1, READ):
            count = min(READ, max(numbers) + 1 - first)
            fields = opened.track(id).checked(first, count)[:, channel].astype(np.float64)
            seen = (~np.isnan(fields)).sum(axis=(1, 2))
            means = np.nansum(fields, axis=(1, 2)) / np.maximum(seen, 1)
            found |= {(id, first + place): float(mean) for place, mean in enumerate(means)}
    return {key: found[key] for key in wanted}


def wettest(frames: Sequence[T], wet: Wetness, count: int) -> list[T]:
    """So many, the wettest first, none within APART of another."""
    made: list[T] = []
    for frame in sorted(frames, key=lambda frame: -wet[frame.key]):
        if len(made) == count:
            break
        if all(abs(frame.seconds - other.seconds) >= APART for other in made):
            made.append(frame)
    return made


def wettest_stretch(
    frames: Sequence[Scored], wet: Wetness, most: int = LOOP_FRAMES
) -> list[Scored]:
    """At most so many consecutive frames of one track: those with most rain; none of one alone."""
    best: list[Scored] = []
    for part in unbroken(frames):
        rain = np.cumsum([0.0, *(wet[frame.key] for frame in part)])
        length = min(most, len(part))
        first = int(np.argmax(rain[length:] - rain[: len(rain) - length]))
        found = part[first : first + length]
        best = max(best, found, key=lambda part: (sum(wet[each.key] for each in part), len(part)))
    return best if len(best) > 1 else []


def unbroken(frames: Sequence[Scored]) -> list[list[Scored]]:
    """In pieces, each of one track and without a gap in time."""
    steps = [b.seconds - a.seconds for a, b in pairwise(frames) if a.track == b.track]
    longest = LATE * float(np.median(steps)) if steps else 0.0
    parts: list[list[Scored]] = []
    for frame in frames:
        last = parts[-1][-1] if parts else None
        if last and last.track == frame.track and frame.seconds - last.seconds <= longest:
            parts[-1].append(frame)
        else:
            parts.append([frame])
    return parts
