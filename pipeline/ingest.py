"""One track from raw frames to the store: read, mask, count, write; the work of one process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, NonNegativeFloat, SerializerFunctionWrapHandler, model_serializer

from pipeline import paging, quality, sources, store, store_writer, windows
from pipeline.quality import Examined, Sums
from pipeline.sources import FrameError, RawTrack, Release, archive
from pipeline.sources.options import NONE, Options
from pipeline.store import BLANK, TOO_MANY_MISSING
from pipeline.store_writer import Array, TrackWriter

READ_AHEAD = 8  # frames: so much earlier the disk is asked for their files


class ConvertSettings(BaseModel, frozen=True, extra="forbid"):
    """What decides the store's content."""

    codec: store.Codec = "none"  # none: the trainer maps the file; zstd: a third of it, slower
    valid_min: float | None = None  # units of the channel; below it a pixel is missing
    valid_max: float | None = None  # None: the source's own, for Digital Typhoon 150..330 K
    max_missing: NonNegativeFloat = 0.01  # fraction; with more, a frame is in no window
    options: Options = NONE  # how the source is read

    @model_serializer(mode="wrap")
    def plain(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """For JSON; of the options those that were given, if any were."""
        given = self.options.given()
        rest = {key: value for key, value in dump(self).items() if key != "options"}
        return {**rest, **({"options": given} if given else {})}

    def settled(self, release: Release) -> ConvertSettings:
        """With the source's own limit of missing pixels, unless one was asked for."""
        if release.max_missing is None or "max_missing" in self.model_fields_set:
            return self
        return self.model_copy(update={"max_missing": release.max_missing})


@dataclass(frozen=True)
class Judged:
    """One frame that can be read, and what it is worth."""

    frame: np.ndarray  # (C, H, W) float32, physical units, NaN where missing
    worth: Examined
    flag: int  # 0, or why it is in no window


@dataclass(frozen=True)
class Job:
    """All that one process needs to convert one track."""

    raw: RawTrack
    format: str
    channels: tuple[sources.Channel, ...]
    store: Path
    settings: ConvertSettings
    fingerprint: str
    strict: bool


def convert_track(job: Job, advance: Callable[..., None] = lambda *_: None) -> dict[str, Any]:
    """Read, mask, count and write one track; returns its record for the manifest.

    A frame that cannot be read is left out and named in the record's problems, or with `strict`
    raised as FrameError. OSError: the disk refuses; nothing of this track is left.
    """
    writer: TrackWriter | None = None
    kept: list[int] = []
    found: list[tuple[float, int]] = []  # missing fraction, flag
    problems: list[str] = []
    sums = Sums.none(len(job.channels))
    keep_freed_memory()

    def room() -> np.ndarray | None:
        return writer.room() if writer else None

    try:
        for number, judged in enumerate(judged_frames(job, room)):
            if isinstance(judged, FrameError):
                if job.strict:
                    raise judged
                problems.append(str(judged))
                advance()
                continue
            frame = judged.frame
            if not judged.flag:
                sums += judged.worth.sums
            if writer is None:
                writer = TrackWriter(job.store, job.raw.id, frame.shape, job.settings.codec)
            writer.append(frame)
            kept.append(number)
            found.append((judged.worth.missing, judged.flag))
            advance()
        if writer is None:
            return {"frames": 0, "problems": problems}
        record = summary(job, kept, found, problems, sums)
        writer.commit(arrays(job, kept, found, sums), frame_attrs(job), attrs(job, record))
        return record
    finally:
        if writer is not None:
            writer.__exit__()  # removes what was not committed


def judged_frames(
    job: Job, room: Callable[[], np.ndarray | None] = lambda: None
) -> Iterator[Judged | FrameError]:
    """Each frame of a track, masked and judged, or what is wrong with it; as `frames_of`."""
    channels = [vars(channel) for channel in job.channels]
    for frame in frames_of(job, room):
        if isinstance(frame, FrameError):
            yield frame
            continue
        worth = quality.examine(frame, channels)
        yield Judged(frame, worth, flag_of(worth, job.settings))


def frames_of(job: Job, room: Callable[[], np.ndarray | None]) -> Iterator[np.ndarray | FrameError]:
    """Each frame of a track, or what is wrong with it.

    room: where to put the next one, (C, H, W) float32; None: anywhere. A frame's memory is used
    again for the next: it counts only until that is asked for. Frames in an archive are unpacked
    meanwhile, under a temporary name beside the track.
    """
    beside = store_writer.temporary(job.store / job.raw.id) if job.fingerprint else None
    with archive.unpacked(job.raw, beside) as raw:
        yield from frames_on_disk(replace(job, raw=raw), job.raw, room)


def frames_on_disk(
    job: Job, named: RawTrack, room: Callable[[], np.ndarray | None]
) -> Iterator[np.ndarray | FrameError]:
    """named: the track whose names errors are to tell."""
    source = sources.find(job.format)
    shape = quality.usual_shape(job.raw.frames, source.frame_shape)
    anywhere = np.empty(shape, np.float32) if shape else None
    frames = job.raw.frames
    for number, (raw, name) in enumerate(zip(frames, named.frames, strict=True)):
        for later in frames[number + READ_AHEAD : number + READ_AHEAD + 1]:
            if later.paths != raw.paths:  # else it is a file that holds many frames
                for path in later.paths:
                    paging.will_read(path)
        into = room()
        if into is None:
            into = anywhere
        frame: np.ndarray | FrameError
        try:
            frame = sources.read_alike(source.read_frame, raw, shape, into=into)
        except FrameError as error:
            frame = archive.named_as(error, raw, name)
        yield frame


def keep_freed_memory() -> None:
    """Make glibc keep what is freed up to twice this size, instead of fetching it anew per frame.

    It learns so from a large block's being freed; elsewhere this does nothing.
    """
    np.empty(16 << 20, np.uint8)


def flag_of(worth: Examined, settings: ConvertSettings) -> int:
    """0, or the bits that say why a frame is in no window."""
    too_many = worth.missing > settings.max_missing
    return (BLANK if worth.blank else 0) | (TOO_MANY_MISSING if too_many else 0)


def summary(
    job: Job,
    kept: Sequence[int],
    found: Sequence[tuple[float, int]],
    problems: list[str],
    sums: Sums,
) -> dict[str, Any]:
    """One track as the manifest has it: plain data."""
    raw = [job.raw.frames[number] for number in kept]
    times = sources.seconds(raw)
    flags = np.array([flag for _, flag in found])
    step = windows.usual_step(times)
    gaps = np.flatnonzero(np.diff(times) != step)
    return {
        "frames": len(raw),
        "start": str(raw[0].time),
        "end": str(raw[-1].time),
        "step_minutes": step / 60,
        "satellites": dict(Counter(frame.satellite for frame in raw)),
        "gaps": [[str(raw[i].time), str(raw[i + 1].time)] for i in gaps],
        "frames_with_missing_pixels": sum(fraction > 0 for fraction, _ in found),
        "flagged": int((flags != 0).sum()),
        "too_many_missing": int(((flags & TOO_MANY_MISSING) > 0).sum()),
        "blank": int(((flags & BLANK) > 0).sum()),
        "frames_without_best_track": job.raw.unmatched_frames,
        "best_track_rows_without_frame": job.raw.unmatched_rows,
        "triplets": len(windows.starts(times, flags == 0, 3)),
        "mean": [float(s / n) if n else None for s, n in zip(sums.sum, sums.count, strict=True)],
        "problems": problems,
    }


def arrays(
    job: Job, kept: Sequence[int], found: Sequence[tuple[float, int]], sums: Sums
) -> dict[str, Array]:
    """Everything beside the frames, per time step and per channel."""
    raw = [job.raw.frames[number] for number in kept]
    names = sorted({frame.satellite or "unknown" for frame in raw})
    codes = np.array([names.index(frame.satellite or "unknown") for frame in raw], np.int8)
    return {
        "time": Array(("time",), sources.seconds(raw), store.TIME_ATTRS),
        "channel": Array(
            ("channel",),
            np.array([c.name for c in job.channels]),
            {"long_name": "channel", "channel_units": [c.units for c in job.channels]},
        ),
        **{
            name: Array(("time",), variable.values[list(kept)], variable.attrs)
            for name, variable in job.raw.variables.items()
        },
        **places(job.raw),
        "satellite": Array(
            ("time",),
            codes,
            {
                "long_name": "satellite",
                "flag_values": list(range(len(names))),
                "flag_meanings": " ".join(names),
            },
        ),
        "missing_fraction": Array(
            ("time",),
            np.array([fraction for fraction, _ in found], np.float32),
            {"long_name": "fraction of missing pixels", "units": "1"},
        ),
        "flag": Array(
            ("time",),
            np.array([flag for _, flag in found], np.uint8),
            {
                "long_name": "why a frame is in no window; 0: it is fit",
                "flag_masks": [TOO_MANY_MISSING, BLANK],
                "flag_meanings": "too_many_missing blank",
            },
        ),
        "statistic": Array(("statistic",), np.array(store.STATISTICS), {}),
        "statistics": Array(
            ("channel", "statistic"),
            sums.table(),
            {"long_name": "of pixels not missing, in frames whose flag is 0"},
        ),
    }


def places(raw: RawTrack) -> dict[str, Array]:
    """Where rows and columns lie, for a track on one grid."""
    if raw.grid is None:
        return {}
    if raw.grid.projected:
        names, units = ("projection_y_coordinate", "projection_x_coordinate"), ("km", "km")
        kept = ("y", "x")
    else:
        names, units = ("latitude", "longitude"), ("degrees_north", "degrees_east")
        kept = names
    both = zip(kept, "yx", (raw.grid.y, raw.grid.x), names, units, strict=True)
    return {
        name: Array((dim,), values, {"standard_name": standard, "units": unit, "axis": dim.upper()})
        for name, dim, values, standard, unit in both
    }


def frame_attrs(job: Job) -> dict[str, Any]:
    first = job.channels[0]
    alone = len(job.channels) == 1
    shared = {"long_name": first.long_name, "valid_range": [first.valid_min, first.valid_max]}
    several = len({c.long_name for c in job.channels}) > 1
    if not alone and (job.raw.grid is not None or several):  # of channels that are not of one kind
        shared = {"long_name": f"{len(job.channels)} channels; `channel` has their names and units"}
    named = {"standard_name": first.standard_name} if first.standard_name else {}
    named["units"] = first.units
    same_units = len({c.units for c in job.channels}) == 1
    have = {**job.raw.variables, **places(job.raw)}
    known = [name for name in ("latitude", "longitude") if name in have]
    coordinates = {"coordinates": " ".join(known)} if known else {}
    return {**(named if same_units else {}), **shared, **coordinates}


def attrs(job: Job, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "Conventions": store.CONVENTIONS,
        "track_id": job.raw.id,
        **job.raw.attrs,
        "step_minutes": record["step_minutes"],
        "source_fingerprint": job.fingerprint,
        # as text: xarray can write a track to NetCDF, whose attributes cannot nest
        "settings": json.dumps(job.settings.model_dump()),
        "record": json.dumps(record),
    }
