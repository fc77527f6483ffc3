"""All that a report's page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.answers import MODEL
from pipeline.reporting.storyboard import Board
from pipeline.reporting.words import ahead
from pipeline.scaling import RAIN
from pipeline.scorecard import DEGREES

PIXELS = "pixels"  # the unit of a pixel's side where nobody knows how large it is


@dataclass(frozen=True)
class Material:
    """All that a page is made of."""

    run: str  # its folder's name
    model: str
    scores: Mapping[str, Any]  # scores.json
    log: Sequence[Mapping[str, Any]]  # metrics.jsonl
    settings: str  # settings.yaml
    about: Mapping[str, Any]  # about.json
    attrs: Mapping[str, Any]  # of the store
    board: Board
    software: str  # that makes the page

    @property
    def rows(self) -> list[str]:
        return list(self.scores["rows"])

    @property
    def against(self) -> str:
        return str(self.scores["intervals"]["against"])

    @property
    def ids(self) -> list[str]:
        return list(self.scores["tracks"])

    @property
    def rain(self) -> bool:
        return bool(self.scores["channel"]["units"] == RAIN)

    @property
    def followed(self) -> bool:
        """Whether frames are centred on something that moves, as a storm does; a grid stays."""
        return not self.rain and self.scores["pixel_units"] not in (DEGREES, PIXELS)

    @property
    def forecast(self) -> bool:
        """Whether frames were forecast, and so scored at lead times; else they were made finer."""
        return bool(self.scores["task"] == "forecast")

    @property
    def leads(self) -> list[str]:
        """The lead times in words; none where nothing was forecast."""
        step = self.scores.get("step_seconds", 0)
        return [ahead(seconds, step) for seconds in self.scores.get("lead_seconds", ())]

    @property
    def quantity(self) -> str:
        """What is restored, and of rain over which time."""
        name, hours = self.scores["channel"]["long_name"], self.scores.get("accumulation_hours")
        return f"{name} in {hours:g} h" if hours else str(name)

    @property
    def notes(self) -> list[str]:
        """What must be said wherever scores are shown."""
        return list(self.scores.get("notes", ()))

    def label(self, row: str) -> str:
        return f"{self.model} (model)" if row == MODEL else row

    def style(self, row: str) -> int:
        """Of its lines, the same in every chart."""
        return self.rows.index(row) + 1
