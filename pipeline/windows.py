"""Which windows exist: T consecutive usable frames at equal time steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.errors import UserError


def usual_step(times: np.ndarray) -> int:
    """The most frequent difference between consecutive times (n,), in seconds; 0 for one frame.

    A property of the track: early typhoons were seen every three hours, later ones hourly. Of
    equally frequent steps the shorter counts.
    """
    steps, counts = np.unique(np.diff(times), return_counts=True)
    return int(steps[counts.argmax()]) if len(steps) else 0


def of_other_dates(firsts: np.ndarray) -> np.ndarray:
    """For each window of a track another of the same track: half of the track away."""
    return np.roll(firsts, len(firsts) // 2)


def refuse_same_dates(firsts: np.ndarray, length: int, where: Path) -> None:
    """Raises UserError where a window of another date shares a frame with the one it stands for.

    firsts: of all windows of a track of `length` frames.
    """
    shared = int((np.abs(of_other_dates(firsts) - firsts) < length).sum())
    if shared:
        raise UserError(
            f"{where}: its {len(firsts)} windows of {length} frames are too few for other_date, "
            f"which takes what lies outside the region from half of the track away: {shared} would "
            f"share frames with their own date; expected {2 * length} windows in a row; set the "
            "track aside, or convert longer ones with --track-by"
        )


def starts(times: np.ndarray, usable: np.ndarray, length: int) -> np.ndarray:
    """Index of the first frame of every window of `length` frames.

    times: (n,) int64, seconds, increasing; usable: (n,) bool. A window never spans a gap, never
    mixes steps and holds usable frames only. Returns (windows,) int64, increasing.
    """
    if length < 1:
        raise ValueError(f"a window has at least 1 frame, not {length}")
    if len(times) < length:
        return np.empty(0, np.int64)
    joined = np.diff(times) == usual_step(times)  # frame i and i + 1 belong together
    good = np.concatenate([[0], np.cumsum(usable)])
    tied = np.concatenate([[0], np.cumsum(joined)])
    first = np.arange(len(times) - length + 1)
    whole = (good[first + length] - good[first] == length) & (
        tied[first + length - 1] - tied[first] == length - 1
    )
    return first[whole]
