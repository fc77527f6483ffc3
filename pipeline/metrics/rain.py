"""Rain: how much of the area is wet, and whether it rains that much where it should."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.metrics.base import Sums, ratio, seen_in, setting
from pipeline.metrics.verification import Contingency, FractionsSkill, boxes

INTENSITIES = ("light", "moderate", "heavy")
# mm of light, moderate and heavy rain in so many hours; light is also what counts as wet. Moderate
# and heavy of half a day and of a day begin as in GB/T 28592-2012, Grade of precipitation.
THRESHOLDS = {
    1: (0.1, 1.0, 5.0),
    6: (0.2, 2.0, 10.0),
    12: (0.5, 5.0, 15.0),
    24: (1.0, 10.0, 25.0),
    720: (10.0, 50.0, 200.0),
}
NEIGHBOURHOOD = 5  # pixels: side of the boxes of the fractions skill score


def thresholds(hours: float) -> tuple[float, ...]:
    """Of rain accumulated over so many hours: the table's nearest, in the logarithm; mm."""
    return THRESHOLDS[min(THRESHOLDS, key=lambda known: abs(math.log(hours / known)))]


@dataclass(frozen=True, eq=False)
class Rain(Sums):
    """Light, moderate and heavy rain as events, and the wet area. Only for data in mm."""

    hits: dict[str, int] = field(default_factory=dict)  # by intensity
    misses: dict[str, int] = field(default_factory=dict)
    false_alarms: dict[str, int] = field(default_factory=dict)
    correct_negatives: dict[str, int] = field(default_factory=dict)
    squared_difference: dict[str, int] = field(default_factory=dict)  # as of FractionsSkill
    squares: dict[str, int] = field(default_factory=dict)
    wet: float = 0.0  # absolute difference of the wet fraction of the frame
    wet_signed: float = 0.0  # prediction minus truth
    images: int = 0
    light: float | None = setting()  # mm
    moderate: float | None = setting()
    heavy: float | None = setting()

    @classmethod
    def of(cls, prediction: Tensor, truth: Tensor, limits: tuple[float, ...]) -> Rain:
        """Both (..., H, W), mm; each (H, W) is one image. Raises as Errors.of does.

        limits: mm from which on it is light, moderate, heavy rain. Wet fractions are of the pixels
        seen; an image without any does not count.
        """
        seen = seen_in(prediction, truth)
        tables, skills = {}, {}
        for name, limit in zip(INTENSITIES, limits, strict=True):
            tables[name] = Contingency.of(prediction, truth, limit)
            found, true = (boxes(x, limit, NEIGHBOURHOOD, seen=seen) for x in (prediction, truth))
            skills[name] = FractionsSkill.of_boxes(found, true, limit, NEIGHBOURHOOD)
        pixels = seen.sum(dim=(-2, -1))
        any_seen = pixels > 0
        wet, truly = (((x >= limits[0]) & seen).sum(dim=(-2, -1)) for x in (prediction, truth))
        error = (wet - truly)[any_seen].double() / pixels[any_seen]
        return cls(
            hits={name: table.hits for name, table in tables.items()},
            misses={name: table.misses for name, table in tables.items()},
            false_alarms={name: table.false_alarms for name, table in tables.items()},
            correct_negatives={name: table.correct_negatives for name, table in tables.items()},
            squared_difference={name: skill.squared_difference for name, skill in skills.items()},
            squares={name: skill.squares for name, skill in skills.items()},
            wet=float(error.abs().sum()),
            wet_signed=float(error.sum()),
            images=int(any_seen.sum()),
            **dict(zip(INTENSITIES, map(float, limits), strict=True)),
        )

    def scores(self) -> dict[str, float]:
        """wet_area_error, wet_area_bias (% of the frame); of each intensity csi_ and fss_."""
        found = {
            "wet_area_error": 100 * ratio(self.wet, self.images),
            "wet_area_bias": 100 * ratio(self.wet_signed, self.images),
        }
        for name in INTENSITIES:
            found[f"csi_{name}"] = self.table(name).scores()["csi"]
        for name in INTENSITIES:
            skill = FractionsSkill(self.squared_difference.get(name, 0), self.squares.get(name, 0))
            found[f"fss_{name}"] = skill.scores()["fss"]
        return found

    def table(self, name: str) -> Contingency:
        """Of one intensity."""
        return Contingency(
            hits=self.hits.get(name, 0),
            misses=self.misses.get(name, 0),
            false_alarms=self.false_alarms.get(name, 0),
            correct_negatives=self.correct_negatives.get(name, 0),
        )
