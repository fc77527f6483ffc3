"""Batches on their way: memory that is used again, and copies to a GPU while it works."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def on_device(batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """The same batches on the device; to a GPU each is copied while the one before is used."""
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copying = torch.cuda.Stream(device)
    waiting: deque[tuple[Tensor, Tensor, torch.cuda.Event]] = deque()
    for host in batches:
        with torch.cuda.stream(copying):
            there = host.to(device, non_blocking=True)
            waiting.append((host, there, copying.record_event()))
        if len(waiting) > 1:
            yield arrived(*waiting.popleft())
    while waiting:
        yield arrived(*waiting.popleft())


def arrived(host: Tensor, there: Tensor, copied: torch.cuda.Event) -> Tensor:
    """`there`, when it is; until then nobody may write into `host`."""
    copied.synchronize()
    there.record_stream(torch.cuda.current_stream(there.device))
    return there


class Memory:
    """Room for batches: lent out, and used again when no tensor in it is left.

    Fresh memory for every batch would cost as much as the copying.
    """

    def __init__(self, shape: tuple[int, ...], pinned: bool) -> None:
        self.shape, self.pinned = shape, pinned
        self.free: deque[np.ndarray] = deque()

    def __reduce__(self) -> Any:
        return Memory, (self.shape, self.pinned)

    def lend(self, count: int) -> np.ndarray:
        """(count, *shape[1:]) float32, not cleared; it comes back when nothing refers to it."""
        if count > self.shape[0]:
            return np.empty((count, *self.shape[1:]), np.float32)
        try:
            room = self.free.pop()
        except IndexError:
            room = torch.empty(self.shape, pin_memory=self.pinned).numpy()
        lent = room[:count]
        weakref.finalize(lent, self.free.append, room)
        return lent
