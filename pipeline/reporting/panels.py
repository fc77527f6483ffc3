"""Pictures of a report: the chosen frames, what the slider shows, the loop and its map."""

from __future__ import annotations

import json
import math
from typing import Any

from markupsafe import Markup

from pipeline.answers import MODEL
from pipeline.pictures import Look
from pipeline.reporting import charts, trackmap
from pipeline.reporting.material import Material
from pipeline.reporting.storyboard import COARSE, ERROR, TRUTH, Loop, Scored, Still
from pipeline.reporting.words import TIMES, count, with_unit


def panel_label(m: Material, what: str, frame: Scored | None) -> str:
    s = m.scores
    if what == COARSE:
        return f"Low-res, {s['factor'] * s['pixel']:g} {s['pixel_units']}"
    if what == TRUTH:
        return f"Truth, {s['pixel']:g} {s['pixel_units']}"
    if what == ERROR:
        return f"{m.model} minus truth"
    name = m.model if what == MODEL else what.capitalize()
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
    ground = f", {W * pixel:g} {TIMES} {H * pixel:g} {unit}" if unit != "pixels" else ""
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

    stills = [
        {
            "number": number,
            "title": f"{still.frame.track} · {still.frame.when} · {still.frame.satellite}",
            "reasons": f"{still.frame.reason}. {extent(m, still.shape, still.whole)}.",
            "width": still.shape[1],
            "height": still.shape[0],
            "panels": [panel(still, what) for what in (*order, ERROR)],
        }
        for number, still in enumerate(board.stills)
    ]
    return {
        "frames_intro": f"{count(len(stills), 'frame')}: some spread over the tracks, and those "
        f"where the model gains most and least over {m.against}. Above the whole picture, below "
        "its middle. North is up, and the storm's centre is the picture's. One colour scale "
        "serves all.",
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


def colour_bar(kind: str, look: Look, picture: str) -> dict[str, Any]:
    width = look.high - look.low
    ticks = [
        {"at": round(100 * (value - look.low) / width, 2), "text": text}
        for value, text in charts.linear_ticks(look.low, look.high, 8)
    ]
    return {
        "kind": kind,
        "picture": picture,
        "low": f"{look.low:g}",
        "high": f"{look.high:g}",
        "units": look.label.rpartition("[")[2].rstrip("]"),
        "label": look.label,
        "ticks": ticks,
    }


def film(m: Material, loop: Loop) -> dict[str, Any]:
    """The loop, as the page's script takes it."""
    order = [COARSE, *m.board.methods, TRUTH]
    course, shown = loop.course, loop.places
    places = trackmap.places(course, shown) if course else [None] * len(shown)
    frames = [
        {
            "label": now(m, loop, number),
            "pictures": pictures,
            "alts": {what: alt_text(m, what, frame) for what in order},
            "labels": {what: panel_label(m, what, frame) for what in order},
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
        "intro": f"{len(frames)} frames{ordinal}; {extent(m, loop.shape, loop.whole)}. The storm "
        "stands still in the middle, since frames are centred on it. Compressed as JPEG: look at "
        "the chosen frames above for exact values.",
        "first": frames[0],
        "last": len(frames) - 1,
        "width": loop.shape[1],
        "height": loop.shape[0],
        "panels": [
            {
                "what": what,
                "label": panel_label(m, what, loop.frames[0]),
                "picture": loop.pictures[0][what],
                "alt": alt_text(m, what, loop.frames[0]),
            }
            for what in order
        ],
        "track": loop.track,
        "map": Markup(trackmap.track_map(course, shown, title)) if course else "",
        "data": Markup(json.dumps({"frames": frames}, sort_keys=True).replace("<", "\\u003c")),
    }


def now(m: Material, loop: Loop, number: int) -> str:
    """Time, satellite, place and strength of one frame of the loop."""
    frame, at = loop.frames[number], loop.places[number]
    said = [frame.when, frame.satellite]
    if number:
        hours = (frame.seconds - loop.frames[number - 1].seconds) / 3600
        said[0] += f" ({hours:g} h later)"
    if (course := loop.course) and course.known(at):
        said.append(
            f"{trackmap.degree(round(float(course.latitude[at]), 1), 'N', 'S')} "
            f"{trackmap.degree(round(float(course.longitude[at]), 1), 'E', 'W')}"
        )
        if math.isfinite(course.strength[at]):
            said.append(f"{course.strength[at]:.0f} {course.unit}")
    said.append(f"frame {number + 1} of {len(loop.frames)}")
    return " · ".join(part for part in said if part)
