"""Source -> store and manifest.

Each track is the work of one process, here or on another machine, which keeps one frame in memory.
A track that is already in the store, from the same files and the same settings, is not redone.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import atomic, cluster, credit, manifest, room, software, sources, store, store_writer
from pipeline.elsewhere import await_tracks, convert_elsewhere
from pipeline.errors import UsageError, UserError
from pipeline.ingest import ConvertSettings, Job, convert_track
from pipeline.progress import progress, say
from pipeline.provenance import fingerprint, is_done, other_settings, record_of
from pipeline.reporting.words import size
from pipeline.sources import RawFrame, RawTrack, Release
from pipeline.workers import WorkerDied, for_each

CERTAIN = 0.95  # of a store's size: the rest may be frames that cannot be read, which take nothing
PACKED = 1 / 3  # what zstd leaves, about


@dataclass(frozen=True)
class Crew:
    """Who converts: processes of this machine, or the workers of a dask scheduler."""

    workers: int | None = None  # None: one per core
    scheduler: str | None = None  # an address or a scheduler file


@dataclass
class Conversion:
    """What a conversion did, for the screen."""

    store: Path
    manifest: Path | None
    records: dict[str, dict[str, Any]]  # per track, as in the manifest
    triplets: int
    problems: list[str]
    notes: list[str] = field(default_factory=list)  # what was done to the values
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
    scheduler: str | None = None,
    strict: bool = False,
    replace: bool = False,
) -> Conversion:
    """Convert every track of `source` (or those in `ids`) into the store `target`.

    Raises UserError for bad input, with nothing half written: finished tracks stay and are not
    redone, the store says that it is unfinished until all is done; and for a store into which
    another conversion is writing. Unless `replace`, a store that would lose frames or best-track
    values, or whose tracks were converted with other settings, is refused too. OSError: the disk
    refuses.

    The work is done by `workers` processes, one per core where that is None, or by the workers of
    the dask scheduler at `scheduler`: an address or a scheduler file.
    """
    release = selected(sources.scan(source, settings.options), ids)
    settings = settings.settled(release)
    units = {channel.units for channel in release.channels}
    if len(units) > 1 and (settings.valid_min, settings.valid_max) != (None, None):
        raise UsageError(
            f"{source}: has channels in {', '.join(sorted(units))}; one --valid-min or --valid-max "
            "cannot be of all of them: convert them into stores of their own"
        )
    if strict and release.problems:
        raise UserError(f"{release.problems[0]} (refused by --strict)")
    if scheduler is not None and any(raw.frames[0].packed for raw in release.tracks):
        raise UsageError(
            f"{source}: is an archive, which this machine alone reads in place; leave --scheduler "
            "out, or unpack it"
        )
    store_writer.check_target(target)
    new = not target.exists()
    with atomic.claimed(target, "another conversion is writing into it; wait for it to end"):
        try:
            if not replace:
                refuse_loss(release, target, settings)
            crew = Crew(workers, scheduler)
            return bring_up_to_date(release, target, settings, manifests, crew, strict)
        except BaseException:
            if new:
                remove_if_empty(target)
            raise


def bring_up_to_date(
    release: Release,
    target: Path,
    settings: ConvertSettings,
    manifests: Path,
    crew: Crew,
    strict: bool,
) -> Conversion:
    """Convert what is new or changed, keep the rest, write the store's root and the manifest."""
    jobs, reused = plan(release, target, settings, strict)
    chosen = {raw.id for raw in release.tracks}
    before = finished_ids(target)
    kept = [id for id in before if id not in chosen]
    refuse_mixed(target, kept, settings)
    if kept:
        refuse_other_rights(target, release)
    refuse_full_disk(release, [job.raw for job in jobs], target, settings)

    with writing(target):
        done = run(jobs, target, crew) if jobs else {}
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
        raise UserError(
            f"{release.path}: not one readable frame; {problems[0]}; `cli inspect {release.path}` "
            "looks at each file"
        )

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
        **credit.rights(release.attrs),
        **({"notes": list(release.notes)} if release.notes else {}),
        "totals": {
            "tracks": len(tracks),
            "frames": sum(records[id]["frames"] for id in tracks),
            "triplets": triplets,
        },
    }
    with writing(file):
        atomic.write_json(file, {**head, **about, "problems": problems})
    done_now = {id: records[id] for id in tracks}
    return Conversion(target, file, done_now, triplets, problems, list(release.notes), reused, kept)


def selected(release: Release, ids: Sequence[str]) -> Release:
    """The release with only the tracks asked for. Raises UserError for an id that it has not."""
    kept = set(store.chosen(release.path, [raw.id for raw in release.tracks], ids))
    return replace(release, tracks=tuple(raw for raw in release.tracks if raw.id in kept))


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
                Job(
                    anywhere(raw),
                    release.format,
                    channels,
                    target.absolute(),
                    settings,
                    print_of_source,
                    strict,
                )
            )
    return sorted(jobs, key=lambda job: -frames_of(job)), reused


def anywhere(raw: RawTrack) -> RawTrack:
    """The track with absolute paths: whoever converts it may be in another folder."""
    if all(path.is_absolute() for frame in raw.frames for path in frame.paths):
        return raw
    frames = tuple(
        RawFrame(**{**vars(frame), "paths": tuple(path.absolute() for path in frame.paths)})
        for frame in raw.frames
    )
    return RawTrack(**{**vars(raw), "frames": frames})


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
        if not told and has_place and "latitude" not in raw.variables and raw.grid is None:
            told = f"{raw.id} has best-track values, {release.path} has none for it"
        if told:
            raise UserError(f"{target}: {told}; to replace what is there, add --replace")


def refuse_mixed(target: Path, kept: Sequence[str], settings: ConvertSettings) -> None:
    """One store has one set of settings. Raises UserError."""
    for id in kept:
        if told := other_settings(target, id, settings):
            raise UserError(f"{target}: {told}; convert all tracks again, or into another store")


def refuse_other_rights(target: Path, release: Release) -> None:
    """A store tells one licence and credit of all its tracks. Raises UserError."""
    try:
        before = store.open_store(target).attrs
    except UserError:
        return  # it is unfinished, or its root is lost, and tells none
    told = [
        "; ".join(str(attrs.get(name) or f"no {name}") for name in ("license", "attribution"))
        for attrs in (before, release.attrs)
    ]
    if told[0] != told[1]:
        raise UserError(
            f"{target}: holds tracks of other data ({told[0]}) than {release.path} ({told[1]}); "
            "convert into a store of its own"
        )


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


def uncompressed(release: Release, tracks: Sequence[RawTrack]) -> int:
    """Bytes that the frames of those tracks take, by the shape of the first that can be read."""
    shape_of = sources.find(release.format).frame_shape
    for raw in tracks:
        for frame in raw.frames:
            try:
                return 4 * math.prod(shape_of(frame)) * sum(len(t.frames) for t in tracks)
            except sources.FrameError:
                continue
    return 0


def lacking(
    release: Release, tracks: Sequence[RawTrack], target: Path, settings: ConvertSettings
) -> str:
    """Why the disk is too small for those tracks, in a sentence; "" where it may do.

    What they take in the store already comes free again, and so does what a killed conversion left.
    """
    there = room.free(target)
    if there is None:
        return ""
    left = target.iterdir() if target.is_dir() else ()
    there += sum(room.taken(path) for path in left if store_writer.is_temporary(path))
    whole, before = uncompressed(release, tracks), sum(room.taken(target / t.id) for t in tracks)
    needed = (whole * PACKED if settings.codec == "zstd" else whole) - before
    if needed * CERTAIN <= there:
        return ""
    smaller = settings.codec == "none" and not finished_ids(target) and whole * PACKED < there
    return (
        f"{target}: about {size(needed)} are to be written, and its disk has {size(there)} free; "
        "free some space, or choose a place on another disk"
        + (f", or take --codec zstd, about {size(whole * PACKED)}" if smaller else "")
    )


def refuse_full_disk(
    release: Release, tracks: Sequence[RawTrack], target: Path, settings: ConvertSettings
) -> None:
    """Raises UserError where the tracks cannot fit.

    Of zstd, and on disks that may pack files by themselves, nobody knows, so that is only said.
    """
    told = lacking(release, tracks, target, settings)
    if told and settings.codec == "none" and room.bounds(target):
        raise UserError(told)
    if told:
        say(told)


def valid(channel: sources.Channel, settings: ConvertSettings) -> sources.Channel:
    """The channel with the range of this conversion."""
    low = channel.valid_min if settings.valid_min is None else settings.valid_min
    high = channel.valid_max if settings.valid_max is None else settings.valid_max
    if not low < high:
        raise UserError(
            f"valid range {low}..{high} {channel.units}: the first must be smaller; give another "
            "--valid-min or --valid-max"
        )
    return sources.Channel(**{**vars(channel), "valid_min": low, "valid_max": high})


def public(record: dict[str, Any]) -> dict[str, Any]:
    """The record without its problems, which the manifest lists together."""
    return {key: value for key, value in record.items() if key != "problems"}


def run(jobs: Sequence[Job], target: Path, crew: Crew) -> dict[str, dict[str, Any]]:
    """Convert tracks; returns their records by id."""
    try:
        if crew.scheduler is not None:
            return run_elsewhere(jobs, target, crew.scheduler)
        store_writer.begin(target)
        return run_here(jobs, target, crew.workers)
    except WorkerDied as death:
        raise UserError(f"{death}: finished tracks are kept") from None


def run_here(jobs: Sequence[Job], target: Path, workers: int | None) -> dict[str, dict[str, Any]]:
    """Convert in processes of this machine; those that were killed cannot tidy up themselves."""
    try:
        with progress("convert", sum(map(frames_of, jobs)), "frames") as advance:
            return dict(for_each(convert_track, by_id(jobs), advance, workers))
    except BaseException:
        with suppress(OSError):
            store_writer.sweep(target)  # which is ours alone: claimed, and no process is left
        raise


def by_id(jobs: Sequence[Job]) -> dict[str, Job]:
    return {job.raw.id: job for job in jobs}


def frames_of(job: Job) -> int:
    return len(job.raw.frames)


def run_elsewhere(jobs: Sequence[Job], target: Path, scheduler: str) -> dict[str, dict[str, Any]]:
    """Convert on the workers of a dask scheduler, which share the source's and the store's disk."""
    with cluster.connected(scheduler) as client:  # before the store is marked as unfinished
        work = partial(convert_elsewhere, store_writer.begin(target))
        try:
            with progress("convert", sum(map(frames_of, jobs)), "frames") as advance:
                done = dict(cluster.for_each(client, work, by_id(jobs), advance, frames_of))
            await_tracks(target, [job for job in jobs if done[job.raw.id]["frames"]])
        except BaseException:
            with suppress(OSError):
                store_writer.begin(target)  # another mark: workers still at work see it, and stop
            raise
    return done


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
        except (ValueError, OSError):
            pass  # killed before its root was written, or damaged: write it now
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
