"""The store: a Zarr v3 group with one group per track, plus the triplet index.

    WP.zarr/
      202107/frames    float32 (time, channel, y, x), one shard = the whole track
             time, channel, latitude ... (time), satellite, missing_fraction, flag, statistics
      triplets/track, frame   for every valid triplet: which track, and its middle frame

Opened and memory-mapped here; store_writer.py writes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import zarr

from pipeline import nodes, shard, windows
from pipeline.errors import UserError, few
from pipeline.sources.grids import Grid

FORMAT_VERSION = 2  # 1: small arrays and the root without checksums
Codec = Literal["none", "zstd"]
CODECS = get_args(Codec)
TOO_MANY_MISSING, BLANK = 1, 2  # bits of `flag`
UNFINISHED = "unfinished"  # attribute of a root between `begin` and `finish`
STATISTICS = ("count", "sum", "sum_of_squares", "min", "max")
CONVENTIONS = "CF-1.11"
SHARD_FILE = Path("frames/c/0/0/0/0")
PLAIN = (nodes.LITTLE, nodes.CRC32C)  # bytes as they lie in memory: can be mapped
DAMAGE = (ValueError, RuntimeError)  # what Zarr raises for a chunk: of crc32c, of zstd
OTHER_FILES = 512  # open in a process beside the maps: libraries, logs, checkpoints
TIME_ATTRS = {
    "standard_name": "time",
    "units": "seconds since 1970-01-01 00:00:00",
    "calendar": "standard",
}


@dataclass(frozen=True)
class Layout:
    """How frames lie on the disk, as their metadata says."""

    shape: tuple[int, int, int, int]  # (T, C, H, W)
    chunks: int = 0  # inner chunks of the one shard that holds the whole track; 0: otherwise
    tile: tuple[int, int, int] = (0, 0, 0)  # (C, h, w) of an inner chunk: all are of one frame
    codecs: tuple[dict[str, Any], ...] = ()  # of an inner chunk

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Layout:
        T, C, H, W = metadata["shape"]
        shape = (T, C, H, W)
        codec = metadata["codecs"][0]
        if codec["name"] != "sharding_indexed":
            return cls(shape)
        how = codec["configuration"]
        outer = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        one, *tile = how["chunk_shape"]
        ours = (
            outer[0] == T
            and one == 1
            and how["index_location"] == "end"
            and how["index_codecs"] == [nodes.LITTLE, nodes.CRC32C]
            and metadata["chunk_key_encoding"] == nodes.KEYS
        )
        if not ours:
            return cls(shape)
        chunks = math.prod(-(-n // c) for n, c in zip(outer, how["chunk_shape"], strict=True))
        return cls(shape, chunks, tuple(tile), tuple(how["codecs"]))


class Track:
    """One track of a store, opened lazily; cheap to send to another process."""

    def __init__(self, store: Path, id: str) -> None:
        self.store, self.id = store, id

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "id": self.id}  # a pickled memory map would carry its data

    @cached_property
    def group(self) -> zarr.Group:
        """Through zarr-python, for what is not asked of a thousand tracks."""
        self.metadata("")  # says so where it is not there
        return zarr.open_group(self.store / self.id, mode="r", use_consolidated=False)

    @property
    def attrs(self) -> dict[str, Any]:
        return dict(self.metadata("")["attributes"])

    @cached_property
    def layout(self) -> Layout:
        """How the frames lie on the disk."""
        return Layout.of(self.metadata("frames"))

    def metadata(self, name: str) -> dict[str, Any]:
        """Of an array, or of the track itself (""). Raises UserError."""
        track = self.store / self.id
        try:
            return nodes.metadata(track / name)
        except FileNotFoundError:
            gone = track / name if track.is_dir() else track
            raise UserError(
                f"{gone}: not there, though the store lists it; run `cli convert` again"
            ) from None
        except ValueError as error:
            raise self.damaged(track / name / nodes.METADATA, error) from error

    @cached_property
    def frames(self) -> Any:
        """(T, C, H, W) float32, physical units, NaN where missing; sliced like an array.

        A view of the memory-mapped shard where it is uncompressed, else the Zarr array. Raises
        UserError when the shard is gone or cut: Zarr would read a missing one as all NaN.
        """
        if self.shard_file and self.layout.codecs == PLAIN and self.layout.tile == self.shape:
            try:
                return shard.mapped(self.shard_file, self.layout.shape)
            except (ValueError, OSError):
                pass  # in another order, or no more files may be open
        return self.array("frames")

    @cached_property
    def packed(self) -> shard.Packed | None:
        """The compressed frames, where they are in tiles of plain zstd."""
        form, (C, h, w) = self.layout.codecs, self.layout.tile
        zstd = len(form) == 2 and form[0] == nodes.LITTLE and form[1]["name"] == "zstd"
        if not self.shard_file or not zstd or self.shape[0] != C:
            return None
        return shard.Packed(self.shard_file, self.layout.shape, (h, w))

    @cached_property
    def shard_file(self) -> Path | None:
        """The one file of all frames; None where another writer laid them out otherwise.

        Raises UserError when it is gone or its index is not whole.
        """
        if not self.layout.chunks:
            return None
        file = self.store / self.id / SHARD_FILE
        try:
            shard.read_index(file, self.layout.chunks)
        except (ValueError, OSError) as error:
            raise self.damaged(file, error) from None
        return file

    def damaged(self, where: Path, why: object) -> UserError:
        told = str(why).split(". ")[0]  # without a checksum's values
        return UserError(
            f"{where}: damaged ({told}); remove {self.store / self.id} and run `cli convert` again"
        )

    def cut(
        self, first: int, count: int, top: int, left: int, height: int, width: int
    ) -> np.ndarray:
        """(count, C, height, width) float32 of `count` frames from `first` on.

        Raises UserError naming the damaged frames; mapped ones are not looked at.
        """
        try:
            if self.packed:
                return self.packed.cut(first, count, top, left, height, width)
            window = slice(first, first + count), slice(None)
            return np.asarray(self.frames[*window, top : top + height, left : left + width])
        except DAMAGE as error:
            raise self.damage(first, count, error) from error

    def checked(self, first: int, count: int) -> np.ndarray:
        """(count, C, H, W) float32, read through Zarr, which looks at each frame's checksum.

        Raises UserError naming the damaged frames.
        """
        _ = self.frames  # raises where Zarr would read a missing shard as NaN
        try:
            return np.asarray(self.array("frames")[first : first + count], np.float32)
        except DAMAGE as error:
            raise self.damage(first, count, error) from error

    def damage(self, first: int, count: int, error: Exception) -> UserError:
        """What to raise when Zarr could not read these frames: which of them, and why."""
        reasons: dict[str, Exception] = {}
        for number in range(first, first + count):
            try:
                self.array("frames")[number]
            except DAMAGE as its_own:
                reasons[str(number)] = its_own
        reasons = reasons or {f"{first}-{first + count - 1}": error}  # each alone can be read
        noun, verb = ("frame", "is") if len(reasons) == 1 else ("frames", "are")
        why = str(next(iter(reasons.values()))).split(". ")[0]  # without the checksums' values
        return UserError(
            f"{self.store / self.id}: {noun} {few(list(reasons))} {verb} damaged ({why}); "
            "remove this folder and run `cli convert` again"
        )

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one frame."""
        return self.layout.shape[1:]

    @cached_property
    def times(self) -> np.ndarray:
        """(T,) int64, seconds since 1970, UTC."""
        return self.values("time")

    @cached_property
    def flag(self) -> np.ndarray:
        """(T,) uint8; 0 where a frame is fit for windows."""
        return self.values("flag")

    @cached_property
    def grid(self) -> Grid | None:
        """The place of every pixel, where it is one for all frames; of a typhoon it is not."""
        if not self.has("y") and not self.has("latitude"):
            return None
        names, projected = (
            (("y", "x"), True) if self.has("y") else (("latitude", "longitude"), False)
        )
        if self.metadata(names[0]).get("dimension_names") != ["y"]:
            return None
        return Grid(self.values(names[0]), self.values(names[1]), projected)

    @property
    def satellites(self) -> list[str]:
        """(T,) the satellite of each frame."""
        array = self.array("satellite")
        meanings = str(array.attrs["flag_meanings"]).split()
        return [meanings[code] for code in np.asarray(array[...])]

    @property
    def statistics(self) -> dict[str, np.ndarray]:
        """Each (C,) float64, over the pixels that are not missing in frames without a flag."""
        return dict(zip(STATISTICS, self.values("statistics").T, strict=True))

    def windows(self, length: int) -> np.ndarray:
        """First frame of every window of that many frames."""
        return windows.starts(self.times, self.flag == 0, length)

    def values(self, name: str) -> np.ndarray:
        """A small array, whole. Raises UserError when it is damaged or gone."""
        folder = self.store / self.id / name
        about = self.metadata(name)
        try:
            found = nodes.small(folder, about)
            return np.asarray(self.array(name)[...]) if found is None else found
        except (*DAMAGE, OSError) as error:
            raise self.damaged(folder, error) from error

    def has(self, name: str) -> bool:
        return (self.store / self.id / name / nodes.METADATA).is_file()

    def array(self, name: str) -> zarr.Array:
        array = self.group[name]
        assert isinstance(array, zarr.Array)
        return array


@dataclass(frozen=True)
class Store:
    """A finished store, open for reading."""

    path: Path
    attrs: Mapping[str, Any]

    @cached_property
    def ids(self) -> list[str]:
        return list(self.attrs["tracks"])

    @property
    def manifest_hash(self) -> str:
        """Names this conversion; splits and runs carry it."""
        return str(self.attrs["manifest_hash"])

    @property
    def channels(self) -> list[dict[str, Any]]:
        """Name, units, long_name, standard_name, valid_min and valid_max of each channel."""
        return list(self.attrs["channels"])

    def track(self, id: str) -> Track:
        """Raises UserError for an id that the store does not hold."""
        if id not in self.ids:
            raise UserError(f"{self.path}: no track {id!r}; it has {few(self.ids)}")
        return Track(self.path, id)

    def __iter__(self) -> Iterator[Track]:
        return (Track(self.path, id) for id in self.ids)

    def triplets(self) -> tuple[np.ndarray, np.ndarray]:
        """The triplet index: track numbers and middle frames, (n,) int32 each."""
        group = zarr.open_group(self.path / "triplets", mode="r", use_consolidated=False)
        track, frame = np.asarray(group["track"]), np.asarray(group["frame"])
        return track, frame


def open_store(path: Path) -> Store:
    """Open a finished store.

    Raises UserError when there is none, its conversion has not finished, or a newer eddy wrote it.
    """
    attrs = root_attrs(path)
    if "format_version" not in attrs:
        raise UserError(
            f"{path}: not a finished store of eddy (its root has no format version); "
            f"if a conversion was interrupted, run `cli convert SOURCE {path}` again"
        )
    check_version(path, attrs["format_version"])
    return Store(path, attrs)


def root_attrs(path: Path) -> dict[str, Any]:
    """The root's attributes, straight from its file. Raises UserError."""
    file = path / "zarr.json"
    if path.is_file():
        raise UserError(f"{path}: is a file; expected the folder of a store")
    if (path / "image").is_dir():
        raise UserError(f"{path}: is a raw tree; run `cli convert {path} {path}.zarr` first")
    if (path / "frames").is_dir() and (path.parent / "zarr.json").is_file():
        raise UserError(f"{path}: is one track of a store; give {path.parent}")
    if not file.is_file():
        raise UserError(
            f"{path}: no store here; run `cli convert SOURCE {path}` first, or say where it is now"
        )
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["attributes"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: not the metadata of a Zarr v3 group") from None


def check_version(path: Path, version: object) -> None:
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise UserError(
            f"{path}: store format {version!r}, this eddy reads up to {FORMAT_VERSION}; "
            "update eddy, or convert into another store"
        )


def allow_open_files(count: int) -> None:
    """Let this process hold that many maps, as far as the system lets it.

    Each map holds a file open, and the release's 1,116 tracks exceed the usual limit of 1,024.
    """
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def chosen(path: Path, have: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Those of `have` that are asked for; all where none is. Raises UserError for another."""
    if absent := [id for id in ids if id not in have]:
        raise UserError(f"{path}: no track {', '.join(absent)}; it has {few(sorted(have))}")
    return [id for id in have if id in ids] if ids else list(have)
