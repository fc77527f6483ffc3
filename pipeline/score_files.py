"""An evaluation's files in the run folder: scores.json, scores.csv, and the sums behind them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import atomic, checkpoint, metrics, resampling, site_plots
from pipeline.checkpoint import Checkpoint
from pipeline.credit import Credit
from pipeline.errors import UserError
from pipeline.metrics import PROBABILITIES, Distribution, RadialProfile, Spectra
from pipeline.scorecard import Card, Yardstick
from pipeline.scores import Scores, TrackScores
from pipeline.tasks import INTERPOLATED

NAMES = {"eval": "scores", "test": "scores-test"}
PER_FRAME = ("rmse", "mae", "bias", "psnr", "ssim")
FORMAT, SUMS_FORMAT = "eddy scores 3", "eddy sums 2"
# what scores.json must hold beside a table for each of its rows
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "rows": list,
    "units": dict,
    "better": dict,
    "long_names": dict,
    "intervals": dict,
    "notes": list,
    "psnr_range": dict,
    "pixel": (int, float),
    "pixel_units": str,
    "frames": int,
    "frames_left_out": int,
    "tracks_left_out": list,
    "model_name": str,
    "checkpoint": str,
    "epoch": int,
    "step": int,
    "task": str,
    "store": str,
    "manifest_hash": str,
    "trained_manifest_hash": str,
    "trained_on": list,
    "chosen_on": list,
    "on": str,
    "channel": dict,
    "tracks": dict,
    "track_frames": dict,
    "by_frame": dict,
    "curves": dict,
}
OF_A_TASK: dict[str, dict[str, type | tuple[type, ...]]] = {  # beside those, by its kind
    "superres": {"factor": int, "truth": str},
    "forecast": {
        "past": int,
        "future": int,
        "step_seconds": int,
        "lead_times": list,
        "lead_seconds": list,
    },
}
PARTS = {  # and what these of them must hold
    "intervals": ("level", "resamples", "over", "against", "rows", "differences", "model_minus"),
    "psnr_range": ("min", "max", "units"),
    "channel": ("name", "long_name", "units", "valid_min", "valid_max"),
    "curves": ("spectrum", "quantiles", "radial_profile"),
}


def path(run: Path, on: str, ending: str = ".json") -> Path:
    """Of scores.json, .csv or .sums.json, of the eval or test tracks."""
    return run / (NAMES[on] + ending)


def write(run: Path, on: str, scores: Scores) -> Path:
    """Write all of them; returns scores.json, which comes last."""
    if scores.sites:
        with atomic.replacing(path(run, on, ".sites.csv")) as temporary:
            at_sites(scores).to_csv(temporary, index=False)
        units, credit = scores.yardstick.units, Credit.of(scores.about)
        site_plots.draw(path(run, on, ".sites.png"), scores.series, units, credit)
    with atomic.replacing(path(run, on, ".csv")) as temporary:
        table_of(scores).to_csv(temporary, index=False)
    behind = sums(scores)
    with atomic.replacing(path(run, on, ".sums.json")) as temporary:
        temporary.write_text(json.dumps(behind), encoding="utf-8")
    atomic.write_json(path(run, on), {"format": FORMAT, "id": behind["id"], **summary(scores)})
    return path(run, on)


def read(run: Path, on: str) -> dict[str, Any]:
    """scores.json. Raises UserError where there is none that is whole."""
    file = path(run, on)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError("written by another eddy")
        refuse_incomplete(found)
    except FileNotFoundError:
        raise UserError(f"{run}: has no {file.name}; run {command(run, on)} first") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{file}: not scores ({error}); run {command(run, on)} again") from None
    return found


def refuse_incomplete(told: Mapping[str, Any]) -> None:
    """Raises ValueError for scores of which a part is missing, or is not what it should be."""
    for name, kind in (REQUIRED | OF_A_TASK.get(told.get("task", ""), {})).items():
        if not isinstance(told.get(name), kind):
            raise ValueError(f"{name} is missing or damaged")
    for name, keys in PARTS.items():
        if missing := [key for key in keys if key not in told[name]]:
            raise ValueError(f"{name} lacks {', '.join(missing)}")
    rows, found = told["rows"], told["intervals"]
    if found["against"] not in rows or set(found["model_minus"]) != set(rows[1:]):
        raise ValueError("intervals are of other methods")
    leads = {f"lead {n}": of for n, of in enumerate(told.get("lead_times", []))}
    for where, of in {"all tracks": told, **leads, **told["tracks"]}.items():
        for row in rows:
            if set(told["units"]) - set(of.get(row) or ()):
                raise ValueError(f"{where}: scores of {row} are missing")
    if not set(told["tracks"]) == set(told["track_frames"]) == set(told["by_frame"]):
        raise ValueError("tracks, track_frames and by_frame are of other tracks")
    if len(told.get("lead_seconds", [])) != len(leads):
        raise ValueError("lead_times and lead_seconds are of other leads")
    for id, by in told["by_frame"].items():
        if leads and sorted(set(by.get("lead") or ())) != list(range(len(leads))):
            raise ValueError(f"{id} has not every lead")
        refuse_uneven(id, by, rows, told["track_frames"][id])


def refuse_uneven(id: str, by: Mapping[str, Any], rows: list[str], frames: int) -> None:
    """Raises ValueError for columns of by_frame that have not a value for each frame."""
    columns = {name: by.get(name) for name in ("frame", "time", "satellite")}
    columns |= {"lead": by["lead"]} if "lead" in by else {}
    for name in PER_FRAME:
        columns |= {f"{name} of {row}": (by.get(name) or {}).get(row) for row in rows}
    for name, column in columns.items():
        if not isinstance(column, list) or len(column) != frames:
            raise ValueError(f"{id} has not one {name} for each of {frames} frames")


def scored(run: Path, on: str) -> tuple[dict[str, Any], Checkpoint]:
    """scores.json, and the checkpoint that it is of.

    Raises UserError for a run that was not evaluated, or was trained since.
    """
    checkpoint.refuse_missing(run)
    told = read(run, on)
    trained = checkpoint.load(checkpoint.in_run(run, told["checkpoint"]))
    refuse_stale(run, on, trained, told)
    return told, trained


def refuse_stale(run: Path, on: str, trained: Checkpoint, told: Mapping[str, Any]) -> None:
    """Scores of one model beside another model would lie. Raises UserError.

    trained: the checkpoint that scores.json names, as it is now.
    """
    for name in ("epoch", "step"):
        now = trained.training["position"][name]
        if now != told[name]:
            raise UserError(
                f"{run}: scored after {name} {told[name]}, but checkpoint {told['checkpoint']!r} "
                f"is of {name} {now} by now; run {command(run, on)} again"
            )


def read_sums(
    run: Path, on: str, told: Mapping[str, Any] | None = None
) -> tuple[Yardstick, dict[str, dict[str, Card]]]:
    """What they were measured with; and by track and method, over all lead times, the sums.

    told: the scores.json that they must be behind. Raises UserError where there is no file of them
    that can be read, or it is of another evaluation.
    """
    file = path(run, on, ".sums.json")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found.get("format") != SUMS_FORMAT:
            raise ValueError(f"format {found.get('format')!r}, expected {SUMS_FORMAT!r}")
        if found["id"] != id_of(found["yardstick"], found["tracks"]):
            raise ValueError("changed since they were written")
        cards = {
            id: {row: Card.of_plain(card) for row, card in cards.items()}
            for id, cards in found["tracks"].items()
        }
        if told is not None:
            refuse_others(told, found["id"], cards)
        return Yardstick(**found["yardstick"]), cards
    except FileNotFoundError:
        raise UserError(f"{run}: has no {file.name}; run {command(run, on)} first") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{file}: not sums ({error}); run {command(run, on)} again") from None


def refuse_others(told: Mapping[str, Any], id: str, cards: Mapping[str, Any]) -> None:
    """Raises ValueError for sums that are not those behind scores.json."""
    if told["id"] != id:
        raise ValueError("of another evaluation than scores.json beside them")
    if set(cards) != set(told["tracks"]):
        raise ValueError("of other tracks than scores.json beside them")
    if any(list(rows) != told["rows"] for rows in cards.values()):
        raise ValueError("of other methods than scores.json beside them")


def id_of(yardstick: Mapping[str, Any], tracks: Mapping[str, Any]) -> str:
    """Of an evaluation: the same for the same sums, as they are or read again from JSON."""
    return hashlib.sha256(json.dumps([yardstick, tracks]).encode()).hexdigest()


def command(run: Path, on: str) -> str:
    return f"`cli evaluate {run}" + (f" --on {on}`" if on != "eval" else "`")


def sums(scores: Scores) -> dict[str, Any]:
    """What any other choice of these tracks can be scored from."""
    yardstick = vars(scores.yardstick)
    tracks = {
        id: {row: card.without_curves().plain() for row, card in track.whole.items()}
        for id, track in scores.by_track.items()
    }
    return {
        "format": SUMS_FORMAT,
        "id": id_of(yardstick, tracks),
        "yardstick": yardstick,
        "tracks": tracks,
    }


def summary(scores: Scores) -> dict[str, Any]:
    """scores.json: a row of scores per method, and beside them all that they depend on."""
    names = list(scores.units)
    y = scores.yardstick
    return {
        **finite(scores.rows),
        "rows": list(scores.rows),
        "units": scores.units,
        "better": {name: metrics.ABOUT[name].better for name in names},
        "long_names": {name: metrics.ABOUT[name].long_name for name in names},
        "intervals": intervals(scores),
        "notes": list(notes(scores)),
        **rain(scores),
        "psnr_range": {"min": y.low, "max": y.high, "peak": y.peak, "units": y.units},
        "pixel": y.pixel,
        "pixel_units": y.pixel_units,
        "frames": scores.frames,
        **scores.about,
        "tracks": finite(scores.tracks),
        "track_frames": {id: len(track.frames) for id, track in scores.by_track.items()},
        **by_lead(scores),
        "by_frame": {
            id: frame_by_frame(track, scores.is_forecast) for id, track in scores.by_track.items()
        },
        "curves": curves(scores.cards, y),
    }


def by_lead(scores: Scores) -> dict[str, Any]:
    """Of a forecast: a table per lead time, and how long ahead each is; else nothing."""
    if not scores.is_forecast:
        return {}
    step = scores.about["step_seconds"]
    return {
        "lead_times": finite(scores.leads),
        "lead_seconds": [step * (lead + 1) for lead in range(len(scores.leads))],
    }


def notes(scores: Scores) -> tuple[str, ...]:
    """What must be said wherever these scores are shown."""
    return (INTERPOLATED,) if scores.about.get("truth") == "interpolated" else ()


def rain(scores: Scores) -> dict[str, Any]:
    """What scores of rain depend on, and the sites that were followed; of all else nothing."""
    told: dict[str, Any] = {}
    if scores.yardstick.is_rain:
        told["accumulation_hours"] = scores.yardstick.hours
        told["thresholds"] = {**scores.yardstick.thresholds, "units": scores.yardstick.units}
    if scores.sites:
        told["sites"] = finite([series.summary() for series in scores.series])
    return told


def intervals(scores: Scores) -> dict[str, Any]:
    """Of each score, and of the differences between methods, over tracks drawn anew."""
    unknown = dict.fromkeys(scores.units)
    usual = scores.baseline
    model, *baselines = scores.rows
    return {
        "level": resampling.LEVEL,
        "resamples": scores.resamples,
        "seed": scores.seed,
        "over": "tracks",
        "tracks": len(scores.by_track),
        "rows": finite(scores.intervals) or dict.fromkeys(scores.rows, unknown),
        "against": usual,
        "differences": {  # each from the usual baseline
            row: finite(scores.differences(row, usual)) or unknown
            for row in scores.rows
            if row != usual
        },
        "model_minus": {  # the model from each
            row: finite(scores.differences(model, row)) or unknown for row in baselines
        },
    }


def frame_by_frame(track: TrackScores, forecast: bool) -> dict[str, Any]:
    """Columns, a value for each frame, at each lead time where there are several."""
    frames = track.frames
    each = {row: [f.errors[row].scores() for f in frames] for row in frames[0].errors}
    leads = {"lead": [f.lead for f in frames]} if forecast else {}
    return {
        "frame": [f.number for f in frames],
        **leads,
        "time": [utc(f.time) for f in frames],
        "satellite": [f.satellite for f in frames],
        **{
            name: {row: finite([scores[name] for scores in found]) for row, found in each.items()}
            for name in PER_FRAME
        },
    }


def table_of(scores: Scores) -> pd.DataFrame:
    """scores.csv: a line per frame and method, then one per track, then one for all."""
    lines: list[dict[str, Any]] = []
    for id, track in scores.by_track.items():
        for frame in track.frames:
            where = {"of": "frame", "track": id, "frame": frame.number, "time": utc(frame.time)}
            if scores.is_forecast:
                where["lead"] = frame.lead
            for row, errors in frame.errors.items():
                lines.append({**where, "method": row, **errors.scores()})
    for id, rows in scores.tracks.items():
        lines += [{"of": "track", "track": id, "method": row, **s} for row, s in rows.items()]
    lines += [{"of": "all", "method": row, **found} for row, found in scores.rows.items()]
    return pd.DataFrame(lines).astype({"frame": "Int64"})  # whole numbers, though some have none


def at_sites(scores: Scores) -> pd.DataFrame:
    """A line per site and frame: the truth, and each method on the same date."""
    return pd.DataFrame(
        [
            {
                "site": site.name,
                "latitude": site.latitude,
                "longitude": site.longitude,
                "track": id,
                "time": utc(frame.time),
                **{row: values[number] for row, values in frame.at_sites.items()},
            }
            for number, site in enumerate(scores.sites)
            for id, track in scores.by_track.items()
            for frame in track.frames
            if frame.lead == 0
        ]
    )


def curves(cards: Mapping[str, Card], yardstick: Yardstick) -> dict[str, Any]:
    """Mean spectrum, quantiles, and profile about the centre: the truth's and each method's."""
    spectra = {row: card.part(Spectra).curve(pixel=yardstick.pixel) for row, card in cards.items()}
    wavelength, power, _ = next(iter(spectra.values()))
    quantiles = {
        row: card.part(Distribution).quantiles(PROBABILITIES) for row, card in cards.items()
    }
    profiles = {row: card.part(RadialProfile).curve(yardstick.pixel) for row, card in cards.items()}
    radius, profile, _, _ = next(iter(profiles.values()))
    return {
        "spectrum": {
            "wavelength": listed(wavelength),
            "units": yardstick.pixel_units,
            "truth": listed(power),
            "rows": {row: listed(found) for row, (_, _, found) in spectra.items()},
            "images": sum(next(iter(cards.values())).part(Spectra).images.values()),
        },
        "quantiles": {
            "probability": listed(PROBABILITIES),
            "units": yardstick.units,
            "truth": listed(next(iter(quantiles.values()))[0]),
            "rows": {row: listed(found) for row, (_, found) in quantiles.items()},
        },
        "radial_profile": {
            "radius": listed(radius),
            "units": yardstick.pixel_units,
            "truth": listed(profile),
            "rows": {row: listed(found) for row, (_, _, found, _) in profiles.items()},
            "rmse": {row: listed(found) for row, (_, _, _, found) in profiles.items()},
        },
    }


def listed(values: np.ndarray) -> list[float | None]:
    found: list[float | None] = finite(values.tolist())
    return found


def utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%MZ")


def finite(value: Any) -> Any:
    """The same without NaN, which JSON does not know: what is undefined is null."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        found = [finite(each) for each in value]
        return None if isinstance(value, tuple) and None in found else found
    return value if not isinstance(value, float) or math.isfinite(value) else None
