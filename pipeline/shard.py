"""One shard file: the whole track in one file of Zarr v3's `sharding_indexed` codec.

Inner chunks one after the other, then the index (offset and length of each, uint64), then the
index's crc32c. Written here by hand because zarr-python rewrites the whole shard for every frame
added, and read here by hand because an uncompressed one is a plain strided view of a memory map.
The format: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd

from pipeline.direct_io import DirectFile
from pipeline.nodes import CRC_BYTES, crc

ENTRY_BYTES = 16  # offset and length of one inner chunk
ABSENT = 2**64 - 1  # in the index: this chunk was left out, being nothing but the fill value
TILE = 128  # pixels; side of a compressed inner chunk: small enough for crops
ZSTD_LEVEL = 3  # and no shuffle: frames hold few distinct values, shuffling makes them larger


def chunk_shape(frame_shape: tuple[int, int, int], codec: str) -> tuple[int, int, int, int]:
    """Shape of an inner chunk: a whole frame, or a tile of it where compressed."""
    C, H, W = frame_shape
    return (1, C, H, W) if codec == "none" else (1, C, min(TILE, H), min(TILE, W))


def chunks_per_frame(frame_shape: tuple[int, int, int], codec: str) -> int:
    """How many inner chunks cover a frame; those at its edges reach beyond it."""
    _, _, h, w = chunk_shape(frame_shape, codec)
    return -(-frame_shape[1] // h) * -(-frame_shape[2] // w)


class ShardWriter:
    """Appends frames (C, H, W) float32 to a new shard file; memory for some of them."""

    def __init__(self, path: Path, frame_shape: tuple[int, int, int], codec: str) -> None:
        _, _, self.h, self.w = chunk_shape(frame_shape, codec)
        self.codec = Zstd(level=ZSTD_LEVEL, checksum=True) if codec == "zstd" else None
        self.frame_shape = frame_shape
        self.index: list[tuple[int, int]] = []
        self.size = 0  # bytes
        self.crc = 0  # of all of them, where compressed
        path.parent.mkdir(parents=True)
        self.file = DirectFile(path, 4 * math.prod(frame_shape))

    def room(self) -> np.ndarray | None:
        """(C, H, W) float32, where the next frame will lie: one made there need not be copied.

        None where frames are compressed.
        """
        size = 4 * math.prod(self.frame_shape)
        return None if self.codec else self.file.room(size).view("<f4").reshape(self.frame_shape)

    def append(self, frame: np.ndarray) -> None:
        """Raises ValueError for another shape or dtype than the track's, OSError from the disk."""
        if frame.shape != self.frame_shape or frame.dtype != np.float32:
            raise ValueError(
                f"frame is {frame.shape} {frame.dtype}, expected {self.frame_shape} float32"
            )
        for tile in self.tiles(frame):
            data = np.ascontiguousarray(tile, "<f4")
            begin = self.size
            for part in [self.codec.encode(data)] if self.codec else [data, crc(data)]:
                self.write(part)
            self.index.append((begin, self.size - begin))

    def write(self, data: Any) -> None:
        if self.codec:
            self.crc = google_crc32c.extend(self.crc, data)
        self.file.append(data)
        self.size += memoryview(data).nbytes

    def tiles(self, frame: np.ndarray) -> Iterator[np.ndarray]:
        """Row by row; beyond the frame's edge a tile is padded with the fill value, NaN."""
        _, H, W = frame.shape
        for top in range(0, H, self.h):
            for left in range(0, W, self.w):
                tile = frame[:, top : top + self.h, left : left + self.w]
                short = (self.h - tile.shape[1], self.w - tile.shape[2])
                if any(short):
                    pads = ((0, 0), (0, short[0]), (0, short[1]))
                    tile = np.pad(tile, pads, constant_values=np.nan)
                yield tile

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the index; after an exception, only close."""
        try:
            if kind is None:
                index = np.array(self.index, "<u8").tobytes()
                self.write(index)
                self.write(crc(index))
                self.file.finish()
        finally:
            self.close()

    def close(self) -> None:
        """Close the file. Raises OSError where the disk has refused what was written before."""
        self.file.close()


def read_index(path: Path, chunks: int) -> np.ndarray:
    """(chunks, 2) uint64: offset and length, both ABSENT for a chunk of nothing but NaN.

    Raises ValueError when the index is not whole.
    """
    size = chunks * ENTRY_BYTES + CRC_BYTES
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() < size:
            raise ValueError(f"{file.tell()} bytes, too short for {chunks} chunks")
        file.seek(-size, 2)
        tail = file.read(size)
    index = tail[:-CRC_BYTES]
    if crc(index) != tail[-CRC_BYTES:]:
        raise ValueError("its index fails its checksum")
    return np.frombuffer(index, "<u8").reshape(chunks, 2)


def mapped(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Memory-map an uncompressed shard: (T, C, H, W) float32, read-only, nothing read yet.

    The offsets come from the shard's own index. Raises ValueError when they are not one frame
    after the other, as ShardWriter leaves them: then Zarr itself must read it.
    """
    frame_bytes = 4 * int(np.prod(shape[1:]))
    index = read_index(path, shape[0]).astype(np.int64)
    expected = np.arange(shape[0]) * (frame_bytes + CRC_BYTES)
    if (index[:, 0] != expected).any() or (index[:, 1] != frame_bytes + CRC_BYTES).any():
        raise ValueError(f"{path}: frames do not follow one another")
    raw = np.asarray(np.memmap(path, np.uint8, "r", shape=(shape[0], frame_bytes + CRC_BYTES)))
    return raw[:, :frame_bytes].view("<f4").reshape(shape)


class Packed:
    """The zstd-compressed frames of one shard, mapped; only the tiles that are asked for unpacked.

    shape: (T, C, H, W) of the track; tile: (h, w) of an inner chunk. Raises ValueError when the
    index is not whole.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int], tile: tuple[int, int]) -> None:
        self.shape, (self.h, self.w) = shape, tile
        grid = (shape[0], -(-shape[2] // self.h), -(-shape[3] // self.w))
        self.index = read_index(path, math.prod(grid)).reshape(*grid, 2)
        self.bytes = np.asarray(np.memmap(path, np.uint8, "r"))

    def cut(
        self, first: int, count: int, top: int, left: int, height: int, width: int
    ) -> np.ndarray:
        """(count, C, height, width) float32. ValueError or RuntimeError: a damaged tile."""
        h, w = self.h, self.w
        out = np.empty((count, self.shape[1], height, width), np.float32)
        rows = range(top // h, (top + height - 1) // h + 1)
        columns = range(left // w, (left + width - 1) // w + 1)
        for t, row, column in product(range(count), rows, columns):
            y, x = row * h - top, column * w - left  # of the tile, within the crop
            tile = self.tile(first + t, row, column)
            part = tile[:, max(0, -y) : height - y, max(0, -x) : width - x]
            y, x = max(0, y), max(0, x)
            out[t, :, y : y + part.shape[1], x : x + part.shape[2]] = part
        return out

    def tile(self, frame: int, row: int, column: int) -> np.ndarray:
        offset, length = self.index[frame, row, column].tolist()
        shape = (self.shape[1], self.h, self.w)
        if offset == ABSENT:
            return np.full(shape, np.nan, np.float32)
        values = Zstd().decode(self.bytes[offset : offset + length])
        return np.frombuffer(values, "<f4").reshape(shape)


def is_sound(data: bytes | np.ndarray, codec: str, room: np.ndarray) -> bool:
    """Whether a chunk passes its checksum: the crc32c behind it, or the one within zstd's frame.

    room: where a compressed chunk is unpacked.
    """
    if codec == "none":
        return crc(data[:-CRC_BYTES]) == bytes(data[-CRC_BYTES:])
    try:
        Zstd().decode(data, room)
    except (RuntimeError, ValueError):  # damaged; larger than a chunk
        return False
    return True
