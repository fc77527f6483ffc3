"""One 2-D image out of an HDF5 file: fast for the release's own layout, bounded for any other.

The release compresses with deflate alone; such chunks are inflated by libdeflate, three times as
fast as HDF5 does it, into exactly the bytes that a chunk has: a chunk that would inflate to more is
refused before it does. Anything else is read by HDF5 itself, under a limit on memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import deflate
import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5i, h5l, h5o, h5p, h5t, h5z

from pipeline.sources import FrameError

T = TypeVar("T")
LARGEST_SIDE = 8192  # pixels; a larger declared shape is damage or malice, not an image
SPARE = 128 << 20  # bytes that HDF5 may take beside the image while it reads one
# What h5py raises for a damaged file.
DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError)

_limiting = Lock()  # a limit on memory is the whole process's


class Image(NamedTuple):
    """An open dataset, and what is asked of it more than once: each question costs."""

    data: h5d.DatasetID
    shape: tuple[int, ...]
    form: h5p.PropDCID  # layout, chunks, filters


def read(
    path: Path, names: Sequence[str], *, direct: bool = True, into: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """(H, W) float32 of the one image in a file, and its units ("" where it does not say).

    names: of the dataset, the first that is there counts; else the only 2-D one. direct=False: read
    by HDF5 itself whatever the layout. into: where to put the image if it has that shape; fresh
    memory for every image costs half as much as inflating it. Values beyond float32 become inf.
    Raises FrameError, naming the file, for anything but one readable 2-D floating-point image that
    lies in this file.
    """

    def pixels(image: Image) -> tuple[np.ndarray, str]:
        with np.errstate(over="ignore", invalid="ignore"):
            values = inflated(path, image, into) if direct else None
            return (plain(image) if values is None else values), units(image.data)

    return with_image(path, names, pixels)


def shape(path: Path, names: Sequence[str]) -> tuple[int, ...]:
    """(H, W) of the image, without reading it. Raises FrameError as `read` does."""
    return with_image(path, names, lambda image: image.shape)


def with_image(path: Path, names: Sequence[str], use: Callable[[Image], T]) -> T:
    """Open the image, use it, and say in one sentence what is wrong with it.

    The file is closed when the last name for it is gone: here. (To close it by hand makes h5py look
    through all that is open, which takes a third of the time.)
    """
    try:
        file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY)
        return use(found(path, file, names))
    except FrameError:
        raise
    except FileNotFoundError:
        raise FrameError(f"{path}: no such file") from None
    except DAMAGE as error:
        raise FrameError(f"{path}: not a readable HDF5 image ({brief(error)})") from error


def found(path: Path, file: h5f.FileID, names: Sequence[str]) -> Image:
    """The image, checked as far as it can be without reading it. Raises FrameError."""
    data = next(filter(is_image, (held(file, name.encode()) for name in names)), None)
    if data is None:
        data = only_image(path, file, names)
    image = Image(data, data.shape, data.get_create_plist())
    if wrong := unusable(path, image):
        raise FrameError(f"{path}: {h5i.get_name(data).decode(errors='replace')} {wrong}")
    return image


def unusable(path: Path, image: Image) -> str:
    """What is wrong with a dataset, or ""."""
    data, sides, form = image
    if data.dtype.kind != "f":
        return f"is {data.dtype}; expected floating-point kelvin"
    layout = form.get_layout()
    if layout == h5d.CHUNKED:
        sides += form.get_chunk()
    if not 0 < min(sides) <= max(sides) <= LARGEST_SIDE:
        return f"is {sides}; expected sides of 1 to {LARGEST_SIDE}"
    if layout == h5d.VIRTUAL or form.get_external_count():
        return "lies in other files; expected pixels in this one"
    if data.get_storage_size() > path.stat().st_size:
        return "claims more bytes than the file has; is it whole?"
    return ""


def held(file: h5f.FileID, name: bytes) -> Any:
    """What the file itself holds by that name; None for a link that may lead out of it."""
    links = file.links
    if not links.exists(name) or links.get_info(name).type != h5l.TYPE_HARD:
        return None
    return h5o.open(file, name)


def is_image(found: Any) -> bool:
    return isinstance(found, h5d.DatasetID) and found.rank == 2


def only_image(path: Path, file: h5f.FileID, names: Sequence[str]) -> h5d.DatasetID:
    """The only 2-D dataset of a file that uses none of the names. Raises FrameError."""
    found = {name.decode(errors="replace"): held(file, name) for name in h5g.open(file, b"/")}
    datasets = {name: d for name, d in found.items() if isinstance(d, h5d.DatasetID)}
    images = [d for d in datasets.values() if is_image(d)]
    if len(images) != 1:
        shapes = {name: d.shape for name, d in datasets.items()}
        raise FrameError(
            f"{path}: holds {shapes or 'no dataset'}; expected one 2-D image ({', '.join(names)})"
        )
    return images[0]


def inflated(path: Path, image: Image, into: np.ndarray | None) -> np.ndarray | None:
    """(H, W) float32, each chunk inflated by libdeflate; None where the layout is another one.

    Raises FrameError for a chunk that fails its checksum or is not of the chunk's size.
    """
    data, (H, W), form = image
    if form.get_layout() != h5d.CHUNKED or form.get_nfilters() != 1:
        return None
    if form.get_filter(0)[0] != h5z.FILTER_DEFLATE:
        return None
    (h, w), dtype = form.get_chunk(), data.dtype
    if data.get_num_chunks() != -(-H // h) * -(-W // w):
        return None  # chunks that were never written: HDF5 knows their fill value
    fits = into is not None and into.shape == (H, W)
    values = into if fits else np.empty((H, W), np.float32)
    assert values is not None
    size = h * w * dtype.itemsize
    for top, left in product(range(0, H, h), range(0, W, w)):
        skipped, stored = data.read_direct_chunk((top, left))
        if skipped:  # this one chunk was stored without compression
            return None
        try:
            chunk = deflate.zlib_decompress(stored, size)
        except deflate.DeflateError as error:
            told = f"chunk at row {top}, column {left} does not inflate to {size} bytes: {error}"
            raise FrameError(f"{path}: damaged ({told})") from None
        if len(chunk) != size:
            told = f"chunk at row {top}, column {left} has {len(chunk)} bytes, not {size}"
            raise FrameError(f"{path}: damaged ({told})")
        place = values[top : top + h, left : left + w]
        place[...] = np.frombuffer(chunk, dtype).reshape(h, w)[: place.shape[0], : place.shape[1]]
    return values


def plain(image: Image) -> np.ndarray:
    """(H, W) float32, read by HDF5 itself with whatever filters it knows.

    A chunk may claim to inflate to gigabytes, which HDF5 would believe: its memory is limited.
    """
    with limited(2 * math.prod(image.shape) * image.data.dtype.itemsize + SPARE):
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
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


def units(data: h5d.DatasetID) -> str:
    """The attribute, however it was written: bytes, a string, an array of one, nothing at all."""
    if not h5a.exists(data, b"units"):
        return ""
    attribute = h5a.open(data, b"units")
    kind = attribute.get_type()
    if attribute.shape == () and kind.get_class() == h5t.STRING and not kind.is_variable_str():
        value: Any = np.empty((), f"S{kind.get_size()}")  # as in the release; read faster
        attribute.read(value, mtype=kind)
    else:
        value = h5py.Dataset(data).attrs["units"]
    if isinstance(value, h5py.Empty) or not np.size(value):
        return ""
    first = np.ravel(value)[0]
    return (first.decode(errors="replace") if isinstance(first, bytes) else str(first)).strip()


def brief(error: BaseException) -> str:
    """The telling part of an error of HDF5, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
