"""A trained model and its task's baselines, asked for the same physical frames.

What evaluate scores and infer writes comes from here, so that both mean the same by "the model".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline import checkpoint, tiling
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UserError
from pipeline.problem import MODEL
from pipeline.tasks import Forecast, Task


@dataclass(frozen=True)
class Posed:
    """Frames as a problem; each (B, T, C, rows, columns), physical units where not said."""

    x: Tensor  # NaN where missing
    filled: Tensor  # x normalised, without NaN
    hidden: Tensor  # bool, of the answer's shape: nothing of this pixel was seen
    truth: Tensor | None  # None: x is as fine as anybody has seen, or the future is not known


class Answers:
    """The rows of a table of scores: the model first, then the baselines, the usual one first."""

    def __init__(
        self,
        trained: Checkpoint,
        device: str = "auto",
        tile: int = tiling.TILE,
        steps: int | None = None,
    ) -> None:
        """tile: x pixels; memory is bounded by it. steps: future frames, if not as trained.

        Raises UserError for a missing device, and for steps that the model cannot make.
        """
        self.problem = problem = replace(trained.problem, task=self.task_of(trained, steps))
        self.task, self.tile = problem.task, tile
        self.device = checkpoint.usable_device(device)
        self.network = trained.model(self.device)
        self.rows = problem.rows

    @staticmethod
    def task_of(trained: Checkpoint, steps: int | None) -> Task:
        """As trained, or a forecast of so many steps. Raises UserError where it cannot be had."""
        task = trained.task
        if steps is None:
            return task
        if not isinstance(task, Forecast):
            raise UserError("steps ahead are for forecasts; this model makes frames finer")
        return task.longer(steps)

    @torch.inference_mode()
    def posed(self, frames: np.ndarray, *, split: bool, donors: np.ndarray | None = None) -> Posed:
        """frames: (T, C, H, W), or several windows (B, T, C, H, W); float32, physical, NaN missing.

        split: make x and the truth of them, as the task does in training; else they are x.
        donors: as frames; what Task.split does with them.
        """
        given = self.windows(frames)
        if split:
            x, truth = self.task.split(given, None if donors is None else self.windows(donors))
            truth = self.task.judged(truth)
        else:
            x, truth = self.task.given(given), None
        return Posed(x, self.problem.x.model_input(x), self.task.hidden(x), truth)

    def windows(self, frames: np.ndarray) -> Tensor:
        return torch.from_numpy(frames if frames.ndim == 5 else frames[None]).to(self.device)

    @torch.inference_mode()
    def of(self, row: str, posed: Posed) -> Tensor:
        """(B, T, C, H, W) physical units, no NaN. Raises UserError when a GPU's memory is short."""
        if row != MODEL:
            return self.task.judged(self.problem.of_baseline(row, posed.x))
        try:
            answer = self.rolled_out(posed.filled)
        except torch.cuda.OutOfMemoryError:
            raise UserError(f"{self.device}: out of memory; {self.less()}") from None
        return self.task.judged(self.problem.of_model(answer, posed.x))

    def less(self) -> str:
        """What needs less memory."""
        if self.network.reach is None:  # whole frames
            return "ask for fewer at once with --batch-size, or use --device cpu"
        return f"try --tile {max(1, self.tile // 2)}, now {self.tile} pixels"

    def rolled_out(self, x: Tensor) -> Tensor:
        """The network's answer, normalised; further into the future from its own forecasts."""
        answer = self.through(x)
        if not isinstance(self.task, Forecast):
            return answer
        steps, past = self.task.settings.future, x.shape[1]
        while answer.shape[1] < steps:
            known = torch.cat([x, answer], 1)[:, -past:]
            answer = torch.cat([answer, self.through(known)], 1)
        return answer[:, :steps]

    def through(self, x: Tensor) -> Tensor:
        return tiling.tiled(
            self.network,
            x,
            scale=self.task.scale,
            reach=self.network.reach,  # type: ignore[arg-type]  # a Model has one
            tile=self.tile,
        )


def shown(values: Tensor, hidden: Tensor) -> np.ndarray:
    """(C, H, W) float32 of one frame, for people: NaN where nothing was seen, nothing invented."""
    return values.masked_fill(hidden, torch.nan)[0, 0].cpu().numpy()
