"""Grids of latitude and longitude: boxes cut from them, and fields brought onto others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import UserError

ALIKE = 1e-3  # of a cell: two coordinates that differ by less are the same
DECIMALS = 6  # of a degree, 10 cm: a float32 coordinate has no more


@dataclass(frozen=True, eq=False)
class Grid:
    """Centres of the cells of a frame, rows from north to south and columns from west to east."""

    y: np.ndarray  # (H,) float64, degrees north; or km, falling, on a map projection
    x: np.ndarray  # (W,) float64, degrees east, rising, may pass 180; or km
    projected: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.y), len(self.x)

    @property
    def sides(self) -> tuple[float, float]:
        """Height and width of a cell; NaN in a direction where cells are not of one size."""
        return side(-self.y), side(self.x)

    def same(self, other: Grid) -> bool:
        """Whether these are the same cells, as near as their numbers tell."""
        if self.shape != other.shape or self.projected != other.projected:
            return False
        return near(self.y, other.y) and near(self.x, other.x)

    def __str__(self) -> str:
        height, width = self.sides
        unit = "km" if self.projected else "degrees"
        cells = f"{height:g}" if abs(height - width) < ALIKE * width else f"{height:g} x {width:g}"
        return (
            f"{len(self.y)}x{len(self.x)} cells of {cells} {unit}, "
            f"x {self.x[0]:g} to {self.x[-1]:g}, y {self.y[-1]:g} to {self.y[0]:g}"
        )


def side(values: np.ndarray) -> float:
    """The one distance between neighbours; NaN where there is none."""
    steps = np.diff(values)
    if not len(steps):
        return float("nan")
    usual = float((values[-1] - values[0]) / len(steps))
    return round(usual, DECIMALS) if np.abs(steps - usual).max() < 0.01 * abs(usual) else np.nan


def cell(axis: np.ndarray) -> float:
    """The smallest distance between neighbours; 1 where there is but one."""
    return float(np.abs(np.diff(axis)).min()) if len(axis) > 1 else 1.0


def near(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max() < ALIKE * cell(one))


def northward(values: np.ndarray) -> np.ndarray:
    """(n,) indices of latitudes, whichever way they run, from north to south.

    Raises ValueError for what is not monotonic.
    """
    steps = np.diff(values)
    if (steps < 0).all():
        return np.arange(len(values))
    if (steps > 0).all():
        return np.arange(len(values))[::-1]
    raise ValueError("neither rise nor fall throughout")


def eastward(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) indices of longitudes from west to east, and those longitudes, rising without a jump.

    Raises ValueError for what goes around more than once or is out of order.
    """
    order = np.arange(len(values))
    steps = np.diff(values)
    if (steps < 0).sum() > (steps > 0).sum():
        order, values = order[::-1], values[::-1]
    unwrapped = values + 360.0 * np.concatenate([[0], np.cumsum(np.diff(values) < 0)])
    if (np.diff(unwrapped) <= 0).any() or unwrapped[-1] - unwrapped[0] > 360 + ALIKE:
        raise ValueError("do not run around the globe in one direction")
    return order, unwrapped


def from_west(longitudes: np.ndarray) -> np.ndarray:
    """Moved by whole turns so that the first lies in -180..180."""
    longitudes = np.round(longitudes, DECIMALS)
    return np.round(longitudes - 360.0 * np.floor((longitudes[0] + 180.0) / 360.0), DECIMALS)


@dataclass(frozen=True, eq=False)
class Cut:
    """What is read of a file's grid: its rows and columns by their numbers in the file."""

    rows: np.ndarray  # (h,) int
    columns: np.ndarray  # (w,) int
    grid: Grid  # of what is read
    inner: Grid  # without the margin that interpolation needs


def cut(
    latitudes: np.ndarray,
    longitudes: np.ndarray,
    region: tuple[float, float, float, float] | None,
    margin: int,
) -> Cut:
    """The cells whose centres lie in a box, and `margin` cells around them where the file has them.

    Raises ValueError when the grid is out of order, or does not reach as far as the box.
    """
    try:
        rows = northward(latitudes)
    except ValueError as error:
        raise ValueError(f"its latitudes {error}") from None
    try:
        columns, lon = eastward(longitudes)
    except ValueError as error:
        raise ValueError(f"its longitudes {error}") from None
    lat = np.round(latitudes[rows], DECIMALS)
    lon = np.round(lon, DECIMALS)
    if len(lon) > 1 and lon[-1] - lon[0] > 360 - ALIKE:  # the first column once more
        columns, lon = columns[:-1], lon[:-1]
    if region is None:
        whole = Grid(lat, from_west(lon))
        return Cut(rows, columns, whole, whole)
    west, east, south, north = region
    around = len(lon) > 1 and lon[-1] - lon[0] + 1.5 * np.median(np.diff(lon)) > 360
    width = east - west if 0 < east - west <= 360 else (east - west) % 360
    turned = west + (lon - west + ALIKE) % 360.0 - ALIKE if around else None
    if turned is not None:
        order = np.argsort(turned, kind="stable")
        columns, lon = columns[order], turned[order]
    else:
        lon = lon + 360.0 * np.round(((west + width / 2) - (lon[0] + lon[-1]) / 2) / 360.0)
    half_lat, half_lon = half(lat), half(lon)
    if not around and (west < lon[0] - half_lon or west + width > lon[-1] + half_lon):
        raise ValueError(reach(lat, lon, region))
    if south < lat[-1] - half_lat or north > lat[0] + half_lat:
        raise ValueError(reach(lat, lon, region))
    in_rows = np.flatnonzero((lat >= south - ALIKE * half_lat) & (lat <= north + ALIKE * half_lat))
    slack = ALIKE * half_lon
    in_columns = np.flatnonzero((lon >= west - slack) & (lon <= west + width + slack))
    if not len(in_rows) or not len(in_columns):
        raise ValueError(f"no cell's centre lies in the box; {reach(lat, lon, region)}")
    inner = Grid(lat[in_rows], from_west(lon[in_columns]))
    more_rows = widened(in_rows, margin, len(lat))
    more_columns = widened(in_columns, margin, len(lon))
    outer_lon = lon[more_columns] + (inner.x[0] - lon[in_columns[0]])
    if around and margin:
        more_columns, outer_lon = around_the_seam(columns, lon, in_columns, margin, inner.x[0])
    return Cut(rows[more_rows], columns[more_columns], Grid(lat[more_rows], outer_lon), inner)


def around_the_seam(
    columns: np.ndarray, lon: np.ndarray, inside: np.ndarray, margin: int, first: float
) -> tuple[np.ndarray, np.ndarray]:
    """Columns with a margin that may lie at the other end of a file which goes around the globe."""
    spare = len(columns) - len(inside)
    before = min(margin, (spare + 1) // 2)
    after = min(margin, spare - before)
    numbers = np.arange(inside[0] - before, inside[-1] + after + 1)
    turns, places = np.divmod(numbers, len(columns))
    return places, lon[places] + 360.0 * turns + (first - lon[inside[0]])


def widened(inside: np.ndarray, margin: int, count: int) -> np.ndarray:
    return np.arange(max(0, inside[0] - margin), min(count, inside[-1] + margin + 1))


def half(values: np.ndarray) -> float:
    """Half of a cell, with a little to spare."""
    cell = float(np.abs(np.diff(values)).max()) if len(values) > 1 else 1.0
    return cell * (0.5 + ALIKE)


def reach(lat: np.ndarray, lon: np.ndarray, region: Sequence[float]) -> str:
    lon = from_west(lon)
    return (
        f"it reaches from {lon[0]:g} to {lon[-1]:g} east and from {lat[-1]:g} to {lat[0]:g} north, "
        f"--region asks for {','.join(f'{edge:g}' for edge in region)}"
    )


def refined(inner: Grid, resolution: float) -> Grid:
    """Cells of another size that tile the area of these, from its north-west corner.

    So 5 cells of 1 degree become 500 of 0.01, and each hundred of them is one of the old ones.
    Raises ValueError where the area has no cell sides, or is smaller than one new cell.
    """
    height, width = inner.sides
    if not (height > 0 and width > 0):
        raise ValueError("its cells are not of one size; expected a regular grid for --resolution")
    north, west = inner.y[0] + height / 2, inner.x[0] - width / 2
    rows = int(np.floor(len(inner.y) * height / resolution + ALIKE))
    columns = int(np.floor(len(inner.x) * width / resolution + ALIKE))
    if not rows or not columns:
        raise ValueError(f"smaller than one cell of --resolution {resolution:g}")
    return Grid(
        np.round(north - (np.arange(rows) + 0.5) * resolution, DECIMALS + 3),
        np.round(west + (np.arange(columns) + 0.5) * resolution, DECIMALS + 3),
    )


@dataclass(frozen=True, eq=False)
class Taps:
    """Along one axis: each new value is a weighted sum of k old ones."""

    index: np.ndarray  # (n, k) int
    weight: np.ndarray  # (n, k) float64, each row adds up to 1

    def along(self, fields: np.ndarray, axis: int) -> np.ndarray:
        """Tap by tap, always in the same order: the same to the last bit on every machine."""
        shape = [1] * fields.ndim
        shape[axis] = -1
        out: np.ndarray | None = None
        for k in range(self.index.shape[1]):
            part = np.take(fields, self.index[:, k], axis) * self.weight[:, k].reshape(shape)
            out = part if out is None else out + part
        assert out is not None
        return out


def taps(
    old: np.ndarray,
    new: np.ndarray,
    how: str,
    measure: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Taps:
    """From values at `old` centres to `new` ones; both rising.

    Beyond the outermost old centre its value holds. conservative: each new value is the mean of
    the old ones by how much of the new cell they cover, in the `measure` of its edges.
    """
    if how == "nearest":
        edges = (old[1:] + old[:-1]) / 2
        return Taps(np.searchsorted(edges, new, "right")[:, None], np.ones((len(new), 1)))
    if how == "bilinear":
        at = np.interp(new, old, np.arange(len(old)))
        low = np.minimum(at.astype(np.int64), max(0, len(old) - 2))
        share = at - low
        high = np.minimum(low + 1, len(old) - 1)
        return Taps(np.stack([low, high], 1), np.stack([1 - share, share], 1))
    old_edges, new_edges = measure(borders(old)), measure(borders(new))
    overlap = np.minimum(new_edges[1:, None], old_edges[None, 1:]) - np.maximum(
        new_edges[:-1, None], old_edges[None, :-1]
    )
    overlap = np.maximum(overlap, 0)
    first = (overlap > 0).argmax(1)
    count = int((overlap > 0).sum(1).max())
    index = np.minimum(first[:, None] + np.arange(count), len(old) - 1)
    weight = np.take_along_axis(overlap, index, 1)
    weight[:, 1:][index[:, 1:] == index[:, :-1]] = 0  # the last one, clipped, only once
    return Taps(index, weight / weight.sum(1, keepdims=True))


def borders(centres: np.ndarray) -> np.ndarray:
    """(n + 1,) edges of cells."""
    between = (centres[1:] + centres[:-1]) / 2
    ends = (centres[:1] - (between[:1] - centres[:1]), centres[-1:] + (centres[-1:] - between[-1:]))
    return np.concatenate([ends[0], between, ends[1]])


@dataclass(frozen=True, eq=False)
class Regridding:
    """Fields of one grid brought onto another."""

    rows: Taps
    columns: Taps
    how: str

    @classmethod
    def between(cls, old: Grid, new: Grid, how: str) -> Regridding:
        rows = taps(old.y[::-1], new.y[::-1], how, belt)
        return cls(flipped(rows, len(old.y)), taps(old.x, new.x, how), how)

    def __call__(self, fields: np.ndarray) -> np.ndarray:
        """(..., h, w) float64 -> (..., H, W); NaN where more than half of the weight is missing."""
        seen = np.isfinite(fields)
        if seen.all():
            return self.apply(fields)
        weight = self.apply(seen.astype(np.float64))
        total = self.apply(np.where(seen, fields, 0.0))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(weight > 0.5, total / weight, np.nan)

    def apply(self, fields: np.ndarray) -> np.ndarray:
        return self.columns.along(self.rows.along(fields, fields.ndim - 2), fields.ndim - 1)


def belt(latitudes: np.ndarray) -> np.ndarray:
    """The area of the globe south of each latitude, but for a factor and a constant."""
    return np.asarray(np.sin(np.radians(np.clip(latitudes, -90, 90))))


def flipped(rising: Taps, old: int) -> Taps:
    """Taps of rising latitudes as those of rows from north to south."""
    return Taps(old - 1 - rising.index[::-1], rising.weight[::-1])


def unlike(where: str, found: Grid, first: str, expected: Grid) -> UserError:
    return UserError(
        f"{where}: its grid is {found}; that of {first} is {expected}; expected one grid: give a "
        "--region that both cover, a --resolution, or convert them into stores of their own"
    )
