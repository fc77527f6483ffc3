"""What every score is made of: sums that add."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums that add: any way of cutting the images into parts gives the same scores.

    A field is a number, a numpy array, a dictionary of them, or None where nothing was counted;
    `cls()` is nothing counted, and adds nothing. A field declared with `setting()` is not summed:
    only sums of the same setting add.
    """

    def __add__(self, other: Self) -> Self:
        """Raises ValueError for sums that were made with other settings."""
        if type(other) is not type(self):
            return NotImplemented
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        settings = {f.name for f in fields(self) if f.metadata.get("setting")}
        for name in settings:
            a, b = pairs[name]
            if None not in (a, b) and a != b:
                raise ValueError(f"{type(self).__name__}s of {name} {a} and {b} do not add")
        return type(self)(
            **{
                name: (b if a is None else a) if name in settings else added(a, b)
                for name, (a, b) in pairs.items()
            }
        )

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.plain() == other.plain()

    def scores(self) -> dict[str, float]:
        """NaN where undefined."""
        raise NotImplementedError

    def plain(self) -> dict[str, Any]:
        """For JSON, and exact."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def of_plain(cls, kept: Mapping[str, Any]) -> Self:
        """What `plain` gave. Raises ValueError where it is not of this class."""
        known = [f.name for f in fields(cls)]
        if set(kept) != set(known):
            raise ValueError(
                f"sums of {cls.__name__} are {', '.join(known)}; found {', '.join(kept)}"
            )
        return cls(**{name: of_plain(value) for name, value in kept.items()})


def setting() -> Any:
    """A field that says what the sums are of, and is the same in all that add."""
    return field(default=None, metadata={"setting": True})


def added(a: Any, b: Any) -> Any:
    """None is nothing; of two dictionaries, what they share adds."""
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, dict):
        return {key: added(a.get(key), b.get(key)) for key in {**a, **b}}
    if isinstance(a, np.ndarray) and a.shape != b.shape:
        raise ValueError(f"sums of shapes {a.shape} and {b.shape} do not add")
    return a + b


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def of_plain(value: Any) -> Any:
    """What `plain` gave.

    Raises ValueError for anything but numbers, None, and lists and dictionaries of them.
    """
    if isinstance(value, dict):
        return {key: of_plain(each) for key, each in value.items()}
    found = np.array(value)  # ValueError where lists in it differ in length
    if value is not None and found.dtype.kind not in "biuf":
        raise ValueError(f"expected numbers, found {str(value)[:40]}")
    return found if isinstance(value, list) else value


def ratio(total: float, count: float) -> float:
    return total / count if count else math.nan


def seen_in(prediction: Tensor, truth: Tensor) -> Tensor:
    """Where truth is not missing: bool, of its shape.

    Raises ValueError for unequal shapes and for a prediction that is NaN where the truth is not.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction is {tuple(prediction.shape)}, truth {tuple(truth.shape)}")
    missing = truth.isnan()
    if (prediction.isnan() & ~missing).any():
        raise ValueError("prediction is NaN where truth is not")
    return ~missing


def array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


def per_index(values: Tensor, index: Tensor, length: int) -> Tensor:
    """(length,) float64: the sum of the values that have each index; index of the same shape."""
    return torch.bincount(index.flatten(), values.double().flatten(), minlength=length)
