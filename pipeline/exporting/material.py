"""What a model card is made of, and the words for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pipeline.checkpoint import Checkpoint
from pipeline.exporting.onnx_file import Exported
from pipeline.manifest import Split
from pipeline.outputs.layout import lasting
from pipeline.reporting.words import count, length, listed
from pipeline.scaling import is_rain
from pipeline.tasks import ForecastSettings, SuperResolutionSettings


@dataclass(frozen=True)
class Sample:
    """A picture of what the model said while it was trained."""

    file: str
    epoch: int


@dataclass(frozen=True)
class Material:
    """All that a card is made of."""

    trained: Checkpoint
    run: str  # its folder's name
    which: str  # best, last or epoch-0010
    averaged: bool
    parameters: Mapping[str, int]  # by player
    scores: Sequence[Mapping[str, Any]]  # scores.json of this checkpoint, on test or eval tracks
    split: Split | None
    about: Mapping[str, Any]  # about.json: what it was trained on
    sample: Sample | None
    onnx: Exported | None
    no_onnx: str  # why there is none, though it was asked for
    files: Mapping[str, int]  # bytes, by name
    software: str

    @property
    def name(self) -> str:
        return self.trained.settings.model_name

    @property
    def forecast(self) -> ForecastSettings | None:
        task = self.trained.settings.task
        return task if isinstance(task, ForecastSettings) else None

    @property
    def finer(self) -> SuperResolutionSettings:
        task = self.trained.settings.task
        assert isinstance(task, SuperResolutionSettings)  # else it is a forecast's
        return task

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Of the data."""
        return self.trained.data.attrs

    @property
    def channels(self) -> Sequence[Mapping[str, Any]]:
        return self.trained.data.channels

    @property
    def data(self) -> str:
        """Its name."""
        return str(self.attrs.get("title", self.trained.data.store))


def quantity(m: Material) -> str:
    names = [f"{c['long_name']}{in_time(m, c)}" for c in m.trained.targets]
    return listed(names)


def in_time(m: Material, channel: Mapping[str, Any]) -> str:
    """Of rain the time that it fell in."""
    hours = m.attrs.get("accumulation_hours") if is_rain(channel) else None
    return f" in {hours:g} h" if hours else ""


def apart(m: Material) -> str:
    """The time between frames, where there is one."""
    step = m.trained.data.step
    return f", {lasting(step)} apart" if step else ""


def pixel(m: Material, times: float) -> str:
    """The side of a pixel so many times as large as the data's, in words; empty if not known."""
    for key, unit in (("pixel_km", "km"), ("grid_degrees", "deg")):
        if side := m.attrs.get(key):
            return length(side * times, unit)
    return ""


def sides(m: Material) -> tuple[float, float]:
    """Of a pixel of x and of y as trained, in pixels of the data."""
    fine = m.trained.task.side()
    return fine * m.trained.task.scale, fine


def weather(m: Material) -> bool:
    """Whether it is of fields with units, which somebody might act on."""
    return any(channel["units"] != "1" for channel in m.trained.targets)


def does(m: Material) -> str:
    """What the model is for, without a full stop."""
    what = quantity(m)
    if not m.forecast:
        return f"{what}, {m.finer.factor} times finer"
    step, frames = m.trained.data.step, m.forecast.future
    return f"{what}, {lasting(step * frames) if step else count(frames, 'frame')} ahead"


def without_folders(value: Any) -> Any:
    """Plain data as JSON, where absolute paths are names: they say nothing on another machine."""
    if isinstance(value, Mapping):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(each) for each in value]
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return value
