"""What a model was given, what it said and what was true, as plain arrays for other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from pipeline import atomic


class Arrays:
    """Files of one track, each a row per window: memory holds one batch, whatever their size.

    inputs.npy (n, T, C, h, w), truth.npy and predictions.npy (n, T, C, H, W): float32, physical
    units, NaN where missing; times.npy (n, T) of the truth's frames, int64 seconds since 1970, UTC.
    Until all is there they have hidden names.
    """

    def __init__(self, folder: Path, count: int) -> None:
        """count: windows. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.count, self.done = folder, count, 0
        self.files: dict[str, np.memmap] = {}

    def put(self, **batch: Tensor | None) -> None:
        """The next windows: each (B, T, C, rows, columns)."""
        size = 0
        for name, values in batch.items():
            assert values is not None  # what is scored has a truth
            if name not in self.files:
                self.files[name] = np.lib.format.open_memmap(
                    self.hidden(name), "w+", np.float32, (self.count, *values.shape[1:])
                )
            size = len(values)
            self.files[name][self.done : self.done + size] = values.cpu().numpy()
        self.done += size

    def finish(self, times: np.ndarray) -> None:
        """All windows are there."""
        for name, file in self.files.items():
            file.flush()
            self.hidden(name).replace(self.folder / f"{name}.npy")
        with atomic.replacing(self.folder / "times.npy") as temporary, temporary.open("wb") as out:
            np.save(out, times)

    def hidden(self, name: str) -> Path:
        return self.folder / f".{name}.npy.tmp"
