"""Where the mapped frames of many tracks lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

from pipeline import paging
from pipeline.crops import PIXEL
from pipeline.store import Track


class Maps:
    """Addresses of the frames of many tracks; each is opened when first asked for."""

    def __init__(self, tracks: Sequence[Track]) -> None:
        self.tracks = tracks
        # the address of the first pixel, and the bytes to the next frame, channel and row
        self.table = np.zeros((len(tracks), 4), np.int64)
        self.mapped = np.zeros(len(tracks), bool)
        self.opened = np.zeros(len(tracks), bool)
        self.random = False
        self.lock = Lock()

    def __reduce__(self) -> Any:
        return Maps, (self.tracks,)  # addresses are this process's own

    def of(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the table, (n, 4), as a copy; and whether they are mapped, (n,) bool."""
        if not self.opened[numbers].all():
            with self.lock:
                for number in np.unique(numbers[~self.opened[numbers]]).tolist():
                    self.open(number)
        return self.table[numbers], self.mapped[numbers]

    def open(self, number: int) -> None:
        frames = self.tracks[number].frames
        if is_mapped(frames):
            self.table[number] = (paging.address(frames), *frames.strides[:3])
            self.mapped[number] = True
            if self.random:
                paging.at_random(frames, True)
        self.opened[number] = True

    def at_random(self, yes: bool) -> None:
        """Say how all maps will be read from now on."""
        with self.lock:
            if yes != self.random:
                for number in np.flatnonzero(self.mapped).tolist():
                    paging.at_random(self.tracks[number].frames, yes)
            self.random = yes


def is_mapped(frames: Any) -> bool:
    """Whether frames are float32 in this processor's own form, each row whole."""
    return (
        isinstance(frames, np.ndarray)
        and frames.dtype == np.float32
        and frames.strides[-1] == PIXEL
    )
