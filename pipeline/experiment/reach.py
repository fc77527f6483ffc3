"""How far a model sees: whether anything in region 2 can matter in region 1, and how much does."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models import Geometry

SHARE = 0.99  # of what a pixel depends on lies within its effective receptive field


@dataclass(frozen=True)
class Reach:
    """What an untrained model of experiment 2 can see; columns of its input."""

    columns: int  # of region 1
    reached: int  # of them, that something in region 2 can reach
    field: int  # how many columns away an input in region 1's middle can matter
    effective: int  # within so many columns lies SHARE of what that pixel depends on
    whole: bool  # the receptive field is the whole input

    @property
    def share(self) -> float:
        return self.reached / self.columns

    @property
    def far(self) -> str:
        return "the whole input" if self.whole else f"{self.field} columns"

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"receptive field {self.far}, with {SHARE:.0%} of the effect within {self.effective} "
            f"columns before training; region 2 reaches {self.reached} of region 1's "
            f"{self.columns} columns"
        )


@dataclass(frozen=True)
class Looked:
    """What trained models of experiment 2 look at, by their gradients on some dates; means."""

    effective: float  # as Reach's
    upstream: float  # the share of what region 1's forecast depends on that lies in region 2

    @classmethod
    def of(cls, models: Sequence[nn.Module], x: Tensor, region: slice) -> Looked:
        """x: (B, T, C, H, W), normalised; region: its columns that are region 1."""
        middle, effects, shares = (region.start + region.stop) // 2, [], []
        for model in models:
            effects.append(within(sensitivity(model, x, slice(middle, middle + 1)), middle))
            mass = sensitivity(model, x, region)
            shares.append(1 - mass[region].sum() / mass.sum() if mass.any() else 0.0)
        return cls(float(np.mean(effects)), float(np.mean(shares)))

    def __str__(self) -> str:
        return (
            f"after training {SHARE:.0%} of the effect lies within {self.effective:.1f} columns, "
            f"and {self.upstream:.0%} of what region 1's forecast depends on in region 2"
        )


def measured(model: nn.Module, geometry: Geometry, region: slice, seed: int = 0) -> Reach:
    """Of a model in evaluation mode; region: columns of y that are region 1."""
    W = geometry.x[-1]
    beside = [c for c in range(W) if not region.start <= c < region.stop]
    middle = (region.start + region.stop) // 2
    reached = touched(model, geometry, beside)[region]
    spread = touched(model, geometry, [middle])
    away = np.abs(np.arange(W) - middle)
    return Reach(
        columns=len(reached),
        reached=int(reached.sum()),
        field=int(away[spread].max(initial=0)),
        effective=effective(model, geometry, middle, seed),
        whole=bool(spread.all()),
    )


def effective(model: Any, geometry: Geometry, middle: int, seed: int) -> int:
    """Within so many columns of that one lies SHARE of what it depends on.

    A model that knows its own looks behind a floor, such as ReLU's, that cuts gradients off.
    """
    if hasattr(model, "effective_reach"):
        return int(model.effective_reach(SHARE))
    x = torch.randn(1, *geometry.x, generator=torch.Generator().manual_seed(seed))
    return within(sensitivity(model, x, slice(middle, middle + 1)), middle)


@torch.no_grad()
def touched(model: nn.Module, geometry: Geometry, columns: list[int]) -> np.ndarray:
    """(W,) bool: the columns of the answer that can depend on these columns of the input.

    Found with NaN, which whatever it can reach becomes, however little it may matter. In float64,
    for which no library computes blocks of pixels as one.
    """
    x = torch.zeros(1, *geometry.x, dtype=torch.float64)
    x[..., columns] = torch.nan
    answer: Tensor = copy.deepcopy(model).double()(x)
    return answer.isnan().flatten(0, -2).any(0).numpy()


def sensitivity(model: nn.Module, x: Tensor, columns: slice) -> np.ndarray:
    """(W,) float64: by column of x, the sum of absolute gradients of the answer in these columns.

    x: (B, T, C, H, W), normalised. Gradients are those of the answer's sum over its middle row, so
    that what one pixel gains another does not cancel more than it must.
    """
    with torch.enable_grad():
        given = x.detach().clone().requires_grad_()
        answer = model(given)
        middle = answer.shape[-2] // 2
        (slope,) = torch.autograd.grad(answer[..., middle, columns].sum(), given)
    mass: np.ndarray = slope.abs().double().sum((0, 1, 2, 3)).cpu().numpy()
    return mass


def within(mass: np.ndarray, middle: int, share: float = SHARE) -> int:
    """So many columns from the middle one lies that share; 0 where nothing matters."""
    away = np.abs(np.arange(len(mass)) - middle)
    summed = np.cumsum(np.bincount(away, mass))
    return int((summed < share * summed[-1]).sum())
