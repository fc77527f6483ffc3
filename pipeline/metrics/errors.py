"""RMSE, MAE, bias, PSNR and SSIM; and what is published of Moving MNIST and its like."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.metrics.base import Sums, ratio, seen_in

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; Gaussian (Wang et al. 2004)
SSIM_BORDER = 5  # pixels left out at each edge: half a window
UNIFORM_WINDOW = 7  # pixels, of the SSIM that is published of Moving MNIST


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


@dataclass(frozen=True)
class FrameErrors(Sums):
    """Errors as published of Moving MNIST and its like: summed over a frame, mean over frames.

    PSNR and SSIM are there of values cut to the valid range, SSIM with even windows of 7x7 pixels
    and twice the range: scikit-image's defaults of the time, for floating point. Source: Tan et al.
    2023, arXiv:2306.11249, and its code, OpenSTL.
    """

    squared: float = 0.0  # units squared
    absolute: float = 0.0  # units
    frames: int = 0
    psnr_sum: float = 0.0  # dB; a perfect frame has no finite PSNR and is left out
    psnr_frames: int = 0
    ssim_sum: float = 0.0
    ssim_frames: int = 0

    @classmethod
    def of(cls, prediction: Tensor, truth: Tensor, low: float, high: float) -> FrameErrors:
        """Both (..., C, H, W), physical units; each (C, H, W) is one frame.

        low, high: valid range. A frame with a pixel missing does not count. Raises as Errors.of
        does.
        """
        C, H, W = truth.shape[-3:]
        whole = seen_in(prediction, truth).reshape(-1, C * H * W).all(dim=1)
        p, t = (x.reshape(-1, C, H, W)[whole].double() for x in (prediction, truth))
        error = p - t
        p, t = p.clamp(low, high), t.clamp(low, high)
        mse = (p - t).square().mean(dim=(1, 2, 3))
        psnr = 10 * torch.log10((high - low) ** 2 / mse[mse > 0])
        fits = min(H, W) >= UNIFORM_WINDOW and len(t) > 0
        return cls(
            squared=float(error.square().sum()),
            absolute=float(error.abs().sum()),
            frames=len(t),
            psnr_sum=float(psnr.sum()),
            psnr_frames=len(psnr),
            ssim_sum=float(uniform_ssim(p, t, 2 * (high - low)).sum()) if fits else 0.0,
            ssim_frames=len(t) if fits else 0,
        )

    def scores(self) -> dict[str, float]:
        """All means over frames: mse_sum (units squared), mae_sum (units), psnr_clipped (dB) ..."""
        return {
            "mse_sum": ratio(self.squared, self.frames),
            "mae_sum": ratio(self.absolute, self.frames),
            "psnr_clipped": ratio(self.psnr_sum, self.psnr_frames),
            "ssim_clipped": ratio(self.ssim_sum, self.ssim_frames),
        }


def uniform_ssim(prediction: Tensor, truth: Tensor, peak: float) -> Tensor:
    """(n,) structural similarity of (n, C, H, W) float64, mean over the windows that fit.

    Even windows, K1 0.01, K2 0.03, sample covariance.
    """
    fields = (prediction, truth, prediction**2, truth**2, prediction * truth)
    a, b, aa, bb, ab = (F.avg_pool2d(field, UNIFORM_WINDOW, stride=1) for field in fields)
    n = UNIFORM_WINDOW**2
    var_a, var_b, covariance = (n / (n - 1) * x for x in (aa - a * a, bb - b * b, ab - a * b))
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    similar = (2 * a * b + c1) * (2 * covariance + c2)
    return (similar / ((a * a + b * b + c1) * (var_a + var_b + c2))).mean(dim=(1, 2, 3))


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
