"""The map of a storm's best track as inline SVG: its line coloured by strength, a grid of degrees.

Equirectangular, true to scale at the middle latitude. Longitudes are made continuous first, so that
a storm may cross 180°.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.pictures import degree
from pipeline.reporting.charts import linear_ticks

WIDTH, HEIGHT = 460, 400  # SVG units, at most
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 58
SPAN = 4.0  # degrees; a smaller track gets a map of this
STRENGTHS = ("central_pressure", "max_wind")  # the first that is known colours the line
WEAK, STRONG, UNKNOWN = (0x56, 0xB4, 0xE9), (0xB3, 0x00, 0x5E), (0x80, 0x80, 0x80)
STEPS = 24  # of the key


@dataclass(frozen=True)
class Course:
    """Where a storm was, frame by frame; NaN where the source does not know."""

    latitude: np.ndarray  # (n,) degrees north
    longitude: np.ndarray  # (n,) degrees east, continuous: may leave -180..180
    strength: np.ndarray  # (n,) in `unit`; all NaN where none is known
    name: str  # of the strength, for people; "" where none is known
    unit: str
    low_is_strong: bool

    @classmethod
    def of(cls, variables: Mapping[str, Any]) -> Course | None:
        """Of a source's variables by name; None where it has no positions."""
        if not {"latitude", "longitude"} <= variables.keys():
            return None
        latitude = variables["latitude"].values.astype(float)
        longitude = unwrapped(variables["longitude"].values.astype(float))
        if not (np.isfinite(latitude) & np.isfinite(longitude)).any():
            return None
        for name in STRENGTHS:
            if name not in variables:
                continue
            values = variables[name].values.astype(float)
            values = np.where(values > 0, values, np.nan)  # 0 stands for "not analysed"
            if np.isfinite(values).any():
                told = variables[name].attrs
                title = told.get("long_name", name.replace("_", " "))
                low = name == "central_pressure"
                return cls(latitude, longitude, values, title, told.get("units", ""), low)
        unknown = np.full(len(latitude), np.nan)
        return cls(latitude, longitude, unknown, "", "", False)

    def known(self, number: int) -> bool:
        return bool(np.isfinite(self.latitude[number]) and np.isfinite(self.longitude[number]))

    def share(self, number: int) -> float:
        """0 weakest .. 1 strongest of this storm; NaN where not known."""
        if not self.name:
            return math.nan
        low, high = np.nanmin(self.strength), np.nanmax(self.strength)
        share = 0.5 if high == low else (self.strength[number] - low) / (high - low)
        return float(1 - share if self.low_is_strong else share)


def unwrapped(degrees: np.ndarray) -> np.ndarray:
    """(n,) longitudes without jumps of 360; NaN stays."""
    out = degrees.copy()
    known = np.isfinite(out)
    out[known] = np.unwrap(out[known], period=360)
    return out


@dataclass(frozen=True)
class Projection:
    """Degrees -> SVG units."""

    west: float
    north: float
    x_scale: float  # units per degree
    y_scale: float
    width: float  # of the picture
    height: float

    @classmethod
    def of(cls, course: Course) -> Projection:
        here = np.isfinite(course.latitude) & np.isfinite(course.longitude)
        south, north = padded(course.latitude[here])
        west, east = padded(course.longitude[here])
        stretch = max(0.2, math.cos(math.radians((south + north) / 2)))
        room = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        y_scale = min(room[0] / ((east - west) * stretch), room[1] / (north - south))
        # The page's place for a map is as wide as a chart: fill it from side to side.
        spare = room[0] / (y_scale * stretch) - (east - west)
        west, east = west - spare / 2, east + spare / 2
        if (wanted := 0.5 * room[1] / y_scale) > north - south:  # no letter slot
            middle = (north + south) / 2
            south, north = middle - wanted / 2, middle + wanted / 2
        height = TOP + (north - south) * y_scale + BOTTOM
        return cls(west, north, y_scale * stretch, y_scale, WIDTH, height)

    def __call__(self, latitude: float, longitude: float) -> tuple[float, float]:
        return (
            LEFT + (longitude - self.west) * self.x_scale,
            TOP + (self.north - latitude) * self.y_scale,
        )

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, east, south, north."""
        east = self.west + (self.width - LEFT - RIGHT) / self.x_scale
        south = self.north - (self.height - TOP - BOTTOM) / self.y_scale
        return self.west, east, south, self.north


def padded(degrees: np.ndarray) -> tuple[float, float]:
    low, high = float(degrees.min()), float(degrees.max())
    extra = max(0.08 * (high - low), (SPAN - (high - low)) / 2)
    return low - extra, high + extra


def track_map(course: Course, shown: Sequence[int], title: str) -> str:
    """An SVG element. shown: the frames that get a dot; the first is where the marker stands.

    The marker has the class `here`; a script moves it to what `places` says.
    """
    to = Projection.of(course)
    numbers = [n for n in range(len(course.latitude)) if course.known(n)]
    points = {n: to(course.latitude[n], course.longitude[n]) for n in numbers}
    body = [*degrees_grid(to)]
    for a, b in pairwise(numbers):
        (x0, y0), (x1, y1) = points[a], points[b]
        body.append(
            f'<path class="course" stroke="{colour(course.share(b))}" '
            f'd="M{x0:.1f},{y0:.1f}L{x1:.1f},{y1:.1f}"/>'
        )
    dots = [n for n in shown if n in points]
    for n in dots:
        x, y = points[n]
        fill = colour(course.share(n))
        body.append(f'<circle class="stop" fill="{fill}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    if dots:
        x, y = points[dots[0]]
        body.append(f'<circle class="here" cx="{x:.1f}" cy="{y:.1f}" r="9"/>')
    body += key(course, to)
    return (
        f'<svg class="chart map" viewBox="0 0 {to.width:.0f} {to.height:.0f}" role="img" '
        f'aria-label="{escape(title)}">{"".join(body)}</svg>'
    )


def places(course: Course, shown: Sequence[int]) -> list[tuple[float, float] | None]:
    """Where `track_map` draws each of these frames, SVG units; None where nobody knows."""
    to = Projection.of(course)
    at = [to(course.latitude[n], course.longitude[n]) if course.known(n) else None for n in shown]
    return [point and (round(point[0], 1), round(point[1], 1)) for point in at]


def colour(share: float) -> str:
    """From weak (0) to strong (1): lighter to darker, so that it shows without colours too."""
    if math.isnan(share):
        return hexadecimal(UNKNOWN)
    return hexadecimal(tuple(w + share * (s - w) for w, s in zip(WEAK, STRONG, strict=True)))


def hexadecimal(rgb: Sequence[float]) -> str:
    return "#" + "".join(f"{round(part):02x}" for part in rgb)


def degrees_grid(to: Projection) -> Iterator[str]:
    west, east, south, north = to.bounds
    right, bottom = to.width - RIGHT, to.height - BOTTOM
    for value, _ in linear_ticks(west, east, 6):
        x, _ = to(north, value)
        yield f'<path class="grid" d="M{x:.1f},{TOP}V{bottom:.1f}"/>'
        text = degree(value, "E", "W")
        yield f'<text class="middle" x="{x:.1f}" y="{bottom + 15:.1f}">{text}</text>'
    for value, _ in linear_ticks(south, north, 6):
        _, y = to(value, west)
        yield f'<path class="grid" d="M{LEFT},{y:.1f}H{right:.1f}"/>'
        text = degree(value, "N", "S")
        yield f'<text class="end" x="{LEFT - 5}" y="{y + 4:.1f}">{text}</text>'
    yield f'<path class="frame" d="M{LEFT},{TOP}V{bottom:.1f}H{right:.1f}V{TOP}Z"/>'


def key(course: Course, to: Projection) -> Iterator[str]:
    """What the line's colours mean."""
    y = to.height - 24
    if not course.name:
        yield f'<text x="{LEFT}" y="{y + 9:.1f}">strength not known</text>'
        return
    low, high = np.nanmin(course.strength), np.nanmax(course.strength)
    weak, strong = (high, low) if course.low_is_strong else (low, high)
    for step in range(STEPS):
        yield (
            f'<rect fill="{colour(step / (STEPS - 1))}" x="{LEFT + 5 * step}" y="{y:.1f}" '
            'width="5.5" height="9"/>'
        )
    yield f'<text x="{LEFT}" y="{y - 4:.1f}">{escape(course.name)} [{escape(course.unit)}]</text>'
    yield f'<text x="{LEFT}" y="{y + 20:.1f}">{weak:.0f}</text>'
    yield f'<text class="end" x="{LEFT + 5 * STEPS}" y="{y + 20:.1f}">{strong:.0f}</text>'
    if np.isnan(course.strength).any():
        x, grey = LEFT + 5 * STEPS + 20, hexadecimal(UNKNOWN)
        yield f'<rect fill="{grey}" x="{x}" y="{y:.1f}" width="12" height="9"/>'
        yield f'<text x="{x + 17}" y="{y + 9:.1f}">not known</text>'
