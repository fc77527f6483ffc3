"""Windows -> batches of random crops, straight from the memory-mapped shards.

No workers: a batch is a few hundred microseconds of copying. Which window, crop and flip come at
which position follows from (seed, epoch, rank) alone, so that training resumes at any position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.store import DAMAGE, Track, allow_open_files, few

ORIENTATIONS = 8  # flips and quarter turns of a square


@dataclass(frozen=True)
class Crops:
    """Where to cut: one row per sample, each (n,) int64."""

    window: np.ndarray  # position in Loader.windows
    top: np.ndarray
    left: np.ndarray
    orientation: np.ndarray  # 0..7, the same for all frames of a window


class Loader:
    """Batches (B, T, C, h, w) float32 in physical units, NaN where missing.

    tracks: of one channel count, each at least patch x patch pixels; window: frames per sample;
    batch: samples. An epoch shows every window crops_per_window times, each time another crop.
    A last batch that would be smaller is left out, unless it is the only one, and so are windows
    that do not fill a round of ranks: other ones in every epoch.
    Raises UserError for a patch larger than a frame and for tracks without any window.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        *,
        window: int,
        patch: int,
        batch: int,
        crops_per_window: int = 1,
        augment: bool = True,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        check_patch(tracks, patch)
        self.tracks = list(tracks)
        self.window, self.patch, self.batch = window, patch, batch
        self.augment, self.seed, self.rank, self.ranks = augment, seed, rank, ranks
        self.windows = windows_of(self.tracks, window)
        if not len(self.windows):
            raise UserError(
                f"tracks {few([t.id for t in tracks])}: no window of {window} usable frames at "
                "equal steps; convert with a larger --max-missing, or train on other tracks"
            )
        self.shown = len(self.windows) * crops_per_window  # by all ranks together
        self.samples = self.shown // ranks
        if not self.samples:
            raise UserError(
                f"{self.shown} windows cannot be shared among {ranks} ranks; "
                "use fewer devices, or a larger training.crops_per_window"
            )
        allow_open_files(len(self.tracks))

    def __len__(self) -> int:
        """Batches per epoch."""
        return max(1, self.samples // self.batch)

    def crops(self, epoch: int) -> Crops:
        """All samples of one epoch, in order."""
        shared = np.random.default_rng([self.seed, epoch])  # all ranks shuffle alike, then deal
        order = shared.permutation(self.shown)[self.rank :: self.ranks][: self.samples]
        own = np.random.default_rng([self.seed, epoch, self.rank + 1])
        window = order % len(self.windows)
        sizes = np.array([track.shape[1:] for track in self.tracks])[self.windows[window, 0]]
        top, left = own.integers(0, sizes.T - self.patch + 1)
        turns = own.integers(0, ORIENTATIONS if self.augment else 1, self.samples)
        return Crops(window, top, left, turns)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch from position `start` on."""
        crops = self.crops(epoch)
        for position in range(start, len(self)):
            chosen = np.arange(position * self.batch, (position + 1) * self.batch)
            yield self.gather(crops, chosen[chosen < self.samples])

    def gather(self, crops: Crops, chosen: np.ndarray) -> Tensor:
        """Cut the chosen samples: (len(chosen), T, C, patch, patch)."""
        side = self.patch
        channels = self.tracks[0].shape[0]
        out = np.empty((len(chosen), self.window, channels, side, side), np.float32)
        for place, sample in enumerate(chosen):
            number, first = self.windows[crops.window[sample]]
            top, left = crops.top[sample], crops.left[sample]
            track = self.tracks[number]
            frames = track.frames
            try:
                frames = frames[
                    first : first + self.window, :, top : top + side, left : left + side
                ]
            except DAMAGE as error:  # of a compressed frame: a mapped one is not looked at
                raise track.damage(first, self.window, error) from error
            out[place] = oriented(frames, int(crops.orientation[sample]))
        return torch.from_numpy(out)


def oriented(frames: np.ndarray, orientation: int) -> np.ndarray:
    """One of the 8 flips and quarter turns of (..., H, W), without copying."""
    if orientation & 4:
        frames = frames.swapaxes(-2, -1)
    if orientation & 2:
        frames = frames[..., ::-1, :]
    return frames[..., ::-1] if orientation & 1 else frames


def windows_of(tracks: Sequence[Track], length: int) -> np.ndarray:
    """(n, 2) int64: the position of the track in `tracks`, and the window's first frame."""
    rows = [
        np.stack([np.full_like(first, number), first], axis=1)
        for number, track in enumerate(tracks)
        if len(first := track.windows(length))
    ]
    return np.concatenate(rows) if rows else np.empty((0, 2), np.int64)


def check_patch(tracks: Sequence[Track], patch: int) -> None:
    """Raises UserError for frames smaller than the patch, or of another channel count."""
    for track in tracks:
        C, H, W = track.shape
        if min(H, W) < patch:
            raise UserError(
                f"training.patch_size {patch} is larger than the {H}x{W} frames of track "
                f"{track.id}; choose at most {min(H, W)}"
            )
        if tracks[0].shape[0] != C:
            raise UserError(
                f"track {track.id} has {C} channels, {tracks[0].id} has {tracks[0].shape[0]}; "
                "one training needs the same in all"
            )


def fixed_crops(tracks: Sequence[Track], *, window: int, patch: int, count: int) -> Tensor:
    """The same crops at every call, spread evenly over all windows: (count, T, C, patch, patch).

    Fewer than `count` where the tracks have fewer windows. Raises UserError as Loader does.
    """
    loader = Loader(tracks, window=window, patch=patch, batch=1, augment=False)
    spread = np.unique(np.linspace(0, len(loader.windows) - 1, count).round().astype(np.int64))
    crops = loader.crops(epoch=0)
    by_window = np.argsort(crops.window)
    return loader.gather(crops, by_window[spread])
