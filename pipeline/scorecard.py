"""Every score that a method gets on fields of one kind, as sums that add over frames and tracks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from pipeline import metrics
from pipeline.metrics import (
    ColdClouds,
    Contingency,
    Distribution,
    Errors,
    FractionsSkill,
    Motion,
    RadialProfile,
    Spectra,
    Sums,
    Variability,
)

S = TypeVar("S", bound=Sums)

CLOUD = 220  # K; colder is deep convection
NEIGHBOURHOOD = 5  # pixels: side of the boxes of the fractions skill score
WINDOW = 3  # consecutive frames whose standard deviation in time is compared
TRUTH = "truth"  # beside the methods' names
CURVES = (Distribution, RadialProfile)  # not what a score is made of
SCORED = (Errors, Spectra, Motion, Variability, ColdClouds, Contingency, FractionsSkill)
KINDS: dict[str, type[Sums]] = {kind.__name__: kind for kind in (*SCORED, *CURVES)}


@dataclass(frozen=True)
class Yardstick:
    """What scores depend on beside the fields."""

    low: float  # valid range of the channels, physical units
    high: float
    units: str
    pixel: float  # side of a pixel of the truth
    pixel_units: str

    @classmethod
    def of(cls, channels: Sequence[Mapping[str, Any]], attrs: Mapping[str, Any]) -> Yardstick:
        """As a store describes its channels and itself.

        Raises UserError where one score cannot serve all channels.
        """
        metrics.peak(channels)
        first, side = channels[0], attrs.get("pixel_km")
        return cls(
            low=float(first["valid_min"]),
            high=float(first["valid_max"]),
            units=first["units"],
            pixel=1.0 if side is None else float(side),
            pixel_units="pixels" if side is None else "km",
        )

    @property
    def peak(self) -> float:
        """The range of PSNR and SSIM."""
        return self.high - self.low

    @property
    def is_temperature(self) -> bool:
        return self.units == "K"


@dataclass(frozen=True)
class Card:
    """One method's sums, by kind; what has not been counted is not there."""

    parts: Mapping[str, Sums] = field(default_factory=dict)

    def __add__(self, other: Card) -> Card:
        both = {**self.parts, **other.parts}
        shared = self.parts.keys() & other.parts.keys()
        return Card({**both, **{kind: self.parts[kind] + other.parts[kind] for kind in shared}})

    def scores(self, yardstick: Yardstick) -> dict[str, float]:
        """By name, in the order of a table; NaN where undefined."""
        found = {
            **self.part(Errors).scores(),
            **self.part(Spectra).scores(yardstick.pixel),
            **self.part(Motion).scores(),
            **self.part(Variability).scores(),
        }
        if yardstick.is_temperature:
            found |= self.part(ColdClouds).scores()
            found[f"csi_{CLOUD}"] = self.part(Contingency).scores()["csi"]
            found[f"fss_{CLOUD}"] = self.part(FractionsSkill).scores()["fss"]
        return found

    def part(self, kind: type[S]) -> S:
        """The sums of one kind; where nothing was counted, none."""
        return cast(S, self.parts.get(kind.__name__, kind()))

    def without_curves(self) -> Card:
        """Only what scores are made of."""
        return Card({name: sums for name, sums in self.parts.items() if KINDS[name] not in CURVES})

    def plain(self) -> dict[str, Any]:
        """For JSON, and exact."""
        return {name: sums.plain() for name, sums in self.parts.items()}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Card:
        """What `plain` gave. Raises ValueError or KeyError for anything else."""
        return cls({name: KINDS[name].of_plain(sums) for name, sums in plain.items()})


class Judge:
    """Scores several methods on the frames of one track, one after the other."""

    def __init__(self, yardstick: Yardstick, rows: Sequence[str], leads: int = 1) -> None:
        """leads: lead times, each with cards of its own."""
        self.yardstick, self.rows = yardstick, rows
        self.cards = [{row: Card() for row in rows} for _ in range(leads)]
        self.recent: dict[str, deque[Tensor]] = {}  # frames one step apart, by method

    def frame(
        self, answers: Mapping[str, Tensor], truth: Tensor, *, follows: bool, lead: int = 0
    ) -> dict[str, Errors]:
        """Count one frame; returns its errors by method.

        answers, by method, and truth: (C, H, W), physical units, NaN where truth is missing.
        follows: whether this frame comes one step after the one counted before.
        """
        if not follows or not self.recent:
            self.recent = {row: deque(maxlen=WINDOW) for row in (TRUTH, *self.rows)}
        y, (H, W) = self.yardstick, truth.shape[-2:]
        power, flow = metrics.power(truth), self.flow(TRUTH, truth)
        seen = ~truth.isnan()
        cold = metrics.boxes(truth, CLOUD, NEIGHBOURHOOD, True, seen)
        errors = {}
        for row in self.rows:
            answer = answers[row]
            errors[row] = Errors.of(answer, truth, y.peak)
            found: list[Sums] = [
                errors[row],
                Spectra.of_power(metrics.power(answer), power, (H, W)),
                Distribution.of(answer, truth, y.low, y.high),
                RadialProfile.of(answer, truth),
            ]
            if y.is_temperature:
                boxes = metrics.boxes(answer, CLOUD, NEIGHBOURHOOD, True, seen)
                found += [
                    ColdClouds.of(answer, truth),
                    Contingency.of(answer, truth, CLOUD, below=True),
                    FractionsSkill.of_boxes(boxes, cold, CLOUD, NEIGHBOURHOOD, below=True),
                ]
            its_flow = self.flow(row, answer)
            if its_flow is not None and flow is not None:
                found.append(Motion.of(its_flow, flow))
            if len(self.recent[row]) == WINDOW:
                windows = (torch.stack(tuple(self.recent[which])) for which in (row, TRUTH))
                found.append(Variability.of(*windows))
            self.cards[lead][row] += Card({type(sums).__name__: sums for sums in found})
        return errors

    def flow(self, row: str, frame: Tensor) -> Tensor | None:
        """How the frame moved since the one before; it is kept for the next. None where first."""
        recent, holes = self.recent[row], self.recent[TRUTH]
        recent.append(frame)
        if len(recent) < 2:
            return None
        before, after = recent[-2], recent[-1]
        if row != TRUTH:  # where the truth has a hole, the same hole: not the truth's neighbours
            before, after = metrics.filled(before, holes[-2]), metrics.filled(after, holes[-1])
        return metrics.flow(before, after, self.yardstick.low, self.yardstick.high)
