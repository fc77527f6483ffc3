"""Which pixels and frames of a source are fit to use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from pipeline.sources import FrameError

F = TypeVar("F")
ENOUGH = 3  # readable frames that decide a track's shape


def usual_shape(
    frames: Sequence[F], read: Callable[[F], np.ndarray]
) -> tuple[int, int, int] | None:
    """(C, H, W) of most of the first, middle and last readable frames; None: not one is readable.

    read raises FrameError for a frame that is not.
    """
    n = len(frames)
    first = dict.fromkeys((0, n // 2, n - 1)) if n else {}
    shapes: list[tuple[int, int, int]] = []
    for number in [*first, *(i for i in range(n) if i not in first)]:
        if len(shapes) == min(ENOUGH, n):
            break
        try:
            C, H, W = read(frames[number]).shape
        except FrameError:
            continue  # named when its turn comes
        shapes.append((C, H, W))
    return Counter(shapes).most_common(1)[0][0] if shapes else None


def is_blank(frame: np.ndarray) -> bool:
    """At most two distinct values, or more than half of the pixels at the minimum.

    frame: as the source has it, nothing masked yet.
    """
    low, high = frame.min(), frame.max()
    at_low = np.count_nonzero(frame == low)
    return bool(at_low > frame.size / 2 or at_low + np.count_nonzero(frame == high) >= frame.size)


def mask(frame: np.ndarray, channels: Sequence[Mapping[str, Any]]) -> float:
    """Make NaN, in place, what lies outside of its channel's valid_min..valid_max.

    frame: (C, H, W), physical units. Returns the fraction that is missing.
    """
    low, high = (
        np.array([channel[key] for channel in channels], frame.dtype)[:, None, None]
        for key in ("valid_min", "valid_max")
    )
    with np.errstate(invalid="ignore"):
        missing = ~((frame >= low) & (frame <= high))
    frame[missing] = np.nan
    return float(missing.mean())
