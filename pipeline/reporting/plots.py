"""Plots of a report: errors over time, training, radial profile, spectra, quantiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from pipeline import pictures
from pipeline.answers import MODEL
from pipeline.reporting import charts
from pipeline.reporting.charts import Axis, Line, Mark
from pipeline.reporting.choice import Scored
from pipeline.reporting.material import Material
from pipeline.reporting.summary import capital
from pipeline.reporting.tables import OVER_LEADS, TOO_MUCH, heads, rows_of
from pipeline.reporting.words import count, head, listed, time_unit, unit_name, written

Figure = dict[str, Any]
OF_LOGITS = ("d_real", "d_fake")  # how their names begin that are logged among the losses
LOGITS = (
    "d_real and d_fake are no losses but a discriminator's mean logit of true and of made "
    "pictures: above 0 it takes them for true. "
)
LEAST_SHARE = 1e-3  # of a spectrum's power
CHARTED = 12  # tracks, at most, whose frames are charted
MOST_SITES = 6  # with a plot of their own
DRIER = 0.1  # of the least rain that counts as wet: less is not drawn


def plot(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    marks: Sequence[Mark] = (),
    note: str = "",
    small: bool = False,
) -> Figure:
    said = f"{title}: {y.label} by {x.label}, of {', '.join(line.name for line in lines)}"
    return {
        "title": title,
        "svg": Markup(
            charts.chart(said, lines, x, y, marks, charts.SMALL if small else charts.LARGE)
        ),
        "legend": Markup(charts.legend(lines)) if len(lines) > 1 else "",
        "note": note,
    }


def over_time(m: Material) -> dict[str, Any]:
    """The RMSE of each frame, a chart for each track."""
    by_frame = m.scores["by_frame"]
    leads: list[int | None] = list(dict.fromkeys([0, len(m.leads) - 1])) if m.leads else [None]
    ids = list(by_frame)
    most = CHARTED // len(leads)
    if len(ids) > most:
        places = np.linspace(0, len(ids) - 1, most).round().astype(int)
        ids = [ids[place] for place in places]
    values = [v for id in ids for row in m.rows for v in by_frame[id]["rmse"][row] if v is not None]
    highest = max(values, default=1.0)
    shown = "" if len(ids) == len(by_frame) else f" {len(ids)} of {len(by_frame)} tracks are shown."
    which = ""
    if m.leads:
        which = f", forecast {listed([m.leads[lead] for lead in leads if lead is not None])} ahead"
    return {
        "over_time_intro": f"RMSE of each scored frame{which}; a line is broken where frames are "
        "missing or were left out." + shown,
        "over_time": [frame_by_frame(m, id, highest, lead) for id in ids for lead in leads],
    }


def frame_by_frame(m: Material, id: str, highest: float, lead: int | None) -> Figure:
    """Of one track; lead: the lead time that is drawn of a forecast's several."""
    told = m.scores["by_frame"][id]
    kept = [n for n in range(len(told["frame"])) if lead is None or told["lead"][n] == lead]
    seconds = [Scored(id, told["frame"][n], told["time"][n], "", {}).seconds for n in kept]
    gap = 1.5 * min(np.diff(seconds), default=0)
    lines = [
        Line(m.label(row), seconds, [told["rmse"][row][n] for n in kept], m.style(row), gap)
        for row in m.rows
    ]
    year = told["time"][0][:4] if told["time"] else ""
    satellites = [each for each in dict.fromkeys(told["satellite"]) if each != "unknown"]
    by = f" ({listed(satellites)})" if satellites else ""
    ahead = "" if lead is None else f", {m.leads[lead]} ahead"
    return plot(
        f"{id}{by}, {count(len(seconds), 'frame')}{ahead}",
        lines,
        Axis(f"UTC, {year}", "time"),
        Axis(head("rmse", m.scores["units"]["rmse"]), low=0.0, high=highest),
    )


def over_leads(m: Material) -> dict[str, Any]:
    """Scores by lead time: charts, and what a table of each is made of; none of one lead alone."""
    if len(m.leads) < 2:
        return {"leads": None}
    s = m.scores
    size, unit = time_unit(s["step_seconds"])
    x = [seconds / size for seconds in s["lead_seconds"]]
    names = [name for name in OVER_LEADS if name in s["units"]]

    def figure(name: str) -> Figure:
        lines = [
            Line(m.label(row), x, [lead[row][name] for lead in s["lead_times"]], m.style(row))
            for row in m.rows
        ]
        low = None if name == "ssim" else 0.0
        y = Axis(head(name, s["units"][name]), low=low)
        return plot(capital(s["long_names"][name])[:-1], lines, Axis(f"lead time [{unit}]"), y)

    return {
        "leads": {
            "intro": "Of each lead time by itself, over all windows: the further ahead, the less "
            "can be known.",
            "figures": [figure(name) for name in names],
            "scores": heads(m, names),
            "each": [
                {"lead": lead, "rows": rows_of(m, of, names, False)}
                for lead, of in zip(m.leads, s["lead_times"], strict=True)
            ],
        }
    }


def training(m: Material) -> dict[str, Any]:
    """Curves of metrics.jsonl: validation, learning rates, and each loss by itself."""

    def series(prefix: str) -> dict[str, tuple[list[float], list[float]]]:
        found: dict[str, tuple[list[float], list[float]]] = {}
        for line in m.log:
            for name, value in line.items():
                if name.startswith(prefix):
                    x, y = found.setdefault(name.removeprefix(prefix), ([], []))
                    x.append(line["step"])
                    y.append(value)
        return found

    every = [line["step"] for line in m.log]
    # from the first step, unless what is logged goes on from another training
    begin = 0.0 if every and (min(every) <= max(every) / 2 or len(set(every)) == 1) else None
    steps = Axis("training steps", low=begin, whole=True)
    unit = m.scores["units"]["rmse"]
    shown = []
    validation = {r: v for r, v in series("validation/rmse_").items() if r in m.rows}
    if validation:
        epoch = m.scores["epoch"]
        used = [n["step"] for n in m.log if n["epoch"] == epoch and f"validation/rmse_{MODEL}" in n]
        alone = all(len(x) == 1 for x, _ in validation.values())
        lines = [Line(m.label(r), x, y, m.style(r)) for r, (x, y) in validation.items()]
        if alone and begin is not None:  # baselines learn nothing: level from the first step on
            lines = [
                line
                if line.style == m.style(MODEL)
                else replace(line, x=[begin, *line.x], y=[*line.y, *line.y])
                for line in lines
            ]
        marks = [Mark(used[0], charts.PLAIN)] if used and not alone else []
        few = "windows" if m.forecast else "crops"
        note = f"On a few fixed {few} of the eval tracks, so not the RMSE of the tables above."
        if alone:
            note += " There was one validation only, and so there is no curve."
        elif used:
            note += f" The vertical line is epoch {epoch}, which is scored here."
        shown.append(plot("Validation", lines, steps, Axis(head("rmse", unit)), marks, note))
    rates = series("lr/")
    if any(len(x) > 1 for x, _ in rates.values()):
        lines = [Line(p, x, y, n) for n, (p, (x, y)) in enumerate(rates.items(), 1)]
        shown.append(plot("Learning rate", lines, steps, Axis("learning rate", "log")))
    of_losses = series("loss/")
    logits = any(name.startswith(OF_LOGITS) for name in of_losses)
    once = [(name, y[0]) for name, (x, y) in of_losses.items() if len(x) == 1]
    losses = [
        plot(name, [Line(name, x, y, charts.PLAIN)], steps, Axis(of_loss(name)), small=True)
        for name, (x, y) in of_losses.items()
        if len(x) > 1
    ]
    return {
        "scores": shown,
        "losses": losses,
        "once": ", ".join(f"{name} {charts.signed(f'{value:.4g}')}" for name, value in once),
        "note": "Means between two lines of the log, each in its own scale, dimensionless: losses "
        "are of normalised values. "
        + LOGITS
        * logits
        + "Adversarial losses tell whether two players are in balance, not whether pictures get "
        "better." * (not m.forecast),
    }


def of_loss(name: str) -> str:
    """What is logged under a loss's name."""
    return "mean logit" if name.startswith(OF_LOGITS) else "loss"


def curves(m: Material) -> list[dict[str, Any]]:
    """Radial profile, spectra and quantiles, where scores.json has them."""
    made = []
    told, unit = m.scores.get("curves", {}), m.scores["channel"]["units"]
    if (c := told.get("radial_profile")) and m.followed:
        x = Axis(f"distance from the frame's centre [{c['units']}]", low=0.0)
        made.append(
            {
                "title": "Radial profile",
                "intro": "Means over rings about the storm's centre, which is the frame's, of all "
                f"frames{all_leads(m)}.",
                "figures": [
                    plot(
                        f"Mean {m.scores['channel']['long_name']}",
                        [
                            truth_line(c["radius"], c["truth"]),
                            *row_lines(m, c["radius"], c["rows"]),
                        ],
                        x,
                        Axis(f"mean [{unit}]"),
                    ),
                    plot(
                        "RMSE by distance",
                        row_lines(m, c["radius"], c["rmse"]),
                        x,
                        Axis(f"RMSE [{unit}]", low=0.0),
                    ),
                ],
            }
        )
    if c := told.get("spectrum"):
        made.append(spectra(m, c))
    if c := told.get("quantiles"):
        made.append(quantiles(m, c))
    if sites := m.scores.get("sites"):
        made.append(at_sites(m, sites))
    return made


def quantiles(m: Material, c: Mapping[str, Any]) -> dict[str, Any]:
    """Each method's against the truth's; of rain where it rains, by the logarithm."""
    kind, truth, rows, told = qq_axes(m, c)
    beside = {
        row: [None if a is None or b is None else a - b for a, b in zip(values, truth, strict=True)]
        for row, values in rows.items()
    }
    more, _ = TOO_MUCH.get(c["units"], ("high", "low"))
    pixels = {"K": "colder", "mm": "wetter"}.get(c["units"], "lower")
    x = Axis(f"truth [{c['units']}]", kind)
    return {
        "title": "Distribution of values",
        "intro": f"Quantiles of all pixels{all_leads(m)} against the truth's{told}. On the "
        "diagonal both have as "
        f"many pixels {pixels} than that.",
        "figures": [
            plot(
                "Q-Q plot",
                [truth_line(truth, truth), *row_lines(m, truth, rows)],
                x,
                Axis(f"method [{c['units']}]", kind),
            ),
            plot(
                "Difference from the diagonal",
                row_lines(m, truth, beside),
                x,
                Axis(f"method minus truth [{c['units']}]", low=0.0),
                note=f"Above 0 the method is too {more} there.",
            ),
        ],
    }


def qq_axes(
    m: Material, c: Mapping[str, Any]
) -> tuple[Literal["linear", "log"], list[Any], dict[str, list[Any]], str]:
    """The kind of both axes, the truth's quantiles, the methods', and what is left out."""
    truth, rows = list(c["truth"]), {row: list(values) for row, values in c["rows"].items()}
    if not m.rain:
        return "linear", truth, rows, ""
    least = pictures.least_rain(m.scores.get("accumulation_hours")) * DRIER
    kept = [n for n, value in enumerate(truth) if value is not None and value >= least]
    rows = {
        row: [values[n] if (values[n] or 0) >= least else None for n in kept]
        for row, values in rows.items()
    }
    told = f", dry pixels too, from {least:g} {m.scores['channel']['units']} on"
    return "log", [truth[n] for n in kept], rows, told


def at_sites(m: Material, sites: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Q-Q plots of single places, of the same dates."""
    unit, figures = m.scores["channel"]["units"], []
    for site in sites[:MOST_SITES]:
        kind, truth, rows, _ = qq_axes(m, site["quantiles"])
        place = ""
        if site.get("latitude") is not None:
            place = (
                f", {pictures.degree(site['latitude'], 'N', 'S')} "
                f"{pictures.degree(site['longitude'], 'E', 'W')}"
            )
        found = ", ".join(
            f"{m.label(row)} {written(value, '1')}" for row, value in site["correlation"].items()
        )
        figures.append(
            plot(
                f"{site['name']}{place}",
                [truth_line(truth, truth), *row_lines(m, truth, rows)],
                Axis(f"truth [{unit}]", kind),
                Axis(f"method [{unit}]", kind),
                note=f"Correlation with the truth, date by date: {found}.",
            )
        )
    return {
        "title": "At single places",
        "intro": "Quantiles of one pixel against the truth's of the same dates"
        + (f", forecast {m.leads[0]} ahead." if m.leads else "."),
        "figures": figures,
    }


def spectra(m: Material, c: Mapping[str, Any]) -> dict[str, Any]:
    """The power of each wavelength, and its ratio to the truth's."""
    found = {row: m.scores[row].get("effective_resolution") for row in m.rows}
    known = {row: value for row, value in found.items() if value is not None and value > 0}
    marks = [Mark(value, m.style(row)) for row, value in known.items()]
    told = ", ".join(
        f"{m.label(r)} {written(v, c['units'])} {unit_name(c['units'])}" for r, v in known.items()
    )
    wavelength, truth = c["wavelength"], c["truth"]
    shares = {
        row: [share(a, b) for a, b in zip(v, truth, strict=True)] for row, v in c["rows"].items()
    }
    half = Line("half of the truth's", wavelength, [0.5] * len(wavelength), charts.PLAIN)
    x = Axis(f"wavelength [{unit_name(c['units'])}]", "log", reverse=True)
    lines = [truth_line(wavelength, truth), *row_lines(m, wavelength, c["rows"])]
    return {
        "title": "Spectra",
        "intro": "Power of structures of each size, averaged over directions and frames"
        f"{all_leads(m)}; large structures at the left. A method whose power falls below the "
        "truth's is too smooth there.",
        "figures": [
            plot("Power", lines, x, Axis("power", "log")),
            plot(
                "Power as a share of the truth's",
                [half, *row_lines(m, wavelength, shares)],
                x,
                Axis("share", "log"),
                marks,
                note=f"Vertical lines: effective resolution, {told}. " * bool(told)
                + f"Shares below {LEAST_SHARE:g} are not drawn.",
            ),
        ],
    }


def all_leads(m: Material) -> str:
    """What the frames of a curve are of a forecast."""
    return " at all lead times together" if len(m.leads) > 1 else ""


def share(a: float | None, b: float | None) -> float | None:
    if a is None or not b:
        return None
    return a / b if a / b >= LEAST_SHARE else None


def truth_line(x: Sequence[float], y: Sequence[float | None]) -> Line:
    return Line("truth", x, y, charts.PLAIN)


def row_lines(m: Material, x: Sequence[float], rows: Mapping[str, Any]) -> list[Line]:
    return [Line(m.label(row), x, rows[row], m.style(row)) for row in m.rows if row in rows]
