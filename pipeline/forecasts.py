"""Fields on latitudes and longitudes, given to a model that learnt on others.

What may differ, what must not, and where the finer pixels lie. Frames stay in the order of their
times and rows in the order of their latitudes; nothing is turned, blended or smoothed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import axes
from pipeline.errors import UserError
from pipeline.scaling import is_rain
from pipeline.sources.grids import Grid

ALIKE = 0.02  # of a cell or of an accumulation: no difference that matters
DIGITS = 9  # of a pixel's side: what is beyond is rounding
FAR = 100.0  # times more or less than in training: rather another unit than other weather
DEGREES: dict[str, dict[str, str]] = {
    "latitude": {"units": "degrees_north", "axis": "Y"},
    "longitude": {"units": "degrees_east", "axis": "X"},
}
KILOMETRES: dict[str, dict[str, str]] = {
    "y": {"units": "km", "axis": "Y"},
    "x": {"units": "km", "axis": "X"},
}


@dataclass(frozen=True)
class Place:
    """Where the pixels of an output lie, and what its two dimensions are called."""

    y: np.ndarray  # (H,) float64, of the pixels' centres, north first
    x: np.ndarray  # (W,) west first
    unit: str  # deg, km or pixels
    pixel: float  # height of a pixel, in that unit
    axes: Mapping[str, Mapping[str, Any]]  # by name, rows first: CF attributes

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edge."""
        half = self.pixel / 2
        wide = float(self.x[1] - self.x[0]) / 2 if len(self.x) > 1 else half
        return (
            float(self.x[0]) - wide,
            float(self.x[-1]) + wide,
            float(self.y[-1]) - half,
            float(self.y[0]) + half,
        )


def place(grid: Grid, finer: int, shape: tuple[int, int]) -> Place:
    """Of an output on an input's grid: each pixel cut into finer x finer, the edges staying put.

    shape: (H, W) of the output; rows and columns beyond it are left out. Raises UserError where
    the grid's are not evenly spaced: its pixels cannot be cut alike.
    """
    y, x = grid.y, grid.x
    if finer > 1:
        for name, axis in (("rows", y), ("columns", x)):
            if axes.side(axis) is None:
                raise UserError(
                    f"its {name} are not evenly spaced ({spaced(axis)}); bring it onto an even "
                    "grid first, as `cli convert --resolution` does"
                )
        y, x = axes.finer(y, finer), axes.finer(x, finer)
    y, x = y[: shape[0]], x[: shape[1]]
    axis = y if len(y) > 1 else x  # of one row, the width of its cells
    pixel = float(abs(axis[-1] - axis[0]) / (len(axis) - 1)) if len(axis) > 1 else 1.0
    said = KILOMETRES if grid.projected else DEGREES
    names = ("projection_y_coordinate", "projection_x_coordinate") if grid.projected else said
    return Place(
        y=y,
        x=x,
        unit="km" if grid.projected else "deg",
        pixel=round(pixel, DIGITS),
        axes={
            axis: {"standard_name": name, "long_name": name.replace("_", " "), **about}
            for (axis, about), name in zip(said.items(), names, strict=True)
        },
    )


def spaced(axis: np.ndarray) -> str:
    steps = np.abs(np.diff(axis))
    return "one value" if not len(steps) else f"steps of {steps.min():g} to {steps.max():g}"


def refuse_others(
    path: Path, found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]
) -> None:
    """Of several channels each must have its name and units; of one alone its units decide.

    Raises UserError.
    """
    if len(found) == len(expected) == 1:
        alike = found[0]["units"] == expected[0]["units"]
        alike &= quantity(found[0]) == quantity(expected[0])
    else:
        alike = [named(c) for c in found] == [named(c) for c in expected]
    if not alike:
        have, want = (", ".join(map(named, channels)) for channels in (found, expected))
        raise UserError(f"{path}: has the channels {have}; the model was trained on {want}")


def named(channel: Mapping[str, Any]) -> str:
    return f"{channel['name']} [{channel['units']}]"


def quantity(channel: Mapping[str, Any]) -> str:
    """What is measured: rain is rain, whatever a forecast calls it."""
    return "rain" if is_rain(channel) else channel["standard_name"] or channel["name"]


def unlike(
    channel: Mapping[str, Any],
    trained: Mapping[str, Any],
    given: Mapping[str, Any],
    sizes: Sequence[float],
    most: float,
) -> list[str]:
    """Sentences on how an input differs from what a model learnt to refine; none: it does not.

    channel: as a checkpoint describes it. trained, given: attributes of the training store and of
    the input, of which grid_degrees and accumulation_hours are looked at. sizes: how many times
    coarser than the training store's cells those of the input may be; the last is what the model
    learnt from. most: the input's largest value, NaN where that is not known.
    """
    said = []
    learnt, side = trained.get("grid_degrees"), given.get("grid_degrees")
    if learnt and side and not np.isclose(side, np.multiply(sizes, learnt), rtol=ALIKE).any():
        coarse = sizes[-1] * learnt
        said.append(
            f"The input has cells of {side:g}°, the model learnt from cells of {coarse:g}°: "
            "its detail is that of another scale."
        )
    learnt, hours = trained.get("accumulation_hours"), given.get("accumulation_hours")
    if learnt and hours and abs(hours - learnt) > ALIKE * learnt:
        said.append(
            f"The input is rain of {hours:g} h, the training data of {learnt:g} h: longer sums are "
            "wetter and smoother; accumulate both alike."
        )
    usual = channel.get("observed_max")
    if usual and most > 0 and not usual / FAR < most < usual * FAR:
        way = "smaller" if most < usual else "larger"
        said.append(
            f"The input's largest value is {most:.3g} {channel['units']}, that of the training "
            f"tracks {usual:.3g} {channel['units']}: more than {FAR:g} times {way}; if its file "
            "states wrong units, say the right ones."
        )
    return said
