"""Writing a store: track by track under temporary names, then what belongs to all tracks.

A track is renamed when it is whole. The root's attributes are written last: a store without them
is one whose conversion has not finished. Until then the root bears a mark of the conversion at
work: a worker on another machine that finds another mark, or none, writes nothing more.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning

from pipeline import atomic, nodes, seal, shard, store
from pipeline.errors import UserError

INNER_CODECS: dict[
    str, list[nodes.Codec]
] = {  # of a shard's chunks; either way a flipped byte is found
    "none": [nodes.LITTLE, nodes.CRC32C],
    "zstd": [nodes.LITTLE, nodes.zstd(shard.ZSTD_LEVEL)],
}
MARK = "conversion"  # attribute of an unfinished root: which conversion is at work


@dataclass(frozen=True)
class Array:
    """One small array of a track: values along named dimensions, with CF attributes."""

    dims: tuple[str, ...]
    values: np.ndarray
    attrs: Mapping[str, Any]


class TrackWriter:
    """Writes one track under a temporary name; `commit` gives it its own.

    Used as a context manager: what was not committed is removed.
    """

    def __init__(
        self, folder: Path, track: str, frame_shape: tuple[int, int, int], codec: str
    ) -> None:
        self.target = folder / track
        self.codec = codec
        self.frame_shape = frame_shape
        self.mark = mark(folder)
        self.folder = temporary(self.target)
        self.folder.mkdir(parents=True)
        try:
            self.writer = shard.ShardWriter(self.folder / store.SHARD_FILE, frame_shape, codec)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.append = self.writer.append  # one frame (C, H, W) float32
        self.room = self.writer.room

    def commit(
        self,
        arrays: Mapping[str, Array],
        frame_attrs: Mapping[str, Any],
        attrs: Mapping[str, Any],
    ) -> None:
        """Close the shard, describe it, and put it in its place when all is on the disk.

        Raises OSError when the disk refuses, UserError when it has lost something, or when another
        conversion has begun meanwhile.
        """
        with self.writer:
            chunks = len(self.writer.index)
        try:
            seal.chunk_lengths(self.folder / store.SHARD_FILE, chunks)
        except ValueError as error:
            told = f"{self.target}: its shard is not whole on the disk ({error})"
            raise UserError(f"{told}; is the disk sound?") from None
        shape = (
            chunks // shard.chunks_per_frame(self.frame_shape, self.codec),
            *self.frame_shape,
        )
        sealed = {} if self.codec == "none" else {seal.SHARD_CRC: f"{self.writer.crc:08x}"}
        nodes.write(self.folder, nodes.group_metadata({**attrs, **sealed}))
        nodes.write(self.folder / "frames", self.frames_metadata(shape, frame_attrs))
        for name, array in arrays.items():
            put(self.folder / name, array)
        settle(self.folder)
        self.put_in_place()

    def frames_metadata(
        self, shape: tuple[int, int, int, int], attrs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Of the array whose one shard is already there."""
        inner = shard.chunk_shape(self.frame_shape, self.codec)
        outer = [shape[0], *(-(-n // c) * c for n, c in zip(shape[1:], inner[1:], strict=True))]
        codecs = [nodes.sharding(inner, INNER_CODECS[self.codec])]
        dims = ("time", "channel", "y", "x")
        return nodes.array_metadata(shape, "float32", outer, codecs, dims, attrs)

    def put_in_place(self) -> None:
        """Give the track its name; where another worker was first with the same, leave that."""
        folder = self.target.parent
        if mark(folder) != self.mark:
            raise UserError(
                f"{folder}: another conversion has begun, or this one was stopped; "
                f"{self.target.name} is left to the other"
            )
        if same_track(self.folder, self.target):
            return  # ours is removed at the end
        before = temporary(self.target)
        with suppress(FileNotFoundError):
            self.target.rename(before)
        try:
            self.folder.rename(self.target)
        except OSError:
            if not same_track(self.folder, self.target):  # put there since the line above
                raise
        shutil.rmtree(before, ignore_errors=True)
        atomic.sync(folder)

    def __enter__(self) -> TrackWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.writer.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def temporary(path: Path) -> Path:
    """A name beside `path` that nobody else takes, on no machine; `is_temporary` knows it."""
    host = socket.gethostname()
    return path.with_name(f".{path.name}.{host}.{os.getpid()}.{uuid4().hex[:8]}.tmp")


def same_track(ours: Path, other: Path) -> bool:
    """Whether two folders hold a track made from the same; the attributes of each tell."""
    try:
        return (ours / "zarr.json").read_bytes() == (other / "zarr.json").read_bytes()
    except FileNotFoundError:
        return False


def settle(folder: Path) -> None:
    """Flush all below a folder to the disk."""
    for inside, _, files in os.walk(folder):
        for name in files:
            atomic.sync(Path(inside, name))
        atomic.sync(Path(inside))


def put(folder: Path, array: Array) -> None:
    """Write one small array whole, as one chunk that ends with its checksum."""
    values = np.asarray(array.values)
    text = values.dtype.kind in "UO"
    codecs = [nodes.TEXT, nodes.CRC32C] if text else nodes.numbers(values.dtype)
    dtype = "string" if text else values.dtype.name
    chunk = nodes.whole(values.shape)
    nodes.write(
        folder,
        nodes.array_metadata(values.shape, dtype, chunk, codecs, array.dims, array.attrs),
    )
    if values.size:
        nodes.write_chunk(folder, values)


def check_target(path: Path) -> None:
    """Raise UserError unless a conversion may write at `path`: nothing there, or a store of ours.

    A store of a newer eddy is refused too. One whose root was lost or damaged is still ours.
    """
    if not path.exists() or (path.is_dir() and all(is_temporary(p) for p in path.iterdir())):
        return
    try:
        attrs = store.root_attrs(path)
    except UserError:
        attrs = {}
    ours = "format_version" in attrs or store.UNFINISHED in attrs
    if not ours and not holds_tracks_alone(path):
        raise UserError(f"{path}: exists and is not a store; choose another name")
    store.check_version(path, attrs.get("format_version", store.FORMAT_VERSION))


def holds_tracks_alone(path: Path) -> bool:
    """Whether every folder at `path` is a track, sound or not, or the triplet index.

    One track at least, or that index, says that eddy wrote it.
    """
    tracks = track_folders(path) if path.is_dir() else []
    index = path / "triplets"
    others = [p for p in path.glob("*/") if not is_temporary(p) and p.name != index.name]
    ours = any(map(is_track, tracks)) or (index / "frame").is_dir()
    return ours and set(others) <= set(tracks)


def track_folders(path: Path) -> list[Path]:
    """Whatever has the form of a track, in order."""
    return sorted(p.parent for p in path.glob("[!.]*/frames/"))


def is_track(folder: Path) -> bool:
    """Whether a folder's attributes say that it is a track of that name, and by eddy."""
    try:
        attrs = json.loads((folder / "zarr.json").read_bytes())["attributes"]
        return bool(attrs["track_id"] == folder.name and "source_fingerprint" in attrs)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def begin(path: Path) -> int:
    """Make the store's root, or mark an existing one as unfinished until `finish`.

    What a killed conversion left half written is swept away: only for who has `claimed` the store.
    Returns the mark: whoever began under an earlier one may write no track any more.
    """
    path.mkdir(parents=True, exist_ok=True)
    its_mark = max(time.time_ns(), (mark(path) or 0) + 1)  # later, though clocks differ
    attrs = {store.UNFINISHED: "cli convert was interrupted, or is still at work", MARK: its_mark}
    atomic.write_json(
        path / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attrs}
    )
    sweep(path)
    return its_mark


def mark(path: Path) -> int | None:
    """Of the conversion that is at work on the store at `path`; None where there is none."""
    try:
        found = json.loads((path / "zarr.json").read_bytes())["attributes"].get(MARK)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def sweep(path: Path) -> None:
    """Remove what was left under temporary names."""
    for stale in [p for p in path.iterdir() if is_temporary(p)]:
        with suppress(FileNotFoundError):  # who left it is removing it too
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()


def is_temporary(path: Path) -> bool:
    """What TrackWriter, atomic.replacing and Zarr itself write under before they rename."""
    of_zarr = path.name.startswith("zarr.") and path.name.endswith(".partial")
    return of_zarr or (path.name.startswith(".") and path.name.endswith(".tmp"))


def finish(path: Path, tracks: Sequence[str], attrs: Mapping[str, Any]) -> int:
    """Write what belongs to all tracks: triplet index, metadata in one place, root attributes.

    Every track is there; what workers left half written is swept away. Returns the number of
    triplets.
    """
    sweep(path)
    triplets = triplet_index([store.Track(path, track) for track in tracks])
    write_triplets(path / "triplets", triplets)
    with warnings.catch_warnings():
        # Readers that do not know it simply read each array's own metadata.
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(path)
    root = json.loads((path / "zarr.json").read_text())
    root["attributes"] = {
        "Conventions": store.CONVENTIONS,
        "format_version": store.FORMAT_VERSION,
        **attrs,
    }
    root["attributes"]["tracks"] = list(tracks)
    atomic.write_json(path / "zarr.json", seal.sealed(root))
    return len(triplets)


def triplet_index(tracks: Sequence[store.Track]) -> np.ndarray:
    """(n, 2) int32: the position of a track, and the middle frame, of every triplet."""
    index = [
        (number, first + 1) for number, track in enumerate(tracks) for first in track.windows(3)
    ]
    return np.array(index, np.int32).reshape(-1, 2)


def write_triplets(folder: Path, triplets: np.ndarray) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    nodes.write(folder, nodes.group_metadata({}))
    about = {
        "track": "position in the store's attribute `tracks`",
        "frame": "index of the middle frame",
    }
    for column, name in enumerate(about):
        put(folder / name, Array(("n",), triplets[:, column], {"long_name": about[name]}))
    settle(folder)
