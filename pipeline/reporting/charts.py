"""Line charts as inline SVG: text that scales, colours of the page's own light or dark theme.

Lines differ by colour (Okabe and Ito's, told apart by colour-blind readers), by dash and by marker.
A value that is None, NaN or, on a logarithmic axis, not positive breaks its line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Literal

Number = float | None
HOUR, DAY = 3600, 86400  # seconds
LARGE, SMALL = (500, 300), (300, 190)  # width, height in SVG units; about CSS pixels
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 12, 46
PLAIN = 0  # the style of what was observed, or of a line that is alone; methods follow
STYLES = (  # dash, marker; the colour is the CSS class line-0, line-1 ...
    ("", ""),
    ("", "circle"),
    ("7 3", "square"),
    ("2 3", "triangle"),
    ("9 3 2 3", "diamond"),
    ("1 4", "cross"),
    ("12 4", "plus"),
)
MARKERS = {  # about (0, 0), to be filled
    "circle": "M-3,0a3,3 0 1,0 6,0a3,3 0 1,0 -6,0Z",
    "square": "M-2.7,-2.7h5.4v5.4h-5.4Z",
    "triangle": "M0,-3.6L3.3,2.5H-3.3Z",
    "diamond": "M0,-3.8L3.2,0L0,3.8L-3.2,0Z",
    "cross": "M-3,-2L-2,-3L0,-1L2,-3L3,-2L1,0L3,2L2,3L0,1L-2,3L-3,2L-1,0Z",
    "plus": "M-1,-3.4H1V-1H3.4V1H1V3.4H-1V1H-3.4V-1H-1Z",
}
ALL_MARKED, MARKED = 40, 10  # up to so many points each has a marker; of more, about so many
FEW = 5  # points: where they lie is shown of a line without markers, too
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
MINUS = "\N{MINUS SIGN}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Line:
    """One curve; x ascending or not, as it is to be drawn."""

    name: str
    x: Sequence[float]
    y: Sequence[Number]
    style: int  # of STYLES, and CSS class line-<style>
    gap: float = math.inf  # a larger distance in x is not bridged


@dataclass(frozen=True)
class Axis:
    """What is along one side; `low` and `high` are taken in beside the data."""

    label: str  # with its unit
    kind: Literal["linear", "log", "time"] = "linear"  # time: seconds since 1970, UTC
    reverse: bool = False
    low: Number = None
    high: Number = None
    whole: bool = False  # of what is counted: no marks between whole numbers


@dataclass(frozen=True)
class Mark:
    """A vertical line at x, in a method's style."""

    x: float
    style: int


@dataclass(frozen=True)
class Scale:
    """An axis with its range: value -> SVG unit."""

    axis: Axis
    low: float
    high: float
    start: float  # where `low` is drawn, or `high` of a reversed axis
    end: float

    @classmethod
    def of(cls, axis: Axis, values: Sequence[float], start: float, end: float) -> Scale:
        every = [*values, *(v for v in (axis.low, axis.high) if v is not None)]
        low, high = (min(every), max(every)) if every else (1.0, 10.0)
        if axis.kind == "log":
            if low == high:
                low, high = low / 2, high * 2
            return cls(axis, low, high, start, end)
        pad = 0.04 * (high - low) or (HOUR if axis.kind == "time" else abs(low) * 0.05 or 1.0)
        # a bound that was asked for is kept
        low, high = low - pad * (low != axis.low), high + pad * (high != axis.high)
        return cls(axis, low, high, start, end)

    def __call__(self, value: float) -> float:
        low, high, value = self.low, self.high, value
        if self.axis.kind == "log":
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low)
        return self.start + (1 - share if self.axis.reverse else share) * (self.end - self.start)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Round values within the range, and how they are written."""
        if self.axis.kind == "time":
            return time_ticks(self.low, self.high, most)
        if self.axis.kind == "log":
            return log_ticks(self.low, self.high, most)
        return linear_ticks(self.low, self.high, most, least=1.0 if self.axis.whole else 0.0)


def chart(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    marks: Sequence[Mark] = (),
    size: tuple[int, int] = LARGE,
) -> str:
    """An SVG element. title: what a screen reader says of it."""
    width, height = size
    seen = [(a, b) for line in lines for part in parts(line, x, y) for a, b in part]
    across = Scale.of(x, [*(a for a, _ in seen), *(m.x for m in marks)], LEFT, width - RIGHT)
    up = Scale.of(y, [b for _, b in seen], height - BOTTOM, TOP)
    body = [
        *grid(across, up, size),
        *(curve(line, across, up) for line in lines),
        *(mark(m, across, up) for m in marks),
    ]
    if not seen:
        body.append(f'<text x="{width / 2}" y="{height / 2}" class="middle">no value</text>')
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(body)}</svg>'
    )


def legend(lines: Sequence[Line]) -> str:
    """A list of the lines' names, each beside a piece of its line."""
    items = []
    for line in lines:
        dash, marker = STYLES[line.style % len(STYLES)]
        shape = f'<path d="{MARKERS[marker]}" transform="translate(17,6)"/>' if marker else ""
        items.append(
            f'<li><svg class="key line-{line.style % len(STYLES)}" viewBox="0 0 34 12" '
            f'aria-hidden="true"><path class="stroke" stroke-dasharray="{dash}" d="M0,6H34"/>'
            f"{shape}</svg>{escape(line.name)}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def parts(line: Line, x: Axis, y: Axis) -> Iterator[list[tuple[float, float]]]:
    """The points of a line, cut where it is not to be drawn through."""
    part: list[tuple[float, float]] = []
    for a, b in zip(line.x, line.y, strict=True):
        hole = not drawable(a, x) or not drawable(b, y)
        if part and (hole or abs(a - part[-1][0]) > line.gap):
            yield part
            part = []
        if not hole:
            assert b is not None  # drawable
            part.append((a, b))
    if part:
        yield part


def drawable(value: Number, axis: Axis) -> bool:
    return value is not None and math.isfinite(value) and (axis.kind != "log" or value > 0)


def curve(line: Line, across: Scale, up: Scale) -> str:
    number = line.style % len(STYLES)
    dash, marker = STYLES[number]
    drawn = [[(across(a), up(b)) for a, b in part] for part in parts(line, across.axis, up.axis)]
    path = " ".join(
        "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in part) for part in drawn if len(part) > 1
    )
    made = f'<path class="stroke" stroke-dasharray="{dash}" d="{path}"/>' if path else ""
    points = [point for part in drawn for point in part]
    alone = [part[0] for part in drawn if len(part) == 1]
    every = 1 if len(points) <= ALL_MARKED else math.ceil(len(points) / MARKED)
    # Shifted, so that markers of lines close to each other do not hide one another.
    has_markers = marker or len(points) <= FEW
    marked = points[(number * every // len(STYLES)) % every :: every] if has_markers else alone
    shape = MARKERS[marker or "circle"]
    for a, b in dict.fromkeys([*marked, *alone]):
        made += f'<path d="{shape}" transform="translate({a:.1f},{b:.1f})"/>'
    return f'<g class="line-{number}"><title>{escape(line.name)}</title>{made}</g>'


def mark(m: Mark, across: Scale, up: Scale) -> str:
    number = m.style % len(STYLES)
    return (
        f'<g class="line-{number}"><path class="stroke thin" '
        f'stroke-dasharray="{STYLES[number][0]}" d="M{across(m.x):.1f},{TOP}V{up.start}"/></g>'
    )


def grid(across: Scale, up: Scale, size: tuple[int, int]) -> Iterator[str]:
    right, bottom = across.end, up.start
    for value, text in across.ticks(round((right - LEFT) / 60)):
        at = f"{across(value):.1f}"
        yield f'<path class="grid" d="M{at},{TOP}V{bottom}"/>'
        yield f'<text class="middle" x="{at}" y="{bottom + 16}">{text}</text>'
    for value, text in up.ticks(round((bottom - TOP) / 36)):
        at = f"{up(value):.1f}"
        yield f'<path class="grid" d="M{LEFT},{at}H{right}"/>'
        yield f'<text class="end" x="{LEFT - 6}" y="{float(at) + 4:.1f}">{text}</text>'
    yield f'<path class="frame" d="M{LEFT},{TOP}V{bottom}H{right}"/>'
    middle, height = (LEFT + right) / 2, (TOP + bottom) / 2
    yield f'<text class="middle" x="{middle}" y="{size[1] - 9}">{escape(across.axis.label)}</text>'
    yield (
        f'<text class="middle" transform="translate(11,{height}) rotate(-90)">'
        f"{escape(up.axis.label)}</text>"
    )


def linear_ticks(low: float, high: float, most: int, least: float = 0.0) -> list[tuple[float, str]]:
    """Multiples of 1, 2 or 5 times a power of ten, at least so far apart."""
    rough = max((high - low) / most, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * (1 - 1e-9))
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    if max(abs(low), abs(high)) >= 1e5 or places > 4:
        return [(n * step, f"{n * step:.3g}") for n in numbers]
    return [(n * step, signed(f"{n * step:.{places}f}")) for n in numbers]


def log_ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Powers of ten, with their 2 and 5 fold where there is room."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        every = [f * 10.0**n for n in range(first, last + 1) for f in factors]
        inside = [v for v in every if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
        if len(inside) <= most:
            break
    inside = inside[:: math.ceil(len(inside) / most) or 1] or [low, high]
    plain = low >= 1e-3 and high < 1e5
    return [(v, f"{v:.4g}" if plain else power_text(v)) for v in inside]


def power_text(value: float) -> str:
    exponent = math.floor(math.log10(value) + 1e-9)
    factor, power = value / 10.0**exponent, str(exponent).translate(SUPERSCRIPTS)
    return f"10{power}" if abs(factor - 1) < 1e-6 else f"{factor:.2g}·10{power}"


def time_ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Hours of the day, or days; the date at each midnight and at the first tick."""
    steps = [h * HOUR for h in (1, 2, 3, 6, 12)] + [d * DAY for d in (1, 2, 5, 10, 20, 50)]
    step = next((s for s in steps if (high - low) / s <= most), steps[-1])
    values = range(math.ceil(low / step) * step, math.floor(high) + 1, step)
    made = []
    for number, value in enumerate(values):
        when = datetime.fromtimestamp(value, UTC)
        date = f"{when.day} {MONTHS[when.month - 1]}"
        hour = f"{when.hour:02d}h"
        text = date if when.hour == 0 else hour if number else f"{date} {hour}"
        made.append((float(value), text))
    return made


def signed(text: str) -> str:
    """With the minus sign of print, and no minus at nought."""
    return text.replace("-", MINUS) if float(text) else text.replace("-", "")
