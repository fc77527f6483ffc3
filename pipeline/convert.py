"""Source -> store and manifest.

Each track is the work of one process, which keeps one frame in memory. A track that is already in
the store, from the same files and the same settings, is not redone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

from pipeline import atomic, manifest, software, sources, store, store_writer
from pipeline.errors import UserError
from pipeline.ingest import ConvertSettings, Job, convert_track
from pipeline.progress import progress
from pipeline.sources import RawTrack, Release

POLL_SECONDS = 0.2  # between two looks at how far the processes are


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


def convert(
    source: Path,
    target: Path,
    settings: ConvertSettings,
    *,
    manifests: Path = manifest.FOLDER,
    ids: Sequence[str] = (),
    workers: int | None = None,
    strict: bool = False,
    replace: bool = False,
) -> Conversion:
    """Convert every track of `source` (or those in `ids`) into the store `target`.

    Raises UserError for bad input, with nothing half written: finished tracks stay and are not
    redone, the store says that it is unfinished until all is done; and for a store into which
    another conversion is writing. Unless `replace`, a store that would lose frames or best-track
    values, or whose tracks were converted with other settings, is refused too. OSError: the disk
    refuses.
    """
    release = selected(sources.scan(source), ids)
    if strict and release.problems:
        raise UserError(f"{release.problems[0]} (--strict)")
    store_writer.check_target(target)
    new = not target.exists()
    with atomic.claimed(target, "another conversion is writing into it; wait for it to end"):
        try:
            if not replace:
                refuse_loss(release, target, settings)
            return bring_up_to_date(release, target, settings, manifests, workers, strict)
        except BaseException:
            if new:
                remove_if_empty(target)
            raise


def bring_up_to_date(
    release: Release,
    target: Path,
    settings: ConvertSettings,
    manifests: Path,
    workers: int | None,
    strict: bool,
) -> Conversion:
    """Convert what is new or changed, keep the rest, write the store's root and the manifest."""
    jobs, reused = plan(release, target, settings, strict)
    chosen = {raw.id for raw in release.tracks}
    before = finished_ids(target)
    kept = [id for id in before if id not in chosen]
    refuse_mixed(target, kept, settings)

    with writing(target):
        if jobs:
            store_writer.begin(target)
        done = run(jobs, workers)
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
        raise UserError(f"{release.path}: not one readable frame; {problems[0]}")

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
        "source": str(release.path),
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


def refuse_loss(release: Release, target: Path, settings: ConvertSettings) -> None:
    """A wrong source or a forgotten option shall not undo hours of work. Raises UserError."""
    for raw in release.tracks:
        if not (target / raw.id / "frames" / "zarr.json").is_file():
            continue
        told = other_settings(target, raw.id, settings)
        had = record_of(target, raw.id)["frames"]
        if not told and len(raw.frames) < had:
            told = f"{raw.id} has {had} frames, {release.path} has {len(raw.frames)}"
        has_place = store.Track(target, raw.id).has("latitude")
        if not told and has_place and "latitude" not in raw.variables:
            told = f"{raw.id} has best-track values, {release.path} has none for it"
        if told:
            raise UserError(f"{target}: {told}; to replace what is there, add --replace")


def refuse_mixed(target: Path, kept: Sequence[str], settings: ConvertSettings) -> None:
    """One store has one set of settings. Raises UserError."""
    for id in kept:
        if told := other_settings(target, id, settings):
            raise UserError(f"{target}: {told}; convert all tracks again, or into another store")


def other_settings(target: Path, id: str, settings: ConvertSettings) -> str:
    """How the settings that a track was converted with differ from these; "" if they do not."""
    before, now = json.loads(store.Track(target, id).attrs.get("settings", "null")), settings
    if before == now.model_dump():
        return ""
    return f"{id} was converted with {before}, now asked for {now.model_dump()}"


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


def public(record: dict[str, Any]) -> dict[str, Any]:
    """The record without its problems, which the manifest lists together."""
    return {key: value for key, value in record.items() if key != "problems"}


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
    context = get_context("spawn")
    frames = context.Value("q", 0)  # done by all processes together
    told = 0
    with ProcessPoolExecutor(workers, context, count_in, (frames,)) as pool:
        futures = {pool.submit(in_process, job): job for job in jobs}
        waiting = set(futures)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                now = frames.get_obj().value  # without the lock: who held it may have been killed
                advance(now - told, *(futures[future].raw.id for future in list(done)[-1:]))
                told = now
                for future in done:
                    yield futures[future].raw.id, future.result()
        except BrokenProcessPool:
            raise UserError(
                f"a converting process died at one of {store.few([j.raw.id for j in jobs])} "
                "(out of memory?); finished tracks are kept: run the same command again, "
                "with fewer --workers"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_frames: Any = None  # in a converting process: the counter that it shares with the others


def count_in(frames: Any) -> None:
    global _frames
    _frames = frames
    Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """However the parent ends: nobody may write into a store that the next conversion sweeps."""
    parent = parent_process()
    assert parent is not None
    parent.join()  # its end closes a pipe: known at once
    os._exit(1)


def in_process(job: Job) -> dict[str, Any]:
    def advance(*_: object) -> None:
        with _frames.get_lock():
            _frames.value += 1

    return convert_track(job, advance)


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
        store_writer.begin(target)
    return store_writer.finish(
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
