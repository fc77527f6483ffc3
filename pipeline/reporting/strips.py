"""Pictures of a forecast's report: chosen windows, a row for each method over the lead times."""

from __future__ import annotations

from typing import Any

from pipeline.pictures import Extent
from pipeline.reporting.choice import Scored
from pipeline.reporting.material import PIXELS, Material
from pipeline.reporting.panels import (
    alt_text,
    averaged,
    colour_bar,
    edges,
    extent,
    panel_label,
    ratio,
)
from pipeline.reporting.storyboard import ERROR, TRUTH, Strip
from pipeline.reporting.summary import capital
from pipeline.reporting.words import count, moment, when, with_unit, written


def strips_of(m: Material) -> dict[str, Any]:
    """The chosen windows of a forecast."""
    board = m.board
    assert board.look is not None
    assert board.errors is not None
    return {
        "frames_intro": strips_intro(m),
        "strips": [strip_of(m, strip) for strip in board.strips],
        "bars": [
            colour_bar("field", board.look, board.bars["field"]),
            colour_bar("error", board.errors, board.bars["error"]),
        ],
    }


def strip_of(m: Material, strip: Strip) -> dict[str, Any]:
    """A row of pictures for the truth and each method, a column for each lead time."""
    frames, unit = [strip.window.frames[lead] for lead in strip.leads], m.scores["units"]["rmse"]
    leads = [m.leads[lead] for lead in strip.leads]
    at = issued(m, strip.window.frames[0])

    def label(what: str, frame: Scored, lead: str) -> str:
        if what in (TRUTH, ERROR):
            return f"Truth, +{lead}" if what == TRUTH else f"+{lead}"
        return f"+{lead}, RMSE {written(frame.rmse[what], unit)}"

    def row(what: str) -> dict[str, Any]:
        rmse = what not in (TRUTH, ERROR)
        return {
            "label": panel_label(m, what, None),
            "note": f"RMSE {with_unit(strip.window.rmse(what), unit)}" if rmse else "",
            "bar": "error" if what == ERROR else "field",
            "panels": [
                {
                    "label": label(what, frame, lead),
                    "picture": picture,
                    "alt": f"{alt_text(m, what, frame)}, {lead} ahead",
                }
                for frame, lead, picture in zip(frames, leads, strip.pictures[what], strict=True)
            ],
        }

    return {
        "title": moment(strip.window.track, f"forecast from {at}", frames[0].satellite),
        "reasons": f"{strip.window.reason}. {extent(m, strip.whole, strip.whole)}"
        f"{where(strip.ground)}{averaged(strip.whole, strip.shape)}.",
        "ratio": ratio(strip.shape, strip.ground),
        "width": strip.shape[1],
        "height": strip.shape[0],
        "ground": strip.ground is not None,
        "columns": len(leads) + 1,
        "observed": {
            "picture": strip.observed,
            "alt": f"Last observed: {m.scores['channel']['long_name']} of {strip.window.track} at "
            f"{at}",
        },
        "rows": [row(what) for what in (TRUTH, *m.board.methods, ERROR)],
    }


def issued(m: Material, first: Scored) -> str:
    """When the last frame before a forecast was observed; first: what follows it."""
    return when(first.seconds - m.scores["step_seconds"])


def where(ground: Extent | None) -> str:
    """From side to side, as far as that is known."""
    found = edges(ground)
    return f", {found['west']} to {found['east']}, {found['north']}" if found else ""


def strips_intro(m: Material) -> str:
    count_, most = len(m.board.strips), max(len(strip.leads) for strip in m.board.strips)
    said = (
        f"{count(count_, 'window')}, by the model's RMSE over all lead times. "
        "First the last frame that was observed, then what came and what was forecast"
    )
    if most < len(m.leads):
        said += f", at {most} of {len(m.leads)} lead times"
    said += ". "
    if m.scores["pixel_units"] != PIXELS:
        said += "North is up" + ", and the storm's centre is the picture's" * m.followed + ". "
    said += "".join(f"{capital(note)} " for note in m.notes)
    return f"{said}One colour scale serves all. Point at a picture to read its value."
