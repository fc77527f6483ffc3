"""The models, one file each; the file's name is the model's public name.

A model file defines TASK ("superres" or "forecast"), Settings (a frozen pydantic model whose
defaults are ours or the published ones, as its head says) and Model, built as
Model(settings, geometry).

Shape letters, everywhere: B batch, T frames, C channels, H rows (north first), W columns.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # torch takes seconds to import; `cli --help` should not
    from torch import Tensor, nn

Parts = Mapping[str, "Tensor"]  # named scalars to log, detached, still on the device


@dataclass(frozen=True)
class Geometry:
    """All that a model may know about the data: the shapes of one sample."""

    x: tuple[int, int, int, int]  # (T, C, H, W)
    y: tuple[int, int, int, int]  # (T, C, H, W)
    unit_range: bool = False  # y lies within -1..1
    block_means: bool = False  # every pixel of x is the mean of the block of y that it covers
    floor: float | None = None  # the value of none at all (0 mm), which y is never below
    # Forecasts: the channel of x that each channel of y continues; () where that is not known
    continues: tuple[int, ...] = ()
    # y times this is the log1p of physical units (mm of rain); None: y is not so scaled
    log_scale: float | None = None


class Model(Protocol):
    """What every models/<name>.py offers beyond nn.Module.

    x and y are normalised; x holds no NaN, a NaN in y is a pixel that must not count.
    """

    reach: int | None  # how many x pixels away an input still matters; None: the whole field does

    def __call__(self, x: Tensor) -> Tensor: ...  # (B, *geometry.x) -> (B, *geometry.y)
    def players(self) -> dict[str, nn.Module]: ...  # networks; each gets an optimizer of its own
    def losses(self, x: Tensor, y: Tensor, step: int) -> Iterator[tuple[str, Tensor, Parts]]:
        """Per player: its name, its loss, what to log. A loss without gradient lets it rest."""
        ...


def names() -> list[str]:
    """Every models/<name>.py whose name does not start with an underscore."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name[0] != "_")


def find(name: str) -> ModuleType:
    """Import models/<name>.py, and no other model. ValueError: there is none of that name."""
    if name not in names():
        raise ValueError(f"no model {name!r}; the models are {', '.join(names())}")
    return importlib.import_module(f"models.{name}")


def build(name: str, geometry: Geometry, settings: Mapping[str, Any]) -> Any:
    """The model (an nn.Module and a Model) with its own defaults except the settings given.

    Raises pydantic.ValidationError for an unknown or bad setting, ValueError for a geometry
    that the model cannot serve.
    """
    module = find(name)
    return module.Model(module.Settings(**settings), geometry)


def prepare(model: Any) -> None:
    """Before a training: let a model load what nothing else needs, if it has a method of this name.

    Raises ValueError where that cannot be had.
    """
    getattr(model, "prepare", lambda: None)()


def sight(model: Any, geometry: Geometry) -> tuple[int, int] | None:
    """How many rows and columns of x away an input can matter; None: as far as the field reaches.

    A model whose `reach` is None, since it cannot be cut into tiles, may say with a method
    receptive_field(height, width) how far it sees all the same.
    """
    if model.reach is not None:
        return model.reach, model.reach
    _, _, H, W = geometry.x
    of = getattr(model, "receptive_field", None)
    return of(H, W) if of else None
