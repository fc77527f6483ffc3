"""Crops out of memory-mapped frames into one batch, in machine code.

Rows of a crop lie far apart in memory; what costs is waiting for them. So the next rows are asked
for while these are copied, and a turned crop is turned square by square in the processor's
registers.
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
SQUARE = 8  # pixels of a side that are turned together
PIXEL = 4  # bytes
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


@intrinsic
def transpose(context: Any, source: Any, source_step: Any, to: Any, to_step: Any) -> Any:
    """SQUARE x SQUARE float32: the rows at `source` become columns at `to`; steps in bytes.

    Rows are interleaved with those half of all further on, as often as it takes; LLVM knows which
    instructions of the processor do that.
    """
    signature = types.void(types.int64, types.int64, types.int64, types.int64)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, step, to, to_step = args
        row = ir.VectorType(ir.FloatType(), SQUARE)
        rows = []
        for _ in range(SQUARE):
            rows.append(builder.load(builder.inttoptr(address, row.as_pointer()), align=4))
            address = builder.add(address, step)
        pairs = [n // 2 + n % 2 * SQUARE for n in range(2 * SQUARE)]
        number = ir.VectorType(ir.IntType(32), SQUARE)
        low, high = ir.Constant(number, pairs[:SQUARE]), ir.Constant(number, pairs[SQUARE:])
        for _ in range(SQUARE.bit_length() - 1):
            both = list(zip(rows[: SQUARE // 2], rows[SQUARE // 2 :], strict=True))
            rows = [builder.shuffle_vector(*pair, half) for pair in both for half in (low, high)]
        for column in rows:
            builder.store(column, builder.inttoptr(to, row.as_pointer()), align=4)
            to = builder.add(to, to_step)
        return context.get_dummy_value()

    return signature, build


@compiled
def turn(to, start, row_bytes, top, bottom, way):  # type: ignore[no-untyped-def]
    """Write rows top..bottom of a square crop as columns of `to`: whole squares, then the rest."""
    side = len(to)
    last = side - 1
    tall = bottom - (bottom - top) % SQUARE  # whole squares end here
    wide = side - side % SQUARE
    column_bytes = side * PIXEL
    first, next_column = to.ctypes.data, column_bytes
    if way & UPSIDE_DOWN:
        first, next_column = first + last * column_bytes, -column_bytes
    next_row = -row_bytes if way & MIRRORED else row_bytes
    for x in range(0, wide, SQUARE):
        for y in range(top, tall, SQUARE):
            if way & MIRRORED:  # the last row first
                source, left = start + (y + SQUARE - 1) * row_bytes, side - y - SQUARE
            else:
                source, left = start + y * row_bytes, y
            to_x = first + x * next_column + left * PIXEL
            transpose(source + x * PIXEL, next_row, to_x, next_column)
    for x in range(side):
        column = to[np.uintp(last - x if way & UPSIDE_DOWN else x)]
        for y in range(tall if x < wide else top, bottom):
            row = carray(pixel(start + y * row_bytes), (side,))
            column[np.uintp(last - y if way & MIRRORED else y)] = row[np.uintp(x)]


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
                fetch_rows(start + bottom * row_bytes, rows, row_bytes, width * PIXEL)
            elif i + 1 < len(slots) * each:  # the first rows of the next crop
                n, t, c = (i + 1) // each, (i + 1) // C % T, (i + 1) % C
                there = places[n, 0] + t * places[n, 1] + c * places[n, 2]
                fetch_rows(there, min(ROWS, height), places[n, 3], width * PIXEL)
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
