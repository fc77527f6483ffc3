"""What a step of a training needs of a GPU's memory and of arithmetic, and what fits into how much.

Nothing is computed for it: networks, optimizers and real steps of all players run on tensors that
have a shape and no values (torch's FakeTensorMode), on any machine, while a count is kept of the
storages that live. So any batch and patch can be asked for, also one that fits nowhere.
"""

from __future__ import annotations

import math
import re
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from models import Geometry
from pipeline.errors import UsageError
from pipeline.problem import Problem
from pipeline.settings import RunSettings
from pipeline.tasks import ForecastSettings
from pipeline.trainer import Trainer

BLOCK = 512  # bytes; a GPU's memory is given out in multiples of it
# What the tensors do not show: the CUDA context with its libraries, and, as a share, the workspaces
# of convolutions and what the allocator cannot use. Estimates, never measured here.
CONTEXT = 600 * 10**6
SLACK = 0.2
ON_THEIR_WAY = 3  # batches of raw frames on the GPU: one in use, two being copied; see prefetch.py
# A step after any warm-up, in which all players take part, and whatever is done every n steps, too
LATE = math.factorial(20)
FEW = 2  # windows of a step that is only looked at; batch norm wants more than one
UNITS = {"m": 10**6, "g": 10**9, "t": 10**12, "mi": 2**20, "gi": 2**30, "ti": 2**40}
PATCHES = (0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625)  # of the patch that was asked for


def bytes_of(text: str) -> int:
    """Of 12GB, 12GiB, 800MB or 24g, which is GB. Raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)b?\s*", text.lower())
    if not found or found[2] not in UNITS or not float(found[1]):
        raise UsageError(f"--memory {text}: expected a size, as in 12GB, 11.5GiB or 800MB")
    return int(float(found[1]) * UNITS[found[2]])


@dataclass(frozen=True)
class Case:
    """A training, as far as its shapes follow from it."""

    settings: RunSettings
    problem: Problem
    frame: tuple[int, int, int]  # (C, H, W) of the store; of tracks of several sizes the smallest
    devices: int = 1  # that share each batch

    @classmethod
    def of(cls, trainer: Trainer, settings: RunSettings) -> Case:
        """settings: of all devices together, of which the trainer may be one's share."""
        H, W = trainer.loader.sizes.min(0).tolist()
        channels = trainer.loader.tracks[0].shape[0]
        return cls(settings, trainer.problem, (channels, H, W), settings.training.devices)

    def geometry(self, patch: int | None) -> Geometry:
        """Raises UserError where the task cannot be posed on so small a patch."""
        C, H, W = self.frame
        return self.problem.geometry((C, patch or H, patch or W))

    @property
    def fewest(self) -> int:
        """Windows of one device that a batch must have."""
        return 2 if self.problem.task.borrows else 1

    def batches(self) -> list[int]:
        """Of all devices together: those that can make the same step, the smallest first."""
        t = self.settings.training
        windows = t.batch_size * t.accumulate
        return [
            batch
            for batch in range(self.devices * self.fewest, windows + 1, self.devices)
            if windows % batch == 0
        ]

    def patches(self) -> list[int]:
        """Smaller ones than the present one, the largest first; none where frames must be whole."""
        if self.problem.task.located:
            return []
        task = self.settings.task
        unit = task.coarsen if isinstance(task, ForecastSettings) else task.factor
        side = self.settings.training.patch_size or min(self.frame[1:])
        smaller = {rounded(int(side * share), unit) for share in PATCHES}
        return sorted(smaller - {0, side}, reverse=True)


def rounded(side: int, unit: int) -> int:
    """The largest multiple of unit that is no larger than side, and of 16 or 8 if there is one."""
    steps = (math.lcm(unit, 16), math.lcm(unit, 8), unit)
    step = next((step for step in steps if step <= side), unit)
    return side // step * step


class Living(TorchDispatchMode):
    """Counts the bytes of all storages that are made inside, while they live, and their peak.

    A view is of its base's storage, and so counted once. What a kernel takes for itself while it
    runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(self.faking, Fakes):
            return 0  # the host asks for a value, and there is none: a discriminator does not rest
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.count, made)
        return made

    faking: Any = None

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self.known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.known.add(id(storage))
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.gone, id(storage), size)

    def gone(self, number: int, size: int) -> None:
        self.known.discard(number)
        self.now -= size
