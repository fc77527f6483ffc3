"""Is the input like what was trained on? Place, time step, values, satellites and pixel size."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import tasks
from pipeline.checkpoint import Checkpoint, Data
from pipeline.errors import UserError
from pipeline.inputs import Footage
from pipeline.manifest import Statistics
from pipeline.outputs.layout import lasting
from pipeline.raw_tree import Unconverted
from pipeline.sources.grids import Grid
from pipeline.store import Track
from pipeline.tasks import Task

DEGREE_KM = 111.2  # of latitude, on a sphere of the earth's mean radius
SCALE = 0.2  # of a pixel's height in other units: less is no other scale


def refuse_unfit(
    where: Path,
    shape: tuple[int, int, int],
    grid: Grid | None,
    step: int,
    trained: Checkpoint,
    task: Task,
) -> None:
    """Raises UserError for frames too small for the task, in another place, or of another step.

    shape: (C, H, W); step: seconds from one frame to the next, 0 where there is but one.
    """
    try:
        task.refuse(shape)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    known, learnt = tasks.of_plain(trained.data.grid), trained.data.step
    if task.located and not tasks.same_grid(known, grid):
        raise UserError(f"{where}: its grid is {grid}; the model was trained on {known}")
    if learnt and step and step != learnt:
        raise UserError(
            f"{where}: a frame every {lasting(step)}; the model forecasts steps of "
            f"{lasting(learnt)}"
        )


def seen(tracks: Sequence[Track], statistics: Statistics) -> dict[str, Any]:
    """What a training saw, for its checkpoints: range of the values per channel, satellites."""
    satellites = {satellite for track in tracks for satellite in satellites_of(track)}
    return {
        "min": list(statistics.min),
        "max": list(statistics.max),
        "satellites": sorted(satellites - {"unknown"}),
    }


def satellites_of(track: Track) -> set[str]:
    """Out of the metadata alone: a release has a thousand tracks."""
    if isinstance(track, Unconverted):
        return {frame.satellite or "unknown" for frame in track.seen.frames}
    if not track.has("satellite"):
        return set()
    return set(str(track.metadata("satellite")["attributes"].get("flag_meanings", "")).split())


@dataclass
class Outside:
    """Pixels beyond the values that were trained on, counted frame by frame."""

    data: Data
    pixels: dict[int, int] = field(default_factory=dict)  # that were looked at, by channel
    counts: dict[tuple[int, str], int] = field(default_factory=dict)  # by channel and side
    most: dict[tuple[int, str], float] = field(default_factory=dict)  # the value farthest out

    def look(self, frame: np.ndarray, channels: Collection[int] | None = None) -> None:
        """frame: (C, H, W) float32, physical units, NaN where missing; channels: None for all."""
        ranges = zip(self.data.seen.get("min", ()), self.data.seen.get("max", ()), strict=True)
        for channel, (low, high) in enumerate(ranges):
            if channels is not None and channel not in channels:
                continue
            values = frame[channel]
            self.pixels[channel] = self.pixels.get(channel, 0) + int(np.isfinite(values).sum())
            for side, beyond, worst in (
                ("below", values < low, np.nanmin),
                ("above", values > high, np.nanmax),
            ):
                if count := int(beyond.sum()):
                    key, value = (channel, side), float(worst(values))
                    self.counts[key] = self.counts.get(key, 0) + count
                    self.most[key] = float(worst([self.most.get(key, value), value]))

    def sentences(
        self, footage: Footage, satellites: Iterable[str], sizes: Sequence[float]
    ) -> list[str]:
        """One for each way in which the input is unlike the training tracks.

        satellites: of the frames that were used. sizes: how many times coarser than the training
        tracks' pixels those of the input may be.
        """
        training = f"the {len(self.data.train)} training tracks"
        if len(self.data.train) == 1:
            training = f"the training track {self.data.train[0]}"
        told = resolution(footage.attrs, self.data.attrs, sizes, training)
        if not self.data.seen:
            return [
                *told,
                "The checkpoint is of an older version and does not say which values and "
                "satellites it was trained on: whether the input is like them was not looked at.",
            ]
        for (channel, side), count in sorted(self.counts.items()):
            about, least = self.data.channels[channel], side == "below"
            limit = self.data.seen["min" if least else "max"][channel]
            told.append(
                f"{percent(count, self.pixels[channel])} of the pixels lie {side} {short(limit)} "
                f"{about['units']}, the {'lowest' if least else 'highest'} value of {training}; "
                f"the {'lowest' if least else 'highest'} here is "
                f"{short(self.most[channel, side])} {about['units']}."
            )
        known = self.data.seen["satellites"]
        if known and (new := sorted(set(satellites) - {*known, "unknown"})):
            told.append(
                f"No frame of the satellite {', '.join(new)} is in {training}, only of "
                f"{', '.join(known)}."
            )
        return told


def resolution(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], sizes: Sequence[float], training: str
) -> list[str]:
    """On pixels of another size; of two grids of square degrees forecasts.py tells."""
    here, there = (attrs.get("pixel_km") for attrs in (ours, theirs))
    if here is not None and there is not None:
        if np.isclose(here, np.multiply(sizes, there)).any():
            return []
        return [f"The input's pixels are {here:g} km, those of {training} {there:g} km."]
    high, learnt = height(ours), height(theirs)
    if high is None or learnt is None or ("grid_degrees" in ours and "grid_degrees" in theirs):
        return []
    if np.isclose(high, np.multiply(sizes, learnt), rtol=SCALE).any():
        return []
    return [
        f"The input's pixels are about {high:.2g} km high, those of {training} {learnt:.2g} km: "
        "its detail is that of another scale."
    ]


def height(attrs: Mapping[str, Any]) -> float | None:
    """Of a pixel, in km; None where that is not known."""
    degrees = attrs.get("grid_degrees", attrs.get("grid_degrees_latitude"))
    known = attrs.get("pixel_km", None if degrees is None else degrees * DEGREE_KM)
    return None if known is None else float(known)


def short(value: float) -> str:
    """A value in any unit: 290.0 K, 0.0123 kg kg-1."""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def percent(count: int, pixels: int) -> str:
    share = 100 * count / pixels
    return f"{share:.2g} %" if share >= 0.01 else "Less than 0.01 %"
