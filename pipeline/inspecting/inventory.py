"""A store as it says itself: what it was made of, what each track holds and what it is worth.

Metadata and small arrays are read, and every shard's index; frames only for pictures. `cli verify`
is what looks at every byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import provenance, room, store, windows
from pipeline.errors import UserError
from pipeline.inspecting import timeline
from pipeline.inspecting.thumbnails import SIDE, Thumbnail, allotted, shrunk, spread
from pipeline.progress import progress
from pipeline.quality import Sums
from pipeline.store import BLANK, TOO_MANY_MISSING, Store, Track

ABOUT = (
    "format_version",
    "software",
    "history",
    "title",
    "source",
    "license",
    "attribution",
    "projection",
    "pixel_km",
    "accumulation_hours",
    "manifest_hash",
)
SENSELESS = (KeyError, TypeError, IndexError, AttributeError)  # of metadata that another wrote
SUMMED = (
    "frames",
    "bytes",
    "frames_with_missing_pixels",
    "flagged",
    "too_many_missing",
    "blank",
    "triplets",
    "hours_missing",
)


def examine(
    path: Path, *, choose: Callable[[Sequence[str]], Sequence[str]], pictures: bool = False
) -> tuple[dict[str, Any], list[Thumbnail]]:
    """Facts of the store at `path`, plain data, and small pictures of a few frames.

    Raises UserError for what is no finished store, and for a damaged one.
    """
    opened = store.open_store(path)
    try:
        return facts(opened, list(choose(opened.ids)), pictures)
    except SENSELESS as error:
        raise UserError(
            f"{path}: its metadata make no sense ({error!r}); `cli verify {path}` tells which"
        ) from error


def facts(opened: Store, ids: list[str], pictures: bool) -> tuple[dict[str, Any], list[Thumbnail]]:
    tracks, sums, problems = {}, [], []
    shown = allotted(ids) if pictures and ids else {}
    thumbnails: list[Thumbnail] = []
    with progress("look through the store", len(ids), "tracks") as advance:
        for id in ids:
            track = opened.track(id)
            tracks[id], of_track = entry(track)
            sums.append(of_track)
            problems += record_of(track).get("problems", [])
            thumbnails += pictures_from(track, tracks[id]["by_frame"], shown.get(id, 0))
            advance()
    total: dict[str, Any] = {name: sum(t[name] for t in tracks.values()) for name in SUMMED}
    total["tracks"] = len(tracks)
    total["gaps"] = sum(len(t["gaps"]) for t in tracks.values())
    total["satellite_changes"] = sum(len(t["satellite_changes"]) for t in tracks.values())
    satellites = Counter[str]()
    for each in tracks.values():
        satellites.update(each["satellites"])
    total["satellites"] = dict(sorted(satellites.items()))
    total["statistics"] = timeline.numbers(sum(sums, start=Sums.none(len(opened.channels))))
    if ids == opened.ids and total["triplets"] != indexed(opened):
        raise UserError(
            f"{opened.path}: its index has {indexed(opened)} triplets, its tracks have "
            f"{total['triplets']}; run `cli verify {opened.path}`"
        )
    about = {
        "kind": "store",
        "path": str(opened.path),
        "finished": True,
        **{name: opened.attrs[name] for name in ABOUT if name in opened.attrs},
        "codec": opened.attrs["settings"]["codec"],
        "settings": opened.attrs["settings"],
        "channels": opened.channels,
        "totals": total,
        "tracks": tracks,
        "problems": problems,
    }
    return about, thumbnails


def indexed(opened: Store) -> int:
    """How many triplets the index has. Raises UserError when it is damaged or gone."""
    try:
        return len(opened.triplets()[0])
    except (*store.DAMAGE, OSError, KeyError) as error:
        raise UserError(
            f"{opened.path / 'triplets'}: damaged or gone ({error}); run `cli verify {opened.path}`"
        ) from error


def entry(track: Track) -> tuple[dict[str, Any], Sums]:
    """One track's facts, and its statistics as sums. Raises UserError when it is damaged."""
    assert track.shard_file is not None or not track.layout.chunks  # raises where it is not whole
    times, flag = track.times, track.flag
    missing = np.asarray(track.values("missing_fraction"), float)
    satellites = names_of(track)
    sums = Sums(**{n: np.asarray(v, float) for n, v in track.statistics.items()})
    record = record_of(track)
    step = windows.usual_step(times)
    gaps = np.flatnonzero(np.diff(times) != step)
    states = [timeline.state(*each) for each in zip(missing, flag.tolist(), strict=True)]
    moments = [timeline.moment(time) for time in times]
    return {
        "name": None,
        "season": track.attrs.get("season"),
        "frames": len(times),
        "shape": list(track.shape),
        "bytes": room.taken(track.store / track.id),
        "start": moments[0],
        "end": moments[-1],
        "step_minutes": step / 60,
        "satellites": dict(Counter(satellites)),
        "satellite_changes": timeline.satellite_changes(times, satellites),
        "gaps": [[moments[i], moments[i + 1]] for i in gaps],
        "hours_missing": timeline.hours_missing(times),
        "frames_with_missing_pixels": int((missing > 0).sum()),
        "flagged": int((flag != 0).sum()),
        "too_many_missing": int(((flag & TOO_MANY_MISSING) > 0).sum()),
        "blank": int(((flag & BLANK) > 0).sum()),
        "missing_fraction": timeline.shares(missing),
        "frames_without_best_track": record.get("frames_without_best_track"),
        "best_track_rows_without_frame": record.get("best_track_rows_without_frame"),
        "triplets": len(track.windows(3)),
        "statistics": timeline.numbers(sums),
        "by_frame": {
            "time": moments,
            "satellite": satellites,
            "state": states,
            "missing_fraction": missing.tolist(),
        },
    }, sums


def record_of(track: Track) -> dict[str, Any]:
    """A track as its manifest has it; {} where another writer left none."""
    found = track.attrs.get("record", {})
    if isinstance(found, dict):  # not as text: of format 1
        return found
    return provenance.record_of(track.store, track.id)


def names_of(track: Track) -> list[str]:
    """(T,) the satellite of each frame, without zarr-python: of a thousand tracks too."""
    meanings = str(track.metadata("satellite")["attributes"]["flag_meanings"]).split()
    return [meanings[code] for code in track.values("satellite")]


def pictures_from(track: Track, by_frame: dict[str, list[Any]], count: int) -> list[Thumbnail]:
    """Of frames evenly spread, and of the one with most missing."""
    if not count:
        return []
    chosen = spread(len(by_frame["time"]), count)
    flagged = [i for i, state in enumerate(by_frame["state"])
               if state in (timeline.TOO_MANY, timeline.EMPTY)]  # fmt: skip
    if flagged:
        worst = max(flagged, key=lambda i: by_frame["missing_fraction"][i])
        if worst not in chosen and len(chosen) >= count:
            chosen.discard(max(chosen))
        chosen.add(worst)
    return [
        Thumbnail(
            track.id,
            by_frame["time"][i],
            by_frame["satellite"][i],
            by_frame["state"][i],
            shrunk(track.checked(i, 1)[0, 0], SIDE, SIDE),
        )
        for i in sorted(chosen)
    ]
