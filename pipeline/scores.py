"""What an evaluation found: the scores of each method, over all, by track, by lead time."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline import metrics, resampling
from pipeline.metrics import Errors
from pipeline.scorecard import Card, Yardstick
from pipeline.sites import Series, Site

Table = dict[str, dict[str, float]]  # by method and score


@dataclass(frozen=True)
class FrameScores:
    """One frame at one lead time."""

    number: int  # in its track
    lead: int
    time: int  # seconds since 1970, UTC
    satellite: str
    errors: dict[str, Errors]  # by method
    at_sites: dict[str, list[float]] = field(default_factory=dict)  # by method, and the truth's


@dataclass(frozen=True)
class TrackScores:
    """One track."""

    cards: list[dict[str, Card]]  # one per lead time, by method
    frames: list[FrameScores] = field(default_factory=list)

    @property
    def whole(self) -> dict[str, Card]:
        """By method, over all lead times."""
        return {row: sum((lead[row] for lead in self.cards), Card()) for row in self.cards[0]}


@dataclass(frozen=True)
class Scores:
    """By method: the model first, then the baselines, the usual one first."""

    yardstick: Yardstick
    by_track: dict[str, TrackScores]
    about: dict[str, Any]  # what they depend on: checkpoint, store, split ...
    resamples: int = resampling.RESAMPLES
    seed: int = 0
    sites: tuple[Site, ...] = ()  # that were followed frame by frame

    @cached_property
    def cards(self) -> dict[str, Card]:
        """Over all tracks."""
        every = [track.whole for track in self.by_track.values()]
        return {row: sum((cards[row] for cards in every), Card()) for row in every[0]}

    @property
    def is_forecast(self) -> bool:
        """Whether frames were scored at lead times."""
        return bool(self.about["task"] == "forecast")

    @property
    def baseline(self) -> str:
        """What a model must beat."""
        return list(self.cards)[1]

    @cached_property
    def rows(self) -> Table:
        return self.table(self.cards)

    @cached_property
    def tracks(self) -> dict[str, Table]:
        return {id: self.table(track.whole) for id, track in self.by_track.items()}

    @cached_property
    def leads(self) -> list[Table]:
        """One per lead time."""
        leads = zip(*(track.cards for track in self.by_track.values()), strict=True)
        return [
            self.table({row: sum((cards[row] for cards in lead), Card()) for row in self.cards})
            for lead in leads
        ]

    def table(self, cards: dict[str, Card]) -> Table:
        return {row: card.scores(self.yardstick) for row, card in cards.items()}

    @property
    def frames(self) -> int:
        return sum(len(track.frames) for track in self.by_track.values())

    @cached_property
    def series(self) -> list[Series]:
        """What was at each site, over all tracks."""
        frames = [f for track in self.by_track.values() for f in track.frames]
        values = [frame.at_sites for frame in frames if frame.lead == 0]
        return [Series.of(site, number, values) for number, site in enumerate(self.sites)]

    @cached_property
    def units(self) -> dict[str, str]:
        """Of each score."""
        names = next(iter(self.rows.values()))
        return metrics.units(self.yardstick.units, names, self.yardstick.pixel_units)

    @cached_property
    def drawn(self) -> resampling.Drawn | None:
        """The scores on tracks drawn anew; None where there are too few to say anything."""
        tracks = [track.whole for track in self.by_track.values()]
        if len(tracks) < resampling.FEWEST:
            return None
        return resampling.drawn(tracks, self.yardstick, self.resamples, self.seed)

    @cached_property
    def intervals(self) -> dict[str, dict[str, resampling.Interval]]:
        """By method and score; empty where nothing can be said."""
        return resampling.intervals(self.drawn) if self.drawn else {}

    def differences(self, row: str, against: str) -> dict[str, tuple[float, float, float]]:
        """One method's scores minus another's, each with its interval; empty as `intervals`."""
        return resampling.told(self.rows, self.drawn, row, against) if self.drawn else {}
