"""Which pixels and frames of a source are fit to use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pipeline.compiled import compiled
from pipeline.sources import FrameError

F = TypeVar("F")
INFRARED = "toa_brightness_temperature"
SAMPLED = 5  # frames of a track whose shapes are compared


def usual_shape(
    frames: Sequence[F], shape: Callable[[F], tuple[int, ...]]
) -> tuple[int, int, int] | None:
    """(C, H, W) of most of a few frames, evenly spread over the track; None: all unreadable.

    shape raises FrameError for a frame that is.
    """
    count = len(frames)
    sample = {round(i * (count - 1) / (SAMPLED - 1)) for i in range(SAMPLED)}
    shapes: Counter[tuple[int, int, int]] = Counter()
    for number in [*sorted(sample), *(i for i in range(count) if i not in sample)]:
        if shapes and number not in sample:
            break
        try:
            C, H, W = shape(frames[number])
        except FrameError:
            continue  # named when its turn comes
        shapes[C, H, W] += 1
    return shapes.most_common(1)[0][0] if shapes else None


@dataclass
class Sums:
    """Statistics as sums that add; each (C,) float64, over the pixels that are not missing."""

    count: np.ndarray
    sum: np.ndarray
    sum_of_squares: np.ndarray
    min: np.ndarray
    max: np.ndarray

    @classmethod
    def none(cls, channels: int) -> Sums:
        zeros, inf = np.zeros(channels), np.full(channels, np.inf)
        return cls(zeros.copy(), zeros.copy(), zeros.copy(), inf, -inf)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.count + other.count,
            self.sum + other.sum,
            self.sum_of_squares + other.sum_of_squares,
            np.minimum(self.min, other.min),
            np.maximum(self.max, other.max),
        )

    def table(self) -> np.ndarray:
        """(C, 5) float64, in the order of store.STATISTICS; min and max NaN where none counted."""
        none = self.count == 0
        low, high = np.where(none, np.nan, self.min), np.where(none, np.nan, self.max)
        return np.stack([self.count, self.sum, self.sum_of_squares, low, high], axis=1)


@dataclass(frozen=True)
class Examined:
    """What one frame is worth."""

    missing: float  # fraction of the pixels
    blank: bool  # a channel without a valid pixel; an infrared one without a picture
    sums: Sums


def examine(frame: np.ndarray, channels: Sequence[Mapping[str, Any]]) -> Examined:
    """Make NaN, in place, what lies outside of its channel's valid_min..valid_max; count the rest.

    frame: (C, H, W) float32, physical units. An infrared image of at most two values, or with more
    than half of it at its minimum, is blank; a field of rain is often so.
    """
    C, H, W = frame.shape
    sums = Sums.none(C)
    blank = False
    for c, channel in enumerate(channels):
        image = frame[c]
        count, low, high = H * W, image.min(), image.max()  # NaN where there is one
        if not (channel["valid_min"] <= low and high <= channel["valid_max"]):
            valid = (image >= channel["valid_min"]) & (image <= channel["valid_max"])
            image[~valid] = np.nan
            count = int(np.count_nonzero(valid))
            low, high = np.fmin.reduce(image, axis=None), np.fmax.reduce(image, axis=None)
        if not count:
            blank = True
            continue
        if channel.get("standard_name", INFRARED) == INFRARED:
            blank |= bool(is_blank(image, low, high, count))
        total, squares = np.zeros(W), np.zeros(W)
        add_columns(image, total, squares)
        sums.count[c], sums.min[c], sums.max[c] = count, low, high
        sums.sum[c], sums.sum_of_squares[c] = total.sum(), squares.sum()
    return Examined(1 - float(sums.count.sum()) / (C * H * W), blank, sums)


@compiled
def add_columns(image, total, squares):  # type: ignore[no-untyped-def]
    """Add each column of (H, W) float32 to (W,) float64, and its squares; NaN counts as nothing.

    Row after row: the same to the last bit on every processor; four at a time, since it is the
    totals that take longest to fetch and put back.
    """
    H, W = image.shape
    for y in range(0, H - H % 4, 4):
        first, second, third, fourth = image[y], image[y + 1], image[y + 2], image[y + 3]
        for x in range(W):
            a, b, c, d = known(first[x]), known(second[x]), known(third[x]), known(fourth[x])
            total[x] = total[x] + a + b + c + d
            squares[x] = squares[x] + a * a + b * b + c * c + d * d
    for y in range(H - H % 4, H):
        row = image[y]
        for x in range(W):
            value = known(row[x])
            total[x] += value
            squares[x] += value * value


@compiled
def known(value):  # type: ignore[no-untyped-def]
    return np.float64(value) if value == value else 0.0


@compiled
def is_blank(image, low, high, count):  # type: ignore[no-untyped-def]
    """Whether of `count` valid pixels more than half are the lowest, or all lowest or highest."""
    at_low = at_high = others = 0
    for y in range(len(image)):
        row = image[y]
        lows, highs, valid = np.int32(0), np.int32(0), np.int32(0)
        for x in range(len(row)):
            lows += np.int32(row[x] == low)
            highs += np.int32(row[x] == high)
            valid += np.int32(row[x] == row[x])
        at_low += lows
        at_high += highs
        others += valid - lows
        if 2 * others >= count and others > at_high:
            return False  # as of a picture, halfway
    return at_low * 2 > count or at_low + at_high >= count
