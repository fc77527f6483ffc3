"""Pieces for more than one forecaster: any H and W, the frame a forecast starts from, the floor."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from models import Geometry


def check_forecast(geometry: Geometry, residual: bool) -> None:
    """ValueError: y is not of x's H and W, or residual and no channel of x is known to go on."""
    (*_, h, w), (*_, H, W) = geometry.x, geometry.y
    if (h, w) != (H, W):
        raise ValueError(f"x is {h} by {w} pixels and y {H} by {W}: a forecast keeps both")
    if residual and not geometry.continues:
        raise ValueError(
            "residual: true adds changes to the last frame, and it is not known which channels of "
            "x continue in y; set it to false"
        )


def last_frame(x: Tensor, geometry: Geometry) -> Tensor:
    """The last frame in the channels of y: (B, T_in, C_in, H, W) -> (B, 1, C_out, H, W)."""
    first, end = geometry.continues[0], geometry.continues[-1] + 1
    if geometry.continues == tuple(range(first, end)):
        return x[:, -1:, first:end]
    return x[:, -1:, list(geometry.continues)]  # on a GPU the host waits for this


def padded(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Grow (..., H, W) below and to the right, so that both divide by multiple; and tell (H, W).

    The field is mirrored at its edge, or, where it is too small for that, the edge is repeated.
    """
    H, W = x.shape[-2:]
    below, right = -H % multiple, -W % multiple
    if not below and not right:
        return x, (H, W)
    mode = "reflect" if below < H and right < W else "replicate"
    grown = F.pad(x.flatten(0, -3), (0, right, 0, below), mode)  # (N, H', W')
    return grown.unflatten(0, x.shape[:-2]), (H, W)


def cropped(y: Tensor, size: tuple[int, int]) -> Tensor:
    """Take away what padded added, which told size: (..., H', W') -> (..., H, W)."""
    H, W = size
    return y[..., :H, :W]
