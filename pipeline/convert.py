"""Source -> store and manifest: read every raw frame once, mask, count, write one track at a time.

Each track is the work of one process, which keeps one frame in memory. A track that is already in
the store, from the same files and the same settings, is not redone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, NonNegativeFloat

from pipeline import atomic, manifest, sources, store, windows
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
    redone, the store says that it is unfinished until all is done.
    """
    release = selected(sources.scan(source), ids)
    if strict and release.problems:
        raise UserError(f"{release.problems[0]} (--strict)")
    jobs, reused = plan(release, target, settings, strict)
    before = finished_ids(target)
    chosen = {raw.id for raw in release.tracks}
    kept = [id for id in before if id not in chosen]
    if kept:
        refuse_mixed(target, settings)

    new = not target.exists()
    try:
        if jobs:
            store.begin(target)
        records = {**{id: record_of(target, id) for id in [*kept, *reused]}, **run(jobs, workers)}
    except BaseException:
        if new:
            remove_if_empty(target)
        raise
    problems = [*release.problems, *(p for r in records.values() for p in r["problems"])]
    tracks = sorted(id for id, record in records.items() if record["frames"])
    if not tracks:
        if new:
            remove_if_empty(target, root=True)
        raise UserError(f"{source}: not one readable frame; {problems[0]}")

    about = {
        "format_version": store.FORMAT_VERSION,
        "settings": settings.model_dump(),
        "channels": [vars(valid(c, settings)) for c in release.channels],
        "tracks": {id: public(records[id]) for id in tracks},
        "problems": problems,
    }
    identity = manifest.digest(about)
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
    atomic.write_json(file, {**head, **about})
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
    files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for f in raw.frames for p in f.paths]
    tables = {name: repr(v.values.tolist()) for name, v in raw.variables.items()}
    return manifest.digest([store.FORMAT_VERSION, files, tables, settings.model_dump()])


def is_done(target: Path, id: str, print_of_source: str) -> bool:
    return (target / id / "zarr.json").is_file() and (
        store.Track(target, id).attrs.get("source_fingerprint") == print_of_source
    )


def finished_ids(target: Path) -> list[str]:
    """Every whole track in a store, finished or not; [] where there is none."""
    if not target.exists():
        return []
    if not target.is_dir() or (any(target.iterdir()) and not (target / "zarr.json").is_file()):
        raise UserError(f"{target}: exists and is not a store; choose another name")
    return sorted(p.parent.parent.name for p in target.glob("[!.]*/frames/zarr.json"))


def refuse_mixed(target: Path, settings: ConvertSettings) -> None:
    """One store has one set of settings. Raises UserError."""
    try:
        before = store.open_store(target).attrs.get("settings")
    except UserError:
        return  # unfinished: its tracks carry fingerprints
    if before != settings.model_dump():
        raise UserError(
            f"{target}: was converted with {before}, now asked for {settings.model_dump()}; "
            "convert all tracks again, or into another store"
        )


def record_of(target: Path, id: str) -> dict[str, Any]:
    record: dict[str, Any] = store.Track(target, id).attrs["record"]
    return record


def remove_if_empty(target: Path, root: bool = False) -> None:
    """Take away what `begin` made when nothing came of it."""
    inside = {p.name for p in target.iterdir()} if target.is_dir() else {"?"}
    if inside <= {"zarr.json"} or root:
        (target / "zarr.json").unlink(missing_ok=True)
        target.rmdir()


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
    low = np.array([c.valid_min for c in job.channels], np.float32)[:, None, None]
    high = np.array([c.valid_max for c in job.channels], np.float32)[:, None, None]
    writer: store.TrackWriter | None = None
    shape = frame_shape(job)
    kept: list[int] = []
    quality: list[tuple[float, int]] = []  # missing fraction, flag
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
            flag = BLANK if is_blank(frame) else 0
            with np.errstate(invalid="ignore"):
                missing = ~((frame >= low) & (frame <= high))
            frame[missing] = np.nan
            fraction = float(missing.mean())
            flag |= TOO_MANY_MISSING if fraction > job.settings.max_missing else 0
            if not flag:
                sums.add(frame)
            if writer is None:
                writer = store.TrackWriter(job.store, job.raw.id, frame.shape, job.settings.codec)
            writer.append(frame)
            kept.append(number)
            quality.append((fraction, flag))
            advance()
        if writer is None:
            return {"frames": 0, "problems": problems}
        record = summary(job, kept, quality, problems, sums)
        with writer:
            writer.commit(arrays(job, kept, quality, sums), frame_attrs(job), attrs(job, record))
        return record
    except BaseException:
        if writer is not None:
            writer.__exit__()
        raise


def frame_shape(job: Job) -> tuple[int, ...] | None:
    """The shape that most of the first, middle and last readable frames have."""
    read = sources.find(job.format).read_frame
    frames, shapes = job.raw.frames, []
    for raw in {f.time: f for f in (frames[0], frames[len(frames) // 2], frames[-1])}.values():
        try:
            shapes.append(read(raw).shape)
        except FrameError:
            continue  # named when its turn comes
    return Counter(shapes).most_common(1)[0][0] if shapes else None


def is_blank(frame: np.ndarray) -> bool:
    """At most two distinct values, or more than half of the pixels at the minimum."""
    low, high = frame.min(), frame.max()
    at_low = np.count_nonzero(frame == low)
    return bool(at_low > frame.size / 2 or at_low + np.count_nonzero(frame == high) >= frame.size)


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
    quality: Sequence[tuple[float, int]],
    problems: list[str],
    sums: Sums,
) -> dict[str, Any]:
    """One track as the manifest has it: plain data."""
    raw = [job.raw.frames[number] for number in kept]
    times = np.array([frame.time for frame in raw]).astype("datetime64[s]").astype(np.int64)
    flags = np.array([flag for _, flag in quality])
    step = windows.usual_step(times)
    gaps = np.flatnonzero(np.diff(times) != step)
    return {
        "frames": len(raw),
        "start": str(raw[0].time),
        "end": str(raw[-1].time),
        "step_minutes": step / 60,
        "satellites": dict(Counter(frame.satellite for frame in raw)),
        "gaps": [[str(raw[i].time), str(raw[i + 1].time)] for i in gaps],
        "frames_with_missing_pixels": sum(fraction > 0 for fraction, _ in quality),
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
    job: Job, kept: Sequence[int], quality: Sequence[tuple[float, int]], sums: Sums
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
            np.array([fraction for fraction, _ in quality], np.float32),
            {"long_name": "fraction of missing pixels", "units": "1"},
        ),
        "flag": Array(
            ("time",),
            np.array([flag for _, flag in quality], np.uint8),
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
        "coordinates": " ".join(n for n in ("latitude", "longitude") if n in job.raw.variables),
    }
    named = {"standard_name": first.standard_name, "units": first.units}
    same_units = len({c.units for c in job.channels}) == 1
    return {**(named if same_units else {}), **shared}


def attrs(job: Job, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "Conventions": store.CONVENTIONS,
        "track_id": job.raw.id,
        **job.raw.attrs,
        "step_minutes": record["step_minutes"],
        "source_fingerprint": job.fingerprint,
        "record": record,
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
