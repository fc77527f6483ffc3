"""Super-resolution: coarse frames -> the frames they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, PositiveInt, model_validator
from torch import Tensor

from models import Geometry
from pipeline import axes
from pipeline.errors import UserError
from pipeline.sources.grids import Grid
from pipeline.tasks.conservation import Conservation, conserved
from pipeline.tasks.interpolation import Coarsening, coarsen, lanczos, refine

Truth = Literal["native", "interpolated"]
MEANS = "bicubic_means"  # the baseline whose block means are x
INTERPOLATED = (
    "interpolated truth: nothing in it is finer than what it was made of, so that no score says "
    "anything about real detail"
)


class SuperResolutionSettings(
    BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True
):
    """How frames become x and y."""

    factor: PositiveInt = 4
    """How many times finer y is than x; it must divide the sides of a frame and of a patch."""
    coarsening: Coarsening = "area"
    """How x is made of the frames. area: the mean of each block, what a coarser sensor sees."""
    truth: Truth = "native"
    """native: x is made of the frames, by coarsening. interpolated: the frames are x, and y is made
    of them; the specification's own experiment on rain, which cannot teach any detail."""
    conserve_mass: Conservation = "none"
    """Make the block means of the answer what x says, in physical units. additive: the nearest such
    field (of rain, without negative values); multiplicative: by a factor per block."""

    @model_validator(mode="after")
    def _x_is_a_block_mean(self) -> SuperResolutionSettings:
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


@dataclass(frozen=True)
class SuperResolution:
    """Coarse frames -> the frames they came from."""

    window: int
    settings: SuperResolutionSettings
    channels: int
    kind = "superres"
    scored_window = 1  # each frame is judged once, whatever its neighbours
    first = 0
    located = False
    borrows = False

    @property
    def scale(self) -> int:
        return self.settings.factor

    @property
    def inputs(self) -> tuple[int, ...]:
        return tuple(range(self.channels))

    targets = inputs

    def split(self, frames: Tensor, donors: Tensor | None = None) -> tuple[Tensor, Tensor]:
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

    def given(self, frames: Tensor) -> Tensor:
        """As they are."""
        return frames

    def hidden(self, x: Tensor) -> Tensor:
        """(B, T, C, h, w) -> (B, T, C, f h, f w)."""
        f = self.settings.factor
        return x.isnan().repeat_interleave(f, -2).repeat_interleave(f, -1)

    def rows(self) -> list[str]:
        """bicubic_means: bicubic with every block's mean made what x says.

        Where x is an area mean this much is gained without learning anything, so that a model is
        not praised for it.
        """
        means = [MEANS] if self.settings.means_known else []
        return ["bicubic", *means, "bilinear", "nearest", "lanczos"]

    def baseline(self, row: str, x: Tensor, lowest: Sequence[float | None] = ()) -> Tensor:
        """Interpolated in space. bicubic_means: as near to bicubic as its block means allow."""
        f = self.settings.factor
        if row == MEANS:
            return conserved(refine(x, f, "bicubic"), x, f, "additive", lowest)
        return lanczos(x, f) if row == "lanczos" else refine(x, f, row)

    def finished(self, answer: Tensor, x: Tensor, lowest: Sequence[float | None]) -> Tensor:
        """With the mass that the settings ask for."""
        s = self.settings
        return conserved(answer, x, s.factor, s.conserve_mass, lowest)

    def judged(self, y: Tensor) -> Tensor:
        """All of it."""
        return y

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

    def place(
        self, grid: Grid | None, shape: tuple[int, int]
    ) -> tuple[tuple[int, int], Grid | None]:
        """As Task says; interpolated truth cuts every cell into smaller ones."""
        (H, W), f = shape, self.settings.factor
        if self.settings.truth == "native":
            h, w = H // f * f, W // f * f
            return (h, w), grid and Grid(grid.y[:h], grid.x[:w], grid.projected)
        fine = None
        if grid is not None and np.isfinite(grid.sides).all():
            fine = Grid(axes.finer(grid.y, f), axes.finer(grid.x, f), grid.projected)
        return (H * f, W * f), fine

    def side(self) -> float:
        """Of a pixel of y, in pixels of the frames."""
        return 1 / self.settings.factor if self.settings.truth == "interpolated" else 1

    def refuse(self, shape: tuple[int, int, int]) -> None:
        """Raises UserError for frames of which nothing is left when they are made coarse."""
        (_, H, W), f = shape, self.settings.factor
        if self.settings.truth == "native" and min(H, W) < f:
            raise UserError(f"{H}x{W} pixels cannot be coarsened {f} times")

    def about(self) -> dict[str, Any]:
        """For the files that scores are kept in."""
        return self.settings.model_dump(mode="json")
