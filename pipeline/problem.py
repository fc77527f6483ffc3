"""A task together with the scaling of its channels: what a model is given, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from models import Geometry
from pipeline.scaling import Scaling
from pipeline.tasks import Task

MODEL = "model"  # the row beside the baselines' own names


@dataclass(frozen=True)
class Problem:
    """Frames -> normalised x and y, and a model's y -> physical units."""

    task: Task
    x: Scaling
    y: Scaling

    @classmethod
    def of(cls, task: Task, scaling: Scaling) -> Problem:
        """scaling: of all channels of the frames."""
        return cls(task, scaling.only(task.inputs), scaling.only(task.targets))

    @property
    def rows(self) -> list[str]:
        """Of a table of scores: the model first, then the baselines, the usual one first."""
        return [MODEL, *self.task.rows()]

    def geometry(self, frame_shape: tuple[int, int, int]) -> Geometry:
        """Of frames (C, H, W); with what a model may know of its values. Raises UserError."""
        return self.y.geometry(self.task.geometry(frame_shape))

    def channels(self, channels: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Of all channels of the frames those of y."""
        return [channels[i] for i in self.task.targets]

    def pair(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C, H, W), physical units -> x without NaN and y, normalised."""
        x, y = self.task.split(frames)
        return self.x.model_input(x), self.y.normalise(y)

    def of_model(self, guess: Tensor, x: Tensor) -> Tensor:
        """What a model says, in physical units: within bounds, and as the task demands.

        guess: y as a model gives it, normalised; x: physical units, NaN where missing.
        """
        return self.task.finished(self.y.restore(guess), self.x.filled(x), self.y.lowest)

    def of_baseline(self, row: str, x: Tensor) -> Tensor:
        """What a baseline says, in physical units and within bounds; x as of_model takes it."""
        return self.y.bounded(self.task.baseline(row, self.x.filled(x), self.y.lowest))
