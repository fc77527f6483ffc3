"""What a report says first: what was trained and judged, and how it compares."""

from __future__ import annotations

from typing import Any

from pipeline.answers import MODEL
from pipeline.reporting.material import PIXELS, Material
from pipeline.reporting.words import (
    after,
    ahead,
    count,
    length,
    listed,
    plus,
    rounded,
    with_unit,
    written,
)
from pipeline.resampling import FEW


def summary(m: Material) -> dict[str, Any]:
    s = m.scores
    left_out, without, ids = s["frames_left_out"], s["tracks_left_out"], s["trained_on"]
    does, judged_by = forecast(m) if m.forecast else made_finer(m)
    what = (
        f"{m.model} {does}. It was trained on {count(len(ids), 'track')} ({listed(ids)}) and "
        f"is judged here on {count(len(m.ids), 'whole track')} ({listed(m.ids)}) that it was never "
        f"trained on: {judged_by}"
        + (
            f"; {count(left_out, 'frame')} with missing or blank images left out"
            if left_out
            else ""
        )
        + (
            f"; {count(len(without), 'track')} without a usable frame left out ({listed(without)})"
            if without
            else ""
        )
        + "."
    )
    notes = [capital(note) for note in m.notes]
    if len(m.ids) < 2:
        one, other = ("one storm", "storm") if m.followed else ("neighbouring times", "time")
        notes.append(
            f"Only one track was scored. Frames of {one} resemble each other, so there is no "
            f"interval: nothing here says how much another {other} would differ."
        )
    elif len(m.ids) < FEW:
        notes.append(
            f"The intervals rest on {len(m.ids)} tracks only: they are rough, and likely too "
            "narrow."
        )
    chosen_on = s["chosen_on"] if s["checkpoint"] == "best" else []
    if judged := [id for id in m.ids if id in chosen_on]:
        which = f"{len(judged)} of these tracks ({listed(judged)})"
        if len(judged) == len(m.ids):
            which = f"these {s['on']} tracks"
        notes.append(
            f"The checkpoint was chosen by its RMSE on {which}, which flatters it a little. To "
            "quote a figure, set test tracks aside that training has not looked at, and take "
            "those: `cli evaluate RUN --on test`, then `cli report RUN --on test`."
        )
    verdicts = [verdict(m, row) for row in m.rows if row != MODEL]
    return {"what": what, "verdicts": verdicts, "notes": notes}


def made_finer(m: Material) -> tuple[str, str]:
    """What a model of super-resolution does, and on what it is judged."""
    s = m.scores
    fine, unit = s["pixel"], s["pixel_units"]
    truth = "what was observed" if m.followed else "the data's own frames"
    made = "made coarse, restored"
    if s.get("truth") == "interpolated":
        made, truth = "restored", "interpolated truth"
    return (
        f"makes frames of {lower(m.quantity)} {s['factor']} times finer, "
        f"from {length(s['factor'] * fine, unit)} to {length(fine, unit)}",
        f"{count(s['frames'], 'frame')}, each {made}, and compared with {truth}",
    )


def forecast(m: Material) -> tuple[str, str]:
    """What a model of forecasts does, and on what it is judged."""
    s, step = m.scores, m.scores["step_seconds"]
    seen, coming = s["past"] * step, s["lead_seconds"][-1]
    fine = ""
    if s["pixel_units"] != PIXELS:
        fine = f", with pixels of {length(s['pixel'], s['pixel_units'])}"
    windows = count(s["frames"] // len(m.leads), "window")
    return (
        f"forecasts {lower(m.quantity)}, {ahead(coming, step)} ahead from {ahead(seen, step)} of "
        f"observed frames: {count(len(m.leads), 'frame')} from {s['past']}, one every "
        f"{ahead(step, step)}{fine}",
        f"{windows}, each forecast from its first frames and compared with what came",
    )


def where_smaller(m: Material, row: str) -> str:
    """At which lead times the model's RMSE is smaller than a baseline's, as far as is shown."""
    unit = m.scores["units"]["rmse"]
    pairs = [
        [rounded(lead[r]["rmse"], unit) for r in (MODEL, row)] for lead in m.scores["lead_times"]
    ]
    wins = [n for n, (a, b) in enumerate(pairs) if a is not None and b is not None and a < b]
    last = len(pairs) - 1
    if not wins or len(wins) > last:
        return "Smaller at every lead time." if wins else "Smaller at no lead time."
    if len(wins) == 1:
        return f"Smaller {m.leads[wins[0]]} ahead only."
    if wins == list(range(wins[0], last + 1)):
        return f"Smaller from {m.leads[wins[0]]} ahead on."
    if wins == list(range(wins[-1] + 1)):
        return f"Smaller up to {m.leads[wins[-1]]} ahead."
    return f"Smaller {listed([m.leads[n] for n in wins])} ahead."


def lower(name: str) -> str:
    """For the middle of a sentence; ERA5 stays what it is."""
    return name if name[1:2].isupper() else f"{name[:1].lower()}{name[1:]}"


def capital(sentence: str) -> str:
    return f"{sentence[:1].upper()}{sentence[1:]}."


def verdict(m: Material, row: str) -> dict[str, str]:
    """The model's RMSE beside that of one baseline; called better or worse by an interval only."""
    s, unit = m.scores, m.scores["units"]["rmse"]
    ours, theirs = (rounded(s[r]["rmse"], unit) for r in (MODEL, row))
    if ours is None or theirs is None:
        return {"kind": "", "head": f"Against {row}: undefined", "text": "No pixel was scored."}
    text = f"RMSE {with_unit(ours, unit)}, {row} {with_unit(theirs, unit)}. "
    if len(m.leads) > 1:
        text += f"{where_smaller(m, row)} "
    found = s["intervals"]["model_minus"][row]["rmse"]
    if found is not None:
        value, low, high = (plus(written(v, unit)) for v in found)
        level = f"{s['intervals']['level']:.0%}"
        text += f"Difference {value}{after(unit)}; "
        text += f"{level} interval over tracks {low} to {high}{after(unit)}."
        if ours == theirs:
            return {"kind": "", "head": f"Against {row}: the same error", "text": text}
        if found[1] <= 0 <= found[2]:
            return {"kind": "", "head": f"Against {row}: not told apart", "text": text}
        kind, word = ("better-than", "smaller") if found[2] < 0 else ("worse-than", "larger")
        return {"kind": kind, "head": f"Against {row}: {word} error", "text": text}
    pairs = [
        [rounded(rows[r]["rmse"], unit) for r in (MODEL, row)] for rows in s["tracks"].values()
    ]
    wins = sum(a is not None and b is not None and a < b for a, b in pairs)
    word = "smaller" if ours < theirs else "larger" if ours > theirs else "the same"
    text += f"Smaller on {wins} of {count(len(pairs), 'track')}; no interval."
    return {"kind": "", "head": f"Against {row}: {word} error on these tracks", "text": text}
