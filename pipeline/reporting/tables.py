"""Tables of scores: which are beside each other, the best of each column, what they mean.

Every score is taken from scores.json as it is; here it is only rounded and ordered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.answers import MODEL
from pipeline.reporting.material import Material
from pipeline.reporting.words import after, count, head, plus, rounded, written

# Scores by what they judge, in the order of the tables; others come last.
GROUPS = {
    "Errors": ("rmse", "mae", "bias", "psnr", "ssim"),
    "Detail and motion": (
        "log_spectral_distance",
        "effective_resolution",
        "tof",
        "temporal_std_ratio",
    ),
    "Cold cloud": (
        "cold_area_error_208",
        "cold_area_error_220",
        "cold_area_error_235",
        "min_temperature_error",
        "min_temperature_bias",
    ),
    "Cold cloud in its place": ("csi_220", "fss_220"),
    "Wet area and extremes": (
        "wet_area_error",
        "wet_area_bias",
        "quantile_error_0.95",
        "quantile_error_0.99",
        "quantile_error_0.999",
    ),
    "Rain in its place": (
        "csi_light",
        "csi_moderate",
        "csi_heavy",
        "fss_light",
        "fss_moderate",
        "fss_heavy",
    ),
}
OTHERS = "Other scores"
# What is charted over lead times, as far as there is.
OVER_LEADS = (
    "rmse",
    "csi_light",
    "csi_moderate",
    "csi_heavy",
    "csi_220",
    "ssim",
    "log_spectral_distance",
)
BETTER = {
    "lower": "lower is better",
    "higher": "higher is better",
    "zero": "nearer 0 is better",
    "one": "nearer 1 is better",
    "none": "neither way is better",
}
MEANINGS = {
    "rmse": "the usual size of an error of one pixel; large errors count most",
    "mae": "the mean size of an error of one pixel",
    "psnr": "the error of each image relative to the range of values, in decibels",
    "ssim": "whether local means, contrasts and patterns agree; 1 is equal",
    "log_spectral_distance": "how far the power of structures of each size is from the truth's",
    "effective_resolution": "smaller structures have less than half of the power that they have "
    "in the truth",
    "tof": "how far the motion between consecutive frames is from the truth's",
    "temporal_std_ratio": "variation in time over three consecutive frames, divided by the "
    "truth's; above 1 flickers, below 1 is sluggish",
    "cold_area_error_208": "share of a frame that is colder, against the truth's",
    "cold_area_error_220": "share of a frame that is colder, against the truth's",
    "cold_area_error_235": "share of a frame that is colder, against the truth's",
    "min_temperature_error": "of each frame's coldest pixel, whatever its sign",
    "min_temperature_bias": "the coldest pixel is too warm (above 0) or too cold",
    "csi_220": "of all pixels that are colder in either, the share that is in both",
    "fss_220": "whether as much of each small neighbourhood is colder; 1 is equal",
    "wet_area_error": "share of a frame that is wet, against the truth's, whatever its sign",
    "wet_area_bias": "too much of a frame is wet (above 0) or too little, on average",
    "quantile_error_0.95": "of all pixels, dry ones too, 5 % are wetter than that",
    "quantile_error_0.99": "of all pixels, dry ones too, 1 % are wetter than that",
    "quantile_error_0.999": "of all pixels, dry ones too, 0.1 % are wetter than that",
}
# by how a score of rain begins
BY_INTENSITY = {
    "csi_": "of all pixels with that much rain in either, the share that has it in both",
    "fss_": "whether as much of each small neighbourhood has that much rain; 1 is equal",
}
# What a score is undefined without, by how its name begins.
NEEDED = {
    "temporal_std_ratio": "three consecutive frames",
    "tof": "two consecutive frames",
    "log_spectral_distance": "an image without a missing pixel",
    "effective_resolution": "an image without a missing pixel",
    "ssim": "a neighbourhood without a missing pixel",
    "csi_": "a pixel of that kind, in the truth or in an answer",
    "fss_": "a pixel of that kind, in the truth or in an answer",
}
TOO_MUCH = {"K": ("warm", "cold"), "mm": ("wet", "dry")}  # above the truth, below it; by unit
METHODS = {
    MODEL: "the trained network that is judged here; its settings are at the end",
    "bicubic": "cubic interpolation of the coarse frame; nothing is learnt",
    "bilinear": "linear interpolation of the coarse frame; nothing is learnt",
    "bicubic_means": "bicubic, corrected so that the mean of each coarse pixel is exact; nothing "
    "is learnt, so a model should beat it too",
    "nearest": "the coarse pixels themselves, enlarged",
    "lanczos": "interpolation by a windowed sinc function; nothing is learnt",
    "persistence": "the last observed frame, as if nothing changed; nothing is learnt",
    "optical_flow": "the last observed frame, moved on as it moved before (Lagrangian "
    "persistence); nothing is learnt",
    "past_mean": "the mean of the observed frames; of little error far ahead, without knowing "
    "anything of what comes",
}


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """These scores, by what they judge."""
    made = {title: [n for n in known if n in names] for title, known in GROUPS.items()}
    known = {name for group in GROUPS.values() for name in group}
    made[OTHERS] = [name for name in names if name not in known]
    return {title: inside for title, inside in made.items() if inside}


def distance(value: float | None, better: str) -> float:
    """How far a score is from the best that it could be, smaller is better; inf for none."""
    if value is None:
        return math.inf
    if better == "zero":
        return abs(value)
    if better == "none":
        return 0.0  # all equally good
    if better == "one":
        return abs(value - 1)
    return value if better == "lower" else -value


def heads(m: Material, names: Sequence[str]) -> list[dict[str, str]]:
    units, better, long = (m.scores[key] for key in ("units", "better", "long_names"))
    return [
        {"name": n, "head": head(n, units[n]), "better": BETTER[better[n]], "long": long[n]}
        for n in names
    ]


def rows_of(
    m: Material, of: Mapping[str, Any], names: Sequence[str], whole: bool
) -> list[dict[str, Any]]:
    """Rows of a table. of: scores by method; whole: of all tracks, so with intervals."""
    units, better = m.scores["units"], m.scores["better"]
    near = {
        name: {row: distance(rounded(of[row][name], units[name]), better[name]) for row in m.rows}
        for name in names
    }
    made = []
    for row in m.rows:
        cells = []
        for name in names:
            value, unit = of[row][name], units[name]
            all_ = near[name].values()
            cells.append(
                {
                    "value": written(value, unit),
                    "best": value is not None and near[name][row] == min(all_) < max(all_),
                    "interval": interval(m, row, name) if whole else "",
                    "difference": difference(m, row, name) if whole else "",
                }
            )
        made.append({"name": row, "label": m.label(row), "cells": cells})
    return made


def interval(m: Material, row: str, name: str) -> str:
    bounds = m.scores["intervals"]["rows"].get(row, {}).get(name)
    unit = m.scores["units"][name]
    return "" if bounds is None else f"{written(bounds[0], unit)} to {written(bounds[1], unit)}"


def difference(m: Material, row: str, name: str) -> str:
    found = m.scores["intervals"]["differences"].get(row, {}).get(name)
    if found is None or row == m.against:
        return ""
    value, low, high = (plus(written(v, m.scores["units"][name])) for v in found)
    return f"{value} [{low}, {high}]"


def scores_intro(m: Material) -> str:
    s = m.scores
    span = s["psnr_range"]
    told = "".join(f"{note[:1].upper()}{note[1:]}. " for note in m.notes) + (
        f"All pixels but missing ones of {frames_of(m)}, in physical units"
        f"{fewer(m)}; ★ marks the best of each column. PSNR and SSIM take "
        f"{span['min']:g} to {span['max']:g}{after(span['units'])} as their range. "
    )
    if limits := s.get("thresholds"):
        told += (
            f"Rain is light from {limits['light']:g} {limits['units']} on, moderate from "
            f"{limits['moderate']:g}, heavy from {limits['heavy']:g}; light rain is what counts as "
            "wet. "
        )
    if len(m.ids) < 2:
        return told + "Intervals over tracks are undefined for one track, and so are not shown."
    i = s["intervals"]
    return told + (
        f"Below each value: its {i['level']:.0%} interval over {i['over']} "
        f"({i['resamples']} resamples), and Δ, the difference from {i['against']} with its "
        "interval. Where there is none, some of these resamples leave the score undefined."
    )


def frames_of(m: Material) -> str:
    """How many were scored."""
    if not m.forecast:
        return count(m.scores["frames"], "frame")
    windows = m.scores["frames"] // len(m.leads)
    if len(m.leads) == 1:
        return f"{count(windows, 'frame')} forecast {m.leads[0]} ahead"
    return f"{count(windows, 'window')} at all of {len(m.leads)} lead times"


def fewer(m: Material) -> str:
    """Which scores are of less than all frames."""
    images = m.scores["curves"]["spectrum"]["images"]
    motion = "; motion: of frames that follow one another" * ("tof" in m.scores["units"])
    return f" (spectra: of {count(images, 'image')} without a missing pixel{motion})"


def meanings(m: Material) -> list[dict[str, str]]:
    s = m.scores
    made = []
    for name in [n for group in grouped(list(s["units"])).values() for n in group]:
        text = s["long_names"][name]
        if told := meaning(m, name):
            text += f": {told}"
        if (without := needed(name)) and any(s[row][name] is None for row in m.rows):
            text += f"; undefined here, as it needs {without}"
        made.append(
            {
                "head": head(name, s["units"][name]),
                "text": f"{text}. {BETTER[s['better'][name]].capitalize()}.",
            }
        )
    return made


def meaning(m: Material, name: str) -> str:
    """What a score tells, in plain words; empty where nobody wrote any."""
    if name == "bias":
        more, less = TOO_MUCH.get(m.scores["units"][name], ("high", "low"))
        return f"too {more} (above 0) or too {less} on average"
    begin, _, intensity = name.partition("_")
    if intensity in m.scores.get("thresholds", {}):
        return BY_INTENSITY.get(f"{begin}_", "")
    return MEANINGS.get(name, "")


def needed(name: str) -> str:
    """What a score is undefined without; empty where that is not known."""
    return next((what for begin, what in NEEDED.items() if name.startswith(begin)), "")
