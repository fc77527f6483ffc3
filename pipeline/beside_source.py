"""One track of a store beside the source that it was made from.

The source is read by the format's own library alone, not by the way that `convert` took, so that
a defect of that way is found too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipeline import quality, sources, store
from pipeline.faults import Fault, frame_name
from pipeline.ingest import ConvertSettings
from pipeline.provenance import again, attrs_of, fingerprint, once_more, record_of, settings_of
from pipeline.sources import FrameError, RawFrame, RawTrack, archive
from pipeline.workers import Advance


@dataclass(frozen=True)
class Pair:
    """A track, and what the source has of it now."""

    store: Path
    raw: RawTrack
    format: str
    channels: Sequence[Mapping[str, Any]]  # the store's
    damaged: Sequence[int]  # frames that cannot be compared


def compare(pair: Pair, advance: Advance) -> tuple[int, list[Fault]]:
    """How many frames equal their files bit for bit, and all that differs.

    advance() is called for each frame of the source.
    """
    track = store.Track(pair.store, pair.raw.id)
    numbers = {time: number for number, time in enumerate(track.times.tolist())}
    times = sources.seconds(pair.raw.frames).tolist()
    faults = list(changes(pair, track, times))
    equal = 0
    with archive.unpacked(pair.raw, None) as on_disk:
        for time, raw, named in zip(times, on_disk.frames, pair.raw.frames, strict=True):
            number = numbers.get(time)
            if number is not None and number not in pair.damaged:
                told = difference(pair, track, number, raw)
                equal += not told
                if told:
                    name = frame_name(number, time)
                    told = archive.renamed(told, raw, named)
                    way_out = again(pair.store, track.id)
                    faults.append(Fault(track.id, f"{name} {told}", way_out))
            advance()
    return equal, faults


def changes(pair: Pair, track: store.Track, times: Sequence[int]) -> Iterator[Fault]:
    """What came, went or changed in the source since the track was made from it."""
    id, raw = track.id, pair.raw
    convert = once_more(pair.store)
    problems = record_of(pair.store, id)["problems"]
    stored = track.times.tolist()
    told = False
    for time, frame in zip(times, raw.frames, strict=True):
        if time not in stored and not any(frame.paths[0].name in text for text in problems):
            told = True
            yield Fault(id, f"{frame.paths[0]} is in the source, but not in the store", convert)
    for number, time in enumerate(stored):
        if time not in times:
            told = True
            name = frame_name(number, time)
            yield Fault(
                id, f"{name}: its file is gone from the source", f"{convert}, with --replace"
            )
    if not told and is_stale(pair):
        yield Fault(id, f"{what_changed(track, raw, times)} since it was converted", convert)


def is_stale(pair: Pair) -> bool:
    attrs = attrs_of(pair.store, pair.raw.id)
    try:
        settings = ConvertSettings(**settings_of(pair.store, pair.raw.id))
    except ValidationError:
        return True  # settings of another eddy: `convert` would do it again
    return bool(attrs.get("source_fingerprint") != fingerprint(pair.raw, settings))


def what_changed(track: store.Track, raw: RawTrack, times: Sequence[int]) -> str:
    order = [times.index(time) for time in track.times.tolist()]
    for name, variable in raw.variables.items():
        stored = track.values(name) if track.has(name) else np.empty(0)
        if not np.array_equal(stored, variable.values[order], equal_nan=True):
            return f"its best track ({name}) has changed"
    return "a file's size or time, or rows of its best track, have changed"


def difference(pair: Pair, track: store.Track, number: int, raw: RawFrame) -> str:
    """How a stored frame differs from its file; "" where they are the same, bit for bit."""
    try:
        frame = sources.find(pair.format).read_frame(raw, direct=False)
    except FrameError as error:
        return f"cannot be compared: {error}"
    quality.examine(frame, pair.channels)  # makes NaN what is out of range
    stored = np.asarray(track.frames[number])
    if frame.shape != stored.shape:
        return f"is {stored.shape}, but {raw.paths[0]} is {frame.shape}"
    count = np.count_nonzero(frame.view(np.uint32) != stored.view(np.uint32))
    return f"differs from {raw.paths[0]} in {count} of {frame.size} pixels" if count else ""
