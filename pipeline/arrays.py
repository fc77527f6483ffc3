"""What a model was given, what it said and what was true, as plain arrays for other programs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from torch import Tensor

from pipeline.errors import UserError

NAMES = ("inputs", "truth", "predictions", "times")


class Arrays:
    """A folder of one track, a row per window: memory holds one batch, whatever their number.

    inputs.npy (n, T, C, h, w), truth.npy and predictions.npy (n, T, C, H, W): float32, physical
    units, NaN where missing; times.npy (n, T) of the truth's frames, int64 seconds since 1970, UTC.
    Until all is there the folder has a hidden name.
    """

    def __init__(self, folder: Path, count: int) -> None:
        """count: windows. Raises OSError, and UserError for a folder that holds other files."""
        ours = {f"{name}.npy" for name in NAMES}
        if strangers := sorted({p.name for p in folder.glob("*")} - ours):
            raise UserError(f"{folder}: holds {', '.join(strangers[:3])}; choose another --arrays")
        self.folder, self.count, self.done = folder, count, 0
        self.hidden = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(self.hidden, ignore_errors=True)  # left by one that was killed
        self.hidden.mkdir(parents=True)
        self.files: dict[str, np.memmap] = {}

    def put(self, **batch: Tensor | None) -> None:
        """The next windows: each (B, T, C, rows, columns)."""
        size = 0
        for name, values in batch.items():
            assert values is not None  # what is scored has a truth
            if name not in self.files:
                self.files[name] = np.lib.format.open_memmap(
                    self.hidden / f"{name}.npy", "w+", np.float32, (self.count, *values.shape[1:])
                )
            size = len(values)
            self.files[name][self.done : self.done + size] = values.cpu().numpy()
        self.done += size

    def finish(self, times: np.ndarray) -> None:
        """All windows are there; what was in the folder's place before is replaced."""
        for file in self.files.values():
            file.flush()
        np.save(self.hidden / "times.npy", times)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.hidden.replace(self.folder)
