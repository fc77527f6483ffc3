"""One NetCDF file, looked at before it is trusted: NetCDF-4, NetCDF-3, or one inside a ZIP.

Nothing in a file may lead out of it, and nothing is read that a file of its size cannot hold. Files
and the blocks that were read from them are kept open for a while, per process: a track is read
frame by frame, and a frame is often a small part of what has to be unpacked for it.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from threading import RLock
from typing import Any, BinaryIO

import h5py
import numpy as np
import xarray as xr
from h5py import h5d, h5o, h5t

from pipeline.sources import FrameError, hdf5_image

ENDINGS = (".nc", ".nc4", ".nc3", ".cdf", ".netcdf", ".zip", ".grib", ".grib2", ".grb", ".grb2")
INSIDE = (".nc", ".nc4", ".nc3", ".cdf", ".netcdf")  # of a ZIP
LARGEST_SIDE = 65_536  # cells; a larger declared side is damage or malice, not a field
LARGEST_FIELD = 1 << 30  # bytes of one time step as it is read
LARGEST_CHUNK = 2 << 30  # bytes
MOST_UNPACKED = 32 << 30  # bytes of all members of a ZIP
INFLATION = 1100  # deflate makes nothing smaller than this
SPARE = 128 << 20  # bytes that a variable may declare, though nothing of it was ever written
OPEN_FILES = 16
BLOCK = 32 << 20  # bytes that are read at once
BLOCKS = 256 << 20  # bytes of blocks that are kept
CHUNK_CACHE = 64 << 20  # bytes that HDF5 keeps unpacked, per open file
HUGE = 1e36  # a float beyond it marks what is missing, whether or not the file says so
DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    NotImplementedError,
    MemoryError,
    EOFError,
    RecursionError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Where:
    """A file, or a member of a ZIP."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)


@dataclass
class File:
    """An open file: its variables as they are stored, unread and not decoded."""

    where: Where
    dataset: xr.Dataset
    unfit: Mapping[str, str]  # variables that were left out, and why
    stamp: tuple[int, int]  # size and time of the file when it was opened
    hdf5: bool
    lend: BinaryIO | None = None  # the unpacked member of a ZIP
    bare: h5py.File | None = None  # the same once more, where HDF5 alone is to read it
    data: dict[str, h5py.Dataset] = field(default_factory=dict)  # of it: each keeps its chunks

    def alone(self, name: str) -> Any:
        """A variable as HDF5 itself gives it, where the file is NetCDF-4; sliced like an array."""
        if not self.hdf5:
            return self.dataset.variables[name]
        if self.bare is None:
            self.bare = h5py.File(self.lend or self.where.path, "r", rdcc_nbytes=CHUNK_CACHE)
        if name not in self.data:
            self.data[name] = self.bare[name]
        return self.data[name]

    def close(self) -> None:
        self.dataset.close()
        if self.bare:
            self.bare.close()
        if self.lend:
            self.lend.close()


@dataclass
class Kept:
    """What this process keeps of files: the last used ones, and the last blocks of them."""

    files: OrderedDict[Where, File] = field(default_factory=OrderedDict)
    blocks: OrderedDict[tuple[Any, ...], np.ndarray] = field(default_factory=OrderedDict)
    lock: RLock = field(default_factory=RLock)


KEPT = Kept()


def members(path: Path) -> list[Where]:
    """The file, or the NetCDF files in it where it is a ZIP under whatever name.

    Raises FrameError for GRIB, for an unsafe or unreadable ZIP, and for what is none of these.
    """
    kind = signature(path)
    if kind == "GRIB":
        raise FrameError(
            f"{path}: is GRIB, which is not read; convert it first, as with "
            "`cdo -f nc4 copy IN OUT.nc` or by asking for NetCDF"
        )
    if kind != "ZIP":
        return [Where(path)]
    try:
        with zipfile.ZipFile(path) as archive:
            return [Where(path, info.filename) for info in inside(path, archive)]
    except DAMAGE as error:
        if isinstance(error, FrameError):
            raise
        raise FrameError(f"{path}: not a readable ZIP ({hdf5_image.brief(error)})") from None


def signature(path: Path) -> str:
    """What the first bytes say. Raises FrameError for what is no file, or none of these."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would be to wait for ever
            raise FrameError(f"{path}: not a file")
        with path.open("rb") as file:
            first = file.read(8)
    except OSError as error:
        raise FrameError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    kinds = {b"\x89HDF": "HDF5", b"CDF\x01": "CDF", b"CDF\x02": "CDF", b"GRIB": "GRIB"}
    if kind := kinds.get(first[:4]):
        return kind
    if first[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "ZIP"
    if first[:4] == b"CDF\x05":
        raise FrameError(f"{path}: is NetCDF of form CDF-5; expected another: nccopy -4 IN OUT.nc")
    raise FrameError(f"{path}: not a NetCDF file (it begins with {first!r})")


def inside(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The NetCDF files of a ZIP, by name. Raises FrameError for one that is not to be trusted."""
    found = [info for info in archive.infolist() if not info.is_dir()]
    for info in found:
        name = info.filename
        outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive
        if outside or ".." in re.split(r"[/\\]", name) or "\\" in name:
            raise FrameError(f"{path}: a ZIP with a member {name!r} that points out of it; refused")
        if info.flag_bits & 1:
            raise FrameError(f"{path}: a ZIP with a password; unpack it first")
    found = sorted(
        (info for info in found if info.filename.lower().endswith(INSIDE)),
        key=lambda info: info.filename,
    )
    if not found:
        raise FrameError(f"{path}: a ZIP without a NetCDF file in it")
    if len({info.filename for info in found}) < len(found):
        raise FrameError(f"{path}: a ZIP with two members of one name; refused")
    size = sum(info.file_size for info in found)
    if size > MOST_UNPACKED or size > INFLATION * path.stat().st_size + SPARE:
        raise FrameError(f"{path}: a ZIP that claims to unpack to {size} bytes; refused")
    return found


def opened(where: Where) -> File:
    """The file, open; kept so until others have taken its place. Raises FrameError."""
    with KEPT.lock:
        try:
            status = where.path.stat()
        except OSError as error:
            raise FrameError(f"{where.path}: {(error.strerror or '').lower()}") from None
        stamp = status.st_size, status.st_mtime_ns
        if (file := KEPT.files.get(where)) and file.stamp == stamp:
            KEPT.files.move_to_end(where)
            return file
        forget(where)
        KEPT.files[where] = file = open_now(where, stamp)
        while len(KEPT.files) > OPEN_FILES:
            forget(next(iter(KEPT.files)))
        return file


def forget(where: Where) -> None:
    """Close a file and drop what was read of it."""
    with KEPT.lock:
        if file := KEPT.files.pop(where, None):
            file.close()
        for key in [key for key in KEPT.blocks if key[0] == where]:
            del KEPT.blocks[key]


def open_now(where: Where, stamp: tuple[int, int]) -> File:
    lend = None
    try:
        kind = signature(where.path)
        source: Any = where.path
        if where.member:
            source = lend = unpacked(where)
            kind = "HDF5" if lend.read(4) == b"\x89HDF" else "CDF"
            lend.seek(0)
        size = os.fstat(lend.fileno()).st_size if lend else stamp[0]
        unfit = unfit_in(where, source, size) if kind == "HDF5" else {}
        if lend:
            lend.seek(0)
        options: dict[str, Any] = {"engine": "scipy"}
        if kind == "HDF5":
            options = {"engine": "h5netcdf", "driver_kwds": {"rdcc_nbytes": CHUNK_CACHE}}
            if lend is None:
                options["phony_dims"] = "access"
        dataset = xr.open_dataset(
            source,
            decode_cf=False,
            cache=False,
            drop_variables=[*unfit],
            **options,
        )
        return File(where, dataset, unfit, stamp, kind == "HDF5", lend)
    except DAMAGE as error:
        if lend:
            lend.close()
        if isinstance(error, FrameError):
            raise
        told = hdf5_image.brief(error)
        raise FrameError(f"{where}: not a readable NetCDF file ({told})") from None


def unpacked(where: Where) -> BinaryIO:
    """A member of a ZIP in a temporary file without a name: nothing is left, however this ends."""
    with zipfile.ZipFile(where.path) as archive:
        (info,) = (i for i in inside(where.path, archive) if i.filename == where.member)
        if info.file_size > shutil.disk_usage(tempfile.gettempdir()).free:
            raise FrameError(
                f"{where}: needs {info.file_size} bytes in {tempfile.gettempdir()}, which has not "
                "as many; set TMPDIR to a larger place, or unpack it first"
            )
        out = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the File that it belongs to
        try:
            with archive.open(info) as packed:
                shutil.copyfileobj(packed, out, 1 << 20)
            out.seek(0)
        except BaseException:
            out.close()
            raise
        return out  # type: ignore[return-value]


def unfit_in(where: Where, source: Any, size: int) -> dict[str, str]:
    """Variables that are not to be read, and why. Raises FrameError for links out of the file."""
    unfit = {}
    with h5py.File(source, "r") as file:
        for name in file:
            link = file.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise FrameError(f"{where}: {name!r} is a link to elsewhere; refused")
            data = h5o.open(file.id, os.fsencode(name))
            if isinstance(data, h5d.DatasetID) and (told := wrong(data, size)):
                unfit[name] = told
    return unfit


def wrong(data: h5d.DatasetID, file_size: int) -> str:
    """What is wrong with a variable of NetCDF-4, as far as can be told without reading it; or ""."""
    form = data.get_create_plist()
    if form.get_layout() == h5d.VIRTUAL or form.get_external_count():
        return "lies in other files"
    kind = data.get_type().get_class()
    if kind not in (h5t.INTEGER, h5t.FLOAT):
        return "is not of numbers"
    if data.shape is None:
        return "is empty"
    itemsize = data.get_type().get_size()
    chunk = form.get_chunk() if form.get_layout() == h5d.CHUNKED else ()
    if chunk and not 0 < math.prod(chunk) * itemsize <= LARGEST_CHUNK:
        return f"has chunks of {chunk}"
    codes = {code for code, _ in hdf5_image.filters(form)}
    if not codes <= hdf5_image.BY_HDF5 | hdf5_image.UNDONE_HERE:
        return "is packed in a way that is not read; expected deflate (nccopy -d 4 IN OUT.nc)"
    stored, declared = data.get_storage_size(), math.prod(data.shape) * itemsize
    if stored > file_size:
        return f"claims {stored} bytes of a file of {file_size}"
    if declared > INFLATION * stored + SPARE:
        return f"declares {data.shape}, which {stored} bytes cannot hold"
    return ""


def whole(file: File, name: str) -> np.ndarray:
    """A small variable, as stored. Raises FrameError where it is damaged or absurdly large."""
    variable = file.dataset.variables[name]
    if variable.nbytes > SPARE:
        raise FrameError(f"{file.where}: {name} is {variable.shape}; expected a few numbers")
    return reading(file, name, lambda: np.asarray(variable.values))


def reading(file: File, name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return read()
    except DAMAGE as error:
        told = hdf5_image.brief(error)
        raise FrameError(f"{file.where}: {name} cannot be read ({told})") from None


@dataclass(frozen=True, eq=False)
class Window:
    """What is read of one variable of one file: some of its levels, rows and columns.

    Each is None where the variable has no such dimension, else the numbers that are wanted, in the
    order in which they are wanted.
    """

    name: str
    dims: tuple[str, ...]  # of the variable, by what they are: time, expver, level, y, x, one
    level: np.ndarray | None
    rows: np.ndarray
    columns: np.ndarray

    @cached_property
    def place(self) -> tuple[bytes, ...]:
        """Tells what is read of a variable from whatever else may be."""
        level = b"" if self.level is None else self.level.tobytes()
        return level, self.rows.tobytes(), self.columns.tobytes()

    def step(self, where: Where, number: int, *, kept: bool = True) -> np.ndarray:
        """(L, h, w) float64 of one time step, NaN where missing, else as CF unpacks it.

        kept: by blocks that are kept for the steps around this one. Raises FrameError.
        """
        file = opened(where)
        variable = file.dataset.variables[self.name]
        if not kept:
            raw = self.alone(file, number)
        else:
            steps = self.steps_at_once(variable)
            first = number // steps * steps
            key = (where, self.name, *self.place, first)
            with KEPT.lock:
                block = KEPT.blocks.get(key)
                if block is None:
                    block = self.read(file, variable, first, first + steps)
                    keep(key, block)
                else:
                    KEPT.blocks.move_to_end(key)
            raw = block[number - first]
        return first_there(decoded(raw, variable.attrs))

    def alone(self, file: File, number: int) -> np.ndarray:
        """(E, L, h, w) of one step as stored: whole fields, of which the wanted part is taken."""
        at = tuple(slice(number, number + 1) if dim == "time" else slice(None) for dim in self.dims)
        with hdf5_image.limited(4 * BLOCK + 4 * LARGEST_FIELD):
            values = reading(file, self.name, lambda: np.asarray(file.alone(self.name)[at]))
        for dim, wanted in (("level", self.level), ("y", self.rows), ("x", self.columns)):
            if wanted is not None and dim in self.dims:
                values = np.take(values, wanted, self.dims.index(dim))
        return self.ordered(values)[0]

    def steps_at_once(self, variable: xr.Variable) -> int:
        """Time steps of a block: whole chunks of the file where these are not too large."""
        wanted = len(self.rows) * len(self.columns) * (1 if self.level is None else len(self.level))
        each = max(1, wanted * variable.dtype.itemsize)
        most = max(1, BLOCK // each)
        chunks = variable.encoding.get("chunksizes") or variable.encoding.get("preferred_chunks")
        if "time" in self.dims and isinstance(chunks, tuple):
            chunk = int(chunks[self.dims.index("time")])
            return most // chunk * chunk if chunk <= most else most
        return most

    def read(self, file: File, variable: xr.Variable, first: int, last: int) -> np.ndarray:
        """(T, E, L, h, w) as stored; E > 1 only where a file holds versions beside one another."""
        where = {"level": self.level, "y": self.rows, "x": self.columns}
        parts: list[Any] = []
        orders: list[np.ndarray | None] = []
        for dim in self.dims:
            if dim == "time":
                parts.append([slice(first, last)])
                orders.append(None)
            elif (wanted := where.get(dim)) is not None:
                runs, order = in_runs(wanted)
                parts.append(runs)
                orders.append(order)
            else:
                parts.append([slice(None)])
                orders.append(None)
        with hdf5_image.limited(4 * BLOCK + 4 * LARGEST_FIELD):
            values = reading(file, self.name, lambda: gathered(variable, parts, ()))
        for axis, order in enumerate(orders):
            if order is not None:
                values = np.take(values, order, axis)
        return self.ordered(values)

    def ordered(self, values: np.ndarray) -> np.ndarray:
        """The dimensions as (time, expver, level, y, x), whichever of them there are."""
        kept = [axis for axis, dim in enumerate(self.dims) if dim != "one"]
        values = values.reshape([values.shape[axis] for axis in kept])
        dims = [self.dims[axis] for axis in kept]
        full = ("time", "expver", "level", "y", "x")
        values = values.transpose([dims.index(dim) for dim in full if dim in dims])
        for axis, dim in enumerate(full):
            if dim not in dims:
                values = np.expand_dims(values, axis)
        return values


def gathered(variable: xr.Variable, parts: Sequence[Sequence[slice]], at: tuple[slice, ...]) -> Any:
    """Every combination of the slices, put together again."""
    axis = len(at)
    if axis == len(parts):
        return np.asarray(variable[at].values)
    pieces = [gathered(variable, parts, (*at, piece)) for piece in parts[axis]]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis)


def in_runs(wanted: np.ndarray) -> tuple[list[slice], np.ndarray | None]:
    """Slices that together hold these numbers, and how to put them in their order; None: as is."""
    there = np.sort(wanted)
    breaks = np.flatnonzero(np.diff(there) != 1) + 1
    runs = [slice(int(run[0]), int(run[-1]) + 1) for run in np.split(there, breaks)]
    order = np.searchsorted(there, wanted)
    return runs, None if (order == np.arange(len(order))).all() else order


def keep(key: tuple[Any, ...], block: np.ndarray) -> None:
    """Keep a block, and let go of the oldest ones."""
    KEPT.blocks[key] = block
    while len(KEPT.blocks) > 1 and sum(b.nbytes for b in KEPT.blocks.values()) > BLOCKS:
        KEPT.blocks.popitem(last=False)


def decoded(raw: np.ndarray, attrs: Mapping[str, Any]) -> np.ndarray:
    """float64, unpacked and with NaN where missing, by CF's attributes of the variable."""
    if str(attrs.get("_Unsigned", "")).lower() == "true" and raw.dtype.kind == "i":
        raw = raw.view(raw.dtype.str.replace("i", "u"))
    values = raw.astype(np.float64)
    missing = np.zeros(raw.shape, bool)
    for name in ("_FillValue", "missing_value"):
        for marked in np.ravel(attrs.get(name, ())):
            with np.errstate(over="ignore", invalid="ignore"):
                missing |= raw == np.asarray(marked).astype(raw.dtype)
    if raw.dtype.kind == "f":
        missing |= ~(np.abs(values) < HUGE)
    scale, offset = (number(attrs.get(name)) for name in ("scale_factor", "add_offset"))
    if scale is not None:
        values *= scale
    if offset is not None:
        values += offset
    values[missing] = np.nan
    return values


def number(value: Any) -> float | None:
    return None if value is None else float(np.ravel(value)[0])


def first_there(versions: np.ndarray) -> np.ndarray:
    """(E, L, h, w) -> (L, h, w): of versions side by side the first that is not missing.

    ERA5's downloads of some years hold final and preliminary data so, each NaN where the other is.
    """
    values = versions[0]
    for other in versions[1:]:
        values = np.where(np.isnan(values), other, values)
    return values
