"""What makes every byte of a store answer for itself, so that damage cannot pass unseen.

Metadata is JSON that can be written in one way only; the root's carries a digest of itself and a
copy of every other. Each small array's chunk ends with its crc32c, as does a frame stored as it
is. A zstd frame has bits that change nothing when it is unpacked, so the attributes of a compressed
track also hold the crc32c of its whole shard file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from pipeline import atomic, manifest, shard
from pipeline.nodes import CRC_BYTES, crc

DIGEST = "digest"  # attribute of the root: of all else in that file
SHARD_CRC = "shard_crc32c"  # attribute of a track


def parsed(data: bytes) -> Any:
    """The JSON in a metadata file. Raises ValueError unless these are the bytes once written."""
    value = json.loads(data)
    if atomic.json_text(value).encode() != data:
        raise ValueError("not as it was written")
    return value


def sealed(root: Mapping[str, Any]) -> dict[str, Any]:
    """The root's metadata with the digest of everything else in it."""
    attrs = {key: value for key, value in root["attributes"].items() if key != DIGEST}
    bare = {**root, "attributes": attrs}
    return {**bare, "attributes": {**attrs, DIGEST: manifest.digest(bare)}}


def is_sound_root(data: bytes) -> bool:
    """Whether the root's metadata file is as `sealed` and atomic.write_json left it."""
    try:
        root = parsed(data)
        return bool(sealed(root) == root)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def is_sound_chunk(data: bytes) -> bool:
    """Whether a small array's chunk passes the crc32c at its end."""
    if len(data) <= CRC_BYTES:
        return False  # cut: four zero bytes would pass as the crc32c of nothing
    return crc(data[:-CRC_BYTES]) == data[-CRC_BYTES:]


def look_through(
    path: Path,
    shape: tuple[int, int, int, int],
    codec: str,
    advance: Callable[..., None] = lambda *_: None,
) -> tuple[list[int], str]:
    """Read a whole shard file: the frames that fail their checksum, and the file's crc32c.

    The latter is "" for frames stored as they are: their own leave no byte out.

    shape: (T, C, H, W) of the track. Memory for one chunk only; advance() is called once per
    frame. Raises ValueError when the index is not whole or not what ShardWriter leaves.
    """
    chunks = shard.chunks_per_frame(shape[1:], codec)
    lengths = chunk_lengths(path, shape[0] * chunks)
    room = np.empty(shard.chunk_shape(shape[1:], codec), "<f4")
    buffer = np.empty(max(lengths), np.uint8)  # fresh memory costs more than the reading
    bad = set()
    whole = 0
    with path.open("rb", buffering=0) as file:
        for i, length in enumerate(lengths):
            data = buffer[:length]
            got = file.readinto(data)  # type: ignore[arg-type]  # an array is a buffer
            if codec != "none":
                whole = google_crc32c.extend(whole, data)
            if got != length or not shard.is_sound(data, codec, room):
                bad.add(i // chunks)
            if i % chunks == chunks - 1:
                advance()
        whole = google_crc32c.extend(whole, file.read())  # the index
    return sorted(bad), "" if codec == "none" else f"{whole:08x}"


def chunk_lengths(path: Path, chunks: int) -> list[int]:
    """Bytes of each inner chunk of a shard. Raises ValueError unless they fill it in order."""
    index = shard.read_index(path, chunks).astype(np.int64)
    offsets, lengths = index[:, 0], index[:, 1]
    ends = np.cumsum(lengths)
    size = int(ends[-1]) + chunks * shard.ENTRY_BYTES + shard.CRC_BYTES
    if (offsets != ends - lengths).any() or path.stat().st_size != size:
        raise ValueError("its frames do not follow one another")
    return [int(length) for length in lengths]
