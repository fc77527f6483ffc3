"""RMSE, MAE, bias, PSNR and SSIM."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.metrics.base import Sums, ratio, seen_in

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; Gaussian (Wang et al. 2004)
SSIM_BORDER = 5  # pixels left out at each edge: half a window


@dataclass(frozen=True)
class Errors(Sums):
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
        seen = seen_in(prediction, truth)
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
    whole = everywhere(seen.reshape(-1, 1, H, W))
    return float((luminance * contrast)[whole].sum()), int(whole.sum())


def everywhere(seen: Tensor) -> Tensor:
    """(n, 1, H, W) -> (n, 1, H - 10, W - 10) bool: true where all of the window is."""
    for dim in (-2, -1):
        length = seen.shape[dim] - 2 * SSIM_BORDER
        whole = seen.narrow(dim, 0, length).clone()
        for k in range(1, SSIM_WINDOW):
            whole &= seen.narrow(dim, k, length)
        seen = whole
    return seen


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
