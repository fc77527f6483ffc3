"""Tasks: how frames become a problem, (x, y) in physical units, and what a model must beat.

Everything here runs on the tensors' own device, in the batch; the loader delivers nothing but
high-resolution physical frames. NaN in y does not count, in any loss or score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import BaseModel, PositiveInt
from torch import Tensor

from models import Geometry
from pipeline.errors import UserError

Coarsening = Literal["area", "bicubic", "bilinear"]


class TaskSettings(BaseModel, frozen=True, extra="forbid"):
    """How frames become x and y."""

    factor: PositiveInt = 4  # how many times finer y is than x
    coarsening: Coarsening = "area"  # area: the mean of each block, what a coarser sensor sees


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

        Last rows and columns that do not fill a coarse pixel are left out of both.
        """
        f = self.settings.factor
        H, W = frames.shape[-2:]
        y = frames[..., : H // f * f, : W // f * f]
        return coarsen(y, f, self.settings.coarsening), y

    def baseline(self, x: Tensor) -> Tensor:
        """Bicubic up-sampling: what a model must beat."""
        return refine(x, self.settings.factor, "bicubic")

    def baselines(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """By name, the usual one first; each takes x without NaN.

        bicubic_means: bicubic with every block's mean made what x says. Where x is an area mean
        this much is gained without learning anything, so that a model is not praised for it.
        """
        f = self.settings.factor
        means = {"bicubic_means": self.consistent_baseline}
        return {
            "bicubic": self.baseline,
            **(means if self.settings.coarsening == "area" else {}),
            "nearest": lambda x: refine(x, f, "nearest"),
            "lanczos": lambda x: lanczos(x, f),
        }

    def consistent_baseline(self, x: Tensor) -> Tensor:
        """Bicubic, moved to the nearest field whose block means are x."""
        y, f = self.baseline(x), self.settings.factor
        return y + refine(x - coarsen(y, f, "area"), f, "nearest")

    def geometry(self, frame_shape: tuple[int, int, int]) -> Geometry:
        """Of a window of frames (C, H, W). Raises UserError where the factor does not divide."""
        C, H, W = frame_shape
        f = self.settings.factor
        if H % f or W % f:
            raise UserError(f"{H}x{W} pixels cannot be coarsened {f} times; {f} must divide both")
        return Geometry(
            x=(self.window, C, H // f, W // f),
            y=(self.window, C, H, W),
            block_means=self.settings.coarsening == "area",
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
