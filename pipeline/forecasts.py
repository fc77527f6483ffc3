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

ALIKE = 0.02  # of a cell or of an accumulation: no difference that matters
FAR = 100.0  # times more or less than in training: rather another unit than other weather
LATITUDE = {
    "standard_name": "latitude",
    "long_name": "latitude",
    "units": "degrees_north",
    "axis": "Y",
}
LONGITUDE = {
    "standard_name": "longitude",
    "long_name": "longitude",
    "units": "degrees_east",
    "axis": "X",
}


@dataclass(frozen=True)
class Place:
    """Where the pixels of an output lie; rows and columns as those of the input."""

    latitude: np.ndarray  # (H,) float64 degrees north, of the pixels' centres
    longitude: np.ndarray  # (W,) degrees east

    @classmethod
    def finer(cls, latitude: np.ndarray, longitude: np.ndarray, factor: int) -> Place:
        """Each pixel of an input cut into factor x factor; the edges of the area stay.

        Raises UserError where the input's are not evenly spaced: its pixels cannot be cut alike.
        """
        for name, axis in (("latitudes", latitude), ("longitudes", longitude)):
            if axes.side(axis) is None:
                raise UserError(
                    f"its {name} are not evenly spaced ({spaced(axis)}); bring it onto an even "
                    "grid first, as `cli convert --resolution` does"
                )
        return cls(axes.finer(latitude, factor), axes.finer(longitude, factor))

    @classmethod
    def cut(cls, latitude: np.ndarray, longitude: np.ndarray, shape: tuple[int, int]) -> Place:
        """The first rows and columns of an input's own pixels."""
        return cls(np.asarray(latitude)[: shape[0]], np.asarray(longitude)[: shape[1]])

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edge, degrees."""
        west, east = ends(self.longitude)
        south, north = ends(self.latitude)
        return west, east, south, north


def ends(axis: np.ndarray) -> tuple[float, float]:
    """The outer edges of the cells, the smaller first."""
    half = (axes.side(axis) or 0.0) / 2
    return float(axis.min()) - half, float(axis.max()) + half


def spaced(axis: np.ndarray) -> str:
    steps = np.abs(np.diff(axis))
    return "one value" if not len(steps) else f"steps of {steps.min():g} to {steps.max():g} degrees"


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
    factor: int,
    most: float,
) -> list[str]:
    """Sentences on how an input differs from what a model learnt to refine; none: it does not.

    channel: as a checkpoint describes it. trained, given: attributes of the training store and of
    the input, of which grid_degrees and accumulation_hours are looked at. most: the input's largest
    value, NaN where that is not known.
    """
    said = []
    learnt, side = trained.get("grid_degrees"), given.get("grid_degrees")
    if learnt and side and abs(side - factor * learnt) > ALIKE * factor * learnt:
        said.append(
            f"The input has cells of {side:g} degrees; the model learnt to refine cells of "
            f"{factor * learnt:g} degrees into {learnt:g}, and makes these into {side / factor:g}: "
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
