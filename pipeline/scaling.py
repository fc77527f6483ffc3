"""Physical units <-> normalised values, per channel.

Fixed numbers, kept in every checkpoint: the same kelvin is the same value in every frame of every
storm. (Scaling each frame by its own minimum and maximum loses the kelvin and makes a flicker.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.sources.amounts import ANYTHING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models import Geometry
    from pipeline.manifest import Statistics

KINDS = ("auto", "range", "log1p", "standard", "weather")
RAIN = "mm"  # of a channel of rain, per time step: never below 0, sparse and heavy-tailed


@dataclass(frozen=True)
class Scaling:
    """normalised = (physical - centre) / scale, per channel, of log1p(physical) where so scaled.

    What log1p scales counts as 0 where it is negative; nothing else is clipped on the way in. On
    the way out nothing is below what is physically possible.
    """

    kinds: tuple[str, ...]  # range, log1p or standard
    centre: tuple[float, ...]  # physical units, or their log1p
    scale: tuple[float, ...]  # the same per unit
    neutral: tuple[float, ...]  # normalised: stands in for a missing input pixel
    lowest: tuple[float | None, ...] = ()  # physical units; None, or no entries: no bound

    @property
    def linear(self) -> bool:
        """Whether the mean of normalised values is the normalised mean."""
        return "log1p" not in self.kinds

    def normalise(self, frames: Tensor) -> Tensor:
        """(..., C, H, W) physical -> normalised; NaN stays NaN."""
        if not self.linear:
            frames = self.where_log(frames, frames.clamp(min=0).log1p())
        return (frames - column(self.centre, frames)) / column(self.scale, frames)

    def restore(self, values: Tensor) -> Tensor:
        """(..., C, H, W) normalised -> physical, bounded; NaN stays NaN."""
        values = values * column(self.scale, values) + column(self.centre, values)
        if not self.linear:
            values = self.where_log(values, values.expm1())
        return self.bounded(values)

    def where_log(self, plain: Tensor, logarithmic: Tensor) -> Tensor:
        """Of the second the channels scaled by log1p, of the first the others."""
        if "log1p" in self.kinds and len(set(self.kinds)) == 1:
            return logarithmic
        chosen = column([float(kind == "log1p") for kind in self.kinds], plain) > 0
        return logarithmic.where(chosen, plain)

    def bounded(self, frames: Tensor) -> Tensor:
        """(..., C, H, W) physical: what is impossibly low made the lowest; NaN stays NaN."""
        return bounded(frames, self.lowest)

    def fill(self, values: Tensor) -> Tensor:
        """(..., C, H, W) normalised: NaN replaced by the neutral value."""
        import torch

        return torch.where(values.isnan(), column(self.neutral, values), values)

    def filled(self, frames: Tensor) -> Tensor:
        """(..., C, H, W) physical: NaN replaced by what the neutral value stands for."""
        import torch

        neutral = self.restore(column(self.neutral, frames))
        return torch.where(frames.isnan(), neutral, frames)

    def model_input(self, x: Tensor) -> Tensor:
        """(..., C, H, W) physical -> normalised, every missing pixel neutral."""
        return self.fill(self.normalise(x))

    def geometry(self, of: Geometry) -> Geometry:
        """With what a model may know of its values: see models.Geometry."""
        alike = set(zip(self.kinds, self.scale, strict=True))
        floors = {None if low is None else self.number(i, low) for i, low in enumerate(self.lowest)}
        return replace(
            of,
            unit_range=set(self.kinds) == {"range"},
            block_means=of.block_means and self.linear,
            floor=floors.pop() if len(floors) == 1 else None,
            log_scale=self.scale[0] if len(alike) == 1 and not self.linear else None,
        )

    def only(self, channels: Sequence[int]) -> Scaling:
        """Of some of the channels, in this order."""
        if tuple(channels) == tuple(range(len(self.kinds))):
            return self
        picked = {
            name: tuple(values[i] for i in channels) if values else values
            for name, values in vars(self).items()
        }
        return Scaling(**picked)

    def number(self, channel: int, value: float) -> float:
        """One physical value, normalised."""
        if self.kinds[channel] == "log1p":
            value = math.log1p(max(value, 0.0))
        return (value - self.centre[channel]) / self.scale[channel]

    def plain(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Scaling:
        """What `plain` gave, now or when there was one kind for all channels. KeyError: neither."""
        centre, scale, neutral = (tuple(plain[key]) for key in ("centre", "scale", "neutral"))
        if "kind" in plain:
            return cls((plain["kind"],) * len(centre), centre, scale, neutral)
        return cls(tuple(plain["kinds"]), centre, scale, neutral, tuple(plain["lowest"]))


def column(numbers: Sequence[float], like: Tensor) -> Tensor:
    """(C, 1, 1) on the device and in the dtype of `like`."""
    return kept(tuple(numbers), like.dtype, like.device)


@lru_cache(maxsize=256)
def kept(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copied to a device once: a copy for every batch would make the host wait for a GPU."""
    import torch

    with torch.inference_mode(False):  # else training could not use what inference made first
        return torch.tensor(numbers, dtype=dtype, device=device)[:, None, None]


def bounded(frames: Tensor, lowest: Sequence[float | None]) -> Tensor:
    """(..., C, H, W): no channel below its lowest value; None, or no entries: no bound."""
    if all(low is None for low in lowest):
        return frames
    return frames.maximum(column([-math.inf if low is None else low for low in lowest], frames))


def is_rain(channel: Mapping[str, Any]) -> bool:
    return bool(channel["units"] == RAIN)


def is_range_known(channel: Mapping[str, Any]) -> bool:
    """Whether a valid range says anything of the values."""
    return bool(ANYTHING[0] < channel["valid_min"] and channel["valid_max"] < ANYTHING[1])


def fit(kind: str, channels: Sequence[Mapping[str, Any]], statistics: Statistics) -> Scaling:
    """The scaling of a store's channels.

    range: each channel's valid range becomes -1..1, whatever the data. standard: the training
    tracks' mean and standard deviation become 0 and 1. log1p: of log(1 + value), 0 stays 0 and the
    training tracks' largest value becomes 1; so a border of zeros is a border without rain. auto:
    log1p for rain, range where a valid range is known, standard for all else; weather: log1p for
    rain, standard for all else. A missing pixel takes the training mean.
    Raises UserError for channels that a kind cannot scale.
    """
    if kind not in KINDS:
        raise UserError(f"no scaling {kind!r}; the scalings are {', '.join(KINDS)}")
    kinds = tuple(kind_of(kind, channel) for channel in channels)
    pairs = [
        FITS[each](channel, statistics, i)
        for i, (each, channel) in enumerate(zip(kinds, channels, strict=True))
    ]
    centre, scale = zip(*pairs, strict=True)
    made = Scaling(
        kinds,
        centre,
        scale,
        neutral=(0.0,) * len(kinds),
        lowest=tuple(0.0 if is_rain(channel) else None for channel in channels),
    )
    neutral = tuple(made.number(i, mean) for i, mean in enumerate(statistics.mean))
    return replace(made, neutral=neutral)


def kind_of(kind: str, channel: Mapping[str, Any]) -> str:
    """How one channel is scaled where all are to be scaled in this way."""
    if kind not in ("auto", "weather"):
        return kind
    if is_rain(channel):
        return "log1p"
    return "range" if kind == "auto" and is_range_known(channel) else "standard"


def fit_range(channel: Mapping[str, Any], statistics: Statistics, i: int) -> tuple[float, float]:
    """Centre and scale of channel number i; likewise the others."""
    low, high = channel["valid_min"], channel["valid_max"]
    if not is_range_known(channel):
        raise UserError(
            f"channel {channel['name']} [{channel['units']}] has no known valid range, and over "
            f"{low:g} to {high:g} nothing can be learnt: leave scaling.kind at auto, or "
            "convert with --valid-min and --valid-max"
        )
    return (high + low) / 2, (high - low) / 2


def fit_standard(channel: Mapping[str, Any], statistics: Statistics, i: int) -> tuple[float, float]:
    # A constant's deviation, added up from squares, need not be 0.
    if statistics.min[i] == statistics.max[i]:
        way = "use scaling.kind: range" if is_range_known(channel) else "convert without it"
        raise UserError(f"channel {channel['name']} is constant in the training tracks; {way}")
    return statistics.mean[i], statistics.std[i]


def fit_log1p(channel: Mapping[str, Any], statistics: Statistics, i: int) -> tuple[float, float]:
    name, low, high = channel["name"], statistics.min[i], statistics.max[i]
    if low < 0:
        raise UserError(
            f"channel {name} reaches {low:g} {channel['units']} in the training tracks, and log1p "
            "is for what is never negative; use scaling.kind: range"
        )
    if high == 0:
        raise UserError(
            f"channel {name} is 0 everywhere in the training tracks; train on others, "
            "or use scaling.kind: range"
        )
    return 0.0, math.log1p(high)


FITS = {"range": fit_range, "standard": fit_standard, "log1p": fit_log1p}


def scored(channels: Sequence[Mapping[str, Any]], statistics: Statistics) -> list[dict[str, Any]]:
    """The channels as a checkpoint keeps them: of rain also `observed_max`, the training tracks'.

    That is the range of its PSNR and SSIM: of the valid one, made for the worst storm on earth,
    any day's rain is next to nothing.
    """
    return [
        {**channel, "observed_max": statistics.max[i]} if is_rain(channel) else dict(channel)
        for i, channel in enumerate(channels)
    ]
