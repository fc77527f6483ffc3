"""The part of one NetCDF variable that is read, step by step, and unpacked as CF says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.sources import FrameError, hdf5_image
from pipeline.sources.netcdf_file import (
    BLOCK,
    BLOCKS,
    FEW_CHUNKS,
    KEPT,
    LARGEST_FIELD,
    WHOLE_CHUNKS,
    File,
    Where,
    opened,
    reading,
)
from pipeline.sources.netcdf_stored import Stored

HUGE = 1e36  # a float beyond it marks what is missing, whether or not the file says so


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
        file = opened(where, FEW_CHUNKS if kept else WHOLE_CHUNKS)
        try:
            return self.unpacked(file, number, kept)
        except (KeyError, IndexError, ValueError) as error:
            if isinstance(error, FrameError):
                raise
            raise FrameError(f"{where}: {self.name} has changed since it was looked at") from None

    def unpacked(self, file: File, number: int, kept: bool) -> np.ndarray:
        where, variable = file.where, file.variables[self.name]
        if not kept:
            raw = self.alone(file, number)
        else:
            steps = self.steps_at_once(variable)
            first = number // steps * steps
            key = (where, self.name, *self.place, first)
            with KEPT.lock:
                block = KEPT.blocks.get(key)
                if block is None:
                    block = self.block(file, variable, first, first + steps)
                    keep(key, block)
                else:
                    KEPT.blocks.move_to_end(key)
            if not len(block):
                block, first = self.read(file, variable, number, number + 1), number
            raw = block[number - first]
        return first_there(decoded(raw, variable.attrs))

    def block(self, file: File, variable: Stored, first: int, last: int) -> np.ndarray:
        """As `read`; nothing where a part is damaged, so that the rest is read step by step."""
        try:
            return self.read(file, variable, first, last)
        except FrameError:
            return np.empty(0)

    def alone(self, file: File, number: int) -> np.ndarray:
        """(E, L, h, w) of one step as stored: whole fields, of which the wanted part is taken."""
        at = tuple(slice(number, number + 1) if dim == "time" else slice(None) for dim in self.dims)
        with hdf5_image.limited(4 * BLOCK + 4 * LARGEST_FIELD):
            values = reading(file, self.name, lambda: file.variables[self.name][at])
        for dim, wanted in (("level", self.level), ("y", self.rows), ("x", self.columns)):
            if wanted is not None and dim in self.dims:
                values = np.take(values, wanted, self.dims.index(dim))
        return self.ordered(values)[0]

    def steps_at_once(self, variable: Stored) -> int:
        """Time steps of a block: whole chunks of the file where these are not too large."""
        wanted = len(self.rows) * len(self.columns) * (1 if self.level is None else len(self.level))
        each = max(1, wanted * variable.dtype.itemsize)
        most = max(1, BLOCK // each)
        if "time" in self.dims and variable.chunks:
            chunk = variable.chunks[self.dims.index("time")]
            return most // chunk * chunk if chunk <= most else most
        return most

    def read(self, file: File, variable: Stored, first: int, last: int) -> np.ndarray:
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


def gathered(variable: Stored, parts: Sequence[Sequence[slice]], at: tuple[slice, ...]) -> Any:
    """Every combination of the slices, put together again."""
    axis = len(at)
    if axis == len(parts):
        return variable[at]
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
