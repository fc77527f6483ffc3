"""Tasks: how frames become a problem, (x, y) in physical units, and what a model must beat.

Everything here runs on the tensors' own device, in the batch; the loader delivers nothing but
physical frames. NaN in y does not count, in any loss or score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from models import Geometry
from pipeline.errors import UserError
from pipeline.sources.grids import Grid
from pipeline.tasks.forecast import Forecast, ForecastSettings
from pipeline.tasks.superres import INTERPOLATED, SuperResolution, SuperResolutionSettings

__all__ = [
    "INTERPOLATED",
    "SETTINGS",
    "Forecast",
    "ForecastSettings",
    "Settings",
    "SuperResolution",
    "SuperResolutionSettings",
    "Task",
    "build",
    "of_plain",
    "plain",
    "same_grid",
]

Settings = SuperResolutionSettings | ForecastSettings
SETTINGS: dict[str, type[Settings]] = {  # by what a model's TASK says
    "superres": SuperResolutionSettings,
    "forecast": ForecastSettings,
}


class Task(Protocol):
    """What the stages need to know of a problem. Shapes as everywhere; H and W of y may differ."""

    @property
    def kind(self) -> str: ...  # superres or forecast
    @property
    def window(self) -> int: ...  # frames per training window
    @property
    def scored_window(self) -> int: ...  # frames per window where it is judged
    @property
    def first(self) -> int: ...  # the frame of a scored window that y begins with
    @property
    def scale(self) -> int: ...  # pixels of y per pixel of x, in each direction
    @property
    def inputs(self) -> tuple[int, ...]: ...  # the channels of the frames that x has
    @property
    def targets(self) -> tuple[int, ...]: ...  # and y

    @property
    def located(self) -> bool: ...  # of a place: frames are whole, and as they are

    @property
    def borrows(self) -> bool: ...  # x holds a part of windows of other dates: donors

    def split(self, frames: Tensor, donors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Frames -> x, y. donors: windows of other dates, for a task that asks for them."""
        ...

    def given(self, frames: Tensor) -> Tensor:
        """Frames that are x, of which there is no truth."""
        ...

    def hidden(self, x: Tensor) -> Tensor:
        """bool, of the shape of what is judged: pixels of which nothing was seen in x."""
        ...

    def rows(self) -> list[str]:
        """The baselines by name, the usual one first."""
        ...

    def baseline(self, row: str, x: Tensor, lowest: Sequence[float | None]) -> Tensor:
        """What that one says; x without NaN, lowest: of each channel of y."""
        ...

    def finished(self, answer: Tensor, x: Tensor, lowest: Sequence[float | None]) -> Tensor:
        """A model's answer with what the task demands of it; all in physical units."""
        ...

    def judged(self, y: Tensor) -> Tensor:
        """The part of y or of an answer that is scored and shown."""
        ...

    def geometry(self, frame_shape: tuple[int, int, int]) -> Geometry: ...

    def place(
        self, grid: Grid | None, shape: tuple[int, int]
    ) -> tuple[tuple[int, int], Grid | None]:
        """Of frames (H, W) on a grid, the size of what is judged, and where it lies if known."""
        ...

    def side(self) -> float:
        """Of a pixel of y, in pixels of the frames."""
        ...

    def refuse(self, shape: tuple[int, int, int]) -> None:
        """Raises UserError for frames (C, H, W) that it cannot be posed on."""
        ...

    def about(self) -> dict[str, Any]:
        """For the files that scores are kept in."""
        ...


def build(
    kind: str,
    settings: Settings,
    window: int,
    channels: Sequence[Mapping[str, Any]],
    grid: Grid | None = None,
) -> Task:
    """The task that a model's TASK names.

    window: training.sequence_length; channels: as the store describes them; grid: of its frames,
    where they have one. Raises UserError for a task that there is not, or does not fit.
    """
    if isinstance(settings, ForecastSettings):
        return Forecast.of(settings, channels, grid)
    if kind != "superres":
        raise UserError(f"no task {kind!r}; the tasks are {', '.join(SETTINGS)}")
    return SuperResolution(window, settings, len(channels))


def same_grid(one: Grid | None, other: Grid | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.same(other)


def plain(grid: Grid | None) -> dict[str, Any] | None:
    """A grid as a checkpoint keeps it."""
    if grid is None:
        return None
    return {"y": grid.y.tolist(), "x": grid.x.tolist(), "projected": grid.projected}


def of_plain(plain: Mapping[str, Any] | None) -> Grid | None:
    if plain is None:
        return None
    return Grid(np.array(plain["y"]), np.array(plain["x"]), plain["projected"])
