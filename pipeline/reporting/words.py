"""Numbers, units and lists for people."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.reporting import charts

TIMES, DASH = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
HEADS = {
    "rmse": "RMSE",
    "mae": "MAE",
    "bias": "bias",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "tof": "tOF",
    "log_spectral_distance": "spectral distance",
    "temporal_std_ratio": "variability ratio",
    "cold_area_error_208": "area < 208 K",
    "cold_area_error_220": "area < 220 K",
    "cold_area_error_235": "area < 235 K",
    "min_temperature_error": "coldest pixel",
    "min_temperature_bias": "coldest pixel, bias",
    "csi_220": "CSI < 220 K",
    "fss_220": "FSS < 220 K",
}
PLACES = {"dB": 2, "km": 1, "%": 2}  # decimals; others have 3


def written(value: float | None, unit: str) -> str:
    """A score for people; a dash where it is undefined."""
    if value is None:
        return DASH
    places = PLACES.get(unit, 3)
    return charts.signed(f"{round(value, places) + 0.0:.{places}f}")


def with_unit(value: float | None, unit: str) -> str:
    return written(value, unit) + ("" if unit == "1" else f" {unit}")


def plus(text: str) -> str:
    """With its sign also where it is positive."""
    return text if text.startswith(charts.MINUS) or not text.strip("0.") else f"+{text}"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listed(ids: Sequence[str], most: int = 12) -> str:
    if len(ids) > most:
        return f"{', '.join(ids[:most])} and {len(ids) - most} more"
    return " and ".join([", ".join(ids[:-1]), ids[-1]]) if len(ids) > 1 else "".join(ids)


def head(name: str, unit: str) -> str:
    text = HEADS.get(name, name.replace("_", " "))
    return text if unit == "1" else f"{text} [{unit}]"


def rounded(value: float | None, unit: str) -> float | None:
    """As rounded on the page: what looks equal there is equally good."""
    return None if value is None else round(value, PLACES.get(unit, 3))
