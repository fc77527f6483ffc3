"""One NetCDF file, looked at before it is trusted: NetCDF-4, NetCDF-3, or one inside a ZIP.

Nothing in a file may lead out of it, and nothing is read that a file of its size cannot hold. The
last files are kept open, per process, and the last blocks that were read of them: a track is read
frame by frame, and a frame is often a small part of what is unpacked for it.
"""

from __future__ import annotations

import atexit
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
from pathlib import Path, PurePosixPath, PureWindowsPath
from threading import RLock
from typing import Any, BinaryIO

import numpy as np

from pipeline.sources import FrameError, filelist, hdf5_image, netcdf_stored
from pipeline.sources.netcdf_stored import INFLATION, SPARE, Content, Stored

INSIDE = (".nc", ".nc4", ".nc3", ".cdf", ".netcdf")  # of a ZIP
GRIB = (".grib", ".grib2", ".grb", ".grb2")
ENDINGS = (*INSIDE, ".zip", *GRIB)
LARGEST_SIDE = 65_536  # cells; a larger declared side is damage or malice, not a field
LARGEST_FIELD = 1 << 30  # bytes of one time step as it is read
MOST_UNPACKED = 32 << 30  # bytes of all members of a ZIP
OPEN_FILES = 8
BLOCK = 32 << 20  # bytes that are read at once
BLOCKS = 256 << 20  # bytes of blocks that are kept
FEW_CHUNKS = 1 << 20  # bytes that HDF5 keeps unpacked of a variable that is read by blocks
WHOLE_CHUNKS = 128 << 20  # and of one that is read step by step
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
    content: Content
    stamp: tuple[int, int]  # size and time of the file when it was opened
    chunk_cache: int  # bytes that HDF5 keeps unpacked of each variable
    lend: BinaryIO | None = None  # the unpacked member of a ZIP

    @property
    def variables(self) -> Mapping[str, Stored]:
        return self.content.variables

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self.content.attrs

    @property
    def unfit(self) -> Mapping[str, str]:
        """Variables that were left out, and why."""
        return self.content.unfit

    def close(self) -> None:
        self.content.close()
        if self.lend:
            self.lend.close()


@dataclass
class Kept:
    """What this process keeps of files: the last used ones, and the last blocks of them."""

    files: OrderedDict[Where, File] = field(default_factory=OrderedDict)
    blocks: OrderedDict[tuple[Any, ...], np.ndarray] = field(default_factory=OrderedDict)
    lock: RLock = field(default_factory=RLock)


KEPT = Kept()


PACKED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"(\xb5/\xfd": "unzstd"}
IS_GRIB = "which is not read: convert it with `cdo -f nc4 copy IN OUT.nc`, or download NetCDF"


def members(path: Path) -> list[Where]:
    """The file, or the NetCDF files in it where it is a ZIP under whatever name.

    Raises FrameError for GRIB, for an unsafe or unreadable ZIP, and for what is none of these.
    """
    kind = signature(path)
    if kind == "GRIB":
        raise FrameError(f"{path}: is GRIB, {IS_GRIB}")
    if kind != "ZIP":
        return [Where(path)]
    try:
        with zipfile.ZipFile(path) as archive:
            return [Where(path, info.filename) for info in inside(path, archive)]
    except DAMAGE as error:
        if isinstance(error, FrameError):
            raise
        told = hdf5_image.brief(error)
        raise FrameError(f"{path}: not a readable ZIP ({told}); download it again") from None


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
    if not first:
        raise FrameError(f"{path}: is empty; download it again")
    if unpack := next((how for begin, how in PACKED.items() if first.startswith(begin)), ""):
        raise FrameError(f"{path}: is packed; unpack it first, as with {unpack}")
    if first.lstrip()[:1] == b"<":
        raise FrameError(
            f"{path}: is a web page or XML, not NetCDF, as a download without a login leaves it; "
            "download it again"
        )
    raise FrameError(f"{path}: not a NetCDF file (it begins with {first!r})")


def inside(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The NetCDF files of a ZIP, by name. Raises FrameError for one that is not to be trusted."""
    found = [info for info in archive.infolist() if not info.is_dir()]
    visible = [info.filename for info in found if not filelist.is_litter(info.filename)]
    for info in found:
        name = info.filename
        outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive
        if outside or ".." in re.split(r"[/\\]", name) or "\\" in name:
            raise FrameError(f"{path}: a ZIP with a member {name!r} that points out of it; refused")
        if info.flag_bits & 1:
            raise FrameError(f"{path}: a ZIP with a password; unpack it first")
    found = sorted(
        (i for i in found if i.filename in visible and i.filename.lower().endswith(INSIDE)),
        key=lambda info: info.filename,
    )
    if not found:
        raise FrameError(f"{path}: a ZIP without a NetCDF file in it; {what_else(visible)}")
    if len({info.filename for info in found}) < len(found):
        raise FrameError(f"{path}: a ZIP with two members of one name; refused")
    size = sum(info.file_size for info in found)
    if size > MOST_UNPACKED or size > INFLATION * path.stat().st_size + SPARE:
        raise FrameError(f"{path}: a ZIP that claims to unpack to {size} bytes; refused")
    return found


def what_else(names: Sequence[str]) -> str:
    """What a ZIP holds that is no NetCDF, for a sentence, and the way out."""
    if any(name.lower().endswith(GRIB) for name in names):
        return f"it holds GRIB, {IS_GRIB}"
    return f"it holds {filelist.counted(names) or 'nothing'}; unpack it and give the folder"


def opened(where: Where, chunk_cache: int = FEW_CHUNKS) -> File:
    """The file, open; kept so until others have taken its place. Raises FrameError.

    HDF5 gives all who have a file open the cache that the first asked for: so it is opened anew for
    one who asks for more.
    """
    with KEPT.lock:
        try:
            status = where.path.stat()
        except OSError as error:
            raise FrameError(f"{where.path}: {(error.strerror or '').lower()}") from None
        stamp = status.st_size, status.st_mtime_ns
        file = KEPT.files.get(where)
        if file and file.stamp == stamp and file.chunk_cache >= chunk_cache:
            KEPT.files.move_to_end(where)
            return file
        forget(where)
        KEPT.files[where] = file = open_now(where, stamp, chunk_cache)
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


@atexit.register
def forget_all() -> None:
    """SciPy complains of a file that is still mapped when a process ends."""
    for where in list(KEPT.files):
        forget(where)


def open_now(where: Where, stamp: tuple[int, int], chunk_cache: int) -> File:
    lend = None
    try:
        signature(where.path)
        source: Path | BinaryIO = where.path
        if where.member:
            source = lend = unpacked(where)
        size = os.fstat(lend.fileno()).st_size if lend else stamp[0]
        content = netcdf_stored.read(source, size, chunk_cache)
        return File(where, content, stamp, chunk_cache, lend)
    except DAMAGE as error:
        if lend:
            lend.close()
        if isinstance(error, FrameError):
            raise
        told = hdf5_image.brief(error)
        cut = hdf5_image.cut_off(told)
        raise FrameError(f"{where}: not a readable NetCDF file ({told}){cut}") from None


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
        return out


def whole(file: File, name: str) -> np.ndarray:
    """A small variable, as stored. Raises FrameError where it is damaged or absurdly large."""
    variable = file.variables[name]
    if variable.nbytes > SPARE:
        raise FrameError(f"{file.where}: {name} is {variable.shape}; expected a few numbers")
    return reading(file, name, lambda: variable[...])


def reading(file: File, name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return read()
    except DAMAGE as error:
        told = hdf5_image.brief(error)
        raise FrameError(f"{file.where}: {name} cannot be read ({told})") from None
