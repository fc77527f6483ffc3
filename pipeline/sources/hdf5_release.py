"""Image files in the form of the release, taken apart without HDF5.

To open a file, find its image and look up its chunks takes HDF5 a third of the time that inflating
them does. The release's files are all of one form: one image in deflated chunks, as HDF5 writes it.
That form alone is known here, to the byte; of any other, of damage, and of whatever is not certain
`form` says None, and HDF5 must look.
The format, of which this is superblock 0 and the first version of the rest:
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t1.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from struct import Struct
from typing import NamedTuple

import numpy as np

LARGEST_SIDE = 4096  # pixels; a larger declared shape is damage or malice, not an image
LONGEST_UNITS = 1000  # bytes of the attribute
# Where HDF5 puts what belongs to a file's first dataset
END_OF_FILE, ROOT, GROUP, HEAP, OBJECT, SYMBOLS, TREE = 0x28, 0x60, 0x88, 0x2A8, 0x320, 0x430, 0x578
NOWHERE = 2**64 - 1  # an address
HEADER = Struct("<BxHII4x")  # version, messages, references, bytes
MESSAGE = Struct("<HHB3x")  # kind, bytes, flags
SPACE, TYPE, FILL, LAYOUT, FILTERS, ATTRIBUTE, CONTINUED, MEMBERS = 1, 3, 5, 8, 11, 12, 16, 17
NOTHING, CHANGED = 0, 18  # room; the time of the last change
SIDES = Struct("<4B4x2Q")
CHUNKED = Struct("<3BQ3Ix")
TEXT = Struct("<BxHHH")
SCALAR = bytes.fromhex("0100000000000000")
FLOATS: dict[bytes, np.dtype] = {
    bytes.fromhex("11203f000800000000004000340b0034ff03000000000000"): np.dtype("<f8"),
    bytes.fromhex("11201f000400000000002000170800177f00000000000000"): np.dtype("<f4"),
}
TIME = bytes.fromhex("01000000")
NO_FILL = bytes.fromhex("0203020100000000")
DEFLATE = bytes.fromhex("01010000000000000100080001000100") + b"deflate\0"  # then its level
NODE = Struct("<4sBBH2Q")
MOST_CHUNKS = 64  # that one node of a tree has room for
CHUNK = Struct("<2I4Q")  # bytes, filters left out, corner, address
END = Struct("<2I3Q")  # of all chunks


class Form(NamedTuple):
    """What there is to know of an image in deflated chunks."""

    shape: tuple[int, int]
    chunk: tuple[int, int]
    dtype: np.dtype
    places: dict[tuple[int, int], slice]  # by a chunk's first row and column: its bytes in the file
    units: str  # "": it does not say


def form(file: bytes, names: Sequence[str]) -> Form | None:
    """Of the image in a file that holds nothing else, if it has one of the names; else None."""
    if not any(holds_only(file, name) for name in names):
        return None
    try:
        return described(file)
    except (struct.error, ValueError, LookupError):  # something is cut off, wrong, or unknown
        return None


def holds_only(file: bytes, name: str) -> bool:
    """Whether the file is as long as it says and its root holds one object, of that name."""
    start, root, symbols = around(name)
    return (
        file.startswith(start + struct.pack("<Q", len(file)))
        and file.startswith(root, len(start) + 8)
        and file.startswith(symbols, SYMBOLS)
    )


@cache
def around(name: str) -> tuple[bytes, bytes, bytes]:
    """What such a file holds up to END_OF_FILE, behind it up to OBJECT, and at SYMBOLS."""
    start = b"\x89HDF\r\n\x1a\n" + bytes([0, 0, 0, 0, 0, 8, 8, 0])  # versions, bytes of a number
    start += struct.pack("<HHI2Q", 4, 16, 0, 0, NOWHERE)  # half the entries of a node
    root = struct.pack("<3Q2I2Q", NOWHERE, 0, ROOT, 1, 0, GROUP, HEAP)
    root += HEADER.pack(1, 1, 1, 24) + MESSAGE.pack(MEMBERS, 16, 0)
    root += struct.pack("<2Q", GROUP, HEAP)
    tree = NODE.pack(b"TREE", 0, 0, 1, NOWHERE, NOWHERE) + struct.pack("<3Q", 0, SYMBOLS, 8)
    words = bytes(8) + padded(name.encode() + b"\0")
    room = OBJECT - HEAP - 32  # for words; what they leave is one free block
    heap = struct.pack("<4sI3Q", b"HEAP", 0, room, len(words), HEAP + 32) + words
    heap += struct.pack("<2Q", 1, room - len(words))
    root += tree.ljust(HEAP - GROUP, b"\0") + heap.ljust(OBJECT - HEAP, b"\0")
    symbols = struct.pack("<4sBBH2Q", b"SNOD", 1, 0, 1, 8, OBJECT)
    return start, root, symbols.ljust(TREE - SYMBOLS, b"\0")


def padded(data: bytes) -> bytes:
    """With zeros behind it, so that what follows begins at a multiple of 8."""
    return data.ljust(-(-len(data) // 8) * 8, b"\0")


def described(file: bytes) -> Form | None:
    """The object of such a file, if it is an image in deflated chunks.

    Raises struct.error, ValueError or LookupError for one that is not as it should be.
    """
    found: dict[int, bytes] = {}
    texts: dict[bytes, str] = {}
    for kind, data in messages(file):
        if kind == ATTRIBUTE:
            name, text = attribute(data)
            if name in texts:
                return None
            texts[name] = text
        elif kind == CHANGED:
            if data[:4] != TIME or len(data) != 8:
                return None
        elif kind != NOTHING:
            if kind in found:
                return None
            found[kind] = data
    if set(found) != {SPACE, TYPE, FILL, LAYOUT, FILTERS}:
        return None
    *about, H, W = SIDES.unpack(found[SPACE][: SIDES.size])
    most = struct.unpack(f"<{2 * about[2]}Q", found[SPACE][SIDES.size :])  # that they may grow to
    *kind_of_layout, tree, h, w, itemsize = CHUNKED.unpack(found[LAYOUT])
    dtype = FLOATS[found[TYPE]]
    known = (
        about in ([1, 2, 0, 0], [1, 2, 1, 0])
        and all(side <= limit for side, limit in zip((H, W), most, strict=False))
        and kind_of_layout == [3, 2, 3]
        and itemsize == dtype.itemsize
        and 0 < min(H, W, h, w) <= max(H, W, h, w) <= LARGEST_SIDE
        and found[FILL] == NO_FILL
        and found[FILTERS].startswith(DEFLATE)
    )
    if not known:
        return None
    rows, columns = range(0, H, h), range(0, W, w)
    if len(rows) * len(columns) > MOST_CHUNKS:
        return None
    places = chunks(file, tree, list(product(rows, columns)), (h, w, itemsize))
    return Form((H, W), (h, w), dtype, places, texts.get(b"units", ""))


def messages(file: bytes) -> Iterator[tuple[int, bytes]]:
    """Of the object's header, each kind and content. Raises ValueError where one is not whole."""
    version, count, references, size = HEADER.unpack_from(file, OBJECT)
    begin, end = OBJECT + HEADER.size, SYMBOLS
    if (version, references, begin + size) != (1, 1, end):
        raise ValueError
    blocks = [(begin, end)]
    for begin, end in blocks:
        while begin < end:
            kind, size, flags = MESSAGE.unpack_from(file, begin)
            begin += MESSAGE.size
            data = file[begin : begin + size]
            begin += size
            count -= 1
            if flags > 1 or count < 0:  # 1: it never changes
                raise ValueError
            if kind == CONTINUED:
                at, size = struct.unpack("<2Q", data)
                if at + size > len(file):
                    raise ValueError
                blocks.append((at, at + size))
            else:
                yield kind, data
        if begin > min(end, len(file)):
            raise ValueError
    if count:
        raise ValueError


def attribute(data: bytes) -> tuple[bytes, str]:
    """Name and text of an attribute that is one text. Raises ValueError for any other."""
    _, length, *_ = TEXT.unpack_from(data)
    name = data[TEXT.size : TEXT.size + length]
    before = TEXT.pack(1, length, 8, 8) + padded(name)
    ends, length = struct.unpack_from("<xB2xI", data, len(before))  # ends: how a text does
    before += struct.pack("<2B2xI", 0x13, ends & 1, length) + SCALAR
    text = data[len(before) : len(before) + length]
    plain = text.rstrip(b"\0")
    if data != before + padded(text) or len(text) != length or length > LONGEST_UNITS:
        raise ValueError
    if b"\0" in plain or name.find(b"\0") != len(name) - 1:
        raise ValueError
    return name[:-1], plain.decode("ascii").strip()


def chunks(
    file: bytes, tree: int, corners: Sequence[tuple[int, int]], sides: tuple[int, int, int]
) -> dict[tuple[int, int], slice]:
    """Where each chunk lies in the file. Raises ValueError for a tree that is not theirs alone.

    sides: of a chunk, the bytes of a pixel being the third.
    """
    if not file.startswith(NODE.pack(b"TREE", 1, 0, len(corners), NOWHERE, NOWHERE), tree):
        raise ValueError
    first = tree + NODE.size
    behind = first + len(corners) * CHUNK.size
    end = END.unpack_from(file, behind)[2:]
    if end <= (*corners[-1], 0) or any(at % side for at, side in zip(end, sides, strict=True)):
        raise ValueError  # HDF5 would not find the last
    if tree + NODE.size + MOST_CHUNKS * CHUNK.size + END.size > len(file):
        raise ValueError
    places = {}
    entries = CHUNK.iter_unpack(file[first:behind])
    for corner, (length, left_out, *place, at) in zip(corners, entries, strict=True):
        if left_out or place != [*corner, 0] or at + length > len(file):
            raise ValueError
        places[corner] = slice(at, at + length)
    if sum(place.stop - place.start for place in places.values()) > len(file):
        raise ValueError  # some lie in one another
    return places
