"""Pictures of a report: the chosen frames, what the slider shows, the loop and its map."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.answers import MODEL
from pipeline.pictures import Extent, Look, degree, proportions, round_values
from pipeline.reporting import charts, trackmap
from pipeline.reporting.choice import Scored
from pipeline.reporting.material import PIXELS, Material
from pipeline.reporting.storyboard import COARSE, DETAIL, ERROR, SMALL, TRUTH, Loop, Still
from pipeline.reporting.summary import capital
from pipeline.reporting.words import (
    TIMES,
    ahead,
    count,
    length,
    method,
    moment,
    unit_name,
    with_unit,
)


def panel_label(m: Material, what: str, frame: Scored | None) -> str:
    s = m.scores
    if what == COARSE:
        return f"Low-res, {length(s['factor'] * s['pixel'], s['pixel_units'])}"
    if what == TRUTH:
        name = "Interpolated truth" if s.get("truth") == "interpolated" else "Truth"
        known = s["pixel_units"] != PIXELS
        return name + (f", {length(s['pixel'], s['pixel_units'])}" if known else "")
    if what == ERROR:
        return f"{m.model} minus truth"
    name = m.model if what == MODEL else method(what)
    if frame is None:
        return name
    return f"{name}, RMSE {with_unit(frame.rmse.get(what), s['units']['rmse'])}"


def alt_text(m: Material, what: str, frame: Scored) -> str:
    return (
        f"{panel_label(m, what, None)}: {m.scores['channel']['long_name']} of {frame.track} at "
        f"{frame.when}"
    )


def extent(m: Material, shape: tuple[int, int], whole: tuple[int, int]) -> str:
    """How large a picture is, in pixels and on the ground."""
    pixel, unit = m.scores["pixel"], m.scores["pixel_units"]
    H, W = shape
    ground = f", {W * pixel:g} {TIMES} {H * pixel:g} {unit_name(unit)}" if unit != "pixels" else ""
    part = "" if shape == whole else f", the middle of {whole[1]} {TIMES} {whole[0]}"
    return f"{W} {TIMES} {H} pixels{part}{ground}"


def frames_of(m: Material) -> dict[str, Any]:
    board = m.board
    assert board.look is not None
    assert board.errors is not None
    order = [COARSE, *board.methods, TRUTH]

    def panel(still: Still, what: str) -> dict[str, str]:
        return {
            "what": what,
            "label": panel_label(m, what, still.frame),
            "picture": still.pictures[what],
            "bar": "error" if what == ERROR else "field",
            "alt": alt_text(m, what, still.frame),
        }

    small = all(max(still.shape) <= SMALL for still in board.stills)
    stills = [
        {
            "number": number,
            "title": moment(still.frame.track, still.frame.when, still.frame.satellite),
            "reasons": f"{still.frame.reason}. {extent(m, still.shape, still.whole)}.",
            "width": still.shape[1],
            "height": still.shape[0],
            "ratio": ratio(still.shape, still.ground),
            "edges": edges(still.ground),
            "detail": [round(share, 4) for share in still.detail],
            "panels": [panel(still, what) for what in (*order, ERROR)],
        }
        for number, still in enumerate(board.stills)
    ]
    return {
        "frames_intro": frames_intro(m, small),
        "detail": 0 if small else DETAIL,
        "part": part_shown(m),
        "stills": stills,
        "bars": [
            colour_bar("field", board.look, board.bars["field"]),
            colour_bar("error", board.errors, board.bars["error"]),
        ],
        "compare": {
            "choices": [{"what": what, "label": panel_label(m, what, None)} for what in order],
            "left": m.against,
            "right": MODEL,
        },
    }


def frames_intro(m: Material, small: bool) -> str:
    """small: whether frames are shown whole only."""
    others = "the wettest ones" if m.rain else "some spread over the tracks"
    said = (
        f"{count(len(m.board.stills), 'frame')}: {others}, and those where the model gains most "
        f"and least over {m.against}. "
    )
    if not small:
        said += f"Above the whole picture, below its {part_shown(m)}. "
    said += "North is up" + (", and the storm's centre is the picture's. " if m.followed else ". ")
    said += "".join(f"{capital(note)} " for note in m.notes)
    return f"{said}One colour scale serves all."


def averaged(whole: tuple[int, int], shape: tuple[int, int]) -> str:
    """Of how many pixels one of a picture is the mean."""
    f = -(-max(whole) // max(shape)) if max(shape) < max(whole) else 1
    return f"; one shown is the mean of {f} {TIMES} {f}" if f > 1 else ""


def part_shown(m: Material) -> str:
    """What is shown enlarged."""
    return "wettest part" if m.rain else "middle"


def ratio(shape: tuple[int, int], ground: Extent | None) -> str:
    """Width by height of a picture, as CSS; of a grid of degrees as on the ground."""
    if ground is None:
        return f"{shape[1]} / {shape[0]}"
    return f"{proportions(ground, 'earth'):.4f}"


def edges(ground: Extent | None) -> dict[str, str]:
    """What a picture covers, in words; empty where that is not known."""
    if ground is None:
        return {}
    west, east, south, north = (round(side, 3) for side in ground)
    return {
        "west": degree(west, "E", "W"),
        "east": degree(east, "E", "W"),
        "north": f"{degree(south, 'N', 'S')} to {degree(north, 'N', 'S')}",
    }


def colour_bar(kind: str, look: Look, picture: str) -> dict[str, Any]:
    if look.logarithmic:
        ticks = [(value, f"{value:g}") for value in round_values(look.low, look.high)]
    else:
        ticks = charts.linear_ticks(look.low, look.high, 8)
    values = np.array([value for value, _ in ticks])
    return {
        "kind": kind,
        "scale": "log" if look.logarithmic else "linear",
        "name": look.colours.name,
        "picture": picture,
        "low": f"{look.low:g}",
        "high": f"{look.high:g}",
        "units": look.label.rpartition("[")[2].rstrip("]"),
        "label": look.label,
        "dry": f"below {look.low:g}" if look.logarithmic else "",
        "ticks": [
            {"at": round(100 * float(share), 2), "text": text}
            for share, (_, text) in zip(look.share(values), ticks, strict=True)
        ],
    }


def film(m: Material, loop: Loop) -> dict[str, Any]:
    """The loop, as the page's script takes it."""
    order = [TRUTH, *m.board.methods] if m.forecast else [COARSE, *m.board.methods, TRUTH]
    course, shown = loop.course, loop.places
    places = trackmap.places(course, shown) if course else [None] * len(shown)
    frames = [
        {
            "label": now(m, loop, number),
            "pictures": pictures,
            "alts": {what: alt_text(m, what, frame) for what in order},
            "labels": {what: screen_label(m, what, loop, number) for what in order},
            "place": place,
        }
        for number, (frame, pictures, place) in enumerate(
            zip(loop.frames, loop.pictures, places, strict=True)
        )
    ]
    ordinal = "" if loop.every == 1 else f", one in {loop.every} of those scored"
    title = f"Best track of {loop.track}"
    return {
        "title": f"{loop.track}, {loop.frames[0].when} to {loop.frames[-1].when}",
        "intro": film_intro(m, loop, ordinal),
        "ratio": ratio(loop.shape, loop.ground),
        "followed": m.followed,
        "first": frames[0],
        "last": len(frames) - 1,
        "width": loop.shape[1],
        "height": loop.shape[0],
        "panels": [
            {
                "what": what,
                "label": screen_label(m, what, loop, 0),
                "picture": loop.pictures[0][what],
                "alt": alt_text(m, what, loop.frames[0]),
            }
            for what in order
        ],
        "track": loop.track,
        "map": Markup(trackmap.track_map(course, shown, title)) if course else "",
        "data": Markup(json.dumps({"frames": frames}, sort_keys=True).replace("<", "\\u003c")),
    }


def screen_label(m: Material, what: str, loop: Loop, number: int) -> str:
    """Above a picture of the loop; before a forecast all show what was observed."""
    if loop.leads and loop.leads[number] <= 0:
        return f"{panel_label(m, what, None)}: observed"
    return panel_label(m, what, loop.frames[number])


def film_intro(m: Material, loop: Loop, ordinal: str) -> str:
    if m.forecast:
        return forecast_intro(m, loop)
    said = f"{count(len(loop.frames), 'frame')}{ordinal}; {extent(m, loop.shape, loop.whole)}."
    if loop.shape != loop.whole:
        said += " The RMSE beside a method is of the whole frame."
    if m.rain:
        said += " The wettest stretch of all."
    if m.followed:
        said += " The storm stands still in the middle, since frames are centred on it."
    if not loop.exact:
        said += " Compressed as JPEG: look at the chosen frames above for exact values."
    return " ".join([said, *map(capital, m.notes)])


def forecast_intro(m: Material, loop: Loop) -> str:
    past = m.scores["past"]
    said = (
        f"{count(past, 'observed frame')}, then {count(len(m.leads), 'frame')} as they came and as "
        f"they were forecast; {extent(m, loop.whole, loop.whole)}"
        f"{averaged(loop.whole, loop.shape)}."
    )
    if loop.every > 1:
        said += f" One in {loop.every} is shown."
    if m.followed:
        said += " The storm stands still in the middle, since frames are centred on it."
    if not loop.exact:
        said += " Compressed as JPEG: the chosen windows above are not."
    return " ".join([said, *map(capital, m.notes)])


def lead_of(m: Material, lead: int) -> str:
    """How far ahead of the last observed frame, or before it."""
    if lead > 0:
        return f"{m.leads[lead - 1]} ahead"
    step = m.scores["step_seconds"]
    return "last observed" if lead == 0 else f"observed {ahead(-lead * step, step)} before"


def now(m: Material, loop: Loop, number: int) -> str:
    """Time, satellite, place and strength of one frame of the loop."""
    frame, at = loop.frames[number], loop.places[number]
    said = [frame.when, *([frame.satellite] if frame.satellite != "unknown" else [])]
    if loop.leads:
        said.append(lead_of(m, loop.leads[number]))
    elif number:
        hours = (frame.seconds - loop.frames[number - 1].seconds) / 3600
        said[0] += f" ({hours:g} h later)"
    if (course := loop.course) and course.known(at):
        said.append(
            f"{degree(round(float(course.latitude[at]), 1), 'N', 'S')} "
            f"{degree(round(float(course.longitude[at]), 1), 'E', 'W')}"
        )
        if math.isfinite(course.strength[at]):
            said.append(f"{course.strength[at]:.0f} {course.unit}")
    said.append(f"frame {number + 1} of {len(loop.frames)}")
    return " · ".join(part for part in said if part)
