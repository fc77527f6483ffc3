"""How far scores could have come out otherwise: intervals from drawing whole tracks again.

The frames of one track resemble one another, those of two tracks do not: tracks are what is drawn.
Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap; percentile intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from pipeline.metrics import Sums
from pipeline.scorecard import Card, Yardstick

S = TypeVar("S", bound=Sums)

RESAMPLES = 1000
LEVEL = 0.95
FEWEST = 2  # tracks; one alone says nothing about others
FEW = 10  # tracks; an interval over fewer is rough, and says so
Interval = tuple[float, float]
Drawn = dict[str, dict[str, np.ndarray]]  # by method and score: (resamples,)


def drawn(
    tracks: Sequence[Mapping[str, Card]],
    yardstick: Yardstick,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Drawn:
    """The scores of each method on tracks drawn anew, with replacement, as many as there are.

    tracks: each by method. The same draws serve all methods, so that differences are paired.
    """
    count = len(tracks)
    generator = np.random.default_rng(seed)
    times = generator.multinomial(count, np.full(count, 1 / count), resamples)  # each is drawn
    made: Drawn = {}
    for row in tracks[0]:
        scores = [card.scores(yardstick) for card in added([t[row] for t in tracks], times)]
        made[row] = {name: np.array([each[name] for each in scores]) for name in scores[0]}
    return made


def intervals(made: Drawn) -> dict[str, dict[str, Interval]]:
    """The middle LEVEL of each method's scores; NaN where any draw leaves one undefined."""
    return {
        row: {name: middle(values) for name, values in scores.items()}
        for row, scores in made.items()
    }


def differences(made: Drawn, row: str, against: str) -> dict[str, Interval]:
    """The middle LEVEL of one method's scores minus another's, draw by draw."""
    return {name: middle(values - made[against][name]) for name, values in made[row].items()}


def told(
    rows: Mapping[str, Mapping[str, float]], made: Drawn, row: str, against: str
) -> dict[str, tuple[float, float, float]]:
    """One method's scores minus another's, each with its interval; rows: scores by method."""
    ends = differences(made, row, against)
    return {name: (rows[row][name] - rows[against][name], *ends[name]) for name in ends}


def middle(values: np.ndarray) -> Interval:
    if not np.isfinite(values).all():
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def added(cards: Sequence[Card], times: np.ndarray) -> list[Card]:
    """The cards of all tracks added up, each so many times; times: (resamples, tracks)."""
    kinds = dict.fromkeys(kind for card in cards for kind in card.without_curves().parts)
    parts = {kind: weighted([c.parts.get(kind) for c in cards], times) for kind in kinds}
    return [Card({kind: sums[i] for kind, sums in parts.items()}) for i in range(len(times))]


def weighted(sums: Sequence[S | None], times: np.ndarray) -> list[S]:
    known = next(each for each in sums if each is not None)
    made: dict[str, list[Any]] = {}
    for f in fields(known):
        values = [getattr(each, f.name, None) for each in sums]
        if f.metadata.get("setting"):  # the same in all
            made[f.name] = [next((v for v in values if v is not None), None)] * len(times)
        else:
            made[f.name] = totals(values, times)
    return [
        type(known)(**{name: values[i] for name, values in made.items()}) for i in range(len(times))
    ]


def totals(values: Sequence[Any], times: np.ndarray) -> list[Any]:
    """Of each resample the sum of numbers, arrays, or dictionaries of them; None counts nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return [None] * len(times)
    if isinstance(known[0], dict):
        keys = dict.fromkeys(key for value in known for key in value)
        parts = {key: totals([(v or {}).get(key) for v in values], times) for key in keys}
        return [{key: each[i] for key, each in parts.items()} for i in range(len(times))]
    nothing = np.zeros_like(known[0])
    summed = np.tensordot(times, [nothing if v is None else v for v in values], 1)
    return list(summed) if summed.ndim > 1 else summed.tolist()
