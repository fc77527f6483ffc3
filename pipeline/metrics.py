"""Scores as sums that add: no choice of batch, tile or chunk can change one.

Pixels missing (NaN) in the truth do not count; a prediction that is NaN where the truth is not is
an error. What is undefined is NaN, not 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import UserError

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; Gaussian (Wang et al. 2004)
SSIM_BORDER = 5  # pixels left out at each edge: half a window


@dataclass(frozen=True)
class Errors:
    """RMSE, MAE, bias, PSNR and SSIM of any number of images."""

    squared: float = 0.0  # units squared
    absolute: float = 0.0  # units
    signed: float = 0.0  # units, prediction minus truth
    pixels: int = 0
    psnr_sum: float = 0.0  # dB; a perfect image has no finite PSNR and is left out
    psnr_images: int = 0
    ssim_sum: float = 0.0
    ssim_pixels: int = 0

    @classmethod
    def of(cls, prediction: Tensor, truth: Tensor, peak: float) -> Errors:
        """Both (..., H, W), physical units; each (H, W) is one image.

        peak: the range R of PSNR and SSIM, in the same units. Raises ValueError for unequal
        shapes and for a prediction that is NaN where the truth is not.
        """
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction is {tuple(prediction.shape)}, truth {tuple(truth.shape)}")
        seen = ~truth.isnan()
        if prediction[seen].isnan().any():
            raise ValueError("prediction is NaN where truth is not")
        zero = torch.zeros((), dtype=torch.float64, device=truth.device)
        error = torch.where(seen, prediction.double() - truth.double(), zero)
        pixels = seen.sum(dim=(-2, -1))
        squared = error.square().sum(dim=(-2, -1))
        mse = squared[pixels > 0] / pixels[pixels > 0]
        psnr = 10 * torch.log10(peak**2 / mse[mse > 0])
        ssim, ssim_pixels = ssim_sum(prediction, truth, seen, peak)
        return cls(
            squared=float(squared.sum()),
            absolute=float(error.abs().sum()),
            signed=float(error.sum()),
            pixels=int(pixels.sum()),
            psnr_sum=float(psnr.sum()),
            psnr_images=len(psnr),
            ssim_sum=ssim,
            ssim_pixels=ssim_pixels,
        )

    def __add__(self, other: Errors) -> Errors:
        return Errors(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def scores(self) -> dict[str, float]:
        """rmse, mae, bias (units), psnr (dB, mean over images), ssim (1, mean over pixels)."""
        mse = ratio(self.squared, self.pixels)
        return {
            "rmse": math.sqrt(mse),
            "mae": ratio(self.absolute, self.pixels),
            "bias": ratio(self.signed, self.pixels),
            "psnr": ratio(self.psnr_sum, self.psnr_images),
            "ssim": ratio(self.ssim_sum, self.ssim_pixels),
        }


def peak(channels: Sequence[Mapping[str, Any]]) -> float:
    """The range R of PSNR and SSIM: the channels' valid range, physical units.

    channels: as a store describes them. Raises UserError where one score cannot serve them all.
    """
    kinds = {(c["units"], c["valid_min"], c["valid_max"]) for c in channels}
    if len(kinds) > 1:
        told = ", ".join(f"{c['name']} in {c['units']}" for c in channels)
        raise UserError(f"one score cannot serve channels of several units or ranges: {told}")
    ((_, low, high),) = kinds
    return float(high - low)


def units(physical: str) -> dict[str, str]:
    """Of each score, for data in these units."""
    return {"rmse": physical, "mae": physical, "bias": physical, "psnr": "dB", "ssim": "1"}


def ratio(total: float, count: int) -> float:
    return total / count if count else math.nan


def ssim_sum(prediction: Tensor, truth: Tensor, seen: Tensor, peak: float) -> tuple[float, int]:
    """Structural similarity summed over the pixels whose whole window was seen, and their number.

    K1 0.01, K2 0.03, population covariance, in physical units. Source: Wang et al. 2004,
    doi:10.1109/TIP.2003.819861.
    """
    H, W = truth.shape[-2:]
    if min(H, W) <= 2 * SSIM_BORDER or not seen.any():
        return 0.0, 0
    # Shifted towards zero, float32 keeps the variances; on plain kelvin it is off by 6e-5, and
    # float64 takes ten times as long.
    shift = float(truth[seen].double().mean())
    a = torch.where(seen, prediction.double() - shift, 0.0).float().reshape(-1, 1, H, W)
    b = torch.where(seen, truth.double() - shift, 0.0).float().reshape(-1, 1, H, W)
    mean_a, mean_b, aa, bb, ab = (smooth(field).double() for field in (a, b, a * a, b * b, a * b))
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    contrast = (2 * (ab - mean_a * mean_b) + c2) / (
        aa - mean_a.square() + bb - mean_b.square() + c2
    )
    mean_a, mean_b = mean_a + shift, mean_b + shift
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    hidden = (~seen).float().reshape(-1, 1, H, W)
    whole = F.max_pool2d(hidden, SSIM_WINDOW, stride=1) == 0  # no padding: the border is cut
    return float((luminance * contrast)[whole].sum()), int(whole.sum())


def smooth(field: Tensor) -> Tensor:
    """(n, 1, H, W) -> (n, 1, H - 10, W - 10): weighted by the Gaussian window, where it fits."""
    weights = [
        math.exp(-(k**2) / (2 * SSIM_SIGMA**2)) for k in range(-SSIM_BORDER, SSIM_BORDER + 1)
    ]
    # Shifted sums: ten times as fast as conv2d here, which on a GPU would round to 10 bits (TF32)
    # and leave of the variances nothing but noise.
    for dim in (-2, -1):
        length = field.shape[dim] - 2 * SSIM_BORDER
        total = torch.zeros_like(field.narrow(dim, 0, length))
        for k, weight in enumerate(weights):
            total.add_(field.narrow(dim, k, length), alpha=weight / sum(weights))
        field = total
    return field
