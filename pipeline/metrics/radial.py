"""Mean over rings about the frame's centre, where a tracked storm is."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pipeline.metrics.base import Sums, array, per_index, seen_in, setting

WIDTH = 4  # pixels


@dataclass(frozen=True, eq=False)
class RadialProfile(Sums):
    """Sums per ring, the innermost first; frames of several sizes add ring by ring."""

    prediction: np.ndarray | None = None  # units
    truth: np.ndarray | None = None
    squared: np.ndarray | None = None  # units squared, of the error
    pixels: np.ndarray | None = None
    width: float | None = setting()  # pixels

    @classmethod
    def of(cls, prediction: Tensor, truth: Tensor, width: float = WIDTH) -> RadialProfile:
        """Both (..., H, W), physical units. Raises as Errors.of does.

        width: of a ring, pixels. Rings reach as far as whole circles fit into the frame.
        """
        seen = seen_in(prediction, truth)
        ring, count = rings(*truth.shape[-2:], width, truth.device)
        ring = ring.expand(truth.shape)[seen]
        a, b = prediction[seen].double(), truth[seen].double()
        sums = [array(per_index(x, ring, count + 1)[:-1]) for x in (a, b, (a - b).square())]
        pixels = torch.bincount(ring, minlength=count + 1)[:-1]
        return cls(sums[0], sums[1], sums[2], array(pixels), width)

    def __add__(self, other: Self) -> Self:
        longest = max(0 if x.pixels is None else len(x.pixels) for x in (self, other))
        return super(RadialProfile, self.padded(longest)).__add__(other.padded(longest))

    def padded(self, rings: int) -> Self:
        """With empty rings further out, up to this many."""
        if self.pixels is None:
            return self
        more = (0, rings - len(self.pixels))
        names = [f.name for f in fields(self) if f.name != "width"]
        longer: dict[str, Any] = {name: np.pad(getattr(self, name), more) for name in names}
        return replace(self, **longer)

    def scores(self) -> dict[str, float]:
        """radial_profile_error: RMS over the rings of the error of their means, physical units."""
        _, truth, prediction, _ = self.curve()
        error = (prediction - truth)[~np.isnan(truth)]
        return {
            "radial_profile_error": math.sqrt(np.square(error).mean()) if len(error) else math.nan
        }

    def curve(self, pixel: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Radius of the rings' middles (units of `pixel`), truth, prediction, RMSE; NaN if unseen.

        Empty where nothing counts.
        """
        if self.pixels is None or self.width is None:
            return np.empty(0), np.empty(0), np.empty(0), np.empty(0)
        pixels = np.where(self.pixels > 0, self.pixels, np.nan)
        radius = (np.arange(len(pixels)) + 0.5) * self.width * pixel
        return (
            radius,
            self.truth / pixels,
            self.prediction / pixels,
            np.sqrt(self.squared / pixels),
        )


@functools.lru_cache(maxsize=8)
def rings(H: int, W: int, width: float, device: torch.device) -> tuple[Tensor, int]:
    """The ring of each pixel (H, W), and how many fit; beyond them all pixels are of the next."""
    count = max(1, int(min(H, W) / 2 / width))
    y = torch.arange(H, dtype=torch.float64, device=device) - (H - 1) / 2
    x = torch.arange(W, dtype=torch.float64, device=device) - (W - 1) / 2
    return (torch.hypot(y[:, None], x) / width).long().clamp(max=count), count
