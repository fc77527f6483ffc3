"""One 2-D image out of an HDF5 file: fast for the release's own layout, bounded for any other.

The release compresses with deflate alone; such chunks are inflated by libdeflate, three times as
fast as HDF5 does it, into exactly the bytes that a chunk has. HDF5 would believe a chunk that
inflates to gigabytes, and show whatever lay in memory beside one that inflates to too little: both
are refused before it reads. What it cannot read safely from a damaged file it is not asked to.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import deflate
import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5t, h5z

from pipeline.compiled import compiled
from pipeline.sources import FrameError, hdf5_release
from pipeline.sources.hdf5_release import LARGEST_SIDE, LONGEST_UNITS

T = TypeVar("T")
Steps = Sequence[tuple[int, tuple[int, ...]]]  # each filter's code and settings
SPARE = 128 << 20  # bytes that HDF5 may take beside what it is asked for
READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
FLOATS: dict[Any, np.dtype] = {  # the type in a file, and NumPy's
    h5t.IEEE_F64LE: np.dtype("<f8"),
    h5t.IEEE_F32LE: np.dtype("<f4"),
    h5t.IEEE_F16LE: np.dtype("<f2"),
    h5t.IEEE_F64BE: np.dtype(">f8"),
    h5t.IEEE_F32BE: np.dtype(">f4"),
    h5t.IEEE_F16BE: np.dtype(">f2"),
}
QUICK = tuple(hdf5_release.FLOATS.values())  # the types that `put` is compiled for
DEFLATE, SHUFFLE, FLETCHER32 = h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32
CHECKSUM = 4  # bytes that fletcher32 puts behind a chunk
UNDONE_HERE = {SHUFFLE, DEFLATE, FLETCHER32}
BY_HDF5 = {SHUFFLE, h5z.FILTER_LZF, FLETCHER32}
# No other: szip, nbit and scaleoffset make HDF5 2.0 crash where one byte of their settings is
# wrong, and for a filter that it does not know it runs whatever code a plugin folder holds.
FILTERS = {h5z.FILTER_SZIP: "szip", h5z.FILTER_NBIT: "nbit", h5z.FILTER_SCALEOFFSET: "scaleoffset"}
# What h5py raises for a damaged file.
DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError)

_limiting = Lock()  # a limit on memory is the whole process's


class Image(NamedTuple):
    """An open dataset, and what is asked of it more than once: each question costs."""

    name: str
    data: h5d.DatasetID
    shape: tuple[int, ...]
    dtype: np.dtype
    form: h5p.PropDCID  # layout, chunks, filters


def read(
    path: Path, names: Sequence[str], *, direct: bool = True, into: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """(H, W) float32 of the one image in a file, and its units ("" where it does not say).

    names: of the dataset, the first that is there counts; else the only 2-D one. direct=False: the
    pixels as HDF5 itself reads them, whatever the layout. into: where to put the image if it has
    that shape; fresh memory for every image costs half as much as inflating it. Values beyond
    float32 become inf. Raises FrameError, naming the file, for anything but one readable 2-D
    floating-point image that lies in this file, whole.
    """
    if direct and (known := of_release(path, names, into)):
        return known

    def pixels(image: Image) -> tuple[np.ndarray, str]:
        values = unpacked(path, image, into)  # first, for either way: it looks at the chunks
        if values is None or not direct:
            values = plain(image)
        return values, units(path, image.data)

    return with_image(path, names, pixels)


def of_release(
    path: Path, names: Sequence[str], into: np.ndarray | None
) -> tuple[np.ndarray, str] | None:
    """As `read`, of a sound file in the release's own form; None where HDF5 must look."""
    file = content(path)
    form = hdf5_release.form(file, names)
    if form is None:
        return None
    values = memory(form.shape, into)
    size = math.prod(form.chunk) * form.dtype.itemsize
    try:
        for corner, place in form.places.items():
            if len(chunk := deflate.zlib_decompress(memoryview(file)[place], size)) != size:
                return None
            put(values, *corner, np.frombuffer(chunk, form.dtype).reshape(form.chunk))
            del chunk  # so that the next one lies where this did
    except deflate.DeflateError:
        return None
    return values, form.units


def content(path: Path) -> bytes:
    """Of a file of a size that images have; empty of any other, and where it cannot be read."""
    try:
        number = os.open(path, READ)
    except OSError:
        return b""
    try:
        about = os.fstat(number)
        if not stat.S_ISREG(about.st_mode) or about.st_size > SPARE:
            return b""
        return os.read(number, about.st_size)
    except OSError:
        return b""
    finally:
        os.close(number)


def memory(shape: tuple[int, ...], into: np.ndarray | None) -> np.ndarray:
    """For the image: `into`, if it has that shape."""
    if into is not None and into.shape == shape:
        return into
    return np.empty(shape, np.float32)


@compiled
def put(values, top, left, pixels):  # type: ignore[no-untyped-def]
    """Cast a chunk into an image; what reaches beyond the image's edges is left out."""
    height = min(len(pixels), len(values) - top)
    width = min(pixels.shape[1], values.shape[1] - left)
    for y in range(height):
        row, source = values[np.uintp(top + y)], pixels[np.uintp(y)]
        for x in range(width):
            row[np.uintp(left + x)] = np.float32(source[np.uintp(x)])


def shape(path: Path, names: Sequence[str]) -> tuple[int, ...]:
    """(H, W) of the image, without reading it. Raises FrameError as `read` does."""
    return with_image(path, names, lambda image: image.shape)


def with_image(path: Path, names: Sequence[str], use: Callable[[Image], T]) -> T:
    """Open the image, use it, and say in one sentence what is wrong with it.

    The file is closed when the last name for it is gone: here. (To close it by hand makes h5py look
    through all that is open, which takes a third of the time.)
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # to open a pipe would be to wait for ever
            raise FrameError(f"{path}: not a file")
        file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY)
        image = found(path, file, names)
        if wrong := unusable(image, about.st_size):
            raise FrameError(f"{path}: {image.name!r} {wrong}")
        return use(image)
    except FrameError:
        raise
    except FileNotFoundError:
        raise FrameError(f"{path}: no such file") from None
    except DAMAGE as error:
        told = brief(error)
        raise FrameError(f"{path}: not a readable HDF5 image ({told}){cut_off(told)}") from error


def cut_off(told: str) -> str:
    """The way out where HDF5 tells that a file ends too early; else ""."""
    return "; it is cut off: download it again" if "truncated file" in told else ""


def found(path: Path, file: h5f.FileID, names: Sequence[str]) -> Image:
    """The dataset of one of the names, else the only 2-D one. Raises FrameError."""
    for name in names:
        image = held(path, file, name)
        if image and len(image.shape) == 2:
            return image
    inside = [held(path, file, os.fsdecode(name)) for name in h5g.open(file, b"/")]
    images = [image for image in inside if image and len(image.shape) == 2]
    if len(images) != 1:
        shapes = {image.name: image.shape for image in inside if image}
        raise FrameError(
            f"{path}: holds {shapes or 'no dataset'}; expected one 2-D image ({', '.join(names)})"
        )
    return images[0]


def held(path: Path, file: h5f.FileID, name: str) -> Image | None:
    """The dataset that the file itself holds by that name; None for anything else.

    A link may lead out of the file: none is followed. Raises FrameError for a dataset that lies in
    other files: already to ask for its shape would open them.
    """
    links, key = file.links, os.fsencode(name)
    if not links.exists(key) or links.get_info(key).type != h5l.TYPE_HARD:
        return None
    data = h5o.open(file, key)
    if not isinstance(data, h5d.DatasetID):
        return None
    form = data.get_create_plist()
    if form.get_layout() == h5d.VIRTUAL or form.get_external_count():
        raise FrameError(f"{path}: {name!r} lies in other files; expected pixels in this one")
    return Image(name, data, data.shape or (), floats(data.get_type()), form)


def unusable(image: Image, file_size: int) -> str:
    """What is wrong with a dataset, as far as can be told without reading it; or ""."""
    _, data, sides, dtype, form = image
    if dtype.kind != "f":
        return f"is {data.dtype}; expected floating-point kelvin (IEEE 754)"
    chunk = form.get_chunk() if form.get_layout() == h5d.CHUNKED else ()
    if not 0 < min(sides + chunk) <= max(sides + chunk) <= LARGEST_SIDE:
        return f"is {sides + chunk}; expected sides of 1 to {LARGEST_SIDE}"
    stored, declared = data.get_storage_size(), math.prod(sides) * dtype.itemsize
    if stored > min(file_size, declared + SPARE):
        return f"claims {stored} bytes; the file has {file_size}, the image {declared}"
    if not stored:
        return "holds no pixels; is it whole?"
    if chunk:
        have, whole = data.get_num_chunks(), math.prod(map(parts, sides, chunk))
        if have != whole:
            return f"has {have} chunks, expected {whole}; is it whole?"
    codes = {code for code, _ in filters(form)}
    if not (codes <= UNDONE_HERE or codes <= BY_HDF5):
        names = [FILTERS.get(code, f"HDF5's filter {code}") for code in sorted(codes - UNDONE_HERE)]
        return f"is packed by {' and '.join(names)}; expected deflate (h5repack -f GZIP=6)"
    return ""


def floats(kind: h5t.TypeID) -> np.dtype:
    """NumPy's type of the same bytes; void for any type but the floats of IEEE 754."""
    return next((dtype for known, dtype in FLOATS.items() if kind == known), np.dtype("V"))


def parts(side: int, chunk: int) -> int:
    return -(-side // chunk)


def filters(form: h5p.PropDCID) -> Steps:
    """What each chunk went through when it was written, in that order."""
    every = [form.get_filter(number) for number in range(form.get_nfilters())]
    return [(code, settings) for code, _, settings, _ in every]


def unpacked(path: Path, image: Image, into: np.ndarray | None) -> np.ndarray | None:
    """(H, W) float32, its chunks unpacked here; None where the pixels are HDF5's to read.

    Raises FrameError for a chunk that fails its checksum or is not of the chunk's size.
    """
    _, data, (H, W), dtype, form = image
    if form.get_layout() != h5d.CHUNKED:
        return None
    (h, w), itemsize = form.get_chunk(), dtype.itemsize
    steps = filters(form)
    codes = {code for code, _ in steps}
    undo = unfiltered if codes <= UNDONE_HERE else left_to_hdf5
    ours = codes <= {SHUFFLE, DEFLATE}  # a fletcher32 is HDF5's to look at
    values = memory((H, W), into)
    for corner in product(range(0, H, h), range(0, W, w)):
        try:
            chunk = undo(data, corner, steps, itemsize, h * w * itemsize)
        except (deflate.DeflateError, ValueError) as error:
            told = f"{path}: the chunk at row {corner[0]}, column {corner[1]} is damaged: {error}"
            raise FrameError(f"{told}; expected {h * w * itemsize} bytes") from None
        if ours:
            pixels = np.frombuffer(chunk, dtype).reshape(h, w)
            put(values, *corner, pixels if dtype in QUICK else pixels.astype(np.float64))
    return values if ours else None


def unfiltered(
    data: h5d.DatasetID, corner: tuple[int, int], steps: Steps, itemsize: int, size: int
) -> bytes | bytearray:
    """The `size` bytes of one chunk as they were before its filters.

    Raises DeflateError or ValueError for a chunk that is damaged.
    """
    if not steps:
        left_to_hdf5(data, corner, steps, itemsize, size)
    skipped, chunk = data.read_direct_chunk(corner)  # skipped: a bit for each filter left out
    for number in reversed(range(len(steps))):
        code, settings = steps[number]
        if skipped >> number & 1:
            continue
        if code == DEFLATE:
            most = size + CHECKSUM * (len(steps) - 1)  # of what went before it
            chunk = deflate.zlib_decompress(chunk, most)  # refuses to inflate to more
        elif code == FLETCHER32:
            chunk = chunk[:-CHECKSUM]
        elif settings == (itemsize,):
            end = len(chunk) - len(chunk) % itemsize
            shuffled = np.frombuffer(chunk, np.uint8, end).reshape(itemsize, -1)
            chunk = shuffled.T.tobytes() + chunk[end:]
        else:
            raise ValueError(f"shuffled by {settings}, not by {itemsize} bytes")
    if len(chunk) != size:
        raise ValueError(f"{len(chunk)} bytes")
    return chunk


def left_to_hdf5(
    data: h5d.DatasetID, corner: tuple[int, int], steps: Steps, _: int, size: int
) -> bytes:
    """Nothing, but look that a chunk that went through no filter has `size` bytes.

    HDF5 would read or write beyond the end of one that has not.
    """
    found = data.get_chunk_info_by_coord(corner)
    if (found.filter_mask or not steps) and found.size != size:
        raise ValueError(f"{found.size} bytes")
    return b""


def plain(image: Image) -> np.ndarray:
    """(H, W) float32, read by HDF5 itself with whatever filters it knows.

    A chunk may claim to inflate to gigabytes, which HDF5 would believe: its memory is limited.
    """
    room = 2 * math.prod(image.shape) * image.dtype.itemsize + SPARE
    with limited(room), np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(h5py.Dataset(image.data)[:]).astype(np.float32)


@contextmanager
def limited(more: int) -> Iterator[None]:
    """Let this process grow by no more than so many bytes, where the system can see to that."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    with _limiting:
        before = resource.getrlimit(resource.RLIMIT_AS)
        most = pages * resource.getpagesize() + more
        for limit in before:
            most = most if limit == resource.RLIM_INFINITY else min(most, limit)
        resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
        try:
            yield
        except MemoryError:
            raise ValueError(f"needs {more} bytes of memory and more") from None
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


def units(path: Path, data: h5d.DatasetID) -> str:
    """The attribute, however it was written: bytes, a string, an array of one, nothing at all.

    Raises ValueError for one that is no text or number, or absurdly large.
    """
    if not h5a.exists(data, b"units"):
        return ""
    attribute = h5a.open(data, b"units")
    kind, count = attribute.get_type(), attribute.get_space().get_simple_extent_npoints()
    if not count:
        return ""
    if count * kind.get_size() > LONGEST_UNITS:
        raise ValueError(f"its units are {count * kind.get_size()} bytes")
    is_text = kind.get_class() == h5t.STRING
    if is_text and not kind.is_variable_str() and attribute.shape == ():
        value: Any = np.empty((), f"S{kind.get_size()}")  # as in the release; read faster
        attribute.read(value, mtype=kind)
    elif is_text or kind.get_class() in (h5t.INTEGER, h5t.FLOAT):
        if is_text and not (path.stat().st_size <= SPARE and has_sound_heaps(path.read_bytes())):
            raise ValueError("its units lie in a damaged heap")
        with limited(SPARE):
            value = h5py.Dataset(data).attrs["units"]
    else:
        raise ValueError("its units are neither text nor a number")
    first = np.ravel(value)[0]
    text = first.decode(errors="replace") if isinstance(first, bytes) else str(first)
    return text.strip()[:LONGEST_UNITS]


def has_sound_heaps(file: bytes) -> bool:
    """Whether each heap, where texts of varying length lie, is filled by what lies in it.

    HDF5 2.0 walks through one that is not for ever.
    """

    def number(at: int) -> int:
        return int.from_bytes(file[at : at + 8], "little")

    start = file.find(b"GCOL\1")
    while start >= 0:
        place, end = start + 16, start + number(start + 8)
        while place + 16 <= min(end, len(file)):
            size = number(place + 8)  # of an object without its head, of free space with it
            place += 16 + -(-size // 8) * 8 if any(file[place : place + 2]) else size or len(file)
        if not place <= end <= place + 15:
            return False
        start = file.find(b"GCOL\1", start + 1)
    return True


def brief(error: BaseException) -> str:
    """The telling part of an error of HDF5, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
