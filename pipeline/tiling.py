"""A model on a frame of any size, in tiles that fit in memory, as if it had seen all at once.

Each tile is read with a margin of the model's reach, so what is kept of it does not know that it is
a tile; at the frame's edge there is no margin, since there the model shall see the edge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

TILE = 256  # x pixels
# x pixels to each side of a seam over which two tiles fade into one another. Their values agree to
# rounding, but a GPU rounds by tile shape (TF32, another algorithm): without it seams can show.
BLEND = 4


@dataclass(frozen=True)
class Span:
    """One tile along one axis, x pixels."""

    read: slice  # what the model is given
    keep: slice  # what is kept of its answer
    weight: Tensor  # (keep,) float32; over all tiles a pixel's weights add up to 1


def spans(length: int, tile: int, reach: int) -> list[Span]:
    """Tiles of equal size, `tile` at most, that cover 0..length."""
    count = -(-length // tile)
    edges = [round(length * i / count) for i in range(count + 1)]
    keeps, ramps = [], []
    centre = torch.arange(length) + 0.5
    for start, stop in pairwise(edges):
        up = (centre - (start - BLEND)) / (2 * BLEND) if start > 0 else torch.ones(length)
        down = ((stop + BLEND) - centre) / (2 * BLEND) if stop < length else torch.ones(length)
        ramps.append(torch.minimum(up, down).clamp(0, 1))
        keeps.append(slice(max(0, start - BLEND), min(length, stop + BLEND)))
    total = torch.stack(ramps).sum(0)  # 1, except where tiles are narrower than the seams
    return [
        Span(
            read=slice(max(0, keep.start - reach), min(length, keep.stop + reach)),
            keep=keep,
            weight=(ramp / total)[keep],
        )
        for keep, ramp in zip(keeps, ramps, strict=True)
    ]


def tiled(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    scale: int,
    reach: int | None,
    tile: int = TILE,
) -> Tensor:
    """model(x), tile by tile: (B, T, C, h, w) -> (B, T', C', scale h, scale w), on x's device.

    reach: how many x pixels away an input still matters to the model; None: all of them do, and
    the frame goes through whole. tile: the side that the memory allows, x pixels.
    """
    h, w = x.shape[-2:]
    if reach is None or (h <= tile and w <= tile):
        return model(x)
    y: Tensor | None = None
    for row in spans(h, tile, reach):
        for column in spans(w, tile, reach):
            part = model(x[..., row.read, column.read])
            part = part[..., inside(row, scale), inside(column, scale)]
            if y is None:
                y = x.new_zeros(*part.shape[:3], scale * h, scale * w)
            weight = fine(row.weight, scale)[:, None] * fine(column.weight, scale)
            y[..., times(row.keep, scale), times(column.keep, scale)] += part * weight.to(y)
    assert y is not None  # there is a tile
    return y


def inside(span: Span, scale: int) -> slice:
    """Where in the model's answer the kept part lies, y pixels."""
    start = span.keep.start - span.read.start
    return times(slice(start, start + span.keep.stop - span.keep.start), scale)


def times(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)


def fine(weight: Tensor, scale: int) -> Tensor:
    return weight.repeat_interleave(scale)
