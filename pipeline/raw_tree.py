"""A raw tree in a store's place, for a quick look: the same tracks, every crop inflated anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import manifest, quality, sources
from pipeline.errors import UsageError, UserError
from pipeline.ingest import ConvertSettings, flag_of
from pipeline.progress import progress, say
from pipeline.provenance import fingerprint
from pipeline.quality import Sums
from pipeline.sources import FrameError, RawFrame, RawTrack, Release, archive
from pipeline.sources.grids import Grid
from pipeline.store import STATISTICS, Store, Track, open_store

TIMED = 16  # frames that are read to tell how long it takes
SETTINGS = ConvertSettings()  # what `cli convert` does by default


def opened(path: Path) -> Store:
    """The store at `path`, or the raw tree there as if it were one. Raises UserError for neither.

    Every file of a raw tree is looked through once, and what converting it would gain is said.
    """
    if (path / "zarr.json").is_file() or not path.exists():
        return open_store(path)
    name = sources.format_of(path)
    if name is None or (path.is_file() and name != "netcdf" and not archive.is_archive(path)):
        return open_store(path)
    if archive.is_archive(path):
        raise UserError(
            f"{path}: is an archive, in which no crop can be had at once; run "
            f"`cli convert {path} STORE` and give that store"
        )
    try:
        release = sources.scan(path)
    except UsageError as error:
        raise UserError(
            f"{error}; as options of `cli convert {path} STORE`: give that store here"
        ) from None
    total = sum(len(raw.frames) for raw in release.tracks)
    with progress("look through raw files", total, "frames") as advance:
        seen = [Unconverted(release, raw, survey(release, raw, advance)) for raw in release.tracks]
    tracks = {track.id: track for track in seen if len(track.times)}
    problems = [*release.problems, *(p for track in seen for p in track.seen.problems)]
    if not tracks:
        raise UserError(f"{path}: not one readable frame; {problems[0]}")
    for problem in problems:
        say(f"Left out: {problem}")
    say(gain(path, next(iter(tracks.values()))))
    settings = SETTINGS.settled(release)
    prints = [fingerprint(track.raw, settings) for track in tracks.values()]
    attrs = {
        **release.attrs,
        "tracks": list(tracks),
        "channels": [vars(channel) for channel in release.channels],
        "manifest_hash": manifest.digest(["raw", prints]),
    }
    return RawTree(path, attrs, tracks)


def gain(path: Path, track: Unconverted) -> str:
    """What a store would be worth, as far as that can be measured without one."""
    frames = track.checked(0, min(TIMED, len(track.times)))
    room = np.empty_like(frames)
    inflating = seconds(lambda: track.checked(0, len(frames))) / len(frames)
    copying = seconds(lambda: np.copyto(room, frames)) / len(frames)
    return (
        f"{path} is a raw tree: for every crop whole files are inflated, {inflating * 1e3:.1f} ms "
        f"a frame. A store's are not: copying a whole frame takes {copying * 1e3:.2f} ms, a crop "
        f"less. To load more than {inflating / copying:.0f} times as fast: "
        f"cli convert {path} {path}.zarr"
    )


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, at the second time."""
    work()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@dataclass
class Seen:
    """What looking through one track's files found."""

    frames: list[RawFrame] = field(default_factory=list)  # those that can be read
    flags: list[int] = field(default_factory=list)  # of each
    problems: list[str] = field(default_factory=list)
    shape: tuple[int, int, int] | None = None
    sums: Sums = field(default_factory=lambda: Sums.none(0))


def survey(release: Release, raw: RawTrack, advance: Callable[..., None]) -> Seen:
    """Read every frame of a track once, as a conversion would, and keep what it is worth."""
    source = sources.find(release.format)
    settings = SETTINGS.settled(release)
    channels = [vars(channel) for channel in release.channels]
    seen = Seen(shape=quality.usual_shape(raw.frames, source.frame_shape))
    seen.sums = Sums.none(len(channels))
    for frame in raw.frames:
        try:
            pixels = sources.read_alike(source.read_frame, frame, seen.shape)
        except FrameError as error:
            seen.problems.append(str(error))
        else:
            worth = quality.examine(pixels, channels)
            seen.frames.append(frame)
            seen.flags.append(flag_of(worth, settings))
            if not seen.flags[-1]:
                seen.sums += worth.sums
        advance()
    return seen


class Unconverted(Track):
    """One track of a raw tree, with a store's track's face."""

    def __init__(self, release: Release, raw: RawTrack, seen: Seen) -> None:
        super().__init__(release.path, raw.id)
        self.release, self.raw, self.seen = release, raw, seen

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)

    frames = None  # nothing that could be mapped
    packed = None

    @property
    def attrs(self) -> dict[str, Any]:  # kept in no file
        return dict(self.raw.attrs)

    @property
    def shape(self) -> tuple[int, int, int]:
        assert self.seen.shape is not None  # a track without a readable frame is in no tree
        return self.seen.shape

    @property
    def times(self) -> np.ndarray:
        return sources.seconds(self.seen.frames)

    @property
    def flag(self) -> np.ndarray:
        return np.array(self.seen.flags, np.uint8)

    @property
    def grid(self) -> Grid | None:
        return self.raw.grid

    @property
    def satellites(self) -> list[str]:
        return [frame.satellite or "unknown" for frame in self.seen.frames]

    def has(self, name: str) -> bool:
        return name in self.raw.variables

    def values(self, name: str) -> np.ndarray:
        """Of the frames that can be read, a variable of the source's tables."""
        at = {frame.time: number for number, frame in enumerate(self.raw.frames)}
        return self.raw.variables[name].values[[at[frame.time] for frame in self.seen.frames]]

    @property
    def statistics(self) -> dict[str, np.ndarray]:
        return dict(zip(STATISTICS, self.seen.sums.table().T, strict=True))

    def checked(self, first: int, count: int) -> np.ndarray:
        """(count, C, H, W) float32, masked. Raises FrameError when a file has changed since."""
        source = sources.find(self.release.format)
        channels = [vars(channel) for channel in self.release.channels]
        out = np.empty((count, *self.shape), np.float32)
        for frame, raw in zip(out, self.seen.frames[first : first + count], strict=True):
            frame[...] = sources.read_alike(source.read_frame, raw, self.shape, into=frame)
            quality.examine(frame, channels)
        return out

    def cut(
        self, first: int, count: int, top: int, left: int, height: int, width: int
    ) -> np.ndarray:
        return self.checked(first, count)[..., top : top + height, left : left + width]


@dataclass(frozen=True)
class RawTree(Store):
    """A raw tree with a store's face."""

    tracks: dict[str, Unconverted]

    def track(self, id: str) -> Track:
        super().track(id)  # raises for an id that is not there
        return self.tracks[id]

    def __iter__(self) -> Iterator[Track]:
        return iter(self.tracks.values())

    def triplets(self) -> tuple[np.ndarray, np.ndarray]:
        starts = [track.windows(3) for track in self.tracks.values()]
        number = np.repeat(np.arange(len(starts)), [len(each) for each in starts])
        return number, np.concatenate(starts) + 1
