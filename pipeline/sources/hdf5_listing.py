"""What an HDF5 file holds beside its image's pixels: names, shapes, types, filters, attributes.

Only of a file whose image hdf5_image.py could open, and with its care: no link is followed, nothing
that lies in other files is asked for, and a text of varying length only where its heap is sound.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5i, h5t

from pipeline.sources import FrameError
from pipeline.sources.hdf5_image import (
    DAMAGE,
    DEFLATE,
    FILTERS,
    FLETCHER32,
    SHUFFLE,
    SPARE,
    Image,
    filters,
    has_sound_heaps,
    held,
    limited,
    with_image,
)

MOST = 50  # datasets and attributes that are listed
LONGEST = 1000  # bytes of an attribute that are shown
NAMES = {**FILTERS, SHUFFLE: "shuffle", FLETCHER32: "fletcher32", h5py.h5z.FILTER_LZF: "lzf"}
KINDS = {
    h5t.INTEGER: "integer",
    h5t.STRING: "text",
    h5t.COMPOUND: "compound",
    h5t.ENUM: "enumeration",
    h5t.REFERENCE: "reference",
    h5t.VLEN: "of varying length",
    h5t.ARRAY: "array",
    h5t.OPAQUE: "opaque",
    h5t.BITFIELD: "bit field",
    h5t.FLOAT: "floating-point of another kind",
}
Entry = dict[str, Any]


def listing(path: Path, names: Sequence[str]) -> tuple[str, list[Entry]]:
    """The image's name, and what lies at the top of the file, plain data, as far as MOST.

    Each entry has `name` and `is`; where that is "dataset" also `shape`, `dtype`, `chunks`,
    `filters`, `attributes`, and in bytes what it takes in the file (`stored`) and unpacked
    (`plain`). names: as hdf5_image.read has them. Raises FrameError where that would.
    """

    def entries(image: Image) -> tuple[str, list[Entry]]:
        file = h5i.get_file_id(image.data)
        return image.name, list(top(path, file))

    return with_image(path, names, entries)


def top(path: Path, file: h5f.FileID) -> Iterator[Entry]:
    root = h5g.open(file, b"/")
    for number, key in enumerate(root):
        if number == MOST:
            yield {"name": f"{root.get_num_objs() - MOST} more", "is": "not listed"}
            return
        name = os.fsdecode(key)
        try:
            yield entry(path, file, name)
        except FrameError:  # a dataset in other files, which are not opened
            yield {"name": name, "is": "in other files"}
        except DAMAGE:  # beside an image that is sound
            yield {"name": name, "is": "damaged"}


def entry(path: Path, file: h5f.FileID, name: str) -> Entry:
    image = held(path, file, name)
    if image is not None:
        return dataset(path, image)
    hard = file.links.get_info(os.fsencode(name)).type == h5py.h5l.TYPE_HARD
    return {"name": name, "is": "group" if hard else "link"}


def dataset(path: Path, image: Image) -> Entry:
    kind = image.data.get_type()
    chunked = image.form.get_layout() == h5d.CHUNKED
    return {
        "name": image.name,
        "is": "dataset",
        "shape": list(image.shape),
        "dtype": type_name(image.dtype, kind),
        "chunks": list(image.form.get_chunk()) if chunked else None,
        "filters": [filter_name(code, how) for code, how in filters(image.form)],
        "attributes": attributes(path, image.data),
        "stored": image.data.get_storage_size(),
        "plain": math.prod(image.shape) * kind.get_size(),
    }


def type_name(dtype: np.dtype, kind: h5t.TypeID) -> str:
    """Floats as NumPy names them; of others only what sort they are."""
    if dtype.kind == "f":
        return dtype.newbyteorder("=").name + (", big-endian" if dtype.byteorder == ">" else "")
    return f"{8 * kind.get_size()}-bit {KINDS.get(kind.get_class(), 'unknown')}"


def filter_name(code: int, settings: Sequence[int]) -> str:
    if code == DEFLATE:
        return f"deflate {settings[0]}" if settings else "deflate"
    return NAMES.get(code, f"HDF5's filter {code}")


def attributes(path: Path, data: h5d.DatasetID) -> dict[str, str | float | int]:
    """Each attribute's value; of one that is no text or number, or long, what it is instead."""
    found: dict[str, str | float | int] = {}
    for number in range(min(h5a.get_num_attrs(data), MOST)):
        name = f"attribute {number}"
        try:
            attribute = h5a.open(data, index=number)
            name = os.fsdecode(attribute.name)
            found[name] = value(path, data, attribute)
        except DAMAGE:
            found[name] = "(not readable)"
    return found


def value(path: Path, data: h5d.DatasetID, attribute: h5a.AttrID) -> str | float | int:
    kind, count = attribute.get_type(), attribute.get_space().get_simple_extent_npoints()
    if not count:
        return ""
    if count * kind.get_size() > LONGEST:
        return f"({count * kind.get_size()} bytes)"
    if kind.get_class() not in (h5t.STRING, h5t.INTEGER, h5t.FLOAT):
        return f"({KINDS.get(kind.get_class(), 'unknown')})"
    varying = kind.get_class() == h5t.STRING and kind.is_variable_str()
    if varying and not (path.stat().st_size <= SPARE and has_sound_heaps(path.read_bytes())):
        return "(in a damaged heap)"
    with limited(SPARE):
        read = np.ravel(h5py.AttributeManager(h5py.Dataset(data))[attribute.name])
    shown = [plain(each) for each in read[:MOST]]
    return shown[0] if count == 1 else " ".join(map(str, shown))[:LONGEST]


def plain(each: Any) -> str | float | int:
    if isinstance(each, bytes):
        return each.decode(errors="replace")[:LONGEST]
    if isinstance(each, str):
        return each[:LONGEST]
    return each.item() if isinstance(each, np.generic) else str(each)[:LONGEST]
