"""Whole distributions: quantiles against quantiles, and the dates that they may be of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.metrics.base import Sums, array, seen_in, setting

SCORED = (0.001, 0.01, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999)  # probabilities
TINY = 1e-300  # of what no logarithm is wanted of
TAIL = 10.0 ** -np.linspace(4, 1, 13)  # 0.0001 ... 0.1, evenly in the logarithm
PROBABILITIES = np.concatenate([TAIL, np.linspace(0.15, 0.85, 15), 1 - TAIL[::-1]])


@dataclass(frozen=True, eq=False)
class Distribution(Sums):
    """Histograms of prediction and truth over the same pixels."""

    prediction: np.ndarray | None = None  # pixels per bin
    truth: np.ndarray | None = None
    low: float | None = setting()  # physical units: the first bin's lower edge
    high: float | None = setting()  # the last one's upper edge
    first: float | None = setting()  # the first bin's upper edge, the others' growing evenly in
    # the logarithm, as suits rain; None: all bins are as wide

    @classmethod
    def of(
        cls,
        prediction: Tensor,
        truth: Tensor,
        low: float,
        high: float,
        bins: int = 1800,
        first: float | None = None,
    ) -> Distribution:
        """Both of one shape, physical units. Raises as Errors.of does.

        Values beyond low and high count in the first and the last bin.
        """
        seen = seen_in(prediction, truth)
        counts = []
        for field in (prediction, truth):
            values = field[seen].double() - low
            if first is None:
                place = values * (bins / (high - low))
            else:
                growth = (bins - 1) / math.log((high - low) / (first - low))
                place = 1 + (values / (first - low)).clamp(min=TINY).log() * growth
            counts.append(array(torch.bincount(place.clamp(0, bins - 1).long(), minlength=bins)))
        return cls(counts[0], counts[1], low, high, first)

    def scores(self) -> dict[str, float]:
        """quantile_error_0.001 ... _0.999: prediction's quantile minus truth's, physical units."""
        truth, prediction = self.quantiles(SCORED)
        errors = prediction - truth
        return {f"quantile_error_{p}": float(e) for p, e in zip(SCORED, errors, strict=True)}

    def quantiles(
        self, probabilities: Sequence[float] | np.ndarray = PROBABILITIES
    ) -> tuple[np.ndarray, np.ndarray]:
        """Truth's and prediction's, physical units; linear within a bin, NaN of no pixels."""
        asked = np.asarray(probabilities, dtype=np.float64)
        edges = self.edges()
        return quantiles(self.truth, edges, asked), quantiles(self.prediction, edges, asked)

    def edges(self) -> np.ndarray:
        """Of the bins, (bins + 1,), physical units; empty where nothing was counted."""
        if self.truth is None or self.low is None or self.high is None:
            return np.empty(0)
        bins = len(self.truth)
        if self.first is None:
            return np.linspace(self.low, self.high, bins + 1)
        above = np.geomspace(self.first - self.low, self.high - self.low, bins)
        return self.low + np.concatenate([[0.0], above])


def quantiles(counts: np.ndarray | None, edges: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Of a histogram between these edges, at probabilities of 0 to 1."""
    if counts is None or not counts.any():
        return np.full(asked.shape, np.nan)
    full = np.flatnonzero(counts)
    upto = counts[full].cumsum()
    wanted = asked * upto[-1]
    place = np.searchsorted(upto, wanted).clip(max=len(full) - 1)
    inside = 1 - (upto[place] - wanted) / counts[full[place]]
    low, high = edges[full[place]], edges[full[place] + 1]
    return low + inside * (high - low)


def matched_by_date(
    times_a: np.ndarray, a: Tensor, times_b: np.ndarray, b: Tensor, unit: str = "s"
) -> tuple[np.ndarray, Tensor, Tensor]:
    """The dates in both, ascending, and the rows of a and b at these dates.

    times_a, times_b: (n,) and (m,) datetime64, UTC, any order; a, b: (n, ...) and (m, ...).
    unit: what counts as one date, numpy's letter: "s" the same second, "D" the same day. Quantiles
    of anything else would compare different weather. Raises ValueError for a date that is twice in
    one, and for times that are not as many as the rows.
    """
    dates = []
    for name, times, rows in (("first", times_a, a), ("second", times_b, b)):
        if len(times) != len(rows):
            raise ValueError(f"the {name} has {len(times)} times for {len(rows)} rows")
        each = np.asarray(times, dtype="datetime64").astype(f"datetime64[{unit}]")
        once, count = np.unique(each, return_counts=True)
        if (count > 1).any():
            raise ValueError(f"the {name} has {once[count > 1][0]} more than once")
        dates.append(each)
    both, at_a, at_b = np.intersect1d(dates[0], dates[1], assume_unique=True, return_indices=True)
    return both, a[torch.from_numpy(at_a)], b[torch.from_numpy(at_b)]
