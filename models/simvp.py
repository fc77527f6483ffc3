"""SimVP: an encoder of each frame, a translator over all of them, a decoder of each frame.

x (B, T_in, C_in, H, W) -> y (B, T_out, C_out, H, W). A trained model takes any B, H and W: a size
that does not divide is grown by mirroring at the edge and cropped again. Group norm lets every
pixel matter to every other.

arch "simvp", the default, is Gao et al. 2022 as in the code of the paper (github.com/A4Bio/SimVP);
"incepu" is the same translator within OpenSTL's encoder and decoder (Tan et al. 2023); "gsta" is
those with the translator of SimVP v2 (Tan et al. 2022), which is lighter and scores better there,
but holds batch norm: not for batches of a few. With T_out = T_in each is the published network,
layer for layer; the widths are those for Moving MNIST.

Differs in that T_out need not be T_in: then the translator ends in T_out frames, and the skip takes
the last frame's features to all of them. (Published: longer forecasts by feeding them back.) And
where the geometry has a floor (rain), no forecast is below it, except in training.

Published is training by MSE with Adam in batches of 16, on one cycle of the learning rate stepped
at every batch, up to 0.01 (arch simvp) or 0.001.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, PositiveInt, model_validator
from torch import Tensor, nn

from models import Geometry, Parts
from models._forecast import check_forecast, cropped, last_frame, padded
from models._losses import Content, content_loss
from models._translators import Gsta, IncepU

TASK = "forecast"


class Settings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    arch: Literal["simvp", "incepu", "gsta"] = "simvp"
    """simvp: as in its paper; incepu: in OpenSTL's encoder and decoder; gsta: SimVP v2, lighter,
    with batch norm, so not for batches of a few."""
    hid_s: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    """Features of each frame; even. Published for Moving MNIST."""
    hid_t: Annotated[int, Field(ge=2)] = 512
    """Width of the translator, for all frames together: most of the parameters. As published."""
    n_s: PositiveInt = 4
    """Convolutions of the encoder, and of the decoder; every second one halves H and W, or doubles
    them. Archs incepu and gsta: an even number. As published."""
    n_t: Annotated[int, Field(ge=2)] = 8
    """Blocks of the translator; of an Inception one (not gsta) each way. As published."""
    groups: PositiveInt = 8
    """Groups of the translator's convolutions, but for gsta; 1 where hid_t / 2 does not divide by
    it. As published."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """gsta: how often a sample goes past a block in training; grows from 0.01 at the first block to
    this at the last, as published. 0: never, where OpenSTL keeps its 0.01 at the first."""
    residual: bool = False
    """The answer is the last frame and a change, at first none. Published false."""
    loss: Content = "mse"
    """The loss of each pixel. As published."""

    @model_validator(mode="after")
    def _served(self) -> Settings:
        if self.arch != "simvp" and self.n_s % 2:
            raise ValueError(f"n_s is {self.n_s}; arch {self.arch} needs an even number")
        if self.arch != "gsta" and self.drop_path:
            raise ValueError("drop_path is for arch gsta; leave it at 0")
        return self


def block(
    arch: str, inward: int, outward: int, *, finer: bool = False, coarser: bool = False
) -> nn.Sequential:
    """A convolution, GroupNorm of 2 groups, activation; finer doubles H and W, coarser halves."""
    layers: list[nn.Module]
    if not finer:
        layers = [nn.Conv2d(inward, outward, 3, stride=1 + coarser, padding=1)]
    elif arch == "simvp":
        layers = [nn.ConvTranspose2d(inward, outward, 3, stride=2, padding=1, output_padding=1)]
    else:
        layers = [nn.Conv2d(inward, 4 * outward, 3, padding=1), nn.PixelShuffle(2)]
    if arch != "simvp":
        nn.init.trunc_normal_(layers[0].weight, std=0.02)  # type: ignore[arg-type]  # a Tensor
        nn.init.zeros_(layers[0].bias)  # type: ignore[arg-type]
    activation = nn.LeakyReLU(0.2, inplace=True) if arch == "simvp" else nn.SiLU()
    return nn.Sequential(*layers, nn.GroupNorm(2, outward), activation)


class Network(nn.Module):
    """(B, T_in, C_in, H, W) -> (B, T_out, C_out, H, W); H and W divide by self.multiple."""

    def __init__(self, settings: Settings, geometry: Geometry) -> None:
        super().__init__()
        (T_in, C_in, _, _), (T_out, C_out, _, _) = geometry.x, geometry.y
        arch, hid_s = settings.arch, settings.hid_s
        halves = [bool(i % 2) for i in range(settings.n_s)]
        self.multiple = 2 ** sum(halves)
        self.frames = T_out
        self.same_frames = T_in == T_out
        self.concatenates = arch == "simvp"  # the skip; else it is added

        self.first = block(arch, C_in, hid_s)
        self.encoder = nn.Sequential()
        for coarser in halves[1:]:
            self.encoder.append(block(arch, hid_s, hid_s, coarser=coarser))
        shape = T_in * hid_s, settings.hid_t, T_out * hid_s, settings.n_t
        self.translator = (
            Gsta(*shape, settings.drop_path) if arch == "gsta" else IncepU(*shape, settings.groups)
        )
        self.decoder = nn.Sequential()
        for finer in halves[:0:-1]:
            self.decoder.append(block(arch, hid_s, hid_s, finer=finer))
        self.last = block(arch, hid_s * (1 + self.concatenates), hid_s)
        self.readout = nn.Conv2d(hid_s, C_out, 1)
        if settings.residual:
            nn.init.zeros_(self.readout.weight)
            nn.init.zeros_(self.readout.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        B, T_in = x.shape[:2]
        finest = self.first(x.flatten(0, 1))  # (B T_in, hid_s, H, W)
        past = self.encoder(finest)  # (B T_in, hid_s, h, w)
        future = self.translator(past.unflatten(0, (B, T_in)).flatten(1, 2))
        future = future.unflatten(1, (self.frames, -1)).flatten(0, 1)  # (B T_out, hid_s, h, w)
        future = self.decoder(future)  # (B T_out, hid_s, H, W)
        if not self.same_frames:
            latest = finest.unflatten(0, (B, T_in))[:, -1:]
            finest = latest.expand(-1, self.frames, -1, -1, -1).flatten(0, 1)
        future = torch.cat([future, finest], 1) if self.concatenates else future + finest
        future = self.last(future)
        with torch.autocast(x.device.type, enabled=False):  # bf16 has steps of 1/256 near 1
            y = self.readout(future.to(self.readout.weight.dtype))
        return y.unflatten(0, (B, self.frames))


class Model(nn.Module):
    reach: int | None = None

    def __init__(self, settings: Settings, geometry: Geometry) -> None:
        super().__init__()
        check_forecast(geometry, settings.residual)
        self.settings, self.geometry = settings, geometry
        self.forecaster = Network(settings, geometry)

    def players(self) -> dict[str, nn.Module]:
        return {"forecaster": self.forecaster}

    def forward(self, x: Tensor) -> Tensor:
        grown, size = padded(x, self.forecaster.multiple)
        y = cropped(self.forecaster(grown), size)
        if self.settings.residual:
            y = last_frame(x, self.geometry) + y
        floor = self.geometry.floor
        return y if self.training or floor is None else y.clamp(min=floor)

    def losses(self, x: Tensor, y: Tensor, step: int) -> Iterator[tuple[str, Tensor, Parts]]:
        loss = content_loss(self.settings.loss, self(x), y)
        yield "forecaster", loss, {self.settings.loss: loss.detach()}
