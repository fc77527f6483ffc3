"""Forecasts: the past frames of a window -> its future frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, PositiveInt, model_validator
from torch import Tensor

from models import Geometry
from pipeline import axes
from pipeline.errors import UserError
from pipeline.scaling import is_rain
from pipeline.sources.grids import ALIKE, Grid, cell
from pipeline.tasks.extrapolation import moved_on, past_mean, persistence
from pipeline.tasks.interpolation import coarsen

Box = tuple[float, float, float, float]  # west, east, south, north; degrees, or km on a map
Outside = Literal["seen", "mean", "other_date"]


class ForecastSettings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How frames become x and y."""

    past: PositiveInt = 12
    """Frames in, at the store's own time step."""
    future: PositiveInt = 12
    """Frames out; farther ahead a model goes on from its own (cli evaluate --steps)."""
    inputs: tuple[str, ...] = ()
    """Channels in, by name; none named: all of the store."""
    targets: tuple[str, ...] = ()
    """Channels out, each of them also an input; none named: all."""
    coarsen: PositiveInt = 1
    """The side of the blocks whose means are forecast, pixels; 1: the frames as they are."""
    area: Box | None = None
    """West, east, south, north of what is used of the frames, degrees or km; null: all."""
    region: Box | None = None
    """And of what is forecast and scored of the area; null: all of it."""
    outside: Outside = "seen"
    """What the model sees of the area outside the region. mean: only the training tracks' mean;
    other_date: what was there on another date. Both leave it nothing to learn from there."""

    @property
    def located(self) -> bool:
        """Whether it is of a place on the frames' grid."""
        return self.area is not None or self.region is not None

    @model_validator(mode="after")
    def _outside_of_something(self) -> ForecastSettings:
        if self.outside != "seen" and self.region is None:
            raise ValueError(f"outside {self.outside} needs a region; give one, or use seen")
        return self


@dataclass(frozen=True)
class Forecast:
    """Past frames -> future frames."""

    settings: ForecastSettings
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    rain: tuple[bool, ...]  # of each target
    grid: Grid | None  # of the frames, where they have one
    kind = "forecast"
    scale = 1

    @classmethod
    def of(
        cls, settings: ForecastSettings, channels: Sequence[Mapping[str, Any]], grid: Grid | None
    ) -> Forecast:
        """Raises UserError for channels that are not there, and a box that the grid has not."""
        names = [channel["name"] for channel in channels]
        inputs = numbers("task.inputs", settings.inputs, names)
        targets = numbers("task.targets", settings.targets or settings.inputs, names)
        if lost := [names[i] for i in targets if i not in inputs]:
            raise UserError(
                f"task.targets: {', '.join(lost)} must be among task.inputs too: what a forecast "
                "must beat is made of their past"
            )
        rain = tuple(is_rain(channels[i]) for i in targets)
        made = cls(settings, inputs, targets, rain, grid)
        _ = made.area, made.region  # so that a box without a grid, or beyond it, is refused now
        return made

    @property
    def window(self) -> int:
        return self.settings.past + self.settings.future

    scored_window = window

    @property
    def first(self) -> int:
        return self.settings.past

    @property
    def borrows(self) -> bool:
        return self.region is not None and self.settings.outside == "other_date"

    @property
    def located(self) -> bool:
        return self.settings.located

    @property
    def continues(self) -> tuple[int, ...]:
        """The channel of x that each channel of y continues."""
        return tuple(self.inputs.index(target) for target in self.targets)

    def longer(self, steps: int) -> Forecast:
        """The same with another number of future frames.

        Raises UserError where those beyond the trained ones cannot be had: a model that does not
        forecast all that it is given cannot go on from its own forecast.
        """
        if steps > self.settings.future and self.targets != self.inputs:
            raise UserError(
                f"{steps} steps ahead: this model forecasts {self.settings.future}, and cannot go "
                "on from them, since it is given more channels than it forecasts"
            )
        if (
            steps > self.settings.future
            and self.region is not None
            and self.region != whole(self.cells)
        ):
            raise UserError(
                f"{steps} steps ahead: this model forecasts {self.settings.future}, and cannot go "
                "on from them, since it is given more than the region that it forecasts"
            )
        return replace(self, settings=self.settings.model_copy(update={"future": steps}))

    @cached_property
    def area(self) -> tuple[slice, slice] | None:
        """Rows and columns of the frames that are used; None: all."""
        return within("task.area", self.grid, self.settings.area)

    @cached_property
    def cells(self) -> Grid | None:
        """Of x and y."""
        if self.grid is None:
            return None
        rows, columns = self.area or (slice(None), slice(None))
        f = self.settings.coarsen
        return Grid(
            axes.coarser(self.grid.y[rows], f),
            axes.coarser(self.grid.x[columns], f),
            self.grid.projected,
        )

    @cached_property
    def region(self) -> tuple[slice, slice] | None:
        """Rows and columns of y that are forecast; None: all."""
        return within("task.region", self.cells, self.settings.region)

    def split(self, frames: Tensor, donors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, C, H, W) physical -> x (B, past, ...) and y (B, future, ...), of the area.

        Outside the region y is NaN. donors: as frames, where x outside the region comes from; where
        that is wanted and they are not given, the next window of the batch.
        """
        past = self.settings.past
        frames = self.cut(frames)
        x = chosen(frames[:, :past], self.inputs)
        y = chosen(frames[:, past : self.window], self.targets)
        if donors is not None:
            donors = chosen(self.cut(donors[:, :past]), self.inputs)
        y = y if self.region is None else y.masked_fill(~self.here(y), torch.nan)
        return self.shown(x, donors), y

    def given(self, frames: Tensor) -> Tensor:
        """The last frames of (B, T, C, H, W), as many as x has, of the area."""
        return self.shown(chosen(self.cut(frames[:, -self.settings.past :]), self.inputs), None)

    def shown(self, x: Tensor, donors: Tensor | None) -> Tensor:
        """What the model may see of x (B, past, C, H, W); donors: as x, of other dates."""
        if self.region is None or self.settings.outside == "seen":
            return x
        if self.settings.outside == "mean":
            return x.masked_fill(~self.here(x), torch.nan)  # neutral is the training mean
        if donors is None and len(x) < 2:
            raise UserError(
                "task.outside other_date takes it from the batch's next window; "
                "use a training.batch_size of 2 or more"
            )
        return x.where(self.here(x), x.roll(1, 0) if donors is None else donors)

    def here(self, like: Tensor) -> Tensor:
        """(H, W) bool, of the size of these (..., H, W): the region."""
        inside = torch.zeros(like.shape[-2:], dtype=torch.bool, device=like.device)
        inside[self.region] = True
        return inside

    def cut(self, frames: Tensor) -> Tensor:
        """The area of (B, T, C, H, W), coarsened."""
        rows, columns = self.area or (slice(None), slice(None))
        frames, f = frames[..., rows, columns], self.settings.coarsen
        if f == 1:
            return frames
        H, W = frames.shape[-2:]
        return coarsen(frames[..., : H // f * f, : W // f * f], f, "area")

    def hidden(self, x: Tensor) -> Tensor:
        """Nowhere: a forecast is of times at which nothing was seen."""
        B, _, _, H, W = self.judged(x).shape
        return x.new_zeros(B, self.settings.future, len(self.targets), H, W, dtype=torch.bool)

    def rows(self) -> list[str]:
        """Those of the literature, and the mean of the past.

        Over long leads the mean has less error than persistence, without knowing anything more.
        """
        return ["persistence", "optical_flow", "past_mean"]

    def baseline(self, row: str, x: Tensor, lowest: Sequence[float | None] = ()) -> Tensor:
        """(B, past, C_in, H, W) -> (B, future, C_out, H, W)."""
        past, steps = x[:, :, list(self.continues)], self.settings.future
        if row == "optical_flow":
            return moved_on(past, steps, self.visible(past))
        return {"persistence": persistence, "past_mean": past_mean}[row](past, steps)

    def visible(self, past: Tensor) -> Tensor:
        """(B, T, C, H, W), as motion is seen best: of rain the log1p, of which light rain shows."""
        rain = torch.tensor(self.rain, device=past.device)[:, None, None]
        return past.clamp(min=0).log1p().where(rain, past)

    def finished(self, answer: Tensor, x: Tensor, lowest: Sequence[float | None]) -> Tensor:
        """As the model says."""
        return answer

    def judged(self, y: Tensor) -> Tensor:
        """(..., H, W): of the region."""
        if self.region is None:
            return y
        rows, columns = self.region
        return y[..., rows, columns]

    def geometry(self, frame_shape: tuple[int, int, int]) -> Geometry:
        """Of a window of frames (C, H, W). Raises UserError as `refuse` does."""
        self.refuse(frame_shape)
        (H, W), s = self.used(frame_shape[-2:]), self.settings
        h, w = H // s.coarsen, W // s.coarsen
        return Geometry(
            x=(s.past, len(self.inputs), h, w),
            y=(s.future, len(self.targets), h, w),
            continues=self.continues,
        )

    def used(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Of frames (H, W) the size of the area."""
        if self.area is None:
            return shape
        height, width = (part.stop - part.start for part in self.area)
        return height, width

    def place(
        self, grid: Grid | None, shape: tuple[int, int]
    ) -> tuple[tuple[int, int], Grid | None]:
        """As Task says. The grid is the one that the task was made for, where there are boxes."""
        f, (H, W) = self.settings.coarsen, self.used(shape)
        if self.region is not None and self.cells is not None:
            rows, columns = self.region
            cells = Grid(self.cells.y[rows], self.cells.x[columns], self.cells.projected)
            return cells.shape, cells
        if grid is None:
            return (H // f, W // f), None
        coarse = replace(self, grid=grid).cells
        return (H // f, W // f), coarse

    def side(self) -> float:
        """Of a pixel of y, in pixels of the frames."""
        return self.settings.coarsen

    def refuse(self, shape: tuple[int, int, int]) -> None:
        """Raises UserError for frames smaller than a coarse pixel, or of another grid."""
        f, (H, W) = self.settings.coarsen, self.used(shape[-2:])
        if min(H, W) < f:
            raise UserError(f"{H}x{W} pixels cannot be coarsened {f} times")
        if self.area is not None and self.grid is not None and shape[-2:] != self.grid.shape:
            H, W = shape[-2:]
            raise UserError(
                f"{H}x{W} pixels, and task.area is of a grid of "
                f"{'x'.join(map(str, self.grid.shape))}"
            )

    def about(self) -> dict[str, Any]:
        """For the files that scores are kept in."""
        return self.settings.model_dump(mode="json")


def chosen(frames: Tensor, channels: tuple[int, ...]) -> Tensor:
    """(B, T, C, H, W): these channels, without a copy where they lie side by side."""
    first, end = channels[0], channels[-1] + 1
    side_by_side = channels == tuple(range(first, end))
    return frames[:, :, first:end] if side_by_side else frames[:, :, list(channels)]


def numbers(key: str, asked: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Where the channels asked for are; all where none is. Raises UserError."""
    if unknown := [name for name in asked if name not in names]:
        raise UserError(f"{key}: no channel {', '.join(unknown)}; there are {', '.join(names)}")
    return tuple(names.index(name) for name in asked or names)


def within(key: str, grid: Grid | None, box: Box | None) -> tuple[slice, slice] | None:
    """Rows and columns of the cells whose centres lie in a box. Raises UserError."""
    if box is None:
        return None
    if grid is None:
        raise UserError(f"{key}: the frames have no latitudes and longitudes; leave it out")
    west, east, south, north = box
    rows = np.flatnonzero(inside(grid.y - south, north - south, cell(grid.y)))
    away, width = grid.x - west, east - west
    if not grid.projected:  # any turn of the globe; a whole one is everything
        width = min(width, 360.0) if width > 0 else width % 360
        away = (away + ALIKE) % 360 - ALIKE
    columns = np.flatnonzero(inside(away, width, cell(grid.x)))
    if not len(rows) or not len(columns) or (np.diff(columns) != 1).any():
        raise UserError(
            f"{key}: west {west:g}, east {east:g}, south {south:g}, north {north:g} holds no "
            f"connected part of the grid, {grid}"
        )
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def inside(away: np.ndarray, width: float, cell: float) -> np.ndarray:
    """Whether centres so far from an edge lie within; on it counts, as near as numbers tell."""
    slack = ALIKE * cell
    return (away >= -slack) & (away <= width + slack)


def whole(grid: Grid | None) -> tuple[slice, slice] | None:
    return None if grid is None else (slice(0, len(grid.y)), slice(0, len(grid.x)))
