"""What a source is: raw files as released, seen as tracks of frames still to be read.

One module per raw format; each offers `recognises(path)`, `scan(path, options)` and
`read_frame(frame)`. Scanning looks at names, tables and headers only, so that a release of 190,000
files is known in seconds; pixels are read later, frame by frame, in whichever process converts the
track.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from pipeline.errors import UsageError, UserError
from pipeline.sources import filelist
from pipeline.sources.grids import Grid
from pipeline.sources.options import NONE, WORDS, Options

FORMATS = ("digital_typhoon", "netcdf", "png", "moving_mnist")  # tried in this order


HINTS = {  # by endings: the way out where no file of a form that is read was found
    (".gz", ".bz2", ".xz", ".zst", ".z", ".7z", ".rar"): "unpack what is packed first",
    (".part", ".crdownload", ".download", ".aria2", ".tmp"): "a download is not finished",
    (".h5", ".hdf5", ".he5"): "NetCDF that is called otherwise must end in .nc",
    ("",): "NetCDF that is called otherwise must end in .nc",
    (".csv",): "tables alone are no frames: give the folder that holds image/ beside metadata/",
}


class FrameError(UserError):
    """One frame cannot be used: unreadable, or not of its track's form."""


@dataclass(frozen=True)
class Channel:
    """One channel of every frame; names and units in CF terms."""

    name: str
    units: str
    long_name: str
    standard_name: str
    valid_min: float  # outside of valid_min..valid_max a pixel is missing
    valid_max: float


@dataclass(frozen=True)
class RawFrame:
    """One time step of one track, not yet read."""

    time: np.datetime64  # UTC, whole seconds
    paths: tuple[Path, ...]  # one file per channel
    satellite: str = ""
    part: Any = None  # where in the files, for a format that keeps many frames in one
    packed: tuple[Any, ...] = ()  # where in an archive each of them lies: sources/archive.py


@dataclass(frozen=True)
class Variable:
    """One number per frame from the source's own tables; missing is NaN."""

    values: np.ndarray  # (frames,) float32
    attrs: dict[str, str]


@dataclass(frozen=True)
class RawTrack:
    """One time-ordered sequence of frames on one grid."""

    id: str
    frames: tuple[RawFrame, ...]
    variables: dict[str, Variable] = field(default_factory=dict)  # each one value per frame
    attrs: dict[str, str | int | float] = field(default_factory=dict)
    unmatched_frames: int = 0  # frames that the source's tables do not know
    unmatched_rows: int = 0  # rows of those tables that no frame belongs to
    grid: Grid | None = None  # the place of every pixel, where it is one for all frames


@dataclass(frozen=True)
class Release:
    """Everything that one scan of a source found."""

    format: str  # the module of pipeline.sources that reads it
    path: Path
    attrs: dict[str, str | float]  # title, source, license, attribution ... for the store's root
    channels: tuple[Channel, ...]
    tracks: tuple[RawTrack, ...]  # ordered by id
    problems: tuple[str, ...] = ()  # one sentence for each input that was left out
    notes: tuple[str, ...] = ()  # what was done to the values, for people
    max_missing: float | None = None  # fraction; None: as ConvertSettings has it


class Format(Protocol):
    """What every module in FORMATS offers."""

    OPTIONS: frozenset[str]  # those of Options that it understands
    ENDINGS: tuple[str, ...]  # of names of files that it reads

    def recognises(self, path: Path) -> bool: ...
    def scan(self, path: Path, options: Options) -> Release: ...
    def frame_shape(self, frame: RawFrame) -> tuple[int, int, int]: ...  # (C, H, W), pixels unread

    # (C, H, W) float32, physical units; direct=False: by the format's own library alone, slower;
    # into: memory of that shape that may be used for the answer
    def read_frame(
        self, frame: RawFrame, *, direct: bool = True, into: np.ndarray | None = None
    ) -> np.ndarray: ...


def seconds(frames: Sequence[RawFrame]) -> np.ndarray:
    """(n,) int64: times as a store keeps them, seconds since 1970, UTC."""
    return np.array([frame.time for frame in frames]).astype("datetime64[s]").astype(np.int64)


def read_alike(
    read: Callable[..., np.ndarray], raw: RawFrame, shape: Any, into: np.ndarray | None = None
) -> np.ndarray:
    """One frame of a track whose frames are (C, H, W) `shape`. Raises FrameError for another."""
    frame = read(raw) if into is None else read(raw, into=into)
    if frame.shape != shape:
        raise FrameError(
            f"{raw.paths[0]}: image is {frame.shape[1:]}, "
            f"expected {shape and shape[1:]} as in the rest of its typhoon"
        )
    return frame


def find(name: str) -> Format:
    """The module that reads one raw format."""
    return cast(Format, importlib.import_module(f"pipeline.sources.{name}"))


def format_of(path: Path) -> str | None:
    """The first format that recognises what lies at `path`."""
    return next((name for name in FORMATS if find(name).recognises(path)), None)


def scan(path: Path, options: Options = NONE) -> Release:
    """Look through a folder or file of raw data, or a JSON list of files, whatever their format.

    Raises UserError when there is nothing there that any format recognises, UsageError for options
    that its format knows nothing of.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; expected a tree of raw frames")
    if name := format_of(path):
        source = find(name)
        if unknown := [WORDS[o] for o in options.given() if o not in source.OPTIONS]:
            raise UsageError(f"{path}: is read as {name}, which has no {' and no '.join(unknown)}")
        release = source.scan(path, options)
        others = filelist.others(path, source.ENDINGS) if path.is_dir() else []
        if not others:
            return release
        note = f"{path} is read as {name}; not of that form, left out: {filelist.counted(others)}"
        return replace(release, notes=(*release.notes, note))
    raise UserError(
        f"{path}: no raw frames found; expected H5 files named like 2021071900-202107-HMW8-1.h5 "
        "in it or in its image/ folder, NetCDF files, or folders of frame_001.png, or digits as in "
        f"t10k-images-idx3-ubyte.gz; {what_is(path)}"
    )


def what_is(path: Path) -> str:
    """What lies at a path where nothing is recognised, for a sentence, with the way out if any."""
    names = [file.name for file in filelist.below(path)] if path.is_dir() else [path.name]
    endings = {Path(name).suffix.lower() for name in names}
    hint = next((hint for of, hint in HINTS.items() if endings.intersection(of)), "")
    if path.is_file():
        return hint or f"it is a file {path.suffix or 'without an ending'}"
    if not names:
        return "the folder is empty, or all in it is hidden"
    return f"it holds {filelist.counted(names)}" + (f": {hint}" if hint else "")
