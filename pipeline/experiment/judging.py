"""Every window's sums of one trained model, so that windows can be drawn again and again."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.answers import MODEL, Answers
from pipeline.metrics.base import seen_in
from pipeline.scorecard import Yardstick
from pipeline.store import Track
from pipeline.windows import of_other_dates

K = TypeVar("K", bound=Hashable)
Method = tuple[Answers, str]  # and its row: the model or a baseline
BATCH = 8  # windows that go through a model together


@dataclass(frozen=True)
class Windows:
    """What is judged, the same for all arms; each (n,)."""

    track: np.ndarray  # its number
    first: np.ndarray  # the window's first frame
    time: np.ndarray  # of the first forecast frame, int64 seconds since 1970, UTC

    @classmethod
    def of(cls, tracks: Sequence[Track], past: int, length: int) -> Windows:
        firsts = [track.windows(length) for track in tracks]
        return cls(
            np.repeat(np.arange(len(tracks)), [len(each) for each in firsts]),
            np.concatenate(firsts),
            np.concatenate([t.times[each + past] for t, each in zip(tracks, firsts, strict=True)]),
        )

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def of_other_dates(self) -> np.ndarray:
        """(n,) of each window the number of one of another date."""
        numbers = np.arange(len(self))
        parts = [of_other_dates(numbers[self.track == track]) for track in np.unique(self.track)]
        return np.concatenate(parts)


@dataclass(frozen=True)
class Judged:
    """One method's sums."""

    sums: np.ndarray  # (n, len(names)) float64, by window
    squared: np.ndarray  # (H, W) float64: the squared error of each pixel, over all windows
    pixels: np.ndarray  # (H, W): how often each counted


def names(yardstick: Yardstick) -> list[str]:
    """Of the columns of sums."""
    classes = [f"{what}_{name}" for name in yardstick.thresholds for what in EVENTS]
    return ["squared", "pixels", *classes]


EVENTS = ("hits", "misses", "false_alarms")


def judged(
    methods: Mapping[K, Method],
    tracks: Sequence[Track],
    windows: Windows,
    yardstick: Yardstick,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[K, Judged]:
    """Of all windows, all lead times and channels of a window together.

    Frames are read once for all methods: of many channels that takes longer than a small model.
    """
    limits = list(yardstick.thresholds.values())
    parts: dict[K, list[Judged]] = {key: [] for key in methods}
    for chosen in np.array_split(np.arange(len(windows)), -(-len(windows) // BATCH)):
        frames = Frames.of(tracks, windows, chosen, [each for each, _ in methods.values()])
        for key, (answers, row) in methods.items():
            parts[key].append(counted(*answered(answers, frames, row), limits))
        advance(len(chosen))
    return {
        key: Judged(
            np.concatenate([part.sums for part in each]),
            np.sum([part.squared for part in each], 0),
            np.sum([part.pixels for part in each], 0),
        )
        for key, each in parts.items()
    }


def counted(answer: Tensor, truth: Tensor, limits: Sequence[float]) -> Judged:
    """Of a batch of windows, (B, T, C, H, W) each."""
    seen = seen_in(answer, truth)
    squared = (answer.double() - truth.double()).square().where(seen, 0.0)
    sums = [squared.sum((1, 2, 3, 4)), seen.sum((1, 2, 3, 4)), *events(answer, truth, seen, limits)]
    return Judged(
        torch.stack([each.double() for each in sums], 1).cpu().numpy(),
        squared.sum((0, 1, 2)).cpu().numpy(),
        seen.sum((0, 1, 2)).cpu().numpy(),
    )


def events(
    answer: Tensor, truth: Tensor, seen: Tensor, limits: Sequence[float]
) -> Iterator[Tensor]:
    """Hits, misses and false alarms of each window and intensity, each (B,)."""
    for limit in limits:
        said, was = ((field >= limit) & seen for field in (answer, truth))
        for which in (said & was, was & ~said, said & ~was):
            yield which.sum((1, 2, 3, 4))


@dataclass(frozen=True)
class Frames:
    """Some windows as they are stored, (B, T, C, H, W)."""

    own: np.ndarray
    others: np.ndarray | None = None  # of other dates, where a method asks for them

    @classmethod
    def of(
        cls,
        tracks: Sequence[Track],
        windows: Windows,
        chosen: Sequence[int] | np.ndarray,
        methods: Sequence[Answers],
    ) -> Frames:
        """chosen: of the windows."""
        length = methods[0].task.scored_window

        def read(numbers: Iterable[int]) -> np.ndarray:
            parts = [
                tracks[windows.track[n]].checked(int(windows.first[n]), length) for n in numbers
            ]
            return np.stack(parts)

        borrowed = any(each.task.borrows for each in methods)
        return cls(read(chosen), read(windows.of_other_dates[chosen]) if borrowed else None)


def answered(answers: Answers, frames: Frames, row: str = MODEL) -> tuple[Tensor, Tensor]:
    """The answer to these windows and their truth, (B, T, C, H, W) of region 1, physical units."""
    posed = answers.posed(frames.own, split=True, donors=frames.others)
    assert posed.truth is not None  # split
    return answers.of(row, posed), posed.truth


def scores(names: Sequence[str], sums: np.ndarray) -> dict[str, np.ndarray]:
    """rmse, and of each intensity csi_; sums: (..., len(names)), NaN where undefined."""
    at = {name: sums[..., number] for number, name in enumerate(names)}
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {"rmse": np.sqrt(at["squared"] / at["pixels"])}
        for name in names:
            if name.startswith("hits_"):
                what = name.removeprefix("hits_")
                every = sum(at[f"{event}_{what}"] for event in EVENTS)
                found[f"csi_{what}"] = at[name] / every
    return {name: np.where(np.isfinite(values), values, math.nan) for name, values in found.items()}
