"""Writing a store: track by track under temporary names, then what belongs to all tracks.

A track is renamed when it is whole. The root's attributes are written last: a store without them
is one whose conversion has not finished.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.errors import ZarrUserWarning

from pipeline import atomic, shard, store
from pipeline.errors import UserError


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
        self.folder = folder / f".{track}.{os.getpid()}.tmp"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        try:
            self.writer = shard.ShardWriter(self.folder / store.SHARD_FILE, frame_shape, codec)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.append = self.writer.append  # one frame (C, H, W) float32

    def commit(
        self,
        arrays: Mapping[str, Array],
        frame_attrs: Mapping[str, Any],
        attrs: Mapping[str, Any],
    ) -> None:
        """Close the shard, describe it, check it, and put it in its place.

        Raises OSError when the disk refuses, UserError when what was written reads back damaged.
        """
        with self.writer:
            chunks = len(self.writer.index)
        shape = (
            chunks // shard.chunks_per_frame(self.frame_shape, self.codec),
            *self.frame_shape,
        )
        if bad := shard.damaged_frames(self.folder / store.SHARD_FILE, shape, self.codec):
            raise UserError(f"{self.target}: frames {bad} read back damaged; is the disk sound?")
        grid = shard.chunk_shape(self.frame_shape, self.codec)
        group = zarr.create_group(self.folder, zarr_format=3, attributes=dict(attrs))
        whole = tuple(-(-n // c) * c for n, c in zip(self.frame_shape, grid[1:], strict=True))
        group.create_array(
            "frames",
            shape=shape,
            dtype="<f4",
            chunks=grid,
            shards=(shape[0], *whole),
            compressors=codecs(self.codec),
            fill_value=float("nan"),
            dimension_names=("time", "channel", "y", "x"),
            attributes=dict(frame_attrs),
        )
        for name, array in arrays.items():
            put(group, name, array)
        for folder, _, files in os.walk(self.folder):
            for file in files:
                atomic.sync(Path(folder, file))
            atomic.sync(Path(folder))
        shutil.rmtree(self.target, ignore_errors=True)
        self.folder.rename(self.target)
        atomic.sync(self.target.parent)

    def __enter__(self) -> TrackWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.writer.file.close()  # writes what is buffered: on a full disk this fails too
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def codecs(codec: str) -> list[Any]:
    """The compressors of an inner chunk; either way a flipped byte is found."""
    if codec == "none":
        return [Crc32cCodec()]
    return [ZstdCodec(level=shard.ZSTD_LEVEL, checksum=True)]


def put(group: zarr.Group, name: str, array: Array) -> None:
    """Write one small array whole, as one uncompressed chunk."""
    values = np.asarray(array.values)
    text = values.dtype.kind in "UO"
    made = group.create_array(
        name,
        shape=values.shape,
        dtype=str if text else values.dtype.newbyteorder("<"),
        chunks=tuple(max(1, n) for n in values.shape),
        compressors=None,
        fill_value=float("nan") if values.dtype.kind == "f" else "" if text else 0,
        dimension_names=array.dims,
        attributes=dict(array.attrs),
        config={"write_empty_chunks": True},
    )
    made[...] = values


def check_target(path: Path) -> None:
    """Raise UserError unless a conversion may write at `path`: nothing there, or a store of ours.

    A store of a newer eddy is refused too.
    """
    if not path.exists() or (path.is_dir() and all(is_temporary(p) for p in path.iterdir())):
        return
    try:
        attrs = store.root_attrs(path)
    except UserError:
        attrs = {}
    if "format_version" not in attrs and store.UNFINISHED not in attrs:
        raise UserError(f"{path}: exists and is not a store; choose another name")
    store.check_version(path, attrs.get("format_version", store.FORMAT_VERSION))


def begin(path: Path) -> None:
    """Make the store's root, or mark an existing one as unfinished until `finish`.

    What a killed conversion left half written is swept away: only for who has `claimed` the store.
    """
    path.mkdir(parents=True, exist_ok=True)
    for stale in filter(is_temporary, path.iterdir()):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    attrs = {store.UNFINISHED: "cli convert was interrupted, or is still at work"}
    atomic.write_json(
        path / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attrs}
    )


def is_temporary(path: Path) -> bool:
    """What TrackWriter and atomic.replacing write under before they rename."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def finish(path: Path, tracks: Sequence[str], attrs: Mapping[str, Any]) -> int:
    """Write what belongs to all tracks: triplet index, metadata in one place, root attributes.

    Returns the number of triplets.
    """
    index = [
        (number, first + 1)
        for number, track in enumerate(tracks)
        for first in store.Track(path, track).windows(3)
    ]
    triplets = np.array(index, np.int32).reshape(-1, 2)
    shutil.rmtree(path / "triplets", ignore_errors=True)
    group = zarr.create_group(path / "triplets", zarr_format=3)
    about = {
        "track": "position in the store's attribute `tracks`",
        "frame": "index of the middle frame",
    }
    for column, name in enumerate(about):
        put(group, name, Array(("n",), triplets[:, column], {"long_name": about[name]}))
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
    atomic.write_json(path / "zarr.json", root)
    return len(triplets)
