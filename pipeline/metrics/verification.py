"""Events beyond a threshold: were they where they should have been."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.metrics.base import Sums, ratio, seen_in, setting


@dataclass(frozen=True, eq=False)
class Contingency(Sums):
    """The 2 × 2 table of events, counted over all pixels before anything is divided."""

    hits: int = 0
    misses: int = 0
    false_alarms: int = 0
    correct_negatives: int = 0
    threshold: float | None = setting()  # physical units
    below: bool | None = setting()

    @classmethod
    def of(
        cls, prediction: Tensor, truth: Tensor, threshold: float, below: bool = False
    ) -> Contingency:
        """Both of one shape, physical units. Raises as Errors.of does.

        An event is a value of `threshold` or more, or with `below` one less than it.
        """
        seen = seen_in(prediction, truth)
        found, true = (events(x, threshold, below) & seen for x in (prediction, truth))
        hits, predicted, happened = (int(x.sum()) for x in (found & true, found, true))
        return cls(
            hits=hits,
            misses=happened - hits,
            false_alarms=predicted - hits,
            correct_negatives=int(seen.sum()) - predicted - happened + hits,
            threshold=threshold,
            below=below,
        )

    def scores(self) -> dict[str, float]:
        """csi, pod, far (false alarms per alarm), frequency_bias, ets, hss.

        Source: Jolliffe and Stephenson 2012, Forecast Verification, chapter 3.
        """
        a, b, c, d = self.hits, self.false_alarms, self.misses, self.correct_negatives
        chance = ratio((a + b) * (a + c), a + b + c + d)  # hits of a random prediction
        return {
            "csi": ratio(a, a + b + c),
            "pod": ratio(a, a + c),
            "far": ratio(b, a + b),
            "frequency_bias": ratio(a + b, a + c),
            "ets": ratio(a - chance, a + b + c - chance),
            "hss": ratio(2 * (a * d - b * c), (a + c) * (c + d) + (a + b) * (b + d)),
        }


@dataclass(frozen=True, eq=False)
class FractionsSkill(Sums):
    """Fractions skill score: events need not be at the right pixel, but within a box of it."""

    squared_difference: int = 0  # of the numbers of events in each box
    squares: int = 0  # prediction's and truth's
    threshold: float | None = setting()  # physical units
    scale: int | None = setting()  # pixels: the box's side
    below: bool | None = setting()

    @classmethod
    def of(
        cls, prediction: Tensor, truth: Tensor, threshold: float, scale: int, below: bool = False
    ) -> FractionsSkill:
        """Both (..., H, W), physical units; events as Contingency's. Raises as Errors.of does."""
        seen = seen_in(prediction, truth)
        found, true = (boxes(x, threshold, scale, below, seen) for x in (prediction, truth))
        return cls.of_boxes(found, true, threshold, scale, below)

    @classmethod
    def of_boxes(
        cls, prediction: Tensor, truth: Tensor, threshold: float, scale: int, below: bool = False
    ) -> FractionsSkill:
        """What `boxes` gave of either: the truth's may be shared.

        Source: Roberts and Lean 2008, doi:10.1175/2007MWR2123.1.
        """
        a, b = prediction.long(), truth.long()
        return cls(
            squared_difference=int((a - b).square().sum()),
            squares=int(a.square().sum() + b.square().sum()),
            threshold=threshold,
            scale=scale,
            below=below,
        )

    def scores(self) -> dict[str, float]:
        """fss: 1 is perfect, 0 no box in common; undefined without events."""
        return {"fss": 1 - ratio(self.squared_difference, self.squares)}


def events(field: Tensor, threshold: float, below: bool) -> Tensor:
    """A missing value is none."""
    return field < threshold if below else field >= threshold


def boxes(
    field: Tensor, threshold: float, scale: int, below: bool = False, seen: Tensor | None = None
) -> Tensor:
    """(..., H, W) int32: events in the box of `scale` pixels about each; outside there are none.

    seen: where the truth is not missing; elsewhere nothing is an event. The box of an even scale
    reaches one pixel further up and left, as in scipy's uniform_filter.
    """
    if scale < 1:
        raise ValueError(f"scale is {scale} pixels; at least 1 is needed")
    total = events(field, threshold, below)
    total = total & seen if seen is not None else total
    for dim in (-2, -1):
        length = field.shape[dim]
        start = torch.arange(length, device=field.device) - scale // 2
        shape = list(total.shape)
        shape[dim] = 1
        sums = torch.cat(
            [
                torch.zeros(shape, dtype=torch.int32, device=field.device),
                total.cumsum(dim, dtype=torch.int32),
            ],
            dim=dim,
        )
        ends = [(start + step).clamp(0, length) for step in (scale, 0)]
        total = sums.index_select(dim, ends[0]) - sums.index_select(dim, ends[1])
    return total
