"""Frames -> CF NetCDF-4, written one at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np

from pipeline import store
from pipeline.errors import UserError
from pipeline.outputs.layout import Layout, is_output

CHUNK = 512  # pixels; side of a compressed chunk
LEVEL = 1  # deflate; higher levels take several times as long for a few per cent


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
        places = layout.coordinates
        file.dimensions = {"time": None, **{name: len(v) for name, v in places.items()}}
        self.series = {}
        for name, (dtype, attrs) in layout.series.items():
            missing = dtype.type(np.nan) if dtype.kind == "f" else None
            self.series[name] = file.create_variable(
                name, ("time",), dtype, chunks=(1024,), fillvalue=missing
            )
            self.series[name].attrs.update(attrs)
        for name, (seconds, attrs) in layout.moments.items():
            file.create_variable(name, (), "i8", data=seconds)
            file.variables[name].attrs.update(attrs)
        for name, values in places.items():
            file.create_variable(name, (name,), values.dtype, data=values)
            file.variables[name].attrs.update(layout.axes[name])
        self.fields = {}
        for name, attrs in layout.fields.items():
            self.fields[name] = file.create_variable(
                name,
                ("time", *places),
                "f4",
                chunks=(1, min(CHUNK, len(layout.y)), min(CHUNK, len(layout.x))),
                compression="gzip",
                compression_opts=LEVEL,
                shuffle=True,
                fillvalue=np.float32(np.nan),
            )
            self.fields[name].attrs.update(attrs)

    def append(self, frames: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
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
def written(path: Path, layout: Layout, count: int) -> Iterator[Writer]:
    """A Writer to a new file; `count` is not needed here. OSError: the disk refuses."""
    with Sink(path, "w+") as sink:
        with h5netcdf.File(sink, "w") as file:
            writer = Writer(sink, file, layout)
            yield writer
        writer.check()


def refuse_others(out: Path, id: str) -> None:
    """Raises UserError for a file that is no earlier output of infer."""
    if not is_output(out):
        raise UserError(f"{out}: holds something else than an earlier output; choose another --out")
