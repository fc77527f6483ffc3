"""Places whose rain is followed frame by frame: quantiles against quantiles, and date by date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.errors import UsageError, UserError
from pipeline.scorecard import TRUTH
from pipeline.store import Track
from pipeline.tasks import Task

LOOKED_AT = 256  # frames, evenly spread, to find the wettest and the driest place
# of a quantile-quantile plot: the upper half, evenly in the logarithm of what lies above
PROBABILITIES = 1 - np.geomspace(0.5, 1e-4, 40)
FEWEST = 5  # frames above a quantile; of fewer it is a matter of chance


@dataclass(frozen=True)
class Site:
    """One pixel of the truth."""

    name: str
    row: int
    column: int
    latitude: float | None  # degrees north, of the pixel's centre; None: the store does not say
    longitude: float | None  # degrees east

    @property
    def said(self) -> str:
        if self.latitude is None or self.longitude is None:
            return f"{self.name} (row {self.row}, column {self.column})"
        return f"{self.name} ({self.latitude:g} N, {self.longitude:g} E)"


@dataclass(frozen=True)
class Places:
    """Where the pixels of the truth lie."""

    shape: tuple[int, int]  # (H, W)
    latitude: np.ndarray | None  # (H,) degrees north
    longitude: np.ndarray | None  # (W,) degrees east

    def site(self, name: str, row: int, column: int) -> Site:
        known = self.latitude is not None and self.longitude is not None
        return Site(
            name,
            row,
            column,
            float(self.latitude[row]) if known else None,  # type: ignore[index]
            float(self.longitude[column]) if known else None,  # type: ignore[index]
        )

    def same(self, other: Places) -> bool:
        axes = zip(self.axes, other.axes, strict=True)
        return self.shape == other.shape and all(
            a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in axes
        )

    @property
    def axes(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        return self.latitude, self.longitude

    def nearest(self, wish: str) -> Site:
        """Of `50.1,8.7`, degrees north and east, or `@12,8`, row and column. Raises UsageError."""
        at, _, rest = wish.rpartition("@")
        try:
            first, second = (float(word) for word in rest.split(","))
        except ValueError:
            first = second = np.nan
        if at or not np.isfinite([first, second]).all():
            raise UsageError(
                f"site {wish}: expected latitude,longitude as in 50.1,8.7, "
                "or @row,column as in @12,8"
            )
        if wish.startswith("@"):
            row, column = int(first), int(second)
            if not (0 <= row < self.shape[0] and 0 <= column < self.shape[1]):
                raise UsageError(f"site {wish}: the frames are {self.shape[0]}x{self.shape[1]}")
            return self.site(f"row {row}, column {column}", row, column)
        if self.latitude is None or self.longitude is None:
            raise UserError(f"site {wish}: this store has no latitudes; give @row,column")
        east = (self.longitude - second + 180) % 360 - 180  # any turn of the globe
        row, column = int(np.abs(self.latitude - first).argmin()), int(np.abs(east).argmin())
        away = (abs(self.latitude[row] - first), abs(east[column]))
        cell = [np.abs(np.diff(axis)).max(initial=0) for axis in (self.latitude, self.longitude)]
        if away[0] > cell[0] or away[1] > cell[1]:
            raise UserError(
                f"site {wish}: outside the frames, {self.latitude.min():g} to "
                f"{self.latitude.max():g} north and {self.longitude.min():g} to "
                f"{self.longitude.max():g} east"
            )
        return self.site(wish, row, column)


def places_of(track: Track, task: Task) -> Places:
    """Where the pixels of the truth lie that the task makes of a track's frames."""
    _, H, W = track.shape
    shape, grid = task.place(track.grid, (H, W))
    if grid is None or grid.projected:
        return Places(shape, None, None)
    return Places(shape, grid.y, grid.x)


def chosen(
    tracks: Sequence[Track],
    task: Task,
    wishes: Sequence[str] = (),
) -> list[Site]:
    """The sites asked for; without any, the wettest, the median and the driest of these tracks.

    Only the first channel counts. None where the tracks do not share one grid.
    """
    places = places_of(tracks[0], task)
    if any(not places.same(places_of(track, task)) for track in tracks[1:]):
        if wishes:
            raise UserError("sites can be followed only where all tracks are of one grid")
        return []
    if wishes:
        return [places.nearest(wish) for wish in wishes]
    length = task.scored_window
    frames = [(track, int(n)) for track in tracks for n in track.windows(length)]
    some = [frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, LOOKED_AT).astype(int))]
    total, seen = np.zeros(places.shape), np.zeros(places.shape)
    for track, number in some:
        window = torch.from_numpy(track.checked(number, length))[None]
        _, truth = task.split(window, window)
        found = task.judged(truth)[0, 0, 0].numpy()
        total += np.nan_to_num(found)
        seen += ~np.isnan(found)
    mean = np.divide(total, seen, out=np.full(places.shape, np.nan), where=seen > 0).ravel()
    order = np.argsort(mean, kind="stable")[: int((seen > 0).sum())]  # NaN comes last
    if not len(order):
        return []
    picked = {"wettest": order[-1], "median": order[len(order) // 2], "driest": order[0]}
    return [
        places.site(name, *(int(i) for i in np.unravel_index(place, places.shape)))
        for name, place in picked.items()
    ]


@dataclass(frozen=True)
class Series:
    """What was at one site, date by date; missing where the truth is."""

    site: Site
    truth: np.ndarray  # (n,)
    rows: dict[str, np.ndarray]  # by method, at the same dates

    @classmethod
    def of(
        cls, site: Site, number: int, at_sites: Sequence[Mapping[str, Sequence[float]]]
    ) -> Series:
        """at_sites: of each frame, by method and for the truth, the values at all sites."""
        found = {row: np.array([values[row][number] for values in at_sites]) for row in at_sites[0]}
        seen = ~np.isnan(found[TRUTH])
        found = {row: values[seen] for row, values in found.items()}
        return cls(site, found.pop(TRUTH), found)

    def probabilities(self) -> np.ndarray:
        """Those that there are frames enough for."""
        return PROBABILITIES[(1 - PROBABILITIES) * len(self.truth) >= FEWEST]

    def summary(self) -> dict[str, Any]:
        """For scores.json: quantiles of the same dates, and what the dates have in common.

        The correlation is date by date: fields in another order would have the same quantiles.
        """
        asked = self.probabilities()
        return {
            **vars(self.site),
            "frames": len(self.truth),
            "mean": mean_of(self.truth),
            "quantiles": {
                "probability": asked.tolist(),
                "truth": np.quantile(self.truth, asked).tolist() if len(asked) else [],
                "rows": {
                    row: np.quantile(values, asked).tolist() if len(asked) else []
                    for row, values in self.rows.items()
                },
            },
            "correlation": self.correlations(),
        }

    def correlations(self) -> dict[str, float]:
        """Of each method with the truth, date by date."""
        return {row: correlation(self.truth, values) for row, values in self.rows.items()}


def mean_of(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; NaN where either does not vary."""
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
