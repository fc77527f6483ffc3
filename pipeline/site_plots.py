"""Pictures of what was at chosen sites: quantiles against quantiles, and date against date."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import fonts, pictures
from pipeline.credit import NOBODY, Credit
from pipeline.sites import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# As far as they are there; others would hide them
SHOWN = ("model", "bicubic", "bilinear", "persistence", "optical_flow")
COLOURS = ("#0072b2", "#d55e00", "#999999")  # told apart by the colour-blind (Okabe and Ito 2008)
MARKS = ("o", "^", "x")
WRAPPED = 150  # letters in one line


def draw(
    path: Path, series: Sequence[Series], units: str, credit: Credit = NOBODY, dpi: int = 110
) -> Path:
    """A row of two diagrams per site into a PNG: 9 inches wide. credit: for the data."""
    from matplotlib.figure import Figure

    figure = Figure((9.0, 4.2 * len(series)), dpi=dpi, facecolor="white", layout="constrained")
    rows = figure.subplots(len(series), 2, squeeze=False)
    for (left, right), each in zip(rows, series, strict=True):
        quantiles(left, each, units)
        dates(right, each, units)
    if lines := fonts.credit_lines(credit, WRAPPED):
        family = fonts.families(*lines)
        figure.supxlabel("\n".join(lines), size=7, color="0.45", family=family)
    return pictures.saved(path, figure, credit, "Estimated and true values at chosen sites")


def quantiles(axes: Axes, series: Series, units: str) -> None:
    asked = series.probabilities()
    truth = np.quantile(series.truth, asked) if len(asked) else np.empty(0)
    for row, colour, mark in shown(series):
        found = np.quantile(series.rows[row], asked) if len(asked) else np.empty(0)
        axes.plot(truth, found, color=colour, marker=mark, ms=4, lw=1, label=row)
    frame(axes, series, units, "quantiles of the same dates")
    axes.legend(frameon=False, loc="upper left")


def dates(axes: Axes, series: Series, units: str) -> None:
    correlations = series.correlations()
    for row, colour, mark in reversed(shown(series)):  # the model's on top
        label = f"{row}, r = {correlations[row]:.3f}"
        axes.plot(series.truth, series.rows[row], mark, color=colour, ms=3, alpha=0.6, label=label)
    frame(axes, series, units, "date by date")
    axes.legend(frameon=False, loc="upper left")


def shown(series: Series) -> list[tuple[str, str, str]]:
    """Methods to draw, each with its colour and mark."""
    there = [row for row in SHOWN if row in series.rows]
    return list(zip(there, COLOURS, MARKS, strict=False))


def frame(axes: Axes, series: Series, units: str, what: str) -> None:
    values = [series.truth, *(series.rows[row] for row, _, _ in shown(series))]
    low = min((float(v.min()) for v in values if len(v)), default=0.0)
    high = max((float(v.max()) for v in values if len(v)), default=1.0)
    axes.plot([low, high], [low, high], color="0.5", lw=0.8, zorder=0)
    axes.set_title(f"{series.site.said}: {what}", size=10)
    axes.set_xlabel(f"truth [{units}]")
    axes.set_ylabel(f"estimated [{units}]")
    axes.set_aspect("equal", adjustable="datalim")
