"""A raw tree before it is converted: what `cli convert` would make of each typhoon, and why.

Frames are read and judged by what convert itself reads and judges them with (ingest.py), so that
the numbers are those that its manifest will have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import ingest, quality, sources
from pipeline.errors import few
from pipeline.ingest import ConvertSettings, Job
from pipeline.inspecting import timeline
from pipeline.inspecting.thumbnails import SIDE, Thumbnail, allotted, shrunk, spread
from pipeline.progress import progress
from pipeline.quality import Sums
from pipeline.sources import FrameError, RawTrack, Release, census
from pipeline.workers import for_each

FEW = 1000  # frames that one process has read before others have started
SMALL = 0.1  # of the track's median size: a file so small is likely blank or cut
# What only reading tells, of a track and in total.
BY_READING = (
    "frames",
    "frames_with_missing_pixels",
    "flagged",
    "too_many_missing",
    "blank",
    "unreadable",
    "other_shapes",
    "triplets",
)

SAID = ("title", "license", "attribution", "accumulation_hours")  # of the source, by itself


@dataclass(frozen=True)
class Case:
    """One typhoon to look through: the work of one process."""

    job: Job
    quick: bool
    pictures: int


@dataclass
class Chart:
    """What one typhoon's files turned out to be."""

    record: dict[str, Any]  # as the manifest has it; {"frames": 0} where none can be read
    by_frame: dict[str, list[Any]]  # of every file: time, satellite, state, missing
    shape: tuple[int, ...] | None = None
    sums: Sums = field(default_factory=lambda: Sums.none(1))
    problems: list[str] = field(default_factory=list)
    thumbnails: list[Thumbnail] = field(default_factory=list)


def examine(
    path: Path,
    settings: ConvertSettings,
    *,
    choose: Callable[[Sequence[str]], Sequence[str]],
    workers: int | None = None,
    quick: bool = False,
    pictures: bool = False,
) -> tuple[dict[str, Any], list[Thumbnail]]:
    """Facts of the tree at `path`, plain data, and small pictures of a few frames.

    choose: of the ids that are there, those that are meant. quick: by names, sizes and tables
    alone; what only reading tells is None. Raises UserError for what is no raw tree.
    """
    release, pairs = census.tree(path)
    chosen = set(choose([raw.id for raw in release.tracks]))
    release = replace(release, tracks=tuple(raw for raw in release.tracks if raw.id in chosen))
    pairs = {id: found for id, found in pairs.items() if id in chosen}
    settings = settings.settled(release)
    names, notes = census.storms(path)
    charts = look_through(release, settings, workers, quick, pictures)
    tracks = {
        raw.id: entry(raw, charts[raw.id], names.get(raw.id, {}), len(pairs.get(raw.id, ())), quick)
        for raw in release.tracks
    }
    problems = [*release.problems, *(p for raw in release.tracks for p in charts[raw.id].problems)]
    facts = {
        "kind": "tree",
        "path": str(path),
        "quick": quick,
        **{k: v for k, v in release.attrs.items() if k in SAID},
        "channels": [vars(channel) for channel in release.channels],
        "settings": settings.model_dump(exclude={"codec"}),
        "totals": totals(tracks, charts, quick) | on_disk(files_of(*release.tracks)),
        "tracks": tracks,
        "problems": problems,
        "duplicates": [told(*pair) for found in pairs.values() for pair in found],
        "refusal": refusal(path, pairs, tracks, problems, quick),
        "notes": [*notes, *misplaced(path)],
    }
    return facts, [each for raw in release.tracks for each in charts[raw.id].thumbnails]


def look_through(
    release: Release, settings: ConvertSettings, workers: int | None, quick: bool, pictures: bool
) -> dict[str, Chart]:
    shown = allotted([raw.id for raw in release.tracks]) if pictures and not quick else {}
    cases = {
        raw.id: Case(
            Job(raw, release.format, release.channels, Path(), settings, "", strict=False),
            quick,
            shown.get(raw.id, 0),
        )
        for raw in sorted(release.tracks, key=lambda raw: -len(raw.frames))
    }
    total = sum(len(raw.frames) for raw in release.tracks)
    crew = workers or (1 if quick or total < FEW else None)
    what = "look at names" if quick else "read raw files"
    with progress(what, total, "frames") as advance:
        return dict(for_each(diagnose, cases, advance, crew))


def diagnose(case: Case, advance: Callable[..., None] = lambda *_: None) -> Chart:
    """Look through one typhoon."""
    if case.quick:
        advance(len(case.job.raw.frames))
        return by_names(case.job)
    return by_reading(case, advance)


def by_names(job: Job) -> Chart:
    """As if every frame were sound."""
    frames, none = job.raw.frames, Sums.none(len(job.channels))
    every = range(len(frames))
    record = ingest.summary(job, every, [(0.0, 0)] * len(frames), [], none)
    unread = [timeline.UNKNOWN] * len(frames)
    return Chart(record, columns(job.raw, unread, [None] * len(frames)), sums=none)


def by_reading(case: Case, advance: Callable[..., None]) -> Chart:
    job = case.job
    source = sources.find(job.format)
    kept: list[int] = []
    found: list[tuple[float, int]] = []
    chart = Chart({}, {}, sums=Sums.none(len(job.channels)))
    chart.shape = quality.usual_shape(job.raw.frames, source.frame_shape)
    album = Album(job.raw, case.pictures)
    states: list[str] = []
    missing: list[float | None] = []
    ingest.keep_freed_memory()
    for number, judged in enumerate(ingest.judged_frames(job)):
        if isinstance(judged, FrameError):
            states.append(why_left_out(source, job.raw.frames[number], chart.shape))
            missing.append(None)
            chart.problems.append(str(judged))
        else:
            kept.append(number)
            found.append((judged.worth.missing, judged.flag))
            missing.append(judged.worth.missing)
            states.append(timeline.state(judged.worth.missing, judged.flag))
            if not judged.flag:
                chart.sums += judged.worth.sums
            album.offer(number, judged, states[-1])
        advance()
    chart.by_frame = columns(job.raw, states, missing)
    chart.thumbnails = album.chosen()
    if kept:
        chart.record = ingest.summary(job, kept, found, chart.problems, chart.sums)
    else:
        chart.record = {"frames": 0}
    return chart


def why_left_out(
    source: sources.Format, frame: sources.RawFrame, usual: tuple[int, ...] | None
) -> str:
    """Of a frame that could not be used: whether it is sound, but of another shape."""
    try:
        return timeline.OTHER_SHAPE if source.frame_shape(frame) != usual else timeline.UNREADABLE
    except FrameError:
        return timeline.UNREADABLE


def columns(
    raw: RawTrack, states: Sequence[str], missing: Sequence[float | None]
) -> dict[str, list[Any]]:
    return {
        "time": [str(frame.time) for frame in raw.frames],
        "satellite": [frame.satellite for frame in raw.frames],
        "state": list(states),
        "missing_fraction": list(missing),
    }


class Album:
    """Small pictures of a few frames of one typhoon: evenly spread, and the worst flagged one."""

    def __init__(self, raw: RawTrack, count: int) -> None:
        self.raw, self.count = raw, count
        self.spread = spread(len(raw.frames), count)
        self.kept: dict[int, Thumbnail] = {}
        self.worst: tuple[float, int, Thumbnail] | None = None

    def offer(self, number: int, judged: ingest.Judged, state: str) -> None:
        worse = bool(judged.flag) and (self.worst is None or judged.worth.missing > self.worst[0])
        if not self.count or not (worse or number in self.spread):
            return
        raw = self.raw.frames[number]
        small = shrunk(judged.frame[0], SIDE, SIDE)
        made = Thumbnail(self.raw.id, str(raw.time), raw.satellite, state, small)
        if number in self.spread:
            self.kept[number] = made
        if worse:
            self.worst = (judged.worth.missing, number, made)

    def chosen(self) -> list[Thumbnail]:
        found = dict(self.kept)
        if self.worst and self.worst[1] not in found:
            if len(found) >= self.count:
                found.pop(max(found))
            found[self.worst[1]] = self.worst[2]
        return [found[number] for number in sorted(found)]


def entry(
    raw: RawTrack, chart: Chart, known: Mapping[str, Any], duplicates: int, quick: bool
) -> dict[str, Any]:
    """One typhoon's facts: the manifest's record, and what a person also wants to know."""
    files = files_of(raw)
    sizes = [*files.values()]
    counted = Counter(chart.by_frame["state"])
    readable = [m for m in chart.by_frame["missing_fraction"] if m is not None]
    kept = [frame for frame, m in zip(raw.frames, chart.by_frame["missing_fraction"], strict=True)
            if quick or m is not None]  # fmt: skip
    times = sources.seconds(kept)
    found = {
        "name": known.get("name"),
        "season": known.get("season") or raw.attrs.get("season"),
        **on_disk(files),
        "small_files": sum(size < SMALL * float(np.median(sizes)) for size in sizes),
        "shape": list(chart.shape) if chart.shape else None,
        **{key: value for key, value in chart.record.items() if key != "problems"},
        "hours_missing": timeline.hours_missing(times),
        "satellite_changes": timeline.satellite_changes(times, [f.satellite for f in kept]),
        "missing_fraction": timeline.shares(readable),
        "statistics": timeline.numbers(chart.sums),
        "unreadable": counted[timeline.UNREADABLE],
        "other_shapes": counted[timeline.OTHER_SHAPE],
        "duplicates": duplicates,
        "by_frame": chart.by_frame,
    }
    if quick:
        found |= {"triplets_at_most": found["triplets"]}
        found |= dict.fromkeys([*BY_READING, "mean", "statistics", "missing_fraction"])
    return found


def files_of(*tracks: RawTrack) -> dict[Path, int]:
    """The bytes of each. One file may hold many frames, and of several tracks."""
    found: dict[Path, int] = {}
    for frame in (frame for raw in tracks for frame in raw.frames):
        for path, member in zip_longest(frame.paths, frame.packed):
            if path not in found:
                found[path] = size_of(path) if member is None else member.size
    return found


def on_disk(files: Mapping[Path, int]) -> dict[str, int]:
    return {"files": len(files), "bytes": sum(files.values())}


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # a link to nowhere: named when it is read


def totals(
    tracks: Mapping[str, Mapping[str, Any]], charts: Mapping[str, Chart], quick: bool
) -> dict[str, Any]:
    """The sums over all typhoons; None for what is not known without reading."""
    summed = (
        "small_files",
        "hours_missing",
        "duplicates",
        "frames_without_best_track",
        "best_track_rows_without_frame",
        *(("triplets_at_most",) if quick else BY_READING),
    )
    found: dict[str, Any] = {
        name: sum(track.get(name) or 0 for track in tracks.values()) for name in summed
    }
    found["tracks"] = len(tracks) if quick else sum(bool(t["frames"]) for t in tracks.values())
    found["gaps"] = sum(len(track.get("gaps", ())) for track in tracks.values())
    found["satellite_changes"] = sum(len(t["satellite_changes"]) for t in tracks.values())
    satellites = Counter[str]()
    for track in tracks.values():
        satellites.update(track.get("satellites", {}))
    found["satellites"] = dict(sorted(satellites.items()))
    if quick:
        return found | dict.fromkeys([*BY_READING, "store_bytes", "statistics"])
    found["store_bytes"] = sum(4 * int(np.prod(t["shape"])) * t["frames"] for t in tracks.values()
                               if t["frames"])  # fmt: skip
    sums = [charts[id].sums for id in tracks]
    found["statistics"] = timeline.numbers(sum(sums[1:], start=sums[0]))
    return found


def refusal(
    path: Path,
    pairs: Mapping[str, Sequence[tuple[Path, Path]]],
    tracks: Mapping[str, Mapping[str, Any]],
    problems: Sequence[str],
    quick: bool,
) -> str:
    """Why `cli convert` would stop before it wrote anything; "" where it would not."""
    if pairs:
        count = sum(map(len, pairs.values()))
        noun = "hour is" if count == 1 else "hours are"
        return (
            f"{path}: {count} {noun} claimed by two files each, of {few(sorted(pairs))}; "
            "`cli convert` refuses such a tree: move one of each two away"
        )
    if not quick and not any(track["frames"] for track in tracks.values()):
        return f"{path}: not one readable frame; {problems[0]}"
    return ""


def told(first: Path, second: Path) -> str:
    how = "the same bytes" if census.same_bytes((first, second)) else "with different bytes"
    return f"{first} and {second}: one hour twice, {how}"


def misplaced(path: Path) -> list[str]:
    """A folder around a tree is read, but the best track is looked for beside image/ and above."""
    if (path / "image").is_dir() or not path.is_dir():
        return []
    trees = sorted(child for child in path.iterdir() if (child / "image").is_dir())
    return [f"{tree} is a tree of its own: give that, to have its best track" for tree in trees]
