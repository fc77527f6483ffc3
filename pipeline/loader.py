"""Windows -> batches of random crops, straight from the memory-mapped shards.

Threads cut the next batches while the present one is used: a batch is a few hundred microseconds
of copying, and other processes would only add copies of it. Which window, crop and orientation
comes at which position follows from (seed, epoch, rank) alone, so that training resumes anywhere.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline import paging
from pipeline.ahead import made_ahead
from pipeline.crops import ORIENTATIONS, PIXEL, ROTATIONS, TURNED, gather, oriented
from pipeline.errors import UserError, few
from pipeline.maps import Maps
from pipeline.paging import ReadAhead
from pipeline.prefetch import Memory
from pipeline.store import BLANK, Track, allow_open_files
from pipeline.windows import starts

TOGETHER = 16 << 20  # bytes: so many batches are cut at once; to hand each over would cost as much
SAMPLED = 32  # crops of an epoch that are looked for in memory
Augment = Literal[True, False, "rotations"]
MOSTLY = 0.95  # in memory: then reading ahead costs more than it gains


@dataclass(frozen=True)
class Crops:
    """Where to cut: one row per sample, each (n,) int64."""

    window: np.ndarray  # position in Loader.windows
    top: np.ndarray
    left: np.ndarray
    orientation: np.ndarray  # 0..7, the same for all frames of a window


class Loader:
    """Batches (B, T, C, h, w) float32 in physical units, NaN where missing.

    tracks: of one channel count, each at least patch x patch pixels; without a patch whole frames,
    all of one size; window: frames per sample; batch: samples, of this rank.
    An epoch shows every window crops_per_window times, each time another crop. augment: flips and
    quarter turns, or those turns alone that mirror nothing.
    A last batch that would be smaller is left out, unless it is the only one, and so are windows
    that do not fill a round of ranks: other ones in every epoch.
    threads: that cut batches ahead; 0: none is cut before it is asked for. read_ahead: ask the disk
    for the next batches; auto: where they are not in memory yet. pinned: batches lie in memory that
    a GPU copies from by itself. window_setting: what decides the window, for who must change it.
    Raises UserError for a patch larger than a frame and for tracks without any window.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        *,
        window: int,
        patch: int | None,
        batch: int,
        crops_per_window: int = 1,
        augment: Augment = True,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        threads: int = 2,
        read_ahead: ReadAhead = "auto",
        pinned: bool = False,
        window_setting: str = "training.sequence_length",
    ) -> None:
        self.height, self.width = crop_size(tracks, patch)
        self.tracks = list(tracks)
        self.window, self.batch = window, batch
        ways = {True: range(ORIENTATIONS), "rotations": ROTATIONS, False: [0]}[augment]
        # a quarter turn of what is not square would not fit
        self.ways = np.array([way for way in ways if self.height == self.width or way < TURNED])
        self.orientations = len(self.ways)
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self.threads, self.read_ahead, self.pinned = threads, read_ahead, pinned
        self.windows = windows_of(self.tracks, window)
        if not len(self.windows):
            raise no_window(tracks, window, window_setting)
        self.shown = len(self.windows) * crops_per_window  # by all ranks together
        self.samples = self.shown // ranks
        if not self.samples:
            raise UserError(
                f"{self.shown} windows cannot be shared among {ranks} ranks; "
                "use fewer devices, or a larger training.crops_per_window"
            )
        allow_open_files(len(self.tracks))
        self.sizes = np.array([track.shape[1:] for track in self.tracks])
        self.maps = Maps(self.tracks)
        sample = (window, tracks[0].shape[0], self.height, self.width)
        self.together = max(1, TOGETHER // (PIXEL * batch * math.prod(sample)))  # batches
        self.memory = Memory((self.together * batch, *sample), pinned)

    def __len__(self) -> int:
        """Batches per epoch."""
        return max(1, self.samples // self.batch)

    def crops(self, epoch: int) -> Crops:
        """All samples of one epoch, in order."""
        whole = self.crops_of_all(epoch)
        own = slice(self.rank, self.samples * self.ranks, self.ranks)
        return Crops(*(getattr(whole, f.name)[own] for f in fields(Crops)))

    def crops_of_all(self, epoch: int) -> Crops:
        """Of all ranks together: each draws the same, and takes its share of every batch."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.shown)
        drawn = np.random.default_rng([self.seed, epoch, 1])
        window = order % len(self.windows)
        sizes = self.sizes[self.windows[window, 0]]
        top, left = drawn.integers(0, sizes.T - [[self.height], [self.width]] + 1)
        turns = self.ways[drawn.integers(0, self.orientations, self.shown)]
        return Crops(window, top, left, turns)

    def shown_in(self, epoch: int, batches: range) -> list[str]:
        """What all ranks together see in these batches: track and times, a sentence's part each."""
        each = self.batch * self.ranks
        told = []
        for window in self.crops_of_all(epoch).window[batches.start * each : batches.stop * each]:
            number, first = self.windows[window].tolist()
            track = self.tracks[number]
            begin, end = track.times[[first, first + self.window - 1]].astype("datetime64[s]")
            told.append(f"{track.id} {begin.item():%Y-%m-%d %H:%M} to {end.item():%Y-%m-%d %H:%M}")
        return told

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The batches of an epoch from position `start` on."""
        crops = self.crops(epoch)
        reads_ahead = self.reads_ahead(crops)
        self.maps.at_random(reads_ahead)
        make = partial(self.batches_at, crops, reads_ahead)
        parts = [
            range(first, min(first + self.together, len(self)))
            for first in range(start, len(self), self.together)
        ]
        if reads_ahead and parts:
            self.ask_for(crops, parts[0])
        for batches in made_ahead(make, parts, self.threads) if self.threads else map(make, parts):
            yield from batches

    def batches_at(self, crops: Crops, reads_ahead: bool, positions: range) -> Sequence[Tensor]:
        """Batches that lie together in memory."""
        if reads_ahead:
            self.ask_for(crops, range(positions.stop, positions.stop + self.together))
        return self.cut(crops, self.chosen(positions)).split(self.batch)

    def chosen(self, positions: range) -> np.ndarray:
        """The samples of these batches."""
        first, end = positions.start * self.batch, positions.stop * self.batch
        return np.arange(first, min(end, self.samples))

    def cut(self, crops: Crops, chosen: np.ndarray) -> Tensor:
        """Cut the chosen samples: (len(chosen), T, C, height, width).

        Raises UserError naming the frames of a compressed store that are damaged; mapped ones are
        not looked at.
        """
        out = self.memory.lend(len(chosen))
        places, mapped = self.places(crops, chosen)
        turns = crops.orientation[chosen]
        slots = np.flatnonzero(mapped)
        gather(out, slots, places[slots], turns[slots])
        for slot in np.flatnonzero(~mapped):
            number, first = self.windows[crops.window[chosen[slot]]].tolist()
            top, left = int(crops.top[chosen[slot]]), int(crops.left[chosen[slot]])
            frames = self.tracks[number].cut(first, self.window, top, left, self.height, self.width)
            out[slot] = oriented(frames, int(turns[slot]))
        return torch.from_numpy(out)

    def places(self, crops: Crops, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `gather` wants them, (n, 4); and whether each lies in a map, (n,) bool."""
        number, first = self.windows[crops.window[chosen]].T
        places, mapped = self.maps.of(number)
        places[:, 0] += first * places[:, 1] + crops.top[chosen] * places[:, 3]
        places[:, 0] += crops.left[chosen] * PIXEL
        return places, mapped

    def stretches(self, crops: Crops, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Addresses and bytes of the rows that the mapped ones of these samples lie in."""
        places, mapped = self.places(crops, chosen)
        start, frame, channel, row = places[mapped].T
        C = self.tracks[0].shape[0]
        steps = np.stack(np.meshgrid(np.arange(self.window), np.arange(C))).reshape(2, -1)
        starts = start[:, None] + frame[:, None] * steps[0] + channel[:, None] * steps[1]
        lengths = (self.height - 1) * row + self.width * PIXEL
        return starts.ravel(), np.repeat(lengths, steps.shape[1])

    def ask_for(self, crops: Crops, positions: range) -> None:
        """Have the disk read what later batches need."""
        if positions.start < len(self):
            paging.will_need(*self.stretches(crops, self.chosen(positions)))

    def reads_ahead(self, crops: Crops) -> bool:
        """Whether to ask the disk ahead: as told, or when a sample is not in memory yet."""
        if not paging.CAN_ADVISE or self.read_ahead == "off":
            return False
        if self.read_ahead == "on" or not os.access(self.tracks[0].store, os.W_OK):
            return True  # of others' files the system does not tell what is in memory
        sample = np.unique(np.linspace(0, self.samples - 1, SAMPLED).astype(np.int64))
        starts, lengths = self.stretches(crops, sample)
        there = paging.share_in_memory(zip(starts.tolist(), lengths.tolist(), strict=True))
        return there < MOSTLY


def windows_of(tracks: Sequence[Track], length: int) -> np.ndarray:
    """(n, 2) int64: the position of the track in `tracks`, and the window's first frame."""
    rows = [
        np.stack([np.full_like(first, number), first], axis=1)
        for number, track in enumerate(tracks)
        if len(first := track.windows(length))
    ]
    return np.concatenate(rows) if rows else np.empty((0, 2), np.int64)


def no_window(tracks: Sequence[Track], length: int, setting: str) -> UserError:
    """What to raise for tracks that are all too short, or too broken."""
    longest = next((n for n in range(length - 1, 0, -1) if len(windows_of(tracks, n))), 0)
    ways = [f"make {setting} smaller"] if longest else []
    if any(len(starts(track.times, track.flag & BLANK == 0, length)) for track in tracks):
        ways.append("convert with a larger --max-missing")  # blank frames stay flagged
    ways.append("take other tracks with `cli split`")
    return UserError(
        f"tracks {few([t.id for t in tracks])}: no window of {length} usable frames at equal "
        f"steps, the longest run is {longest}; {', or '.join(ways)}"
    )


def crop_size(tracks: Sequence[Track], patch: int | None) -> tuple[int, int]:
    """Height and width of what is cut.

    Raises UserError for frames smaller than the patch, of several sizes where whole ones are
    wanted, or of another channel count.
    """
    first = tracks[0]
    for track in tracks:
        C, H, W = track.shape
        if patch and min(H, W) < patch:
            raise UserError(
                f"training.patch_size {patch} is larger than the {H}x{W} frames of track "
                f"{track.id}; choose at most {min(H, W)}"
            )
        if not patch and first.shape[1:] != (H, W):
            h, w = first.shape[1:]
            raise UserError(
                f"track {track.id} has frames of {H}x{W} pixels, {first.id} of {h}x{w}; "
                "set training.patch_size, or train on tracks of one size"
            )
        if first.shape[0] != C:
            raise UserError(
                f"track {track.id} has {C} channels, {first.id} has {first.shape[0]}; "
                "one training needs the same in all"
            )
    return (patch, patch) if patch else first.shape[1:]


def fixed_crops(
    tracks: Sequence[Track],
    *,
    window: int,
    patch: int | None,
    count: int,
    window_setting: str = "training.sequence_length",
) -> Tensor:
    """The same crops at every call, spread evenly over all windows: (count, T, C, h, w).

    Fewer than `count` where the tracks have fewer windows. Raises UserError as Loader does.
    """
    loader = Loader(
        tracks,
        window=window,
        patch=patch,
        batch=1,
        augment=False,
        window_setting=window_setting,
    )
    spread = np.unique(np.linspace(0, len(loader.windows) - 1, count).round().astype(np.int64))
    crops = loader.crops(epoch=0)
    by_window = np.argsort(crops.window)
    return loader.cut(crops, by_window[spread])
