"""PastNet: forecasts from a discrete code of the past, and from its spectrum.

x (B, T, C, H, W) -> y (B, T', C', H, W). T' and C' may differ from T and C; a trained model takes
any H and W, which are padded to a multiple of `patch`. Every frame is encoded to a quarter of its
size and each of its vectors replaced by the nearest of a codebook; a translator (SimVP's, see
models/_translators.py) turns the past's codes into the future's features, which are decoded. What a
network of the spectrum of a coarse grid of patches says (AFNO) is added.

Wu et al. 2023, "PastNet: introducing physical inductive biases for spatio-temporal video
prediction". arch "faithful" is the released network (github.com/easylearningscores/PastNet), layer
for layer, for any size and number of channels. In arch "corrected", the default,
- the second layer of the spectrum's network multiplies complex numbers (released: its imaginary
  part is computed from a real part already overwritten);
- a token's own network ends in its second linear layer (released: present and never used, channels
  are averaged in pairs instead);
- the encoder's and decoder's skips carry their input (released: an activation in place cuts off
  what is below 0 on both ways);
- the codebook is learnt as it was meant to be: the encoder is drawn towards it (released: that loss
  is computed, and left out), and unused codes are put to use (see models/_vq.py);
- the branch of the spectrum sees all frames of the past at once, and answers for all of the future
  (released: frame by frame, so that what it adds to a future frame comes from the past frame of
  the same number alone, and nothing that moves can be told from one frame).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    field_validator,
)
from torch import Tensor, nn

from models import Geometry, Parts
from models._blocks import conv
from models._forecast import check_forecast, cropped, last_frame, padded
from models._losses import Content, content_loss
from models._ranks import spread_everywhere
from models._settings import taken_by
from models._translators import IncepU
from models._vq import Codebook

TASK = "forecast"

# What arch "faithful" has otherwise than our defaults, where a setting is not given.
PUBLISHED = {"mixing": False, "commitment": 0.0, "revive_below": 0.0}

SPECTRAL_BLOCKS = 4  # a frequency's channels are mixed within as many groups; as published


class Settings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    arch: Literal["corrected", "faithful"] = "corrected"
    """faithful: the released network, whose defaults it takes; corrected: what was meant."""
    width: PositiveInt = 128
    """Channels of encoder and decoder; even. As published."""
    res_layers: NonNegativeInt = 4
    """Residual blocks in each of the two. As published."""
    res_units: PositiveInt = 32
    """Channels inside such a block. As published."""
    codes: PositiveInt = 512
    """Vectors of the codebook. As published."""
    code_width: PositiveInt = 64
    """Channels of each. As published."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Per step, of the running averages that a code is. As published."""
    # Training used 60 to 75 codes of 128 on small moving blobs; without, 5.
    revive_below: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """A code whose count falls to this share of the mean count is put elsewhere; 0: never, as
    published."""
    hid_t: PositiveInt = 256
    """Channels of the translator; a multiple of 16, else convolutions are not grouped. As
    published."""
    n_t: Annotated[int, Field(ge=2)] = 8
    """The translator's blocks in, and its blocks out. As published."""
    patch: PositiveInt = 16
    """Side of one token of the spectrum's branch, pixels; a multiple of 4."""
    embed: PositiveInt = 128
    """Channels of a token; a multiple of 4. As published."""
    depth: PositiveInt = 1
    """Blocks of that branch. As published."""
    # On small moving blobs not seen in training, 250 steps left 69 % of the variance, and of two
    # runs frame by frame 88 and 100 %.
    mixing: bool = True
    """The spectrum's branch sees all frames at once; false: each by itself, as published."""
    residual: bool = False
    """What is learnt is added to the last frame, where training then starts. Published false."""
    loss: Content = "mse"
    """The loss of each pixel. As published."""
    # The code of van den Oord et al. divides content by the data's variance. Without that the
    # distance wins where fields are mostly 0, and the encoder says less and less. Published 0.25,
    # and then left out of the loss.
    commitment: NonNegativeFloat = 0.25
    """Weight of the mean squared distance from encoded vectors to their codes, for x of variance 1;
    0: none."""

    _as_published = taken_by("faithful", PUBLISHED)

    @field_validator("width")
    @classmethod
    def _even(cls, width: int) -> int:
        if width % 2:
            raise ValueError("expected an even number")
        return width

    @field_validator("patch", "embed")
    @classmethod
    def _fourfold(cls, number: int) -> int:
        if number % 4:
            raise ValueError("expected a multiple of 4")
        return number


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), batch norm after each conv; (N, width, h, w), both ways.

    cut: ReLU(x) is added in the place of x, as released.
    """

    def __init__(self, width: int, inside: int, cut: bool) -> None:
        super().__init__()
        self.cut = cut
        self.body = nn.Sequential(
            nn.Conv2d(width, inside, 3, padding=1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            nn.Conv2d(inside, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        above = F.relu(x)
        return (above if self.cut else x) + self.body(above)


def residual_stack(settings: Settings) -> list[nn.Module]:
    cut = settings.arch == "faithful"
    blocks = (
        ResidualBlock(settings.width, settings.res_units, cut) for _ in range(settings.res_layers)
    )
    return [*blocks, nn.ReLU()]


class Encoder(nn.Sequential):
    """Frames to vectors not yet quantised: (N, C, H, W) -> (N, code_width, H / 4, W / 4)."""

    def __init__(self, settings: Settings, channels: int) -> None:
        width = settings.width
        super().__init__(
            nn.Conv2d(channels, width // 2, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
            nn.ReLU(),
            conv(width, width),
            *residual_stack(settings),
            conv(width, settings.code_width, 1),
        )


class Decoder(nn.Module):
    """Features to frames: (N, code_width, h, w) -> (N, C, 4 h, 4 w)."""

    def __init__(self, settings: Settings, channels: int) -> None:
        super().__init__()
        width = settings.width
        self.body = nn.Sequential(
            conv(settings.code_width, width),
            *residual_stack(settings),
            nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1),
            nn.ReLU(),
        )
        self.last = nn.ConvTranspose2d(width // 2, channels, 4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        features = self.body(z)
        with torch.autocast(z.device.type, enabled=False):  # bf16 has steps of 1/256 near 1
            return self.last(features.to(self.last.weight.dtype))


class SpectralMixing(nn.Module):
    """A network of two complex layers, the same at every frequency: (N, h, w, embed), both ways.

    The adaptive Fourier neural operator of Guibas et al. 2022. overwritten: see the file's head.
    """

    def __init__(self, embed: int, overwritten: bool) -> None:
        super().__init__()
        self.overwritten = overwritten
        each = embed // SPECTRAL_BLOCKS
        # The first index is the real and the imaginary part
        self.weights1, self.weights2 = (
            nn.Parameter(0.02 * torch.randn(2, SPECTRAL_BLOCKS, each, each)) for _ in range(2)
        )
        self.bias1, self.bias2 = (
            nn.Parameter(0.02 * torch.randn(2, SPECTRAL_BLOCKS, each)) for _ in range(2)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(tokens, dim=(1, 2), norm="ortho")
        grouped = spectrum.unflatten(-1, (SPECTRAL_BLOCKS, -1))
        real, imag = product(grouped.real, grouped.imag, self.weights1, self.bias1)
        real, imag = F.relu(real), F.relu(imag)
        new_real, new_imag = product(real, imag, self.weights2, self.bias2)
        if self.overwritten:
            _, new_imag = product(new_real, imag, self.weights2, self.bias2)
        mixed = torch.complex(new_real, new_imag).flatten(-2)
        return torch.fft.irfft2(mixed, s=tokens.shape[1:3], dim=(1, 2), norm="ortho")


def product(real: Tensor, imag: Tensor, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Complex (..., groups, i) times complex (groups, i, o), plus bias; parts apart."""

    def times(values: Tensor, part: Tensor) -> Tensor:
        return torch.einsum("...gi,gio->...go", values, part)

    return (
        times(real, weights[0]) - times(imag, weights[1]) + bias[0],
        times(real, weights[1]) + times(imag, weights[0]) + bias[1],
    )


class SpectralBlock(nn.Module):
    """Tokens mixed with each other, then each within itself: (N, h, w, embed), both ways."""

    def __init__(self, embed: int, faithful: bool) -> None:
        super().__init__()
        self.among = nn.Sequential(
            nn.LayerNorm(embed, eps=1e-6), SpectralMixing(embed, overwritten=faithful)
        )
        self.within = nn.Sequential(
            nn.LayerNorm(embed, eps=1e-6), nn.Linear(embed, 2 * embed), nn.GELU()
        )
        self.back = nn.Linear(2 * embed, embed)  # faithful: unused, as released
        self.averaged = faithful

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.among(tokens)
        wide = self.within(tokens)
        narrow = wide.unflatten(-1, (-1, 2)).mean(-1) if self.averaged else self.back(wide)
        return tokens + narrow


class SpectralBranch(nn.Module):
    """Frames to frames by the spectrum of their patches; (N, inward, H, W) -> (N, outward, H, W).

    H and W are multiples of patch. size: the H and W that it is built for; at others the learnt
    positions are interpolated.
    """

    def __init__(
        self, settings: Settings, inward: int, outward: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        embed, patch = settings.embed, settings.patch
        blocks = (SpectralBlock(embed, settings.arch == "faithful") for _ in range(settings.depth))
        self.patches = nn.Conv2d(inward, embed, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(1, embed, *(-(-side // patch) for side in size)))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(embed, eps=1e-6)
        self.tail = nn.Sequential(
            nn.ConvTranspose2d(embed, 16 * outward, 2, stride=2),
            nn.Tanh(),
            nn.ConvTranspose2d(16 * outward, 4 * outward, 2, stride=2),
            nn.Tanh(),
            nn.ConvTranspose2d(4 * outward, outward, patch // 4, stride=patch // 4),
        )
        nn.init.trunc_normal_(self.positions, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, frames: Tensor) -> Tensor:
        # Few tokens, and no Fourier transform in half precision: all of it in the weights' dtype
        with torch.autocast(frames.device.type, enabled=False):
            tokens = self.patches(frames.to(self.positions.dtype))
            positions: Tensor = self.positions
            if positions.shape[-2:] != tokens.shape[-2:]:
                positions = F.interpolate(positions, tokens.shape[-2:], mode="bilinear")
            tokens = (tokens + positions).movedim(1, -1)  # (N, h, w, embed)
            tokens = self.norm(self.blocks(tokens))
            return self.tail(tokens.movedim(-1, 1))


class Network(nn.Module):
    """(B, T, C, H, W) -> (B, T', C', H, W), with the codebook's distance and perplexity."""

    def __init__(self, settings: Settings, geometry: Geometry) -> None:
        super().__init__()
        (T, C, *_), (frames, channels, H, W) = geometry.x, geometry.y
        width = settings.code_width
        self.frames, self.patch, self.mixing = frames, settings.patch, settings.mixing
        self.encoder = Encoder(settings, C)
        self.codebook = Codebook(settings.codes, width, settings.decay, settings.revive_below)
        self.translator = IncepU(T * width, settings.hid_t, frames * width, settings.n_t)
        self.decoder = Decoder(settings, channels)
        past, future = (T * C, frames * channels) if settings.mixing else (C, channels)
        self.spectral = SpectralBranch(settings, past, future, (H, W))
        if settings.residual:  # it starts at the last frame exactly
            for last in (self.decoder.last, self.spectral.tail[-1]):
                nn.init.zeros_(last.weight)  # type: ignore[arg-type]  # a convolution
                nn.init.zeros_(last.bias)  # type: ignore[arg-type]  # has both

    def forward(self, x: Tensor, learn: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """learn: the codebook follows x."""
        x, size = padded(x, self.patch)
        B = x.shape[0]
        z = self.encoder(x.flatten(0, 1))  # (B T, D, h, w)
        z, distance, perplexity = self.codebook(z, learn)
        future = self.translator(z.unflatten(0, (B, -1)).flatten(1, 2))  # (B, T' D, h, w)
        detail = self.decoder(future.unflatten(1, (self.frames, -1)).flatten(0, 1))
        y = detail.unflatten(0, (B, -1)) + self._coarse(x)  # (B, T', C', H, W)
        return cropped(y, size), distance, perplexity

    def _coarse(self, x: Tensor) -> Tensor:
        """What the spectrum's branch adds: (B, T, C, H, W) -> (B, T', C', H, W)."""
        if self.mixing:
            return self.spectral(x.flatten(1, 2)).unflatten(1, (self.frames, -1))
        # Frame by frame: the last ones, and where the future is longer the last one again
        longer = self.frames - x.shape[1]
        if longer > 0:
            x = torch.cat([x, x[:, -1:].expand(-1, longer, -1, -1, -1)], 1)
        x = x[:, -self.frames :]
        return self.spectral(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Model(nn.Module):
    reach = None  # a spectrum is of the whole field

    def __init__(self, settings: Settings, geometry: Geometry) -> None:
        super().__init__()
        check_forecast(geometry, settings.residual)
        self.settings, self.geometry = settings, geometry
        self.network = Network(settings, geometry)

    def players(self) -> dict[str, nn.Module]:
        return {"forecaster": self.network}

    def forward(self, x: Tensor) -> Tensor:
        y, floor = self._answer(x, learn=False)[0], self.geometry.floor
        return y if self.training or floor is None else y.clamp(min=floor)

    def losses(self, x: Tensor, y: Tensor, step: int) -> Iterator[tuple[str, Tensor, Parts]]:
        """Logs the distance to the codes (commitment), and how many are in use (perplexity)."""
        ours = self.settings
        learn = self.training and torch.is_grad_enabled()
        guess, distance, perplexity = self._answer(x, learn)
        content = content_loss(ours.loss, guess, y)
        parts = {
            "content": content.detach(),
            "commitment": distance.detach(),
            "perplexity": perplexity,
        }
        loss = content
        if ours.commitment:
            spread = spread_everywhere(x.float())
            scale = spread if ours.loss == "l1" else spread.square()  # as content's unit
            loss = content + ours.commitment * scale * distance
        yield "forecaster", loss, parts

    def _answer(self, x: Tensor, learn: bool) -> tuple[Tensor, Tensor, Tensor]:
        y, distance, perplexity = self.network(x, learn)
        if self.settings.residual:
            y = last_frame(x, self.geometry) + y
        return y, distance, perplexity
