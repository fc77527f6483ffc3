"""Arrays of a Zarr v3 store as the plain files they are.

Through zarr-python each small array costs two milliseconds to write and one to read: minutes for a
release of 1,100 typhoons. So what eddy writes itself is read and written here, by the format's
specification; what looks otherwise is left to zarr-python.
https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.vlen import VLenUTF8

from pipeline import atomic

METADATA = "zarr.json"
CRC_BYTES = 4
Codec = dict[str, Any]
LITTLE: Codec = {"name": "bytes", "configuration": {"endian": "little"}}
BYTES: Codec = {"name": "bytes"}  # of one byte: in no order
CRC32C: Codec = {"name": "crc32c"}
KEYS = {"name": "default", "configuration": {"separator": "/"}}  # c/0/0
TEXT: Codec = {"name": "vlen-utf8", "configuration": {}}


def metadata(folder: Path) -> dict[str, Any]:
    """What zarr.json says. Raises FileNotFoundError, and ValueError for what is no metadata."""
    found = json.loads((folder / METADATA).read_bytes())
    if not isinstance(found, dict) or found.get("zarr_format") != 3:
        raise ValueError(f"{METADATA} is not Zarr v3 metadata")
    return found


def array_metadata(
    shape: Sequence[int],
    dtype: str,
    chunk: Sequence[int],
    codecs: Sequence[Mapping[str, Any]],
    dims: Sequence[str],
    attrs: Mapping[str, Any],
) -> dict[str, Any]:
    """The metadata of an array, as zarr-python writes it; dtype: Zarr's name, or "string"."""
    fill = {"f": "NaN", "s": ""}.get(dtype[0], 0)
    return {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": KEYS,
        "fill_value": fill,
        "codecs": list(codecs),
        "attributes": dict(attrs),
        "dimension_names": list(dims),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def sharding(chunk: Sequence[int], codecs: Sequence[Mapping[str, Any]]) -> Codec:
    """The codec of an array whose chunks are shards of smaller ones, with the index at the end."""
    how = {
        "chunk_shape": list(chunk),
        "codecs": list(codecs),
        "index_codecs": [LITTLE, CRC32C],
        "index_location": "end",
    }
    return {"name": "sharding_indexed", "configuration": how}


def zstd(level: int) -> Codec:
    """With a checksum in every frame."""
    return {"name": "zstd", "configuration": {"level": level, "checksum": True}}


def group_metadata(attrs: Mapping[str, Any]) -> dict[str, Any]:
    return {"attributes": dict(attrs), "zarr_format": 3, "node_type": "group"}


def write(folder: Path, about: Mapping[str, Any]) -> None:
    """Write a node's metadata. Raises ValueError for what is not JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METADATA).write_text(atomic.json_text(about), encoding="utf-8")


def write_chunk(folder: Path, values: np.ndarray) -> None:
    """Write a whole array, of numbers or of text, as one chunk that ends with its crc32c."""
    if values.dtype.kind in "UO":
        data = bytes(VLenUTF8().encode(values.astype(object).ravel()))
    else:
        data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    file = chunk_file(folder, values.ndim)
    file.parent.mkdir(parents=True)
    file.write_bytes(data + crc(data))


def small(folder: Path, about: Mapping[str, Any]) -> np.ndarray | None:
    """A whole array of numbers that is one chunk and its crc32c; None for any other.

    about: its metadata. Raises ValueError when it is damaged, FileNotFoundError when it is gone:
    Zarr would take a missing chunk for zeros.
    """
    try:
        shape, dtype = about["shape"], np.dtype(about["data_type"])
        ours = array_metadata(shape, dtype.name, whole(shape), numbers(dtype), (), {})
        if any(about[key] != ours[key] for key in ("chunk_grid", "chunk_key_encoding", "codecs")):
            return None
    except (KeyError, TypeError):
        return None
    if not math.prod(shape):
        return np.empty(shape, dtype)
    data = chunk_file(folder, len(shape)).read_bytes()
    if len(data) != math.prod(shape) * dtype.itemsize + CRC_BYTES:
        raise ValueError(f"{len(data)} bytes for {tuple(shape)} {dtype}")
    if crc(data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
        raise ValueError("it fails its crc32c")
    return np.frombuffer(data[:-CRC_BYTES], dtype.newbyteorder("<")).reshape(shape).astype(dtype)


def whole(shape: Sequence[int]) -> list[int]:
    """The chunk that holds an array whole."""
    return [max(1, n) for n in shape]


def numbers(dtype: np.dtype) -> list[Codec]:
    """The codecs of a small array."""
    return [LITTLE if dtype.itemsize > 1 else BYTES, CRC32C]


def chunk_file(folder: Path, ndim: int) -> Path:
    """Of the only chunk of an array."""
    return folder.joinpath("c", *["0"] * ndim)


def crc(data: Any) -> bytes:
    """The crc32c of some bytes, as it stands behind a chunk."""
    return struct.pack("<I", google_crc32c.value(data))
