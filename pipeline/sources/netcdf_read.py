"""Frames of NetCDF files, read: which time steps of which files, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.sources import amounts
from pipeline.sources.amounts import Meaning
from pipeline.sources.grids import Regridding
from pipeline.sources.netcdf_file import Where
from pipeline.sources.netcdf_window import Window

Runs = tuple[tuple[int, int, int], ...]  # number of a file, first and last + 1 of its time steps


@dataclass(frozen=True, eq=False)
class Field:
    """One variable as it is read, from whichever files."""

    name: str
    meaning: Meaning
    levels: tuple[float, ...]  # hPa; () where it has none
    windows: Mapping[int, Window]  # by the file's number

    def read(self, files: Sequence[Where], runs: Runs, *, kept: bool) -> np.ndarray:
        """(L, h, w) float64: the sum of the steps if they are rain, else their mean."""
        total: np.ndarray | None = None
        count = 0
        for number, first, last in runs:
            for step in range(first, last):
                fields = self.windows[number].step(files[number], step, kept=kept)
                total = fields if total is None else total + fields
                count += 1
        assert total is not None
        return total if self.meaning.rain or count == 1 else total / count


@dataclass(frozen=True, eq=False)
class Reading:
    """What all frames of a release share."""

    files: tuple[Where, ...]
    fields: tuple[Field, ...]
    regridding: Regridding | None
    shape: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Part:
    """Where one frame lies: for each variable its time steps, and what makes them millimetres."""

    reading: Reading
    runs: tuple[Runs, ...]
    factors: tuple[float, ...]

    def read(self, out: np.ndarray, *, kept: bool) -> np.ndarray:
        """The frame, into `out`: (C, H, W) float32. kept: by blocks of the files that are kept."""
        reading = self.reading
        first = 0
        for what, runs, factor in zip(reading.fields, self.runs, self.factors, strict=True):
            fields = what.read(reading.files, runs, kept=kept)
            fields *= factor
            if what.meaning.rain:
                fields[(fields < 0) & (fields > -amounts.PACKING)] = 0.0
            if reading.regridding:
                fields = reading.regridding(fields)
            out[first : first + len(fields)] = fields
            first += len(fields)
        return out
