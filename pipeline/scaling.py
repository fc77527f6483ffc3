"""Physical units <-> normalised values, per channel.

Fixed numbers, kept in every checkpoint: the same kelvin is the same value in every frame of every
storm. (Scaling each frame by its own minimum and maximum loses the kelvin and makes a flicker.)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.manifest import Statistics

KINDS = ("range", "standard")


@dataclass(frozen=True)
class Scaling:
    """normalised = (physical - centre) / scale, per channel; nothing is clipped."""

    kind: str
    centre: tuple[float, ...]  # physical units
    scale: tuple[float, ...]  # physical units per unit
    neutral: tuple[float, ...]  # normalised: stands in for a missing input pixel

    def normalise(self, frames: Tensor) -> Tensor:
        """(..., C, H, W) physical -> normalised; NaN stays NaN."""
        return (frames - column(self.centre, frames)) / column(self.scale, frames)

    def restore(self, values: Tensor) -> Tensor:
        """(..., C, H, W) normalised -> physical."""
        return values * column(self.scale, values) + column(self.centre, values)

    def fill(self, values: Tensor) -> Tensor:
        """(..., C, H, W) normalised: NaN replaced by the neutral value."""
        import torch

        return torch.where(values.isnan(), column(self.neutral, values), values)

    def model_input(self, x: Tensor) -> Tensor:
        """(..., C, H, W) physical -> normalised, every missing pixel neutral."""
        return self.fill(self.normalise(x))

    def plain(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Scaling:
        numbers = (tuple(plain[key]) for key in ("centre", "scale", "neutral"))
        return cls(plain["kind"], *numbers)


def column(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    """(C, 1, 1) on the device and in the dtype of `like`."""
    return like.new_tensor(numbers)[:, None, None]


def fit(kind: str, channels: list[dict[str, Any]], statistics: Statistics) -> Scaling:
    """The scaling of a store's channels.

    range: each channel's valid range becomes -1..1, whatever the data. standard: the training
    tracks' mean and standard deviation become 0 and 1. A missing pixel takes the training mean.
    Raises UserError for channels that a kind cannot scale.
    """
    mean = tuple(statistics.mean)
    if kind == "range":
        low = [c["valid_min"] for c in channels]
        high = [c["valid_max"] for c in channels]
        centre = tuple((b + a) / 2 for a, b in zip(low, high, strict=True))
        scale = tuple((b - a) / 2 for a, b in zip(low, high, strict=True))
    elif kind == "standard":
        centre, scale = mean, tuple(statistics.std)
        # A constant's deviation, added up from squares, need not be 0.
        ranges = zip(channels, statistics.min, statistics.max, strict=True)
        if flat := [channel["name"] for channel, low, high in ranges if low == high]:
            raise UserError(
                f"channel {', '.join(flat)} is constant in the training tracks; "
                "use scaling.kind: range"
            )
    else:
        raise UserError(f"no scaling {kind!r}; the scalings are {', '.join(KINDS)}")
    neutral = tuple((m - c) / s for m, c, s in zip(mean, centre, scale, strict=True))
    return Scaling(kind, centre, scale, neutral)
