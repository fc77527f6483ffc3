"""Source -> store and manifest: read every raw frame once, mask, count, write one track at a time.

Each track is the work of one process, which keeps one frame in memory. A track that is already in
the store, from the same files and the same settings, is not redone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, NonNegativeFloat

from pipeline import atomic, manifest, quality, sources, store, windows
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.sources import FrameError, RawTrack, Release
from pipeline.store import BLANK, TOO_MANY_MISSING, Array


class ConvertSettings(BaseModel, frozen=True, extra="forbid"):
    """What decides the store's content."""

    codec: str = "none"  # none: the trainer maps the file; zstd: a third of the size, slower
    valid_min: float | None = None  # units of the channel; below it a pixel is missing
    valid_max: float | None = None  # None: the source's own, for Digital Typhoon 150..330 K
    max_missing: NonNegativeFloat = 0.01  # fraction; with more, a frame is in no window


@dataclass
class Conversion:
    """What a conversion did, for the screen."""

    store: Path
    manifest: Path | None
    records: dict[str, dict[str, Any]]  # per track, as in the manifest
    triplets: int
    problems: list[str]
    reused: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # in the store, but not in this source


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


def convert(
    source: Path,
    target: Path,
    settings: ConvertSettings,
    *,
    manifests: Path = manifest.FOLDER,
    ids: Sequence[str] = (),
    workers: int | None = None,
    strict: bool = False,
) -> Conversion:
    """Convert every track of `source` (or those in `ids`) into the store `target`.

    Raises UserError for bad input, with nothing half written: finished tracks stay and are not
    redone, the store says that it is unfinished until all is done. OSError: the disk refuses.
    """
    release = selected(sources.scan(source), ids)
    if strict and release.problems:
        raise UserError(f"{release.problems[0]} (--strict)")
    store.check_target(target)
    jobs, reused = plan(release, target, settings, strict)
    chosen = {raw.id for raw in release.tracks}
    before = finished_ids(target)
    kept = [id for id in before if id not in chosen]
    refuse_mixed(target, kept, settings)

    new = not target.exists()
    with writing(target):
        try:
            if jobs:
                store.begin(target)
            done = run(jobs, workers)
        except BaseException:
            if new:
                remove_if_empty(target)
            raise
    for id in [*kept, *reused]:
        done[id] = record_of(target, id)
    for id in before:
        if not done[id]["frames"]:  # its files cannot be read any more: the track stays as it was
            refuse_mixed(target, [id], settings)
            done[id] = {**record_of(target, id), "problems": done[id]["problems"]}
            kept.append(id)
    records = dict(sorted(done.items()))  # not in the order in which processes finished
    problems = [*release.problems, *(p for r in records.values() for p in r["problems"])]
    tracks = [id for id, record in records.items() if record["frames"]]
    if not tracks:
        if new:
            remove_if_empty(target)
        raise UserError(f"{source}: not one readable frame; {problems[0]}")

    about = {
        "format_version": store.FORMAT_VERSION,
        "settings": settings.model_dump(),
        "channels": [vars(valid(c, settings)) for c in release.channels],
        "tracks": {id: public(records[id]) for id in tracks},
    }
    identity = manifest.digest(about)
    with writing(target):
        triplets = finish(target, tracks, release, about, identity, settings, untouched=not jobs)
    file = manifest.manifest_file(manifests, target)
    head = {
        "store": target.name,
        "manifest_hash": identity,
        "source": str(source),
        "software": software(),
        **{k: v for k, v in release.attrs.items() if k in ("title", "license", "attribution")},
        "totals": {
            "tracks": len(tracks),
            "frames": sum(records[id]["frames"] for id in tracks),
            "triplets": triplets,
        },
    }
    with writing(file):
        atomic.write_json(file, {**head, **about, "problems": problems})
    return Conversion(
        target, file, {id: records[id] for id in tracks}, triplets, problems, reused, kept
    )


def selected(release: Release, ids: Sequence[str]) -> Release:
    """The release with only the tracks asked for. Raises UserError for an id that it has not."""
    if not ids:
        return release
    have = {raw.id for raw in release.tracks}
    if absent := [id for id in ids if id not in have]:
        raise UserError(
            f"{release.path}: no track {', '.join(absent)}; it has {store.few(sorted(have))}"
        )
    tracks = tuple(raw for raw in release.tracks if raw.id in set(ids))
    return Release(**{**vars(release), "tracks": tracks})


def plan(
    release: Release, target: Path, settings: ConvertSettings, strict: bool
) -> tuple[list[Job], list[str]]:
    """What is to be done, largest track first, and the tracks already done."""
    jobs, reused = [], []
    for raw in release.tracks:
        print_of_source = fingerprint(raw, settings)
        if is_done(target, raw.id, print_of_source):
            reused.append(raw.id)
        else:
            channels = tuple(valid(c, settings) for c in release.channels)
            jobs.append(
                Job(raw, release.format, channels, target, settings, print_of_source, strict)
            )
    return sorted(jobs, key=lambda job: -len(job.raw.frames)), reused


def fingerprint(raw: RawTrack, settings: ConvertSettings) -> str:
    """Changes when a source file, a table's row or a setting does."""
    files = [stamp(path) for frame in raw.frames for path in frame.paths]
    tables = {name: repr(v.values.tolist()) for name, v in raw.variables.items()}
    unmatched = [raw.unmatched_frames, raw.unmatched_rows]
    return manifest.digest([store.FORMAT_VERSION, files, tables, unmatched, settings.model_dump()])


def stamp(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return path.name, -1, -1  # a link to nowhere: named when its turn comes to be read
    return path.name, status.st_size, status.st_mtime_ns


def is_done(target: Path, id: str, print_of_source: str) -> bool:
    return (target / id / "zarr.json").is_file() and (
        store.Track(target, id).attrs.get("source_fingerprint") == print_of_source
    )


def finished_ids(target: Path) -> list[str]:
    """Every whole track in a store, finished or not; [] where there is none."""
    return sorted(p.parent.parent.name for p in target.glob("[!.]*/frames/zarr.json"))


def refuse_mixed(target: Path, kept: Sequence[str], settings: ConvertSettings) -> None:
    """One store has one set of settings. Raises UserError."""
    for id in kept:
        before = json.loads(store.Track(target, id).attrs.get("settings", "null"))
        if before != settings.model_dump():
            raise UserError(
                f"{target}: {id} was converted with {before}, now asked for "
                f"{settings.model_dump()}; convert all tracks again, or into another store"
            )


def record_of(target: Path, id: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(store.Track(target, id).attrs["record"])
    return record


def remove_if_empty(target: Path) -> None:
    """Take away what `begin` made when nothing came of it."""
    if target.is_dir() and {p.name for p in target.iterdir()} <= {"zarr.json"}:
        shutil.rmtree(target)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk does not say where it is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def valid(channel: sources.Channel, settings: ConvertSettings) -> sources.Channel:
    """The channel with the range of this conversion."""
    low = channel.valid_min if settings.valid_min is None else settings.valid_min
    high = channel.valid_max if settings.valid_max is None else settings.valid_max
    if not low < high:
        raise UserError(f"valid range {low}..{high} {channel.units}: the first must be smaller")
    return sources.Channel(**{**vars(channel), "valid_min": low, "valid_max": high})


def run(jobs: Sequence[Job], workers: int | None) -> dict[str, dict[str, Any]]:
    """Convert tracks, here or in a pool of processes; returns their records by id."""
    total = sum(len(job.raw.frames) for job in jobs)
    count = min(workers or os.cpu_count() or 1, len(jobs))
    if not jobs:
        return {}
    with progress("convert", total, "frames") as advance:
        if count == 1:
            return {job.raw.id: convert_track(job, advance) for job in jobs}
        return dict(in_pool(jobs, count, advance))


def in_pool(
    jobs: Sequence[Job], workers: int, advance: Callable[..., None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    # spawn: HDF5 and Zarr keep threads and locks that a fork would copy in any state.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(convert_track, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                job = futures[future]
                record = future.result()
                advance(len(job.raw.frames), job.raw.id)
                yield job.raw.id, record
        except BrokenProcessPool:
            raise UserError(
                f"a converting process died at one of {store.few([j.raw.id for j in jobs])} "
                "(out of memory?); finished tracks are kept: run the same command again, "
                "with fewer --workers"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def convert_track(job: Job, advance: Callable[..., None] = lambda *_: None) -> dict[str, Any]:
    """Read, mask, count and write one track; returns its record for the manifest.

    A frame that cannot be read is left out and named in the record's problems, or with `strict`
    raised as FrameError. OSError: the disk refuses; nothing of this track is left.
    """
    read = sources.find(job.format).read_frame
    channels = [vars(channel) for channel in job.channels]
    writer: store.TrackWriter | None = None
    shape = quality.usual_shape(job.raw.frames, read)
    kept: list[int] = []
    found: list[tuple[float, int]] = []  # missing fraction, flag
    problems: list[str] = []
    sums = Sums.none(len(job.channels))
    try:
        for number, raw in enumerate(job.raw.frames):
            try:
                frame = read(raw)
                if frame.shape != shape:
                    raise FrameError(
                        f"{raw.paths[0]}: image is {frame.shape[1:]}, "
                        f"expected {shape and shape[1:]} as in the rest of its typhoon"
                    )
            except FrameError as error:
                if job.strict:
                    raise
                problems.append(str(error))
                advance()
                continue
            fraction = quality.mask(frame, channels)
            flag = BLANK if quality.is_blank(frame) else 0
            flag |= TOO_MANY_MISSING if fraction > job.settings.max_missing else 0
            if not flag:
                sums.add(frame)
            if writer is None:
                writer = store.TrackWriter(job.store, job.raw.id, frame.shape, job.settings.codec)
            writer.append(frame)
            kept.append(number)
            found.append((fraction, flag))
            advance()
        if writer is None:
            return {"frames": 0, "problems": problems}
        record = summary(job, kept, found, problems, sums)
        with writer:
            writer.commit(arrays(job, kept, found, sums), frame_attrs(job), attrs(job, record))
        return record
    except BaseException:
        if writer is not None:
            writer.__exit__()
        raise


@dataclass
class Sums:
    """Statistics of the usable frames, as sums that add; each (C,) float64."""

    count: np.ndarray
    sum: np.ndarray
    sum_of_squares: np.ndarray
    min: np.ndarray
    max: np.ndarray

    @classmethod
    def none(cls, channels: int) -> Sums:
        zeros, inf = np.zeros(channels), np.full(channels, np.inf)
        return cls(zeros.copy(), zeros.copy(), zeros.copy(), inf, -inf)

    def add(self, frame: np.ndarray) -> None:
        """Count in one frame (C, H, W); NaN does not count."""
        values = frame.astype(np.float64)
        seen = ~np.isnan(values)
        self.count += seen.sum(axis=(1, 2))
        self.sum += np.nansum(values, axis=(1, 2))
        self.sum_of_squares += np.nansum(np.square(values), axis=(1, 2))
        self.min = np.minimum(self.min, np.where(seen, values, np.inf).min(axis=(1, 2)))
        self.max = np.maximum(self.max, np.where(seen, values, -np.inf).max(axis=(1, 2)))

    def table(self) -> np.ndarray:
        """(C, 5) float64, in the order of store.STATISTICS; min and max NaN where none counted."""
        none = self.count == 0
        low, high = np.where(none, np.nan, self.min), np.where(none, np.nan, self.max)
        return np.stack([self.count, self.sum, self.sum_of_squares, low, high], axis=1)


def summary(
    job: Job,
    kept: Sequence[int],
    found: Sequence[tuple[float, int]],
    problems: list[str],
    sums: Sums,
) -> dict[str, Any]:
    """One track as the manifest has it: plain data."""
    raw = [job.raw.frames[number] for number in kept]
    times = np.array([frame.time for frame in raw]).astype("datetime64[s]").astype(np.int64)
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
        "too_many_missing": int(((flags & TOO_MANY_MISSING) > 0).sum()),
        "blank": int(((flags & BLANK) > 0).sum()),
        "frames_without_best_track": job.raw.unmatched_frames,
        "best_track_rows_without_frame": job.raw.unmatched_rows,
        "triplets": len(windows.starts(times, flags == 0, 3)),
        "mean": [float(s / n) if n else None for s, n in zip(sums.sum, sums.count, strict=True)],
        "problems": problems,
    }


def public(record: dict[str, Any]) -> dict[str, Any]:
    """The record without its problems, which the manifest lists together."""
    return {key: value for key, value in record.items() if key != "problems"}


def arrays(
    job: Job, kept: Sequence[int], found: Sequence[tuple[float, int]], sums: Sums
) -> dict[str, Array]:
    """Everything beside the frames, per time step and per channel."""
    raw = [job.raw.frames[number] for number in kept]
    times = np.array([frame.time for frame in raw]).astype("datetime64[s]").astype(np.int64)
    names = sorted({frame.satellite or "unknown" for frame in raw})
    codes = np.array([names.index(frame.satellite or "unknown") for frame in raw], np.int8)
    return {
        "time": Array(("time",), times, store.TIME_ATTRS),
        "channel": Array(
            ("channel",),
            np.array([c.name for c in job.channels]),
            {"long_name": "channel", "channel_units": [c.units for c in job.channels]},
        ),
        **{
            name: Array(("time",), variable.values[list(kept)], variable.attrs)
            for name, variable in job.raw.variables.items()
        },
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


def frame_attrs(job: Job) -> dict[str, Any]:
    first = job.channels[0]
    shared = {
        "long_name": first.long_name,
        "valid_range": [first.valid_min, first.valid_max],
    }
    named = {"standard_name": first.standard_name, "units": first.units}
    same_units = len({c.units for c in job.channels}) == 1
    places = [name for name in ("latitude", "longitude") if name in job.raw.variables]
    coordinates = {"coordinates": " ".join(places)} if places else {}
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


def finish(
    target: Path,
    tracks: Sequence[str],
    release: Release,
    about: dict[str, Any],
    identity: str,
    settings: ConvertSettings,
    *,
    untouched: bool,
) -> int:
    """Write the store's root, unless nothing has changed; returns the number of triplets."""
    if untouched:
        try:
            done = store.open_store(target)
            if done.manifest_hash == identity and done.ids == list(tracks):
                return len(done.triplets()[0])
        except UserError:
            pass  # killed before its root was written: write it now
        store.begin(target)
    return store.finish(
        target,
        tracks,
        {
            **release.attrs,
            "history": f"{software()}: cli convert {release.path.name} {target.name}",
            "software": software(),
            "settings": settings.model_dump(),
            "channels": about["channels"],
            "manifest_hash": identity,
        },
    )


def software() -> str:
    return f"eddy {version('eddy')}"
