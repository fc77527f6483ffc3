"""The compiled gather copies the pixels that NumPy's own slices and views show."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.crops import ORIENTATIONS, TURNED, gather, oriented

FRAMES = np.random.default_rng(0).random((7, 2, 60, 71), np.float32)  # (T, C, H, W)
FRAMES[0, 0, 3] = np.nan


def cut(height: int, width: int, samples: int, ways: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """What gather writes for some crops, and what it should."""
    rng = np.random.default_rng(height)
    first = rng.integers(0, len(FRAMES) - 3 + 1, samples)
    top = rng.integers(0, FRAMES.shape[2] - height + 1, samples)
    left = rng.integers(0, FRAMES.shape[3] - width + 1, samples)
    orientations = rng.choice(ways, samples)
    strides = FRAMES.strides
    start = FRAMES.ctypes.data + first * strides[0] + top * strides[2] + left * strides[3]
    rest = np.broadcast_to(strides[:3], (samples, 3))
    places = np.concatenate([start[:, None], rest], axis=1).astype(np.int64)
    out = np.full((samples + 2, 3, 2, height, width), -1, np.float32)
    slots = rng.permutation(samples + 2)[:samples]
    gather(out, slots, places, orientations)
    expected = np.full_like(out, -1)
    for slot, t, y, x, way in zip(slots, first, top, left, orientations, strict=True):
        crop = FRAMES[t : t + 3, :, y : y + height, x : x + width]
        expected[slot] = oriented(crop, int(way))
    return out, expected


@pytest.mark.parametrize("side", [1, 2, 7, 8, 9, 15, 16, 24, 37, 60])
@pytest.mark.parametrize("way", range(ORIENTATIONS))
def test_squares_of_any_side_in_every_orientation(side, way):
    np.testing.assert_array_equal(*cut(side, side, 5, [way]))


@pytest.mark.parametrize("size", [(1, 71), (60, 1), (8, 33), (33, 8), (60, 71)])
def test_other_sizes_are_mirrored_alone(size):
    np.testing.assert_array_equal(*cut(*size, 9, list(range(TURNED))))


def test_orientations_may_differ_within_a_batch():
    np.testing.assert_array_equal(*cut(40, 40, 50, list(range(ORIENTATIONS))))
