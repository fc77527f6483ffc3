"""The loop that people write today for a TempoGAN on H5 files, as the reference of train.py.

The specification's networks, and its way to train them: a `Dataset` that opens three files for each
sample and a `DataLoader` of four workers; the generator asked for one frame at a time, three of a
window and the middle one again, without gradients for the discriminators' step and then once more
with gradients; sigmoids and BCELoss, float32, `.item()` of both losses after every step.

What it does not do, in its favour: it scales by fixed bounds instead of each frame's own, and turns
all frames of a window alike. Both cost no more than what is usual.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from models._blocks import upsampled
from models.tempogan import Discriminator, Eddy

WINDOW, SCALE, WORKERS, LR = 3, 4, 4, 1e-4
CENTRE, HALF = 240.0, 90.0  # kelvin: 150..330 K is -1..1
AHEAD = 2 * WORKERS  # batches that a DataLoader has made before they are asked for
EPOCH = 190_000  # samples
SETTLED_SECONDS, AT_MOST_SECONDS = 0.1, 10.0
TICKS = os.sysconf("SC_CLK_TCK")


# ---- data


class Triplets(Dataset):
    """Three files in a row: (x, y), (3, 1, patch / 4, patch / 4) and (3, 1, patch, patch)."""

    def __init__(self, tracks: Sequence[Sequence[Path]], patch: int) -> None:
        self.patch = patch
        self.triplets = [
            files[i : i + WINDOW] for files in tracks for i in range(len(files) - WINDOW + 1)
        ]

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        frames = []
        for path in self.triplets[number]:
            with h5py.File(path, "r") as file:
                frames.append(next(iter(file.values()))[:].astype(np.float32))
        height, width = frames[0].shape
        top = random.randint(0, height - self.patch)
        left = random.randint(0, width - self.patch)
        crops = [f[top : top + self.patch, left : left + self.patch] for f in frames]
        y = torch.from_numpy((np.stack(crops)[:, None] - CENTRE) / HALF)
        if random.random() < 0.5:
            y = y.flip(-1)
        y = y.rot90(random.randint(0, 3), (-2, -1)).contiguous()
        return F.avg_pool2d(y, SCALE), y


def from_files(
    tracks: Sequence[Sequence[Path]], patch: int, batch: int, device: torch.device
) -> Iterator[Any]:
    """Shuffled batches (x, y) without end."""
    triplets = Triplets(tracks, patch)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # as many as people take
    loader = DataLoader(
        triplets,
        batch,
        sampler=RandomSampler(triplets, replacement=True, num_samples=EPOCH),
        num_workers=WORKERS,
        drop_last=True,
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


def settle() -> None:
    """Wait until the workers rest, their batches made: others' turns are not theirs."""
    begun, before = time.monotonic(), -1.0
    while time.monotonic() - begun < AT_MOST_SECONDS:
        spent = sum(map(cpu_seconds, multiprocessing.active_children()))
        if spent == before:
            return
        before = spent
        time.sleep(SETTLED_SECONDS)


def cpu_seconds(process: multiprocessing.process.BaseProcess) -> float:
    with contextlib.suppress(OSError):
        told = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii")
        user, system = told.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / TICKS
    return 0.0


# ---- the networks, and a step


class Judge(nn.Module):
    """A discriminator that ends in a sigmoid, as BCELoss wants it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = Discriminator(channels, norm="batch")

    def forward(self, frames: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.sigmoid(self.body(frames, condition))


class Plain:
    """What such a script holds. step: one iteration on (x, y) of a batch, (B, 3, 1, ., .) each."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generator = Eddy(1, width=64, n_blocks=8).to(device)
        self.spatial = Judge(2).to(device)
        self.temporal = Judge(WINDOW).to(device)
        both = [*self.spatial.parameters(), *self.temporal.parameters()]
        self.of_generator = torch.optim.Adam(self.generator.parameters(), lr=LR)
        self.of_judges = torch.optim.Adam(both, lr=LR)
        self.bce, self.l1 = nn.BCELoss(), nn.L1Loss()
        self.told = (0.0, 0.0)  # the last step's losses, of the discriminators and the generator

    def step(self, x: Tensor, y: Tensor) -> None:
        x, y = x.to(self.device), y.to(self.device)
        coarse, fine = x[:, WINDOW // 2], y[:, WINDOW // 2]
        beside = upsampled(coarse, SCALE, "bilinear")
        sequence = torch.cat([y[:, t] for t in range(WINDOW)], 1)
        real = torch.ones(len(x), 1, device=self.device)
        fake = torch.zeros(len(x), 1, device=self.device)

        with torch.no_grad():
            made = self.generator(coarse)
            made_sequence = torch.cat([self.generator(x[:, t]) for t in range(WINDOW)], 1)
        d_loss = (
            self.bce(self.spatial(fine, beside), real)
            + self.bce(self.spatial(made, beside), fake)
            + self.bce(self.temporal(sequence), real)
            + self.bce(self.temporal(made_sequence), fake)
        )
        self.of_judges.zero_grad()
        d_loss.backward()
        self.of_judges.step()

        made = self.generator(coarse)
        made_sequence = torch.cat([self.generator(x[:, t]) for t in range(WINDOW)], 1)
        g_loss = (
            self.l1(made, fine)
            + 1e-3 * self.bce(self.spatial(made, beside), real)
            + 1e-3 * self.bce(self.temporal(made_sequence), real)
        )
        self.of_generator.zero_grad()
        g_loss.backward()
        self.of_generator.step()
        self.told = (d_loss.item(), g_loss.item())
