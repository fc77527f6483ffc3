"""Frames made coarser, and made finer again without learning anything.

Everything here runs on the tensors' own device.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Coarsening = Literal["area", "bicubic", "bilinear"]


def coarsen(frames: Tensor, factor: int, how: Coarsening) -> Tensor:
    """(B, T, C, H, W) -> (B, T, C, H/factor, W/factor).

    area: the mean of the pixels seen in each block, NaN where none is. bicubic, bilinear: with
    anti-aliasing; NaN wherever a missing pixel would contribute.
    """
    B, T, C, H, W = frames.shape
    h, w = H // factor, W // factor
    if how == "area":
        blocks = frames.reshape(B, T, C, h, factor, w, factor)
        return blocks.nanmean(dim=(4, 6))
    folded = frames.reshape(B * T, C, H, W)
    small = F.interpolate(folded, size=(h, w), mode=how, antialias=True, align_corners=False)
    return small.reshape(B, T, C, h, w)


def refine(x: Tensor, factor: int, how: str) -> Tensor:
    """(B, T, C, h, w) -> (B, T, C, h*factor, w*factor) by interpolation."""
    B, T, C, h, w = x.shape
    folded = x.reshape(B * T, C, h, w)
    corners = None if how == "nearest" else False
    large = F.interpolate(folded, scale_factor=factor, mode=how, align_corners=corners)
    return large.reshape(B, T, C, h * factor, w * factor)


LOBES = 3  # of the Lanczos kernel, to each side; what image programs mean by Lanczos


def lanczos(x: Tensor, factor: int) -> Tensor:
    """(B, T, C, h, w) -> (B, T, C, h*factor, w*factor), weighted by a windowed sinc.

    At the edges the weights of the pixels that there are add up to 1. Source: Duchon 1979,
    doi:10.1175/1520-0450(1979)018<1016:LFIOAT>2.0.CO;2.
    """
    rows, columns = (lanczos_weights(n, factor).to(x) for n in x.shape[-2:])
    return rows @ x @ columns.T


def lanczos_weights(length: int, factor: int) -> Tensor:
    """(length*factor, length) float64: how much each coarse pixel counts in each fine one."""
    fine = (torch.arange(length * factor, dtype=torch.float64) + 0.5) / factor - 0.5
    away = fine[:, None] - torch.arange(length)
    weights = torch.sinc(away) * torch.sinc(away / LOBES) * (away.abs() < LOBES)
    return weights / weights.sum(1, keepdim=True)
