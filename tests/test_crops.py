"""The compiled copying of crops: the same pixels as plain slicing gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.crops import ORIENTATIONS, TURNED, gather, oriented


def mapped(T, C, H, W, spare=4):
    """Frames as they lie in a shard: (T, C, H, W) float32, each followed by a few other bytes."""
    frame_bytes = C * H * W * 4
    raw = np.full((T, frame_bytes + spare), 255, np.uint8)
    frames = raw[:, :frame_bytes].view(np.float32).reshape(T, C, H, W)
    frames[...] = np.arange(T * C * H * W).reshape(frames.shape)
    return frames


def place(frames, first, top, left):
    t, c, row, _ = frames.strides
    start = frames.__array_interface__["data"][0] + first * t + top * row + left * 4
    return [start, t, c, row]


def room(*shape, offset=0):
    """Float32 that begins so many bytes behind a cache line's begin, all NaN."""
    size = 4 * int(np.prod(shape))
    raw = np.full(size + 128, 255, np.uint8)
    begin = -raw.ctypes.data % 64 + offset
    return raw[begin : begin + size].view(np.float32).reshape(shape)


@settings(deadline=None, max_examples=120)
@given(
    data=st.data(),
    side=st.one_of(st.integers(1, 40), st.sampled_from([16, 32, 48, 64])),
    C=st.integers(1, 3),
    T=st.integers(1, 4),
    offset=st.sampled_from([0, 0, 16]),
)
def test_gather_copies_what_slicing_copies(data, side, C, T, offset):
    sources = [
        mapped(T + 2, C, side + data.draw(st.integers(0, 9)), side + data.draw(st.integers(0, 9)))
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    n = data.draw(st.integers(1, 5))
    slots = np.array(data.draw(st.permutations(range(n + 2))))[:n]
    out = room(n + 2, T, C, side, side, offset=offset)
    expected = out.copy()
    places, ways = [], []
    for slot in slots:
        frames = data.draw(st.sampled_from(sources))
        first = data.draw(st.integers(0, 2))
        top = data.draw(st.integers(0, frames.shape[2] - side))
        left = data.draw(st.integers(0, frames.shape[3] - side))
        way = data.draw(st.integers(0, ORIENTATIONS - 1))
        places.append(place(frames, first, top, left))
        ways.append(way)
        cut = frames[first : first + T, :, top : top + side, left : left + side]
        expected[slot] = oriented(cut, way)
    gather(out, slots, np.array(places), np.array(ways))
    np.testing.assert_array_equal(out, expected)  # what no slot names is left alone


@pytest.mark.parametrize("side", [16, 24])
@pytest.mark.parametrize("way", range(ORIENTATIONS))
def test_every_bit_is_kept(way, side):
    frames = mapped(3, 1, 30, 34)
    bits = frames.view(np.uint32)
    bits[...] = np.random.default_rng(0).integers(0, 2**32, bits.shape, np.uint32)  # NaNs too
    out = room(1, 3, 1, side, side)
    gather(out, np.array([0]), np.array([place(frames, 0, 2, 5)]), np.array([way]))
    expected = oriented(frames[:3, :, 2 : 2 + side, 5 : 5 + side], way)
    np.testing.assert_array_equal(out[0].view(np.uint32), expected.copy().view(np.uint32))


@pytest.mark.parametrize("size", [(5, 16), (33, 64), (64, 33), (1, 1)])
def test_other_sizes_are_mirrored_alone(size):
    frames = mapped(3, 2, 70, 70)
    out = room(TURNED, 3, 2, *size)
    places, ways = [place(frames, 0, 1, 3)] * TURNED, np.arange(TURNED)
    gather(out, np.arange(TURNED), np.array(places), ways)
    for way in ways:
        cut = frames[:3, :, 1 : 1 + size[0], 3 : 3 + size[1]]
        np.testing.assert_array_equal(out[way], oriented(cut, int(way)))


def test_nothing_to_gather():
    gather(
        np.empty((2, 3, 1, 4, 4), np.float32),
        np.empty(0, np.int64),
        np.empty((0, 4), np.int64),
        np.empty(0, np.int64),
    )


def test_orientations_are_8_distinct_ones():
    square = np.arange(9).reshape(3, 3)
    assert len({oriented(square, k).tobytes() for k in range(8)}) == 8
    np.testing.assert_array_equal(oriented(square, 0), square)
