"""What an output holds, whatever its format, and what writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

OURS = ("mode", "track_id", "training_tracks")  # attributes that every output has


@dataclass(frozen=True)
class Layout:
    """By variable name, each with its CF attributes."""

    y: np.ndarray  # (H,) coordinate, of pixel centres; north first
    x: np.ndarray  # (W,) west first
    unit: str  # of y and x: km, deg, or pixels where their size is not known
    pixel: float  # side of a pixel, in that unit
    axes: Mapping[str, Mapping[str, Any]]  # attributes of y and x, by the names of both dimensions
    fields: Mapping[str, Mapping[str, Any]]  # (time, y, x) float32, NaN where missing
    series: Mapping[str, tuple[np.dtype, Mapping[str, Any]]]  # (time); "time" is one of them
    attrs: Mapping[str, Any]  # of the whole
    # One for all frames: seconds since 1970, UTC, and its CF attributes.
    moments: Mapping[str, tuple[int, Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """By the names of both dimensions, rows first."""
        return dict(zip(self.axes, (self.y, self.x), strict=True))


class Writer(Protocol):
    """An output to which frames are appended."""

    def append(self, frames: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """One time step: (H, W) of every field, a number of every series.

        Raises OSError when the disk refuses.
        """


def plain(value: Any) -> Any:
    """An attribute as JSON or a tag takes it; an array of one as a number, as NetCDF has it."""
    if isinstance(value, np.ndarray) and value.size == 1:
        return value.item()
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def is_output(path: Path) -> bool:
    """Whether a NetCDF file or a Zarr group is what `cli infer` made; only names are read."""
    try:
        if path.is_dir():
            attrs = json.loads((path / "zarr.json").read_bytes())["attributes"]
            return all(name in attrs for name in OURS)
        if path.suffix != ".nc" or not path.is_file():
            return False
        import h5py

        with h5py.File(path, "r") as file:
            return all(name in file.attrs for name in OURS)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return False


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def minute(seconds: int) -> str:
    """A time for people."""
    return f"{moment(seconds):{'%Y-%m-%d %H:%M:%S' if seconds % 60 else '%Y-%m-%d %H:%M'}} UTC"


def instant(seconds: int) -> str:
    """A time for programs, ISO 8601."""
    return moment(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def lasting(seconds: float) -> str:
    """A time step or a lead time: 3 h, 30 min, 10 s."""
    if seconds % 60:
        return f"{seconds:g} s"
    return f"{seconds / 60:g} min" if seconds % 3600 else f"{seconds / 3600:g} h"


def stamp(seconds: int) -> str:
    """For names of files: YYYYMMDDHH, with minutes or seconds where there are any."""
    digits = moment(seconds).strftime("%Y%m%d%H%M%S")
    return digits[:10] + digits[10:].removesuffix("00").removesuffix("00")
