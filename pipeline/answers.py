"""A trained model and its task's baselines, asked for the same physical frames.

What evaluate scores and infer writes comes from here, so that both mean the same by "the model".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline import checkpoint, tasks, tiling
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UserError
from pipeline.scaling import Scaling
from pipeline.tasks import SuperResolution

MODEL = "model"  # the row beside the baselines' own names


def of_model(task: SuperResolution, scaling: Scaling, guess: Tensor, x: Tensor) -> Tensor:
    """What a model says, in physical units: within bounds, and with the mass that the task asks.

    guess: (B, T, C, H, W) normalised, as a model gives it; x: (B, T, C, h, w), physical units, NaN
    where missing.
    """
    s = task.settings
    answer = scaling.restore(guess)
    return tasks.conserved(answer, scaling.filled(x), s.factor, s.conserve_mass, scaling.lowest)


def of_baseline(task: SuperResolution, scaling: Scaling, row: str, x: Tensor) -> Tensor:
    """What interpolation says, in physical units and within bounds; x as of_model takes it."""
    x = scaling.filled(x)
    if row == tasks.MEANS:
        return task.consistent_baseline(x, scaling.lowest)
    return scaling.bounded(task.baselines()[row](x))


@dataclass(frozen=True)
class Posed:
    """Frames as a problem; each (B, T, C, rows, columns), physical units where not said."""

    x: Tensor  # NaN where missing
    filled: Tensor  # x normalised, without NaN
    hidden: Tensor  # bool, of the answer's shape: nothing of this pixel was seen
    truth: Tensor | None  # None: x is as fine as anybody has seen


class Answers:
    """The rows of a table of scores: the model first, then the baselines, the usual one first."""

    def __init__(self, trained: Checkpoint, device: str = "auto", tile: int = tiling.TILE) -> None:
        """tile: x pixels; memory is bounded by it. Raises UserError for a missing device."""
        self.task, self.scaling, self.tile = trained.task, trained.scaling, tile
        self.factor = trained.settings.task.factor
        self.device = checkpoint.usable_device(device)
        self.network = trained.model(self.device)
        self.rows = [MODEL, *self.task.baselines()]

    @torch.inference_mode()
    def posed(self, frames: np.ndarray, *, coarsen: bool) -> Posed:
        """frames: (T, C, H, W), or several windows (B, T, C, H, W); float32, physical, NaN missing.

        coarsen: make x and the truth of them, as the task does in training; else they are x.
        """
        windows = frames if frames.ndim == 5 else frames[None]
        given = torch.from_numpy(windows).to(self.device)
        x, truth = self.task.split(given) if coarsen else (given, None)
        f = self.factor
        hidden = x.isnan().repeat_interleave(f, -2).repeat_interleave(f, -1)
        return Posed(x, self.scaling.model_input(x), hidden, truth)

    @torch.inference_mode()
    def of(self, row: str, posed: Posed) -> Tensor:
        """(B, T, C, H, W) physical units, no NaN. Raises UserError when a GPU's memory is short."""
        if row != MODEL:
            return of_baseline(self.task, self.scaling, row, posed.x)
        try:
            answer = tiling.tiled(
                self.network,
                posed.filled,
                scale=self.factor,
                reach=self.network.reach,  # type: ignore[arg-type]  # a Model has one
                tile=self.tile,
            )
        except torch.cuda.OutOfMemoryError:
            raise UserError(
                f"{self.device}: out of memory with tiles of {self.tile} pixels; "
                f"try --tile {max(1, self.tile // 2)}"
            ) from None
        return of_model(self.task, self.scaling, answer, posed.x)


def shown(values: Tensor, hidden: Tensor) -> np.ndarray:
    """(C, H, W) float32 of one frame, for people: NaN where nothing was seen, nothing invented."""
    return values.masked_fill(hidden, torch.nan)[0, 0].cpu().numpy()
