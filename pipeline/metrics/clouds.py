"""Deep convection in infrared: how much of the frame is cold, and how cold it gets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.metrics.base import Sums, ratio, seen_in

THRESHOLDS = (208, 220, 235)  # kelvin: overshooting tops, deep convection, high cloud


@dataclass(frozen=True, eq=False)
class ColdClouds(Sums):
    """Area of cold cloud and minimum temperature, image by image. Only for data in kelvin."""

    area_208: float = 0.0  # absolute difference of the area's fraction of the frame
    area_220: float = 0.0
    area_235: float = 0.0
    minimum: float = 0.0  # K, absolute difference
    minimum_signed: float = 0.0  # K, prediction minus truth
    images: int = 0

    @classmethod
    def of(cls, prediction: Tensor, truth: Tensor) -> ColdClouds:
        """Both (..., H, W), kelvin; each (H, W) is one image. Raises as Errors.of does.

        Areas are fractions of the pixels seen; an image without any does not count.
        """
        seen = seen_in(prediction, truth)
        pixels = seen.sum(dim=(-2, -1))
        any_seen = pixels > 0
        areas = {}
        for kelvin in THRESHOLDS:
            truly = (truth < kelvin).sum(dim=(-2, -1))  # false where missing
            found = ((prediction < kelvin) & seen).sum(dim=(-2, -1))
            fraction = (found - truly)[any_seen].double().abs() / pixels[any_seen]
            areas[f"area_{kelvin}"] = float(fraction.sum())
        coldest = [
            torch.where(seen, field, torch.inf).amin(dim=(-2, -1))[any_seen].double()
            for field in (prediction, truth)
        ]
        return cls(
            **areas,
            minimum=float((coldest[0] - coldest[1]).abs().sum()),
            minimum_signed=float((coldest[0] - coldest[1]).sum()),
            images=int(any_seen.sum()),
        )

    def scores(self) -> dict[str, float]:
        """cold_area_error_208, _220, _235 (% of the frame), min_temperature_error, _bias (K).

        All are means over images; the errors of absolute differences.
        """
        areas = {
            f"cold_area_error_{kelvin}": 100 * ratio(getattr(self, f"area_{kelvin}"), self.images)
            for kelvin in THRESHOLDS
        }
        return {
            **areas,
            "min_temperature_error": ratio(self.minimum, self.images),
            "min_temperature_bias": ratio(self.minimum_signed, self.images),
        }
