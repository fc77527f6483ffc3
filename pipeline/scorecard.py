"""Every score that a method gets on fields of one kind, as sums that add over frames and tracks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from pipeline import metrics
from pipeline.checkpoint import Checkpoint
from pipeline.metrics import (
    ColdClouds,
    Contingency,
    Distribution,
    Errors,
    FractionsSkill,
    FrameErrors,
    Motion,
    RadialProfile,
    Rain,
    Spectra,
    Sums,
    Variability,
)
from pipeline.metrics.rain import INTENSITIES
from pipeline.scaling import RAIN, is_rain
from pipeline.store import Track
from pipeline.windows import usual_step

S = TypeVar("S", bound=Sums)

DEGREES = "deg"  # of latitude and longitude
CLOUD = 220  # K; colder is deep convection
NEIGHBOURHOOD = 5  # pixels: side of the boxes of the fractions skill score
EXTREMES = (0.95, 0.99, 0.999)  # quantiles of rain that are scored; dry pixels count
# mm: a histogram of rain; its first bin is no rain, the others are 3 % wide
DRIEST, WETTEST, BINS = 1e-3, 1e4, 600
WINDOW = 3  # consecutive frames whose standard deviation in time is compared
TRUTH = "truth"  # beside the methods' names
CURVES = (Distribution, RadialProfile)  # not what a score is made of
SCORED = (
    Errors,
    FrameErrors,
    Spectra,
    Motion,
    Variability,
    ColdClouds,
    Contingency,
    FractionsSkill,
    Rain,
)
KINDS: dict[str, type[Sums]] = {kind.__name__: kind for kind in (*SCORED, *CURVES)}


@dataclass(frozen=True)
class Yardstick:
    """What scores depend on beside the fields."""

    low: float  # valid range of the channels, physical units
    high: float
    units: str
    pixel: float  # side of a pixel of the truth
    pixel_units: str
    hours: float | None = None  # that rain was accumulated over

    @classmethod
    def of(
        cls, channels: Sequence[Mapping[str, Any]], attrs: Mapping[str, Any], pixels: float = 1
    ) -> Yardstick:
        """As a store describes its channels and itself; pixels: of it, one of the truth is wide.

        Raises UserError where one score cannot serve all channels.
        """
        metrics.peak(channels)
        first = channels[0]
        low, high = metrics.span(first)
        side, side_units = pixel_of(attrs)
        hours = attrs.get("accumulation_hours")
        return cls(
            low=float(low),
            high=float(high),
            units=first["units"],
            pixel=side * pixels,
            pixel_units=side_units,
            hours=float(hours) if hours and is_rain(first) else None,
        )

    @classmethod
    def of_trained(
        cls, trained: Checkpoint, attrs: Mapping[str, Any], tracks: Iterable[Track]
    ) -> Yardstick:
        """Of the truth's pixels; rain without a stated accumulation fell in one time step.

        attrs: of the tracks' store. Raises UserError as `of` does.
        """
        known = {**trained.data.attrs, **attrs}
        if not known.get("accumulation_hours"):
            steps = [usual_step(track.times) for track in tracks]
            known["accumulation_hours"] = max(steps, default=0) / 3600
        return cls.of(trained.targets, known, trained.task.side())

    @property
    def peak(self) -> float:
        """The range of PSNR and SSIM."""
        return self.high - self.low

    @property
    def is_temperature(self) -> bool:
        return self.units == "K"

    @property
    def is_plain(self) -> bool:
        """Whether these are pictures without a unit, which the literature scores in its own way."""
        return self.units == "1"

    @property
    def is_rain(self) -> bool:
        return self.units == RAIN

    @property
    def is_centred(self) -> bool:
        """Whether the frames follow something; a field on latitudes and longitudes stays."""
        return self.pixel_units != DEGREES

    @property
    def thresholds(self) -> dict[str, float]:
        """Of rain: light, moderate and heavy, mm; of all else none."""
        limits = metrics.thresholds(self.hours or 1) if self.is_rain else ()
        return dict(zip(INTENSITIES, limits, strict=False))


def pixel_of(attrs: Mapping[str, Any]) -> tuple[float, str]:
    """Side of a pixel and its unit, as far as a store knows them."""
    if (side := attrs.get("pixel_km")) is not None:
        return float(side), "km"
    if (side := attrs.get("grid_degrees", attrs.get("grid_degrees_latitude"))) is not None:
        return float(side), DEGREES
    return 1.0, "pixels"


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
        found = self.part(Errors).scores()
        if yardstick.is_plain:
            found |= self.part(FrameErrors).scores()
        found |= self.part(Spectra).scores(yardstick.pixel)
        if not yardstick.is_rain:  # which forms and fades between two frames, rather than moving
            found |= self.part(Motion).scores()
        found |= self.part(Variability).scores()
        if yardstick.is_rain:
            found |= self.part(Rain).scores()
            quantiles = self.part(Distribution).scores()
            found |= {name: quantiles[name] for name in map("quantile_error_{}".format, EXTREMES)}
        if yardstick.is_temperature:
            found |= self.part(ColdClouds).scores()
            found[f"csi_{CLOUD}"] = self.part(Contingency).scores()["csi"]
            found[f"fss_{CLOUD}"] = self.part(FractionsSkill).scores()["fss"]
        return found

    def part(self, kind: type[S]) -> S:
        """The sums of one kind; where nothing was counted, none."""
        return cast(S, self.parts.get(kind.__name__, kind()))

    def without_curves(self) -> Card:
        """Only what scores are made of; of rain the extremes, and so the distribution, are."""
        kept = Rain.__name__ in self.parts and Distribution.__name__
        return Card(
            {n: sums for n, sums in self.parts.items() if KINDS[n] not in CURVES or n == kept}
        )

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
        for row in self.recent:
            self.recent[row].append(truth if row == TRUTH else answers[row])
        y, (H, W) = self.yardstick, truth.shape[-2:]
        power = metrics.power(truth)
        flow = self.flow(TRUTH)
        seen = ~truth.isnan()
        cold = metrics.boxes(truth, CLOUD, NEIGHBOURHOOD, True, seen) if y.is_temperature else None
        errors = {}
        for row in self.rows:
            answer = answers[row]
            errors[row] = Errors.of(answer, truth, y.peak)
            found: list[Sums] = [
                errors[row],
                Spectra.of_power(metrics.power(answer), power, (H, W)),
                self.distribution(answer, truth),
            ]
            if y.is_plain:
                found.append(FrameErrors.of(answer, truth, y.low, y.high))
            if y.is_centred:
                found.append(RadialProfile.of(answer, truth))
            if cold is not None:
                boxes = metrics.boxes(answer, CLOUD, NEIGHBOURHOOD, True, seen)
                found += [
                    ColdClouds.of(answer, truth),
                    Contingency.of(answer, truth, CLOUD, below=True),
                    FractionsSkill.of_boxes(boxes, cold, CLOUD, NEIGHBOURHOOD, below=True),
                ]
            if y.is_rain:
                found.append(Rain.of(answer, truth, tuple(y.thresholds.values())))
            if flow is not None and (its_flow := self.flow(row)) is not None:
                found.append(Motion.of(its_flow, flow))
            if len(self.recent[row]) == WINDOW:
                windows = (torch.stack(tuple(self.recent[which])) for which in (row, TRUTH))
                found.append(Variability.of(*windows))
            self.cards[lead][row] += Card({type(sums).__name__: sums for sums in found})
        return errors

    def distribution(self, answer: Tensor, truth: Tensor) -> Distribution:
        if self.yardstick.is_rain:
            return Distribution.of(answer, truth, 0.0, WETTEST, BINS, first=DRIEST)
        return Distribution.of(answer, truth, self.yardstick.low, self.yardstick.high)

    def flow(self, row: str) -> Tensor | None:
        """How the last frame moved since the one before; None where first, and of rain."""
        recent, holes = self.recent[row], self.recent[TRUTH]
        if len(recent) < 2 or self.yardstick.is_rain:
            return None
        before, after = recent[-2], recent[-1]
        if row != TRUTH:  # where the truth has a hole, the same hole: not the truth's neighbours
            before, after = metrics.filled(before, holes[-2]), metrics.filled(after, holes[-1])
        return metrics.flow(before, after, self.yardstick.low, self.yardstick.high)
