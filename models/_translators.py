"""Translators: from an encoded past to an encoded future, whose frames are stacked as channels.

All map (B, inward, h, w) -> (B, outward, h, w), where inward and outward are frames × channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn

KERNELS = (3, 5, 7, 11)  # of an Inception; as published


class Inception(nn.Module):
    """Grouped convolutions of several sizes, summed: (B, inward, h, w) -> (B, outward, h, w).

    The block of SimVP (Gao et al. 2022). Where hidden does not divide by groups, groups is 1, as
    published. ValueError: outward does not divide by groups.
    """

    def __init__(
        self,
        inward: int,
        hidden: int,
        outward: int,
        kernels: Sequence[int] = KERNELS,
        groups: int = 8,
    ) -> None:
        super().__init__()
        if hidden % groups:
            groups = 1
        if outward % groups:
            raise ValueError(
                f"a translator's {outward} channels (its width, or frames times features) "
                f"do not divide into {groups} groups"
            )
        self.squeeze = nn.Conv2d(inward, hidden, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(hidden, outward, kernel, padding=kernel // 2, groups=groups),
                nn.GroupNorm(groups, outward),
                nn.LeakyReLU(0.2, inplace=True),
            )
            for kernel in kernels
        )

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.squeeze(x)
        first, *others = (branch(squeezed) for branch in self.branches)
        for other in others:
            first = first + other
        return first


class IncepU(nn.Module):
    """SimVP's translator: depth Inceptions in, depth out, and skips between them as in a U-Net.

    h and w stay as they are throughout. ValueError: depth is below 2.
    """

    def __init__(self, inward: int, hidden: int, outward: int, depth: int, groups: int = 8) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"the translator needs 2 blocks in and 2 out, or more; not {depth}")

        def block(wide_in: int, wide_out: int) -> Inception:
            return Inception(wide_in, hidden // 2, wide_out, groups=groups)

        self.encoders = nn.ModuleList(block(hidden if i else inward, hidden) for i in range(depth))
        self.decoders = nn.ModuleList(
            block(2 * hidden if i else hidden, hidden if i < depth - 1 else outward)
            for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for encode in self.encoders:
            x = encode(x)
            skips.append(x)
        skips.pop()  # the deepest is x itself
        deepest, *others = self.decoders
        x = deepest(x)
        for decode in others:
            x = decode(torch.cat([x, skips.pop()], 1))
        return x


class Gated(nn.Module):
    """Large-kernel attention with a gate, and its input added: (B, width, h, w), both ways.

    A depthwise 5×5 and a depthwise 7×7 of dilation 3 make a receptive field of 23×23.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU())
        self.large = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2, groups=width),
            nn.Conv2d(width, width, 7, padding=9, dilation=3, groups=width),
            nn.Conv2d(width, 2 * width, 1),
        )
        self.tail = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.large(self.head(x)).chunk(2, 1)
        return x + self.tail(torch.sigmoid(gate) * value)


class DropPath(nn.Module):
    """In training, each sample becomes 0 at this rate, and the others grow to keep the mean.

    Stochastic depth, Huang et al. 2016.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


LAYER_SCALE = 1e-2  # of a new block's two branches; as published
WIDER = 8  # of a block's pixelwise part; as published


class GstaBlock(nn.Module):
    """Gated attention and a pixelwise part, each scaled and added: (B, width, h, w), both ways."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        wide = WIDER * width
        self.attention = nn.Sequential(nn.BatchNorm2d(width), Gated(width))
        self.pixelwise = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Conv2d(width, wide, 1),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
            nn.GELU(),
            nn.Conv2d(wide, width, 1),
        )
        self.scales = nn.ParameterList(torch.full((width, 1, 1), LAYER_SCALE) for _ in range(2))
        self.drop = DropPath(drop_path)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                fan_out = layer.weight[0, 0].numel() * layer.out_channels // layer.groups
                nn.init.normal_(layer.weight, std=sqrt(2 / fan_out))
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        for scale, branch in zip(self.scales, (self.attention, self.pixelwise), strict=True):
            x = x + self.drop(scale * branch(x))
        return x


class Gsta(nn.Sequential):
    """SimVP v2's translator (Tan et al. 2022): depth blocks in a row; h and w stay as they are.

    Holds batch norm, which batches of a few samples serve badly. ValueError: depth is below 2.
    """

    def __init__(
        self, inward: int, hidden: int, outward: int, depth: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"the translator needs 2 blocks or more, not {depth}")
        # As published, also in that the first rate is not 0; but none at all means none here
        low = 0.01 if drop_path else 0.0
        for i in range(depth):
            rate = low + (drop_path - low) * i / (depth - 1)
            before, after = hidden if i else inward, hidden if i < depth - 1 else outward
            self.append(GstaBlock(before, rate))
            if before != after:
                self.append(nn.Conv2d(before, after, 1))
