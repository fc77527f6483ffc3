"""Sums over the processes that share a batch: what a loss divides by must be of the whole of it."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def ranks() -> int:
    """How many processes share a batch; 1 where nothing is shared."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_everywhere(amount: Tensor) -> Tensor:
    """In place, without a gradient: the sum over all processes."""
    if ranks() > 1:
        dist.all_reduce(amount)
    return amount


def mean_everywhere(value: Tensor) -> Tensor:
    """Without a gradient: the mean over all processes."""
    if ranks() == 1:
        return value.detach()
    return sum_everywhere(value.detach().clone()) / ranks()


def spread_everywhere(x: Tensor) -> Tensor:
    """The standard deviation of a batch of which every process has an equal share; no gradient."""
    if ranks() == 1:
        return x.std(correction=0).detach()
    mean = mean_everywhere(x.mean())
    return mean_everywhere((x - mean).square().mean()).sqrt()
