"""The variables of a NetCDF file as they are stored, by h5py or, for NetCDF-3, by SciPy.

xarray would take forty milliseconds to open a file, of which a release may have thousands. What is
in a file is looked at before it is used: a variable that lies in other files, or declares more than
its bytes can hold, is left out with the reason.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from h5py import h5d, h5ds, h5o, h5t

from pipeline.sources import hdf5_image

LARGEST_CHUNK = 2 << 30  # bytes
INFLATION = 1100  # deflate makes nothing smaller than this
SPARE = 128 << 20  # bytes that a variable may declare, though nothing of it was ever written
NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable"
NOT_ITS_DIMENSION = "_nc4_non_coord_"  # before the name of a variable called as a dimension
INNER = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_NCProperties"}
INNER |= {"_Netcdf4Coordinates", "_nc3_strict"}  # attributes that are NetCDF-4's own


@dataclass(frozen=True, eq=False)
class Stored:
    """One variable; sliced like an array, its values as stored."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    attrs: dict[str, Any]
    chunks: tuple[int, ...] | None
    data: Any  # of h5py or SciPy

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, at: Any) -> np.ndarray:
        return np.array(self.data[at])  # never a view of a mapped file


@dataclass(frozen=True, eq=False)
class Content:
    """What is in an open file."""

    variables: dict[str, Stored]
    attrs: dict[str, Any]
    end: Callable[[], None]
    unfit: dict[str, str] = field(default_factory=dict)  # variables left out, and why

    def close(self) -> None:
        self.variables.clear()  # what they hold is mapped
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # SciPy's, where one is still in use
            self.end()


def read(source: Path | BinaryIO, size: int, chunk_cache: int) -> Content:
    """The content of a file of `size` bytes. Raises whatever a damaged file leads to."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            first = file.read(4)
    else:
        source.seek(0)
        first = source.read(4)
        source.seek(0)
    return of_hdf5(source, size, chunk_cache) if first == b"\x89HDF" else of_netcdf3(source)


def of_netcdf3(source: Path | BinaryIO) -> Content:
    # Imported here: it takes a while, and few files are of this form.
    from scipy.io import netcdf_file  # type: ignore[import-untyped]

    file = netcdf_file(os.fspath(source) if isinstance(source, Path) else source, "r", mmap=True)
    variables = {
        name: Stored(
            tuple(variable.dimensions),
            tuple(variable.shape),
            np.dtype(variable.data.dtype),
            plain(variable._attributes.items()),
            None,
            variable.data,
        )
        for name, variable in file.variables.items()
    }
    return Content(variables, plain(file._attributes.items()), file.close)


def of_hdf5(source: Path | BinaryIO, size: int, chunk_cache: int) -> Content:
    """Raises ValueError for links out of the file."""
    file = h5py.File(source, "r", rdcc_nbytes=chunk_cache)
    try:
        variables, unfit = {}, {}
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name!r} is a link to elsewhere; refused")
            data = h5o.open(file.id, os.fsencode(name))
            if not isinstance(data, h5d.DatasetID):
                continue
            if told := wrong(data, size):
                unfit[name] = told
            elif (found := of_dataset(name, h5py.Dataset(data))) is not None:
                variables[name.removeprefix(NOT_ITS_DIMENSION)] = found
        return Content(variables, attrs_of(file.attrs), file.close, unfit)
    except BaseException:
        file.close()
        raise


def of_dataset(name: str, data: h5py.Dataset) -> Stored | None:
    """None for a dimension that is no variable."""
    scale = h5ds.is_scale(data.id)
    if scale and NO_VARIABLE in str(plain([("NAME", data.attrs.get("NAME", ""))])["NAME"]):
        return None
    if scale and data.ndim == 1:
        dims: tuple[str, ...] = (name,)
    else:
        dims = tuple(dim_of(data, axis) for axis in range(data.ndim))
    return Stored(dims, data.shape, data.dtype, attrs_of(data.attrs), data.chunks, data)


def dim_of(data: h5py.Dataset, axis: int) -> str:
    """The name of a dimension; one of our own where the file gives none."""
    scales = data.dims[axis]
    return str(scales[0].name).rsplit("/", 1)[-1] if len(scales) else f"dimension {axis}"


def attrs_of(attrs: h5py.AttributeManager) -> dict[str, Any]:
    return plain((name, attrs[name]) for name in attrs if name not in INNER)


def plain(attrs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Texts as str, an array of one as that; without what is empty."""
    found = {}
    for name, value in attrs:
        if isinstance(value, h5py.Empty):
            continue
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.ravel()[0]
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace").rstrip("\0")
        found[name] = value
    return found


def wrong(data: h5d.DatasetID, file_size: int) -> str:
    """What is wrong with a variable of NetCDF-4, as far as can be told unread; or ""."""
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
