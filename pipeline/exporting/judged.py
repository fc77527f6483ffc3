"""Of a model card: the scores, as an evaluation left them, and what they say against the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.answers import MODEL
from pipeline.exporting.material import Material
from pipeline.outputs.layout import lasting
from pipeline.reporting.tables import BETTER, METHODS, distance, grouped
from pipeline.reporting.words import after, count, head, length, listed, rounded, written

SHOWN_LEADS = 12  # of many some, evenly
SAME = "about the same"


def worth(m: Material) -> str:
    """The headline of its scores: against the baseline with the smallest error."""
    if not m.scores:
        return "It has not been scored."
    told = m.scores[0]
    errors = {row: told[row]["rmse"] for row in told["rows"] if told[row]["rmse"]}
    if MODEL not in errors or len(errors) < 2:
        return ""
    ours, best = errors.pop(MODEL), min(errors, key=errors.__getitem__)
    units = told["units"]["rmse"]
    told_apart = compared(ours, errors[best])
    told_apart += " as" if told_apart == SAME else " than"
    over = f", over all lead times up to {lasting(told['lead_seconds'][-1])}" if m.forecast else ""
    return (
        f"On {count(len(told['tracks']), 'track')} that it never learnt from{over}, its root mean "
        f"square error is {written(ours, units)}{after(units)}, "
        f"{told_apart} that of the best baseline, {best.replace('_', ' ')}."
    )


def compared(ours: float, theirs: float) -> str:
    """How much less or more; of what rounding leaves nothing, that it is about the same."""
    share = 100 * (ours / theirs - 1)
    if abs(share) < 0.05:
        return SAME
    return f"{abs(share):.1f} % {'less' if share < 0 else 'more'}"


def table(m: Material, scores: Mapping[str, Any]) -> dict[str, Any]:
    """One evaluation."""
    rows, units, better = scores["rows"], scores["units"], scores["better"]
    lines = []
    for name in [n for group in grouped(list(units)).values() for n in group]:
        near = {r: distance(rounded(scores[r][name], units[name]), better[name]) for r in rows}
        best = min(near.values())
        cells = []
        for row in rows:
            told = written(scores[row][name], units[name])
            mark = near[row] == best < max(near.values())
            cells.append(f"**{told}**" if mark else told)
        lines.append(
            {
                "name": head(name, units[name]),
                "cells": cells,
                "meaning": f"{scores['long_names'][name]}; {BETTER[better[name]]}",
            }
        )
    return {
        "on": scores["on"],
        "rows": rows,
        "lines": lines,
        "intro": intro(m, scores),
        "differences": differences(scores),
        "leads": leads(scores),
        "baselines": [(row, METHODS[row]) for row in rows if row != MODEL and row in METHODS],
    }


def intro(m: Material, scores: Mapping[str, Any]) -> str:
    """What was scored."""
    ids, each = list(scores["tracks"]), len(scores.get("lead_seconds", ())) or 1
    what = count(scores["frames"] // each, "window" if scores["task"] == "forecast" else "frame")
    told = f"{what} of {count(len(ids), 'track')} that the model never saw ({listed(ids)})"
    if scores["task"] == "forecast":
        last = lasting(scores["lead_seconds"][-1])
        told += f", over all of {count(each, 'lead time')} up to {last}"
        assert m.forecast
        if scores["future"] > m.forecast.future:
            told += (
                f"; it says {m.forecast.future} at once, and goes on from its own forecast after "
                "that"
            )
    told += ". All pixels but missing ones, in physical units."
    if m.which == "best" and set(ids) & set(m.trained.data.eval):
        told += (
            " The checkpoint was chosen by its error on such tracks, which flatters it a little."
        )
    for note in scores["notes"]:
        told += f" Against {note}."
    return told


def differences(scores: Mapping[str, Any]) -> list[str]:
    """The model against each baseline, by RMSE."""
    units, made = scores["units"]["rmse"], []
    for row, found in scores["intervals"]["model_minus"].items():
        ours, theirs = (scores[r]["rmse"] for r in (MODEL, row))
        if ours is None or not theirs:
            continue
        told = f"RMSE minus that of {row}: {written(ours - theirs, units)}{after(units)}, "
        told += compared(ours, theirs)
        if bounds := (found or {}).get("rmse"):
            level, (_, low, high) = scores["intervals"]["level"], bounds
            told += f"; {100 * level:g} % interval over tracks "
            told += f"{written(low, units)} to {written(high, units)}"
        made.append(told)
    if len(scores["tracks"]) == 1:
        made.append("All of it on one track: how far another would score otherwise is not known")
    return made


def leads(scores: Mapping[str, Any]) -> dict[str, Any]:
    """RMSE by lead time; of many leads some, evenly."""
    found = scores.get("lead_times") or []
    if len(found) < 2:
        return {}
    units, last = scores["units"]["rmse"], len(found) - 1
    some = sorted({round(i * last / (SHOWN_LEADS - 1)) for i in range(SHOWN_LEADS)})
    return {
        "head": head("rmse", units),
        "lines": [
            (
                lasting(scores["lead_seconds"][lead]),
                [written(found[lead][row]["rmse"], units) for row in scores["rows"]],
            )
            for lead in (some if last >= SHOWN_LEADS else range(last + 1))
        ],
    }


def lost(scores: Mapping[str, Any]) -> str:
    """By which scores a baseline is better."""
    units, better, rows = scores["units"], scores["better"], scores["rows"]
    found = []
    for name, of in units.items():
        near = {r: distance(rounded(scores[r][name], of), better[name]) for r in rows}
        best = min(rows, key=near.__getitem__)
        if near[MODEL] > near[best]:
            found.append(f"{head(name, '1')} ({best})")
    if not found:
        return ""
    return (
        f"On the {scores['on']} tracks a baseline, none of which learns anything, is better in "
        f"{len(found)} of {count(len(units), 'score')}: {'; '.join(found)}."
    )


def early(scores: Mapping[str, Any]) -> str:
    """At which lead times a baseline has the smaller error."""
    found = {}
    for seconds, rows in zip(
        scores.get("lead_seconds", ()), scores.get("lead_times", ()), strict=True
    ):
        errors = {row: rows[row]["rmse"] for row in scores["rows"] if rows[row]["rmse"] is not None}
        best = min(errors, key=errors.__getitem__, default=MODEL)
        if MODEL in errors and errors[best] < errors[MODEL]:
            found[seconds] = best
    if not found:
        return ""
    when = listed([lasting(seconds) for seconds in found], most=6)
    return (
        f"At {when} ahead a baseline ({', '.join(dict.fromkeys(found.values()))}) has the smaller "
        f"RMSE ({scores['on']} tracks)."
    )


def smooth(scores: Mapping[str, Any]) -> str:
    """Whether fine structures are missing from its answers."""
    name, usual = "effective_resolution", scores["intervals"]["against"]
    ours, theirs = (scores[row].get(name) for row in (MODEL, usual))
    if not ours or ours <= 2.5 * scores["pixel"]:  # two pixels are the finest that there is
        return ""
    units = scores["units"][name]
    finest, beside = (length(rounded(each, units) or 0, units) for each in (ours, theirs))
    told = f"; {beside} in {usual}'s" if theirs else ""
    return (
        f"Its answers are smooth: structures smaller than {finest} have less than half of the "
        f"power that they have in the truth ({scores['on']} tracks{told})."
    )
