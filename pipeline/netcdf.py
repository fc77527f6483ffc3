"""Frames -> CF NetCDF-4, written one at a time; the file appears whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np

from pipeline import atomic, store

CHUNK = 512  # pixels; side of a compressed chunk
LEVEL = 1  # deflate; higher levels take several times as long for a few per cent


@dataclass(frozen=True)
class Layout:
    """What a file holds, by variable name, each with its CF attributes."""

    y: np.ndarray  # (H,) coordinate
    x: np.ndarray  # (W,)
    axes: Mapping[str, Mapping[str, Any]]  # attributes of y and x
    fields: Mapping[str, Mapping[str, Any]]  # (time, y, x) float32, NaN where missing
    series: Mapping[str, tuple[np.dtype, Mapping[str, Any]]]  # (time); "time" is one of them
    attrs: Mapping[str, Any]  # of the file


class Sink(io.FileIO):
    """A file whose first write error is kept in `error`, and after which it only pretends.

    HDF5 does not report a write error (disk full) until it closes the file, and then crashes the
    process; so it never gets to see one.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            if self.error is None:
                return super().truncate(size)
        except OSError as error:
            self.error = error
        return size or 0


class Writer:
    """An open NetCDF file to which frames are appended."""

    def __init__(self, sink: Sink, file: h5netcdf.File, layout: Layout) -> None:
        self.sink, self.file, self.count = sink, file, 0
        file.attrs["Conventions"] = store.CONVENTIONS
        file.attrs.update(layout.attrs)
        file.dimensions = {"time": None, "y": len(layout.y), "x": len(layout.x)}
        self.series = {}
        for name, (dtype, attrs) in layout.series.items():
            missing = dtype.type(np.nan) if dtype.kind == "f" else None
            self.series[name] = file.create_variable(
                name, ("time",), dtype, chunks=(1024,), fillvalue=missing
            )
            self.series[name].attrs.update(attrs)
        for name, values in (("y", layout.y), ("x", layout.x)):
            file.create_variable(name, (name,), values.dtype, data=values)
            file.variables[name].attrs.update(layout.axes[name])
        self.fields = {}
        for name, attrs in layout.fields.items():
            self.fields[name] = file.create_variable(
                name,
                ("time", "y", "x"),
                "f4",
                chunks=(1, min(CHUNK, len(layout.y)), min(CHUNK, len(layout.x))),
                compression="gzip",
                compression_opts=LEVEL,
                shuffle=True,
                fillvalue=np.float32(np.nan),
            )
            self.fields[name].attrs.update(attrs)

    def append(self, frames: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """One time step: (H, W) of every field, a number of every series.

        Raises OSError when the disk refuses.
        """
        self.count += 1
        self.file.resize_dimension("time", self.count)
        for name, frame in frames.items():
            self.fields[name][self.count - 1] = frame
        for name, value in values.items():
            self.series[name][self.count - 1] = value
        self.check()

    def check(self) -> None:
        if self.sink.error:
            raise self.sink.error


@contextmanager
def written(path: Path, layout: Layout) -> Iterator[Writer]:
    """A Writer; its file takes the place of `path` when the block ends well.

    Otherwise nothing is left of it, and what was at `path` stays. OSError: the disk refuses.
    """
    try:
        with atomic.replacing(path) as temporary, Sink(temporary, "w+") as sink:
            with h5netcdf.File(sink, "w") as file:
                writer = Writer(sink, file, layout)
                yield writer
            writer.check()
    except OSError as error:
        if error.errno is None or error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def reading(path: Path) -> Iterator[Mapping[str, Any]]:
    """The variables of a file, sliced like arrays; values as stored."""
    with h5netcdf.File(path, "r") as file:
        yield file.variables
