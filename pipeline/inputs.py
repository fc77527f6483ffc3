"""What `infer` may be given, seen as one track: a store, a raw tree or folder, or one raw frame."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydantic import ValidationError

from pipeline import quality, sources, store
from pipeline.errors import UsageError, UserError, few
from pipeline.forecasts import refuse_others
from pipeline.ingest import ConvertSettings, flag_of
from pipeline.outputs.layout import is_output
from pipeline.quality import Examined
from pipeline.sources import FrameError, RawFrame, RawTrack, Release, Variable
from pipeline.sources.grids import Grid
from pipeline.sources.options import NONE, Options

LEVEL = re.compile(r" at ([\d.]+) hPa$")  # ends a channel's long_name, where it is of a level
USUAL = ConvertSettings()
EXPECTED = (
    "expected a typhoon's raw folder, a raw tree, one H5 file, NetCDF files, or a store that "
    "`cli convert` made"
)
OWN = ("time", "satellite", "missing_fraction", "flag")  # a store's arrays that are not a source's


@dataclass(frozen=True)
class Footage:
    """One track, ready to be read frame by frame."""

    path: Path
    id: str
    times: np.ndarray  # (n,) int64, seconds since 1970, UTC
    satellites: list[str]  # (n,)
    variables: dict[str, Variable]  # best track and the like, where the source has it
    attrs: dict[str, Any]  # licence, attribution, pixel_km ...
    shape: tuple[int, int, int]  # (C, H, W) of every frame
    # (C, H, W) float32, physical units, NaN where missing or out of the valid range. Raises
    # FrameError for a frame that is blank, unreadable or of another shape.
    read: Callable[[int], np.ndarray]
    problems: tuple[str, ...] = ()  # what was left out before any frame was read
    grid: Grid | None = None  # the place of every pixel, where it is one for all frames
    settings: ConvertSettings = USUAL  # what a conversion flags its frames by
    flags: np.ndarray | None = None  # (n,) a store's own; 0 where a frame is fit for windows

    def flag(self, number: int, worth: Examined) -> int:
        """Not 0 for a frame that `evaluate` would not score."""
        return flag_of(worth, self.settings) if self.flags is None else int(self.flags[number])


def opened(
    path: Path,
    id: str | None,
    channels: Sequence[Mapping[str, Any]],
    options: Options = NONE,
) -> Footage:
    """The track `id` of whatever lies at `path`; without an id, the only one there is.

    channels: as a store describes them; their valid range decides what is missing. options: how
    raw files are to be read; where they say nothing gridded ones are a single track of those
    channels' variables.
    Raises UserError for input that is neither raw nor a store, holds several tracks, has other
    channels, or has not one readable frame.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; {EXPECTED}")
    whole = path.resolve()  # of "." name and parent would be ""
    if (whole.parent / "zarr.json").is_file() and (whole / "frames").is_dir():  # STORE/202107
        path, id = whole.parent, id or whole.name
    if is_output(path):
        raise UserError(f"{path}: is an output of `cli infer`; {EXPECTED}")
    if (path / "zarr.json").is_file():
        return from_store(store.open_store(path), id, channels)
    if sources.format_of(path) == "netcdf":
        options = Options(**{**asked_for(channels).given(), **options.given()})
    try:
        return from_source(sources.scan(path, options), id, channels)
    except UsageError as error:
        raise UserError(f"{error}; or run `cli convert {path} STORE` and give that store") from None


def asked_for(channels: Sequence[Mapping[str, Any]]) -> Options:
    """The variables and levels that a store's channels were, all times in one track."""
    variables: dict[str, None] = {}
    levels: dict[float, None] = {}
    for channel in channels:
        match = LEVEL.search(channel["long_name"])
        ending = f"_{float(match[1]):g}" if match else ""
        if match and channel["name"].endswith(ending):
            levels[float(match[1])] = None
            variables[channel["name"].removesuffix(ending)] = None
        else:
            variables[channel["name"]] = None
    return Options(variables=tuple(variables), levels=tuple(levels), track_by="none")


def from_store(
    opened: store.Store, id: str | None, channels: Sequence[Mapping[str, Any]]
) -> Footage:
    refuse_others(opened.path, opened.channels, channels)
    track = opened.track(only(opened.path, opened.ids, id))
    variables = {
        name: Variable(np.asarray(array[...]), described(array.attrs))
        for name, array in track.group.arrays()
        if dimensions(array) == ("time",) and name not in OWN
    }
    return Footage(
        path=opened.path,
        id=track.id,
        times=track.times,
        satellites=track.satellites,
        variables=dict(sorted(variables.items())),
        attrs={**opened.attrs, **track.attrs},
        shape=track.shape,
        read=partial(read_stored, track, channels),
        grid=track.grid,
        settings=settings_of(opened.attrs),
        flags=track.flag,
    )


def settings_of(attrs: Mapping[str, Any]) -> ConvertSettings:
    """What a store's frames were flagged by; the usual where it does not say."""
    try:
        return ConvertSettings.model_validate(attrs.get("settings", {}))
    except ValidationError:
        return USUAL


def read_stored(
    track: store.Track, channels: Sequence[Mapping[str, Any]], number: int
) -> np.ndarray:
    try:
        frame = track.checked(number, 1)[0].copy()  # Zarr's own may be read-only
    except UserError as error:  # one frame of many: the others go on
        raise FrameError(str(error)) from None
    return usable(frame, channels, f"{track.store / track.id}: frame {number}")


def usable(frame: np.ndarray, channels: Sequence[Mapping[str, Any]], where: str) -> np.ndarray:
    if quality.examine(frame, channels).blank:
        raise FrameError(f"{where} is blank")
    return frame


def from_source(release: Release, id: str | None, channels: Sequence[Mapping[str, Any]]) -> Footage:
    path = release.path
    refuse_others(path, [vars(channel) for channel in release.channels], channels)
    id = only(path, [raw.id for raw in release.tracks], id)
    raw = next(raw for raw in release.tracks if raw.id == id)
    read = sources.find(release.format).read_frame
    problems = [p for p in release.problems if len(release.tracks) == 1 or id in p]
    shape = quality.usual_shape(raw.frames, lambda frame: read(frame).shape)
    if shape is None:
        try:
            read(raw.frames[0])
        except FrameError as error:
            problems.append(str(error))
        raise UserError(
            f"{path}: not one readable frame of {id}; {problems[-1]}; `cli inspect {path}` looks "
            "at each file"
        )
    return Footage(
        path=path,
        id=id,
        times=sources.seconds(raw.frames),
        satellites=[frame.satellite or "unknown" for frame in raw.frames],
        variables=dict(sorted(raw.variables.items())),
        attrs={**release.attrs, **raw.attrs},
        shape=shape,
        read=partial(read_raw, raw, read, shape, channels),
        problems=tuple(problems),
        grid=raw.grid,
        settings=USUAL.settled(release),
    )


def read_raw(
    raw: RawTrack,
    read: Callable[[RawFrame], np.ndarray],
    shape: tuple[int, int, int],
    channels: Sequence[Mapping[str, Any]],
    number: int,
) -> np.ndarray:
    source = raw.frames[number]
    frame = sources.read_alike(read, source, shape)
    return usable(frame, channels, f"{source.paths[0]}: image")


def only(path: Path, ids: Sequence[str], id: str | None) -> str:
    """The one track that is meant. Raises UserError."""
    if id is None:
        if len(ids) > 1:
            raise UserError(f"{path}: holds {few(ids)}; choose one track with --id")
        return ids[0]
    if id not in ids:
        raise UserError(f"{path}: no track {id!r}; it has {few(ids)}")
    return id


def dimensions(array: zarr.Array) -> tuple[str | None, ...] | None:
    return getattr(array.metadata, "dimension_names", None)  # Zarr v2 has none


def described(attrs: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in attrs.items() if not key.startswith("_")}
