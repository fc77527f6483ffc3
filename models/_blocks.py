"""Pieces for more than one model: blocks, up-sampling, and how far a stack of layers sees."""

from __future__ import annotations

from collections.abc import Iterable
from math import floor

import torch.nn.functional as F
from torch import Tensor, nn

from models import Geometry


def scale_of(geometry: Geometry) -> int:
    """The factor of super-resolution, measured. ValueError: x and y are no such pair."""
    (T, C, h, w), (To, Co, H, W) = geometry.x, geometry.y
    if (To, Co) != (T, C):
        raise ValueError(
            f"x has {T} frames of {C} channels and y {To} of {Co}: super-resolution keeps both"
        )
    scale = H // h
    if scale < 2 or (scale * h, scale * w) != (H, W):
        raise ValueError(
            f"x is {h} by {w} pixels and y {H} by {W}: "
            "the ratio must be one whole number, 2 or more, in both directions"
        )
    return scale


def conv(inward: int, outward: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps H and W; kernel is odd."""
    return nn.Conv2d(inward, outward, kernel, padding=kernel // 2)


def prime_factors(scale: int) -> list[int]:
    """The primes that multiply to scale, 2 or more, the largest first: 100 -> 5, 5, 2, 2."""
    found = []
    divisor = 2
    while divisor * divisor <= scale:
        while scale % divisor == 0:
            found.append(divisor)
            scale //= divisor
        divisor += 1
    if scale > 1:
        found.append(scale)
    return found[::-1]


class Residual(nn.Module):
    """x + conv(PReLU(conv(x))), each conv followed by batch norm if norm; (N, width, H, W)."""

    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        first, second = conv(width, width), conv(width, width)
        self.body = (
            nn.Sequential(first, nn.BatchNorm2d(width), nn.PReLU(), second, nn.BatchNorm2d(width))
            if norm
            else nn.Sequential(first, nn.PReLU(), second)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def upsampled(x: Tensor, scale: int, mode: str) -> Tensor:
    """(N, C, h, w) -> (N, C, scale h, scale w); the pixels' outer edges stay where they were."""
    return F.interpolate(x, scale_factor=scale, mode=mode, align_corners=False)


def keep_means(y: Tensor, x: Tensor, scale: int) -> Tensor:
    """The field nearest to y whose scale×scale block means are x; (N, C, H, W) and (N, C, h, w).

    The additive constraint of Harder et al. 2022, "Physics-constrained deep learning for
    downscaling". It is an orthogonal projection: a truth with the means x only gets nearer.
    """
    missing = x - F.avg_pool2d(y, scale)
    return y + F.interpolate(missing, scale_factor=scale, mode="nearest")


TRACE = 1e-5  # added everywhere before means are scaled: an empty block is filled evenly


def scale_means(y: Tensor, x: Tensor, scale: int) -> Tensor:
    """Multiply every scale×scale block of y so that its mean is x; both 0 or more.

    (N, C, H, W) and (N, C, h, w). The multiplicative constraint of Harder et al. 2022.
    """
    y = y + TRACE
    return y * F.interpolate(x / F.avg_pool2d(y, scale), scale_factor=scale, mode="nearest")


def reach(layers: Iterable[nn.Module], scale: int) -> int:
    """How many input pixels away an input still matters to layers run in this order.

    Walks back along one axis from the scale output pixels of one input pixel. Skips past some of
    the layers see no farther than the layers, and layers not named here see one pixel.
    """
    low, high = 0, scale - 1
    for layer in reversed(list(layers)):
        if isinstance(layer, nn.Conv2d):
            radius = layer.dilation[0] * (layer.kernel_size[0] - 1) // 2
            low, high = low - radius, high + radius
        elif isinstance(layer, nn.PixelShuffle):
            low, high = low // layer.upscale_factor, high // layer.upscale_factor
        elif isinstance(layer, nn.Upsample):  # bilinear: between the two nearest pixel centres
            finer = float(layer.scale_factor)  # type: ignore[arg-type]  # ours are numbers
            low = floor((low + 0.5) / finer - 0.5)
            high = floor((high + 0.5) / finer - 0.5) + 1
    return max(-low, high)
