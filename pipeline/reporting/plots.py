"""Plots of a report: errors over time, training, radial profile, spectra, quantiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from pipeline import pictures
from pipeline.answers import MODEL
from pipeline.reporting import charts
from pipeline.reporting.charts import Axis, Line, Mark
from pipeline.reporting.choice import Scored
from pipeline.reporting.material import Material
from pipeline.reporting.tables import TOO_MUCH
from pipeline.reporting.words import count, listed, unit_name, written

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
    unit, by_frame = m.scores["units"]["rmse"], m.scores["by_frame"]
    ids = list(by_frame)
    if len(ids) > CHARTED:
        places = np.linspace(0, len(ids) - 1, CHARTED).round().astype(int)
        ids = [ids[place] for place in places]
    values = [v for id in ids for row in m.rows for v in by_frame[id]["rmse"][row] if v is not None]
    figures = []
    for id in ids:
        told = by_frame[id]
        seconds = [
            Scored(id, number, time, "", {}).seconds
            for number, time in zip(told["frame"], told["time"], strict=True)
        ]
        gap = 1.5 * min(np.diff(seconds), default=0)
        lines = [
            Line(m.label(row), seconds, told["rmse"][row], m.style(row), gap) for row in m.rows
        ]
        year = told["time"][0][:4] if told["time"] else ""
        x = Axis(f"UTC, {year}", "time")
        y = Axis(f"RMSE [{unit}]", low=0.0, high=max(values, default=1.0))
        satellites = [each for each in dict.fromkeys(told["satellite"]) if each != "unknown"]
        by = f" ({listed(satellites)})" if satellites else ""
        title = f"{id}{by}, {count(len(seconds), 'frame')}"
        figures.append(plot(title, lines, x, y))
    shown = "" if len(ids) == len(by_frame) else f" {len(ids)} of {len(by_frame)} tracks are shown."
    return {
        "over_time_intro": "RMSE of each scored frame; a line is broken where frames are missing "
        "or were left out." + shown,
        "over_time": figures,
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

    steps = Axis("training steps")
    unit = m.scores["units"]["rmse"]
    shown = []
    validation = {r: v for r, v in series("validation/rmse_").items() if r in m.rows}
    if validation:
        epoch = m.scores["epoch"]
        used = [n["step"] for n in m.log if n["epoch"] == epoch and f"validation/rmse_{MODEL}" in n]
        lines = [Line(m.label(r), x, y, m.style(r)) for r, (x, y) in validation.items()]
        marks = [Mark(used[0], charts.PLAIN)] if used else []
        note = "On a few fixed crops of the eval tracks, so not the RMSE of the tables above." + (
            f" The vertical line is epoch {epoch}, which is scored here." if used else ""
        )
        shown.append(plot("Validation", lines, steps, Axis(f"RMSE [{unit}]"), marks, note))
    rates = series("lr/")
    if rates:
        lines = [Line(p, x, y, n) for n, (p, (x, y)) in enumerate(rates.items(), 1)]
        shown.append(plot("Learning rate", lines, steps, Axis("learning rate", "log")))
    losses = [
        plot(name, [Line(name, x, y, charts.PLAIN)], steps, Axis(of_loss(name)), small=True)
        for name, (x, y) in series("loss/").items()
    ]
    return {
        "scores": shown,
        "losses": losses,
        "note": "Means between two lines of the log, each in its own scale, dimensionless: losses "
        "are of normalised values. "
        + LOGITS
        * any(plotted["title"].startswith(OF_LOGITS) for plotted in losses)
        + "Adversarial losses tell whether two players are in balance, not whether pictures get "
        "better.",
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
                "frames.",
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
        "intro": f"Quantiles of all pixels against the truth's{told}. On the diagonal both have as "
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
        "intro": "Quantiles of one pixel against the truth's of the same dates.",
        "figures": figures,
    }


def spectra(m: Material, c: Mapping[str, Any]) -> dict[str, Any]:
    """The power of each wavelength, and its ratio to the truth's."""
    found = {row: m.scores[row].get("effective_resolution") for row in m.rows}
    known = {row: value for row, value in found.items() if value is not None and value > 0}
    marks = [Mark(value, m.style(row)) for row, value in known.items()]
    told = ", ".join(
        f"{r} {written(v, c['units'])} {unit_name(c['units'])}" for r, v in known.items()
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
        "intro": "Power of structures of each size, averaged over directions and frames; large "
        "structures at the left. A method whose power falls below the truth's is too smooth there.",
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


def share(a: float | None, b: float | None) -> float | None:
    if a is None or not b:
        return None
    return a / b if a / b >= LEAST_SHARE else None


def truth_line(x: Sequence[float], y: Sequence[float | None]) -> Line:
    return Line("truth", x, y, charts.PLAIN)


def row_lines(m: Material, x: Sequence[float], rows: Mapping[str, Any]) -> list[Line]:
    return [Line(m.label(row), x, rows[row], m.style(row)) for row in m.rows if row in rows]
