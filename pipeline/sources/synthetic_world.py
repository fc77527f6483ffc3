"""Writes a small gridded world whose upstream influence is known: drawn, not observed.

Three regions lie side by side from west to east: upstream, home and downstream. Blobs of moisture
are born upstream, drift east with a wind that varies, and rain out from where home begins on, so
that what will rain in home's west is seen upstream one or more steps before. In a world without
influence home is taken from another such world, drawn apart: each region has the same statistics,
and knows nothing of the others.

What an experiment finds on both says whether it can be believed on real data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a second to import
    import xarray as xr

START = np.datetime64("2020-01-01T00")
STEP_HOURS = 12
WEST, NORTH = 80.0, 40.0  # centre of the first cell, degrees; cells are of one degree
METRES = 111_000.0  # to a degree, nearly
BIRTHS = 1.0  # per step, on average
WET = 0.25  # of a blob's moisture: thinner air is dry
RAINED_OUT = 0.75  # of its moisture, that a blob keeps from one step to the next once it rains
NOISE = 0.05  # of a blob's usual moisture, in every cell


@dataclass(frozen=True)
class World:
    """One invented world."""

    influence: bool = True
    rows: int = 10
    columns: int = 10  # of each region
    steps: int = 600
    speed: float = 3.0  # columns per step, on average
    seed: int = 0

    @property
    def latitudes(self) -> np.ndarray:
        """North first."""
        return NORTH - np.arange(self.rows)

    @property
    def longitudes(self) -> np.ndarray:
        return WEST + np.arange(3 * self.columns)

    def box(self, region: int) -> tuple[float, float, float, float]:
        """West, east, south, north of the region: 0 upstream, 1 home, 2 downstream."""
        columns = self.longitudes[region * self.columns : (region + 1) * self.columns]
        return float(columns[0]), float(columns[-1]), float(self.latitudes[-1]), NORTH


def fields(world: World) -> dict[str, np.ndarray]:
    """Rain in mm per step, moisture in kg/kg and wind in m/s, each (steps, rows, 3 columns)."""
    made = drawn(world, np.random.default_rng([world.seed, 0]))
    if not world.influence:
        apart = drawn(world, np.random.default_rng([world.seed, 1]))
        home = slice(world.columns, 2 * world.columns)
        for name, values in made.items():
            values[..., home] = apart[name][..., home]
    return made


def drawn(world: World, random: np.random.Generator) -> dict[str, np.ndarray]:
    rows, columns = np.mgrid[: world.rows, : 3 * world.columns]
    shape = (world.steps, *rows.shape)
    moisture, rain, wind = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    blobs = np.empty((0, 4))  # row, column, moisture, width
    speed = 0.0  # beside the average
    for step in range(world.steps):
        speed = 0.7 * speed + 0.3 * random.normal() * world.speed / 2
        blobs[:, 1] += world.speed + speed
        blobs[:, 2] *= np.where(blobs[:, 1] >= world.columns, RAINED_OUT, 1.0)
        blobs = blobs[blobs[:, 1] < 3 * world.columns + 5]
        born = random.poisson(BIRTHS)
        new = [
            random.uniform(0, world.rows, born),
            random.uniform(-2, world.columns, born),
            random.gamma(4, 0.25, born),
            random.uniform(1, 2, born),
        ]
        blobs = np.concatenate([blobs, np.stack(new, 1)])
        for row, column, amount, width in blobs:
            away = ((rows - row) ** 2 + (columns - column) ** 2) / (2 * width**2)
            moisture[step] += amount * np.exp(-away)
        rain[step] = 20 * np.maximum(moisture[step] - WET, 0) * (columns >= world.columns)
        rain[step] *= random.uniform(0.8, 1.2, rows.shape)
        wind[step] = world.speed + speed
    moisture += NOISE * random.normal(size=shape)
    wind += 0.1 * random.normal(size=shape)
    return {
        "rain": rain,
        "moisture": np.maximum(moisture, 0) * 0.01,
        "wind": wind * METRES / (3600 * STEP_HOURS),
    }


def write(path: Path, world: World) -> Path:
    """One NetCDF file (CF), as `cli convert` reads it: a track per month by --track-by month."""
    described(world).to_netcdf(path, engine="h5netcdf")
    return path


def described(world: World) -> xr.Dataset:
    import xarray as xr

    times = START + np.arange(world.steps) * np.timedelta64(STEP_HOURS, "h")
    about = {
        "rain": {
            "units": "mm",
            "long_name": "Rain",
            "standard_name": "lwe_thickness_of_precipitation_amount",
        },
        "moisture": {
            "units": "kg kg-1",
            "long_name": "Specific humidity",
            "standard_name": "specific_humidity",
        },
        "wind": {
            "units": "m s-1",
            "long_name": "Eastward wind",
            "standard_name": "eastward_wind",
        },
    }
    dims = ("time", "latitude", "longitude")
    return xr.Dataset(
        {
            name: (dims, values.astype(np.float32), about[name])
            for name, values in fields(world).items()
        },
        coords={
            "time": times.astype("datetime64[ns]"),
            "latitude": ("latitude", world.latitudes, {"units": "degrees_north"}),
            "longitude": ("longitude", world.longitudes, {"units": "degrees_east"}),
        },
        attrs={
            "title": "Invented world " + ("with" if world.influence else "without") + " influence",
            "source": "drawn by eddy, not observed",
        },
    )
