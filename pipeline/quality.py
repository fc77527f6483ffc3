"""Which pixels and frames of a source are fit to use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from pipeline.sources import FrameError

F = TypeVar("F")
SAMPLED = 5  # frames of a track whose shapes are compared


def usual_shape(
    frames: Sequence[F], read: Callable[[F], np.ndarray]
) -> tuple[int, int, int] | None:
    """(C, H, W) of most of a few frames, evenly spread over the track; None: all unreadable.

    read raises FrameError for a frame that is.
    """
    count = len(frames)
    sample = {round(i * (count - 1) / (SAMPLED - 1)) for i in range(SAMPLED)}
    shapes: Counter[tuple[int, int, int]] = Counter()
    for number in [*sorted(sample), *(i for i in range(count) if i not in sample)]:
        if shapes and number not in sample:
            break
        try:
            C, H, W = read(frames[number]).shape
        except FrameError:
            continue  # named when its turn comes
        shapes[C, H, W] += 1
    return shapes.most_common(1)[0][0] if shapes else None


def is_blank(frame: np.ndarray) -> bool:
    """At most two distinct values, or more than half of the pixels at the minimum; NaN apart."""
    seen = frame[~np.isnan(frame)]
    if not seen.size:
        return True
    low, high = seen.min(), seen.max()
    at_low = np.count_nonzero(seen == low)
    return bool(at_low > seen.size / 2 or at_low + np.count_nonzero(seen == high) >= seen.size)


def mask(frame: np.ndarray, channels: Sequence[Mapping[str, Any]]) -> float:
    """Make NaN, in place, what lies outside of its channel's valid_min..valid_max.

    frame: (C, H, W), physical units. Returns the fraction that is missing.
    """
    low, high = (
        np.array([channel[key] for channel in channels], frame.dtype)[:, None, None]
        for key in ("valid_min", "valid_max")
    )
    missing = ~((frame >= low) & (frame <= high))
    frame[missing] = np.nan
    return float(missing.mean())
