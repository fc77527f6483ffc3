"""What each score is called, in which unit it is, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pipeline.errors import UserError
from pipeline.metrics.clouds import THRESHOLDS
from pipeline.metrics.distribution import SCORED
from pipeline.metrics.rain import INTENSITIES


class About(NamedTuple):
    """`unit` "K" is that of the data, "km" that of its pixels; `better` "none": neither."""

    long_name: str
    unit: Literal["K", "dB", "1", "km", "%", "px"]
    better: Literal["lower", "higher", "zero", "one", "none"]


ABOUT: dict[str, About] = {
    "rmse": About("root mean square error", "K", "lower"),
    "mae": About("mean absolute error", "K", "lower"),
    "bias": About("mean error", "K", "zero"),
    "psnr": About("peak signal-to-noise ratio", "dB", "higher"),
    "ssim": About("structural similarity", "1", "higher"),
    "mse_sum": About("squared error summed over a frame, mean over frames", "1", "lower"),
    "mae_sum": About("absolute error summed over a frame, mean over frames", "1", "lower"),
    "psnr_clipped": About(
        "peak signal-to-noise ratio of values cut to the valid range", "dB", "higher"
    ),
    "ssim_clipped": About(
        "structural similarity of values cut to the valid range, by 7x7 pixels and twice the range",
        "1",
        "higher",
    ),
    "log_spectral_distance": About("log-spectral distance", "dB", "lower"),
    "effective_resolution": About("effective resolution", "km", "lower"),
    "tof": About("distance of optical flows", "px", "lower"),
    "temporal_std_ratio": About("ratio of variability in time", "1", "one"),
    **{
        f"cold_area_error_{kelvin}": About(f"error of the area below {kelvin} K", "%", "lower")
        for kelvin in THRESHOLDS
    },
    "min_temperature_error": About("error of the minimum temperature", "K", "lower"),
    "min_temperature_bias": About("bias of the minimum temperature", "K", "zero"),
    "csi": About("critical success index", "1", "higher"),
    "csi_220": About("critical success index of cloud below 220 K", "1", "higher"),
    "pod": About("probability of detection", "1", "higher"),
    "far": About("false alarm ratio", "1", "lower"),
    "frequency_bias": About("frequency bias", "1", "one"),
    "ets": About("equitable threat score", "1", "higher"),
    "hss": About("Heidke skill score", "1", "higher"),
    "fss": About("fractions skill score", "1", "higher"),
    "fss_220": About("fractions skill score of cloud below 220 K", "1", "higher"),
    "wet_area_error": About("error of the wet area", "%", "lower"),
    "wet_area_bias": About("bias of the wet area", "%", "zero"),
    **{
        f"csi_{i}": About(f"critical success index of {i} rain", "1", "higher") for i in INTENSITIES
    },
    **{f"fss_{i}": About(f"fractions skill score of {i} rain", "1", "higher") for i in INTENSITIES},
    **{f"quantile_error_{p}": About(f"error of the quantile of {p}", "K", "zero") for p in SCORED},
    "radial_profile_error": About("error of the mean radial profile", "K", "lower"),
    "crps": About("continuous ranked probability score", "K", "lower"),
    "spread": About("spread of the ensemble", "K", "none"),
    "skill": About("root mean square error of the ensemble's mean", "K", "lower"),
    "spread_skill_ratio": About("ratio of spread to skill", "1", "one"),
}
ERRORS = ("rmse", "mae", "bias", "psnr", "ssim")


def peak(channels: Sequence[Mapping[str, Any]]) -> float:
    """The range R of PSNR and SSIM, physical units: see `span`.

    channels: as a store or a checkpoint describes them. Raises UserError where one score cannot
    serve them all.
    """
    kinds = {(c["units"], *span(c)) for c in channels}
    if len(kinds) > 1:
        told = ", ".join(f"{c['name']} in {c['units']}" for c in channels)
        raise UserError(
            f"one score cannot serve channels of several units or ranges: {told}; train on one of "
            "them, or name those that are to be forecast in task.targets"
        )
    ((_, low, high),) = kinds
    return float(high - low)


def span(channel: Mapping[str, Any]) -> tuple[float, float]:
    """From the valid minimum to the training tracks' maximum if that is known (rain), else valid.

    Of a range made for the worst storm on earth any day's rain is next to nothing.
    """
    return channel["valid_min"], channel.get("observed_max", channel["valid_max"])


def units(physical: str, scores: Iterable[str] = ERRORS, length: str = "km") -> dict[str, str]:
    """Of each score, for data in these units on a grid in units of `length`."""
    known = {"K": physical, "km": length}
    return {name: known.get(ABOUT[name].unit, ABOUT[name].unit) for name in scores}
