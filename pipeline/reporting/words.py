"""Numbers, units and lists for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

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
    "wet_area_error": "wet area",
    "wet_area_bias": "wet area, bias",
    "csi_light": "CSI light",
    "csi_moderate": "CSI moderate",
    "csi_heavy": "CSI heavy",
    "fss_light": "FSS light",
    "fss_moderate": "FSS moderate",
    "fss_heavy": "FSS heavy",
    "quantile_error_0.95": "p95, error",
    "quantile_error_0.99": "p99, error",
    "quantile_error_0.999": "p99.9, error",
}
PLACES = {"dB": 2, "km": 1, "deg": 2, "%": 2}  # decimals; others have 3


def written(value: float | None, unit: str) -> str:
    """A score for people; a dash where it is undefined."""
    if value is None:
        return DASH
    places = PLACES.get(unit, 3)
    return charts.signed(f"{round(value, places) + 0.0:.{places}f}")


def with_unit(value: float | None, unit: str) -> str:
    return written(value, unit) + after(unit)


def after(unit: str) -> str:
    """A unit behind a number; nothing of numbers without one."""
    return "" if unit == "1" else f" {unit}"


def when(seconds: int) -> str:
    """A time since 1970."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M UTC}"


def ahead(seconds: float, step: int) -> str:
    """A lead time, in the unit that suits steps of so many seconds."""
    size, unit = time_unit(step)
    return f"{seconds / size:g} {unit}"


def time_unit(step: int) -> tuple[int, str]:
    """Seconds of it, and its name."""
    if step >= charts.DAY:
        return charts.DAY, "d"
    return (charts.HOUR, "h") if step >= charts.HOUR else (60, "min")


def length(value: float, unit: str) -> str:
    """A side of a pixel, or of many."""
    return f"{value:g}°" if unit == "deg" else f"{value:g} {unit}"


def unit_name(unit: str) -> str:
    """Of lengths, as on an axis."""
    return {"deg": "degrees"}.get(unit, unit)


def method(name: str) -> str:
    return name.replace("_", " ").capitalize()


def moment(*said: str) -> str:
    """A time and what is known of it: of a grid no satellite."""
    return " · ".join(part for part in said if part not in ("", "unknown"))


def plus(text: str) -> str:
    """With its sign also where it is positive."""
    return text if text.startswith(charts.MINUS) or not text.strip("0.") else f"+{text}"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def size(count: float) -> str:
    """Bytes, in powers of a thousand, as disks and GPUs are sold."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:  # rounds to three digits
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB" if count < 999.5 else f"{count:,.0f} GB"


def listed(ids: Sequence[str], most: int = 12) -> str:
    if len(ids) > most:
        return f"{', '.join(ids[:most])} and {len(ids) - most} more"
    return " and ".join([", ".join(ids[:-1]), ids[-1]]) if len(ids) > 1 else "".join(ids)


def head(name: str, unit: str) -> str:
    text = HEADS.get(name, name.replace("_", " "))
    return text if unit == "1" else f"{text} [{unit_name(unit)}]"


def rounded(value: float | None, unit: str) -> float | None:
    """As rounded on the page: what looks equal there is equally good."""
    return None if value is None else round(value, PLACES.get(unit, 3))
