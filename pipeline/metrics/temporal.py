"""Does it move as the truth does: optical flow, and the variability of a few frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.metrics.base import Sums, array, ratio, seen_in


@dataclass(frozen=True, eq=False)
class Motion(Sums):
    """How far the optical flow of the predictions is from the truth's (tOF)."""

    distance: float = 0.0  # pixels
    pixels: int = 0

    @classmethod
    def of(cls, prediction: Tensor, truth: Tensor) -> Motion:
        """Both (..., 2, H, W), pixels per step, as `flow` gives them; the truth's may be shared.

        Source: Chu et al. 2020 (TecoGAN), doi:10.1145/3386569.3392457; without their cropping.
        Raises as Errors.of does.
        """
        seen = seen_in(prediction, truth).all(dim=-3)
        difference = (prediction.double() - truth.double()).square().sum(dim=-3).sqrt()
        return cls(float(torch.where(seen, difference, 0.0).sum()), int(seen.sum()))

    def scores(self) -> dict[str, float]:
        """tof: mean distance between the end points, pixels."""
        return {"tof": ratio(self.distance, self.pixels)}


@dataclass(frozen=True, eq=False)
class Variability(Sums):
    """How much the frames of a window differ: flicker has too much, blur too little."""

    prediction: float = 0.0  # standard deviation, physical units, summed over pixels
    truth: float = 0.0
    pixels: int = 0

    @classmethod
    def of(cls, predictions: Tensor, truths: Tensor) -> Variability:
        """Both (T, ..., H, W), physical units: T frames of a window, 3 as a rule.

        A pixel missing in any of the true frames does not count. Raises as Errors.of does.
        """
        seen = seen_in(predictions, truths).all(dim=0)
        a, b = (torch.where(seen, x.double(), 0.0) for x in (predictions, truths))
        return cls(float(deviation(a).sum()), float(deviation(b).sum()), int(seen.sum()))

    def scores(self) -> dict[str, float]:
        """temporal_std_ratio: prediction's mean standard deviation over the truth's."""
        return {"temporal_std_ratio": ratio(self.prediction, self.truth)}


def deviation(frames: Tensor) -> Tensor:
    """(T, ...) -> (...): as std(dim=0, correction=0), which takes seven times as long."""
    mean = sum(frames) / len(frames)
    return (sum((frame - mean).square() for frame in frames) / len(frames)).sqrt()


def filled(frame: Tensor, truth: Tensor) -> Tensor:
    """(..., H, W): the true image's mean where the truth is missing, so that all see one hole."""
    mean = truth.nanmean(dim=(-2, -1), keepdim=True)
    return torch.where(truth.isnan(), mean, frame)


def flow(before: Tensor, after: Tensor, low: float, high: float) -> Tensor:
    """Both (..., H, W), physical units -> (..., 2, H, W) float32: columns, rows moved, pixels.

    low, high: the fixed range that becomes 8-bit grey, the same for all that is compared. Where
    either frame is missing so is the flow; each hole is filled with its image's mean (a
    prediction's with its truth's: `filled`). Source: Farnebäck 2003,
    doi:10.1007/3-540-45103-X_50, as OpenCV computes it.
    """
    missing = before.isnan() | after.isnan()
    H, W = before.shape[-2:]
    grey = [
        array(torch.round((filled(x, x).reshape(-1, H, W) - low) * (255 / (high - low))))
        for x in (before, after)
    ]
    pairs = [farneback(a, b) for a, b in zip(*grey, strict=True)]
    found = torch.from_numpy(np.stack(pairs) if pairs else np.empty((0, H, W, 2), np.float32))
    found = found.movedim(-1, -3).reshape(*before.shape[:-2], 2, H, W).to(before.device)
    return torch.where(missing.unsqueeze(-3), torch.nan, found)


def farneback(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Both (H, W), grey values; clipped to 0..255 -> (H, W, 2) float32, NaN of a frame of NaN."""
    import cv2  # nothing else here needs it

    if np.isnan(before).any() or np.isnan(after).any():
        return np.full((*before.shape, 2), np.nan, np.float32)
    return cv2.calcOpticalFlowFarneback(  # type: ignore[call-overload]  # its stubs know no None
        before.clip(0, 255).astype(np.uint8),
        after.clip(0, 255).astype(np.uint8),
        None,
        pyr_scale=0.5,
        levels=3,
        winsize=15,
        iterations=3,
        poly_n=5,
        poly_sigma=1.2,
        flags=0,
    )
