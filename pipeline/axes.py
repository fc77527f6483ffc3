"""Latitudes and longitudes of a regular grid, made finer or coarser."""

from __future__ import annotations

import numpy as np

SAME = 1e-3  # of a cell: coordinates in float32 are no more regular


def side(axis: np.ndarray) -> float | None:
    """Degrees between neighbours, positive; None where they are not evenly spaced, or too few."""
    steps = np.diff(np.asarray(axis, np.float64))
    if not len(steps) or not steps.all() or np.ptp(steps) > SAME * abs(steps[0]):
        return None
    return float(abs(axis[-1] - axis[0]) / len(steps))


def finer(axis: np.ndarray, factor: int) -> np.ndarray:
    """(n,) centres of cells -> (n factor,): each cell cut into `factor`, the edges staying put."""
    axis = np.asarray(axis, np.float64)
    step = signed_step(axis)
    inside = (np.arange(factor) + 0.5) / factor - 0.5
    return (axis[:, None] + step * inside).ravel()


def coarser(axis: np.ndarray, factor: int) -> np.ndarray:
    """(n,) -> (n // factor,): the centres of blocks; the last that fill no block are left out."""
    axis = np.asarray(axis, np.float64)
    return axis[: len(axis) // factor * factor].reshape(-1, factor).mean(1)


def signed_step(axis: np.ndarray) -> float:
    """Of an evenly spaced axis. Raises ValueError for one that is not."""
    step = side(axis)
    if step is None:
        raise ValueError("an axis of unequal steps, or of one point, has no finer one")
    return step if axis[-1] > axis[0] else -step
