"""Fields moved so that the mean of each block is what the coarse field says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pipeline.scaling import bounded
from pipeline.tasks.interpolation import coarsen, refine

Conservation = Literal["none", "additive", "multiplicative"]


def conserved(
    y: Tensor,
    x: Tensor,
    factor: int,
    how: Conservation,
    lowest: Sequence[float | None] = (),
) -> Tensor:
    """The field y (B, T, C, H, W) with the block means x (B, T, C, h, w), in physical units.

    additive: the nearest such field, of a channel with a lowest value the nearest with nothing
    below it; no truth that has these means gets farther away. multiplicative: each block by a
    factor of its own, as for amounts of rain; a block of nothing where x has something becomes
    even. lowest: per channel, None or no entries: no bound. Source: Harder et al. 2023,
    "Hard-Constrained Deep Learning for Climate Downscaling" (JMLR 24:365).
    """
    if how == "none":
        return y
    if how == "multiplicative":
        y = bounded(y, lowest)
        mean, x = (refine(each, factor, "nearest") for each in (coarsen(y, factor, "area"), x))
        return torch.where(mean > 0, y / mean * x, x)
    shifted = y + refine(x - coarsen(y, factor, "area"), factor, "nearest")
    for channel, low in enumerate(lowest):
        if low is not None:
            shifted[:, :, channel] = low + on_simplex(
                shifted[:, :, channel] - low, x[:, :, channel] - low, factor
            )
    return shifted


def on_simplex(y: Tensor, x: Tensor, factor: int) -> Tensor:
    """The nearest field to y (B, T, H, W) with block means x >= 0 and nothing below 0.

    Of each block the same amount is taken from all pixels that stay above 0. Source: Duchi et al.
    2008, doi:10.1145/1390156.1390191.
    """
    B, T, h, w = x.shape
    blocks = y.reshape(B, T, h, factor, w, factor).transpose(3, 4).flatten(4)  # (B, T, h, w, n)
    total = x[..., None] * factor**2
    falling = blocks.double().sort(dim=-1, descending=True).values
    n = torch.arange(1, factor**2 + 1, device=y.device)
    taken = (falling.cumsum(-1) - total) / n
    above = (falling > taken).sum(-1, keepdim=True).clamp(min=1)  # pixels that stay above 0
    left = (blocks - taken.gather(-1, above - 1)).clamp(min=0).to(y.dtype)
    left = left.reshape(B, T, h, w, factor, factor).transpose(3, 4)
    return left.reshape(y.shape)
