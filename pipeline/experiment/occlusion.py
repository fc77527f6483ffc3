"""What a trained model looks at: the change of its forecast where a part of its input is hidden."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.answers import Answers, Posed
from pipeline.experiment.judging import Frames, Windows
from pipeline.scaling import column
from pipeline.store import Track

ACROSS = 16  # blocks, at most, along the longer side
WINDOWS = 16  # evenly over all dates


def side(shape: tuple[int, int]) -> int:
    """Of a block, pixels."""
    return max(1, -(-max(shape) // ACROSS))


def sample(answers: Answers, tracks: Sequence[Track], windows: Windows) -> Posed:
    """Some windows, evenly over all dates."""
    chosen = np.unique(np.linspace(0, len(windows) - 1, WINDOWS).round().astype(int))
    return answers.posed(Frames.of(tracks, windows, chosen, [answers]).own, split=True)


@torch.inference_mode()
def importance(answers: Answers, posed: Posed) -> np.ndarray:
    """(rows, columns) of blocks: how much region 1's forecast changes without what is in each.

    Mean absolute change over region 1, its lead times and all windows, physical units, when the
    block holds the training mean in all frames and channels. Source: Zeiler and Fergus 2014,
    Visualizing and understanding convolutional networks.
    """
    assert posed.truth is not None  # split
    counts = ~posed.truth.isnan()
    neutral = column(answers.problem.x.neutral, posed.filled)

    def answer(x: Tensor) -> Tensor:
        said = answers.problem.of_model(answers.rolled_out(x), posed.x)
        return answers.task.judged(said).where(counts, 0.0)

    H, W = posed.filled.shape[-2:]
    block, usual = side((H, W)), answer(posed.filled)
    found = np.zeros((-(-H // block), -(-W // block)))
    for row, place in np.ndindex(found.shape):
        hidden = posed.filled.clone()
        part = (
            slice(row * block, (row + 1) * block),
            slice(place * block, (place + 1) * block),
        )
        hidden[..., part[0], part[1]] = neutral
        found[row, place] = float((answer(hidden) - usual).abs().mean())
    return found
