"""What an experiment found, as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import pages
from pipeline.reporting.words import DASH, count, head, written

SAID = {
    "better": "experiment 2 is better",
    "worse": "experiment 2 is worse",
    "not told apart": "not told apart",
}
CAPTIONS = {
    "upstream.png": "What experiment 2 gains over experiment 1 and over each control: the value "
    "and its 95 % interval. To the right of 0 experiment 2 is better; a circle where that is "
    "certain, a square where it is certainly worse, a diamond where the two are not told apart.",
    "upstream-where.png": "Left: where in region 1 the upstream region helps. Right: how much the "
    "forecast of region 1 changes when a block of the input is filled with the training mean, "
    "mean over seeds and dates.",
}


def render(told: Mapping[str, Any], pictures: Sequence[Path]) -> str:
    """The page of upstream.json; the same numbers and pictures give the same text."""
    names = list(next(iter(told["scores"].values())))
    return pages.template("upstream.html").render(
        told=told,
        heads=[head(name, unit_of(told, name)) for name in names],
        scores=[
            (title_of(told, arm), [cell(told, name, each[name]) for name in names])
            for arm, each in told["scores"].items()
        ],
        differences=differences(told),
        pictures=[
            {
                "source": inline(path),
                "caption": CAPTIONS.get(path.name, ""),
                "of": path.stem.replace("-", " "),
            }
            for path in pictures
        ],
        facts=facts(told),
    )


def differences(told: Mapping[str, Any]) -> list[tuple[str, list[dict[str, str]]]]:
    """By arm, score by score."""
    found: dict[str, list[dict[str, str]]] = {}
    for each in told["differences"]:
        is_ = each["upstream_is"]
        found.setdefault(title_of(told, each["arm"]), []).append(
            {
                **cell(told, each["score"], each),
                "seeds": f"better in {each['seeds_won']} of {count(told['seeds'], 'seed')}",
                "said": SAID[is_],
                "is": is_.replace(" ", "-"),
            }
        )
    return list(found.items())


def unit_of(told: Mapping[str, Any], score: str) -> str:
    return str(told["units"]) if score == "rmse" else "1"


def title_of(told: Mapping[str, Any], arm: str) -> str:
    return str(told["arms"].get(arm, arm.replace("_", " ")))


def cell(told: Mapping[str, Any], score: str, each: Mapping[str, Any]) -> dict[str, str]:
    unit = unit_of(told, score)
    low, high = (written(end, unit) for end in each["interval"])
    interval = DASH if None in each["interval"] else f"{low} to {high}"
    return {"value": written(each["value"], unit), "interval": interval}


def facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    asked = told["settings"]["upstream"]
    rain = told["thresholds"]
    limits = ", ".join(f"{name} {mm:g} mm" for name, mm in rain.items())
    return [
        ("region 1", box(asked["region"])),
        ("region 2, upstream", box(asked["upstream"])),
        ("reach of experiment 2", told["reach"]["told"]),
        ("parameters of every model", f"{told['parameters']:,}"),
        ("judged", f"{told['windows']} windows of the {told['part']} tracks "
         f"{', '.join(told['tracks'])}; checkpoint {told['checkpoint']}"),
        ("blocks of dates", f"{told['block_windows']} windows, {told['block_hours']:g} h"),
        *([("rain classes", f"{limits} in {told['accumulation_hours']:g} h")] if rain else []),
        ("store", f"{told['store']}, conversion {told['manifest_hash'][:12]}"),
        ("software", told["software"]),
    ]  # fmt: skip


def box(sides: Sequence[float]) -> str:
    west, east, south, north = sides
    return f"{west:g} to {east:g} east, {south:g} to {north:g} north"


def inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
