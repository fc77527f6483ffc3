"""Crops out of memory-mapped frames into one batch, in machine code.

Rows of a crop lie far apart in memory; what costs is waiting for them. So the next rows are asked
for while these are copied. A batch leaves past the processor's cache, which would first fetch what
is written over: whole cache lines, those of a turned crop made of squares in the registers.
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
PIXEL = 4  # bytes
LINE = 64  # bytes of the processor's cache that come and go at once
SQUARE = LINE // PIXEL  # pixels; the side of what is turned at once
ROWS = SQUARE  # copied together while the next ones are fetched: some squares, if turned
FLOATS = ir.VectorType(ir.FloatType(), SQUARE)


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


def load(builder: Any, address: Any) -> Any:
    """The SQUARE float32 at an address."""
    return builder.load(builder.inttoptr(address, FLOATS.as_pointer()), align=PIXEL)


def shuffled(builder: Any, one: Any, other: Any, order: list[int]) -> Any:
    """SQUARE of the numbers of both, counted on from one to the other."""
    wanted = ir.Constant(ir.VectorType(ir.IntType(32), SQUARE), order)
    return builder.shuffle_vector(one, other, wanted)


def store_line(builder: Any, line: Any, address: Any) -> None:
    """Write a whole cache line past the cache; the address is a multiple of LINE."""
    stored = builder.store(line, builder.inttoptr(address, FLOATS.as_pointer()), align=LINE)
    once = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
    stored.set_metadata("nontemporal", once)


@intrinsic
def copy_line(context: Any, source: Any, to: Any) -> Any:
    """Copy a cache line between two addresses."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        store_line(builder, load(builder, args[0]), args[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), build


@intrinsic
def mirror_line(context: Any, source: Any, to: Any) -> Any:
    """Copy a cache line, the last pixel first."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line = load(builder, args[0])
        backwards = list(reversed(range(SQUARE)))
        store_line(builder, shuffled(builder, line, line, backwards), args[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), build


@intrinsic
def transpose(context: Any, source: Any, source_step: Any, to: Any, to_step: Any) -> Any:
    """Copy a square: its rows at `source` become columns at `to`; steps in bytes, of either sign.

    Each half of the rows is interleaved with the other, as often as SQUARE can be halved.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, step, to, to_step = args
        rows = []
        for _ in range(SQUARE):
            rows.append(load(builder, address))
            address = builder.add(address, step)
        pairs = [n // 2 + n % 2 * SQUARE for n in range(2 * SQUARE)]
        for _ in range(SQUARE.bit_length() - 1):
            halves = zip(rows[: SQUARE // 2], rows[SQUARE // 2 :], strict=True)
            orders = (pairs[:SQUARE], pairs[SQUARE:])
            rows = [shuffled(builder, *two, order) for two in halves for order in orders]
        for column in rows:
            store_line(builder, column, to)
            to = builder.add(to, to_step)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), build


@intrinsic
def flush(context: Any) -> Any:
    """From here on all threads see what was written past the cache."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), build


@compiled
def copy_lines(to, start, row_bytes, top, bottom, way):  # type: ignore[no-untyped-def]
    """Copy rows top..bottom of a crop whose rows are whole cache lines, as `to` has them."""
    height, width = to.shape
    line = width * PIXEL
    first = np.int64(to.ctypes.data)
    for y in range(top, bottom):
        source = start + y * row_bytes
        row = first + (height - 1 - y if way & UPSIDE_DOWN else y) * line
        for byte in range(0, line, LINE):
            if way & MIRRORED:
                mirror_line(source + byte, row + line - LINE - byte)
            else:
                copy_line(source + byte, row + byte)


@compiled
def turn_squares(to, start, row_bytes, top, bottom, way):  # type: ignore[no-untyped-def]
    """The same for a quarter turn."""
    side = len(to)
    line = side * PIXEL
    first, step = np.int64(to.ctypes.data), line
    if way & UPSIDE_DOWN:
        first, step = first + (side - 1) * line, -line
    for y in range(top, bottom, SQUARE):
        source, next_row, left = start + y * row_bytes, row_bytes, y
        if way & MIRRORED:  # the last row first
            source, next_row, left = (
                source + (SQUARE - 1) * row_bytes,
                -row_bytes,
                side - SQUARE - y,
            )
        for x in range(0, side, SQUARE):
            transpose(source + x * PIXEL, next_row, first + x * step + left * PIXEL, step)


@compiled
def copy_pixels(to, start, row_bytes, top, bottom, way):  # type: ignore[no-untyped-def]
    """Copy rows top..bottom of any crop, as `to` has them."""
    height, width = to.shape
    for y in range(top, bottom):
        source = carray(pixel(start + y * row_bytes), (width,))
        for x in range(width):
            row, column = (x, y) if way & TURNED else (y, x)
            row = height - 1 - row if way & UPSIDE_DOWN else row
            column = width - 1 - column if way & MIRRORED else column
            to[np.uintp(row), np.uintp(column)] = source[np.uintp(x)]


@compiled
def gather(out, slots, places, orientations):  # type: ignore[no-untyped-def]
    """Copy n crops into out (B, T, C, height, width) float32, each turned as it is to be.

    slots: (n,) which sample of `out`, which is contiguous. places: (n, 4) int64: the address of a
    crop's first pixel, and the bytes from there to the next frame, channel and row. orientations:
    (n,), as in `oriented`; a quarter turn only of squares. The caller answers for the addresses:
    mapped float32, wide enough.
    """
    _, T, C, height, width = out.shape
    each = T * C
    in_lines = width % SQUARE == 0 and out.ctypes.data % LINE == 0
    in_lines &= out.strides[3] == width * PIXEL
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
            if not in_lines:
                copy_pixels(to, start, row_bytes, top, bottom, way)
            elif way & TURNED:
                turn_squares(to, start, row_bytes, top, bottom, way)
            else:
                copy_lines(to, start, row_bytes, top, bottom, way)
    flush()
