"""ST-RainNet for forecasts of rain: an encoder of ConvLSTM cells, pooled between, and a decoder.

x (B, T, C, H, W) -> y (B, T', C', H, W): every output frame at once, from the last states. A
trained network takes any B, T, H and W; a last row or column without a partner is pooled alone.

arch "published" is the specification's network, layer for layer: ConvLSTM cells (Shi et al. 2015,
without peepholes; gates in the order i, f, o, g) of 32 and 64 channels on two levels, the decoder's
cell started from the encoder's last state, ReLU. It maps to one frame of one channel; more are more
channels of the last convolution.
arch "corrected", the default, has the same parameters and four things otherwise: an output that
cannot die at zero rain, a forget gate that starts open, first weights that let the coarse levels be
heard, and positions that stay in place. Aligning corners shifts what is up-sampled by half of the
finer level's pixel at one edge and as much the other way at the other: half a pixel with two
levels, 7.5 pixels with five.

How far the network can see is decided by its levels, and how far it does by its training: see
`receptive_field` and `effective_reach`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import gcd
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from torch import Tensor, nn

from models import Geometry, Parts
from models._blocks import conv
from models._forecast import check_forecast, last_frame
from models._losses import content_loss, rain_weight
from models._settings import taken_by

TASK = "forecast"

Output = Literal["linear", "softplus", "clamp", "relu"]
State = tuple[Tensor, Tensor]  # h and c, both (B, hidden, H, W)
Reach = tuple[int, int]  # rows and columns

# What arch "published" has otherwise than our defaults, where a setting is not given.
PUBLISHED = {"gain": 1.0, "forget_bias": 0.0, "align_corners": True, "output": "relu"}


class Settings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    arch: Literal["corrected", "published"] = "corrected"
    """Whose defaults: the specification's network, or ours, which corrects four things in it."""
    levels: Annotated[int, Field(ge=2, le=5)] = 2
    """Resolutions, each half as fine as the one before. An input of six frames can matter 16 pixels
    away with two levels, as published, 36 with three, 76 with four, 156 with five."""
    hidden: tuple[PositiveInt, ...] | None = None
    """Channels of each level's cells, the finest first; null: 32, doubling from level to level.
    Published [32, 64], or [64, 128]."""
    norm: bool = False
    """Group norm of the gates; something of the whole field is then seen everywhere."""
    # Torch's first weights are for inputs near 1, and h is near 0.1: of the first level's contrast
    # a fifteenth is left on the fourth. To four levels 450 steps then did not teach what is 24
    # pixels upstream; with 6 they did, and the error's square fell to a thirtieth.
    gain: PositiveFloat = 6.0
    """By what first weights are multiplied in all cells but the first, so that coarse levels are
    heard. Published 1."""
    forget_bias: float = 1.0
    """What the forget gates' bias starts at, beside its noise. Published 0."""
    align_corners: bool = False
    """In up-sampling; true, as published, shifts positions at the edges."""
    output: Output | None = None
    """The last activation; published relu. softplus and relu are counted from the least value that
    there is (0 mm); clamp is linear in training, and that least value at least afterwards. null:
    softplus where there is one, else linear."""
    residual: bool = False
    """The last frame plus what is learnt; it starts at persistence, with softplus nearly."""
    loss: Literal["mse", "weighted", "log_cosh", "l1"] = "mse"
    """The loss of each pixel. weighted: squares times 1 + weight_alpha x mm of rain; log_cosh:
    square where small, absolute where large, of log1p(mm) where that is known."""
    weight_alpha: NonNegativeFloat = 0.1
    """Of loss weighted: how much more each mm of rain weighs."""
    weight_cap: PositiveFloat = 50.0
    """Of loss weighted, mm: more rain than this weighs no more."""

    _as_published = taken_by("published", PUBLISHED)

    @model_validator(mode="after")
    def _one_width_per_level(self) -> Settings:
        if self.hidden is not None and len(self.hidden) != self.levels:
            raise ValueError(
                f"hidden has {len(self.hidden)} widths for {self.levels} levels; give one per level"
            )
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        return self.hidden or tuple(32 * 2**level for level in range(self.levels))


class Cell(nn.Module):
    """A ConvLSTM cell, one convolution of kernel 3 for all gates; h and c are (B, hidden, H, W)."""

    def __init__(self, inward: int, hidden: int, norm: bool, forget_bias: float) -> None:
        super().__init__()
        self.inward = inward
        self.gates = conv(inward + hidden, 4 * hidden)
        self.norm = nn.GroupNorm(gcd(16, 4 * hidden), 4 * hidden) if norm else None
        bias = (self.norm or self.gates).bias
        with torch.no_grad():
            bias[hidden : 2 * hidden] += forget_bias  # type: ignore[index]  # both have one

    def forward(self, frames: Tensor, steps: int, state: State | None = None) -> list[State]:
        """The state after each step; frames (steps B, inward, H, W), the first step's B first.

        What the gates take from the frames does not wait for the states, so that all frames go
        through one convolution, and a state of zeros through none: of a training step on one CPU
        core that saves a tenth.
        """
        kernel = self.gates.weight
        from_frames, from_state = kernel[:, : self.inward], kernel[:, self.inward :]
        states = []
        every = F.conv2d(frames, from_frames, self.gates.bias, padding=1)
        for gates in every.unflatten(0, (steps, -1)).unbind():  # a chunk stays as it is in ONNX
            if state:
                gates = gates + F.conv2d(state[0], from_state, padding=1)
            if self.norm:
                gates = self.norm(gates)
            hidden = gates.shape[1] // 4
            i, f, o = gates[:, : 3 * hidden].sigmoid().chunk(3, 1)
            new = i * gates[:, 3 * hidden :].tanh()
            # Adds up over the steps, so that it is float32 at least, also under autocast
            kept = torch.promote_types(new.dtype, torch.float32)
            c = f * state[1] + new if state else new.to(kept)
            state = (o * c.to(o.dtype).tanh(), c)
            states.append(state)
        return states


class Network(nn.Module):
    """(B, T, C, H, W) -> (B, outward, H, W), before the last activation."""

    def __init__(self, settings: Settings, inward: int, outward: int) -> None:
        super().__init__()
        widths = settings.widths
        as_set = settings.norm, settings.forget_bias
        self.align_corners = settings.align_corners
        self.encoder = nn.ModuleList(
            Cell(below, width, *as_set) for below, width in pairwise((inward, *widths))
        )
        self.decoder = nn.ModuleList(  # the coarsest first
            Cell(coarse + fine, fine, *as_set) for coarse, fine in pairwise(widths[::-1])
        )
        for cell in (*self.encoder[1:], *self.decoder):
            with torch.no_grad():
                cell.gates.weight *= settings.gain
        self.last = conv(widths[0], outward, 1)
        if settings.residual:  # it starts at the last frame exactly
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        T = x.shape[1]
        frames = x.transpose(0, 1).flatten(0, 1)  # (T B, C, H, W)
        states: list[State] = []
        reached = []  # of each level, its last state
        for cell in self.encoder:
            if states:
                frames = torch.cat([F.max_pool2d(h, 2, ceil_mode=True) for h, _ in states])
            states = cell(frames, T)
            reached.append(states[-1])
        h, _ = reached.pop()
        for cell in self.decoder:
            skip, c = reached.pop()
            H, W = skip.shape[-2:]
            u = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=self.align_corners)
            [(h, _)] = cell(torch.cat([u[..., :H, :W], skip], 1), 1, (skip, c))
        with torch.autocast(x.device.type, enabled=False):  # bf16 has steps of 1/256 near 1
            return self.last(h.to(self.last.weight.dtype))


class Model(nn.Module):
    reach: int | None = None  # pixels are pooled from the corner on: no tile may start anywhere

    def __init__(self, settings: Settings, geometry: Geometry) -> None:
        super().__init__()
        check_forecast(geometry, settings.residual)
        (_, C, _, _), (To, Co, _, _) = geometry.x, geometry.y
        output = settings.output or ("linear" if geometry.floor is None else "softplus")
        if output != "linear" and geometry.floor is None:
            raise ValueError(
                f"output {output} needs a lowest value, as rain has in mm; take output linear"
            )
        if settings.loss == "weighted" and geometry.log_scale is None:
            raise ValueError(
                "loss weighted needs y to be log1p of mm: scaling.kind log1p, or another model.loss"
            )
        self.settings, self.geometry, self.output = settings, geometry, output
        self.network = Network(settings, C, To * Co)

    def players(self) -> dict[str, nn.Module]:
        return {"forecaster": self.network}

    def forward(self, x: Tensor) -> Tensor:
        y = self.network(x).unflatten(1, self.geometry.y[:2])  # (B, T', C', H, W)
        if self.settings.residual:
            y = y + last_frame(x, self.geometry)
        floor = self.geometry.floor
        if floor is None or self.output == "linear":
            return y
        if self.output == "clamp":
            return y if self.training else y.clamp(min=floor)
        above = y - floor
        return floor + (F.relu(above) if self.output == "relu" else F.softplus(above, BEND))

    def losses(self, x: Tensor, y: Tensor, step: int) -> Iterator[tuple[str, Tensor, Parts]]:
        ours, log_scale = self.settings, self.geometry.log_scale
        guess, weight = self(x), None
        if ours.loss == "weighted":
            assert log_scale
            weight = rain_weight(y, log_scale, ours.weight_alpha, ours.weight_cap)
        if ours.loss == "log_cosh" and log_scale:
            guess, y = guess * log_scale, y * log_scale  # else it bends far above all rain
        kind = "mse" if ours.loss == "weighted" else ours.loss
        loss = content_loss(kind, guess, y, weight)
        yield "forecaster", loss, {"content": loss.detach()}

    def receptive_field(self, height: int | None = None, width: int | None = None) -> Reach:
        """How many rows and columns away an input can matter, in a field of that size.

        None: the geometry's. T convolutions one after the other are on the coarsest level. Each
        finer one adds four of its pixels: a convolution in the encoder, one in the decoder, and two
        to the farthest pixel under the two that bilinear up-sampling reads. An output pixel sees as
        far to one side at most, and less by up to one coarsest pixel to the other, or to both.
        From beyond, with norm, come means and deviations of the whole field, and nothing else.
        """
        T, _, H, W = self.geometry.x
        coarsest = 2 ** (self.settings.levels - 1)
        farthest = T * coarsest + 4 * (coarsest - 1)
        return min(farthest, (height or H) - 1), min(farthest, (width or W) - 1)

    def effective_reach(self, share: float = 0.99, x: Tensor | None = None) -> int:
        """Within how many pixels, rows or columns, lies that share of what a pixel depends on.

        Measured on the field's middle pixel: absolute gradients of the network's output, added up
        over x's windows, frames and channels. x: (B, T, C, H, W), normalised; None: standard normal
        noise of the geometry's shape, always the same. 0 where nothing matters, as in a residual
        network before its first step.
        """
        weight = self.network.last.weight
        if x is None:
            source = torch.Generator().manual_seed(0)
            x = torch.randn(1, *self.geometry.x, generator=source).to(weight)
        H, W = x.shape[-2:]
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            middle = self.network(x)[..., H // 2, W // 2].sum()
            (slope,) = torch.autograd.grad(middle, x)
        rows, columns = ((torch.arange(n) - n // 2).abs() for n in (H, W))
        away = torch.maximum(rows[:, None], columns).flatten()
        mass = slope.abs().sum((0, 1, 2)).flatten().cpu().double()
        within = torch.zeros(max(H, W), dtype=torch.double).index_add(0, away, mass).cumsum(0)
        return int((within < share * within[-1]).sum())


# Softplus: the floor is left over some tenths of the range. With gain 1, RMSE after 150 steps on
# moving showers in 0..1: bend 1 0.092 (nothing learnt but the mean), 10 0.029, 100 0.032; ReLU
# 0.031, clamp 0.028.
BEND = 10.0
