"""Crops out of memory-mapped frames into one batch, in machine code.

Rows of a crop lie far apart in memory; what costs is waiting for them. So the next rows are asked
for while these are copied, and a turned crop is written in small squares that stay in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from pipeline.compiled import compiled

ORIENTATIONS = 8  # flips and quarter turns of a square
TURNED, UPSIDE_DOWN, MIRRORED = 4, 2, 1  # the bits of an orientation, done in this order
# Each of the three mirrors (TURNED is a transposition), two of them together turn.
ROTATIONS = (0, UPSIDE_DOWN | MIRRORED, TURNED | MIRRORED, TURNED | UPSIDE_DOWN)
ROWS = 8  # copied together while the next ones are fetched
SQUARE = 16  # columns of a turned crop that are written together
LINE = 64  # bytes of the processor's cache that come at once


def oriented(frames: np.ndarray, orientation: int) -> np.ndarray:
    """One of the 8 flips and quarter turns of (..., H, W), without copying."""
    if orientation & TURNED:
        frames = frames.swapaxes(-2, -1)
    if orientation & UPSIDE_DOWN:
        frames = frames[..., ::-1, :]
    return frames[..., ::-1] if orientation & MIRRORED else frames


@intrinsic
def pixel(context: Any, address: Any) -> Any:
    """A pointer to float32 at this address."""
    signature = types.CPointer(types.float32)(types.int64)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return signature, build


@intrinsic
def fetch(context: Any, address: Any) -> Any:
    """Ask for the cache line at this address, without waiting for it; a wrong one does no harm."""
    signature = types.void(types.int64)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        read, near, data = (ir.Constant(number, n) for n in (0, 2, 1))
        builder.call(function, [builder.inttoptr(args[0], byte), read, near, data])
        return context.get_dummy_value()

    return signature, build


@compiled
def fetch_rows(address, rows, row_bytes, length):  # type: ignore[no-untyped-def]
    for y in range(rows):
        for byte in range(0, length, LINE):
            fetch(address + y * row_bytes + byte)


@compiled
def turn(to, start, row_bytes, top, bottom, way):  # type: ignore[no-untyped-def]
    """Write rows top..bottom of a square crop as columns of `to`, square by square."""
    side = len(to)
    last = side - 1
    for left in range(0, side, SQUARE):
        for x in range(left, min(left + SQUARE, side)):
            column = to[np.uintp(last - x if way & UPSIDE_DOWN else x)]
            for y in range(top, bottom):
                source = carray(pixel(start + y * row_bytes), (side,))
                column[np.uintp(last - y if way & MIRRORED else y)] = source[np.uintp(x)]


@compiled
def gather(out, slots, places, orientations):  # type: ignore[no-untyped-def]
    """Copy n crops into out (B, T, C, height, width) float32, each turned as it is to be.

    slots: (n,) which sample of `out`. places: (n, 4) int64: the address of a crop's first pixel,
    and the bytes from there to the next frame, channel and row. orientations: (n,), as in
    `oriented`; a quarter turn only of squares. The caller answers for the addresses: mapped
    float32, wide enough.
    """
    _, T, C, height, width = out.shape
    each = T * C
    for i in range(len(slots) * each):
        n, t, c = i // each, i // C % T, i % C
        start = places[n, 0] + t * places[n, 1] + c * places[n, 2]
        row_bytes = places[n, 3]
        to = out[slots[n], t, c]
        way = orientations[n]
        for top in range(0, height, ROWS):
            bottom = min(top + ROWS, height)
            if bottom < height:
                rows = min(ROWS, height - bottom)
                fetch_rows(start + bottom * row_bytes, rows, row_bytes, width * 4)
            elif i + 1 < len(slots) * each:  # the first rows of the next crop
                n, t, c = (i + 1) // each, (i + 1) // C % T, (i + 1) % C
                there = places[n, 0] + t * places[n, 1] + c * places[n, 2]
                fetch_rows(there, min(ROWS, height), places[n, 3], width * 4)
            if way & TURNED:
                turn(to, start, row_bytes, top, bottom, way)
                continue
            for y in range(top, bottom):
                row = to[np.uintp(height - 1 - y if way & UPSIDE_DOWN else y)]
                source = carray(pixel(start + y * row_bytes), (width,))
                if way & MIRRORED:
                    for x in range(width):
                        row[np.uintp(width - 1 - x)] = source[np.uintp(x)]
                else:
                    for x in range(width):
                        row[np.uintp(x)] = source[np.uintp(x)]
