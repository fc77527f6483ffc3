"""Tasks: how frames become a problem, (x, y) in physical units, and what a model must beat.

Everything here runs on the tensors' own device, in the batch; the loader delivers nothing but
high-resolution physical frames. NaN in y does not count, in any loss or score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import BaseModel, PositiveInt, model_validator
from torch import Tensor

from models import Geometry
from pipeline.errors import UserError
from pipeline.scaling import bounded

Coarsening = Literal["area", "bicubic", "bilinear"]
Truth = Literal["native", "interpolated"]
Conservation = Literal["none", "additive", "multiplicative"]
MEANS = "bicubic_means"  # the baseline whose block means are x
INTERPOLATED = (
    "interpolated truth: nothing in it is finer than what it was made of, so that no score says "
    "anything about real detail"
)


class TaskSettings(BaseModel, frozen=True, extra="forbid"):
    """How frames become x and y."""

    factor: PositiveInt = 4  # how many times finer y is than x
    coarsening: Coarsening = "area"  # area: the mean of each block, what a coarser sensor sees
    # native: x is made of the frames, by coarsening. interpolated: the frames are x, and y is made
    # of them; the specification's own experiment on rain, which cannot teach any detail.
    truth: Truth = "native"
    # Make the block means of the model's answer what x says, in physical units. additive: the
    # nearest such field (of rain, without negative values); multiplicative: by a factor per block.
    conserve_mass: Conservation = "none"

    @model_validator(mode="after")
    def _x_is_a_block_mean(self) -> TaskSettings:
        if self.conserve_mass != "none" and not self.means_known:
            what = "coarsening" if self.truth == "native" else "truth"
            raise ValueError(
                f"conserve_mass {self.conserve_mass} is for x that is the mean of each block, "
                f"which {what} {getattr(self, what)} does not make; use none"
            )
        return self

    @property
    def means_known(self) -> bool:
        """Whether every pixel of x is the mean of the block of y that it covers."""
        return self.coarsening == "area" and self.truth == "native"


class Task(Protocol):
    """What the stages need to know of a problem."""

    window: int  # frames per training window
    scored_window: int  # frames per window where it is judged

    def split(self, frames: Tensor) -> tuple[Tensor, Tensor]: ...
    def baselines(self) -> dict[str, Callable[[Tensor], Tensor]]: ...
    def geometry(self, frame_shape: tuple[int, int, int]) -> Geometry: ...


@dataclass(frozen=True)
class SuperResolution:
    """Coarse frames -> the frames they came from."""

    window: int
    settings: TaskSettings
    scored_window = 1  # each frame is judged once, whatever its neighbours

    def split(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C, H, W) physical -> x (B, T, C, H/f, W/f) and y, the frames themselves.

        Last rows and columns that do not fill a coarse pixel are left out of both. Of interpolated
        truth x is the frames, and y (B, T, C, f H, f W).
        """
        f = self.settings.factor
        if self.settings.truth == "interpolated":
            return frames, refine(frames, f, "bilinear")
        H, W = frames.shape[-2:]
        y = frames[..., : H // f * f, : W // f * f]
        return coarsen(y, f, self.settings.coarsening), y

    def baseline(self, x: Tensor) -> Tensor:
        """Bicubic up-sampling: what a model must beat."""
        return refine(x, self.settings.factor, "bicubic")

    def baselines(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """By name, the usual one first; each takes x in physical units, without NaN.

        bicubic_means: bicubic with every block's mean made what x says. Where x is an area mean
        this much is gained without learning anything, so that a model is not praised for it.
        """
        f = self.settings.factor
        return {
            "bicubic": self.baseline,
            **({MEANS: self.consistent_baseline} if self.settings.means_known else {}),
            "bilinear": lambda x: refine(x, f, "bilinear"),
            "nearest": lambda x: refine(x, f, "nearest"),
            "lanczos": lambda x: lanczos(x, f),
        }

    def consistent_baseline(self, x: Tensor, lowest: Sequence[float | None] = ()) -> Tensor:
        """Bicubic, moved to the nearest field whose block means are x; lowest: as `conserved`."""
        return conserved(self.baseline(x), x, self.settings.factor, "additive", lowest)

    def geometry(self, frame_shape: tuple[int, int, int]) -> Geometry:
        """Of a window of frames (C, H, W). Raises UserError where the factor does not divide."""
        C, H, W = frame_shape
        f, T = self.settings.factor, self.window
        if self.settings.truth == "interpolated":
            return Geometry(x=(T, C, H, W), y=(T, C, H * f, W * f))
        if H % f or W % f:
            fits = f", as it does {H // f * f}x{W // f * f}" if min(H, W) >= f else ""
            raise UserError(
                f"{H}x{W} pixels cannot be coarsened {f} times; {f} must divide both{fits}"
            )
        return Geometry(
            x=(T, C, H // f, W // f), y=(T, C, H, W), block_means=self.settings.means_known
        )


def build(kind: str, settings: TaskSettings, window: int) -> SuperResolution:
    """The task that a model's TASK names. Raises UserError for one that there is not."""
    if kind != "superres":
        raise UserError(f"no task {kind!r}; the tasks are superres")
    return SuperResolution(window, settings)


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
