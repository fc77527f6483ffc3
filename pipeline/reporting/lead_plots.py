"""Charts of scores by lead time as a PNG: forecasts of several runs beside their baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import pictures
from pipeline.credit import Credit
from pipeline.reporting.tables import OVER_LEADS
from pipeline.reporting.words import head, time_unit

COLUMNS, FEW = 3, 4  # charts beside one another; of no more than FEW two
# Okabe and Ito's, told apart by the colour-blind; runs come first, in lines drawn through
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("--", ":", "-.")  # of baselines, which are grey
MARKS = "osD^vXP"


def draw(
    path: Path,
    lead_seconds: Sequence[int],
    lead_times: Sequence[Mapping[str, Mapping[str, float | None]]],
    told: Mapping[str, Any],
    dpi: int = 110,
) -> Path:
    """A chart per score into a PNG, 13 inches wide.

    lead_times: at each lead time the scores by run and baseline; told: scores.json of one run.
    """
    from matplotlib.figure import Figure

    names = [name for name in OVER_LEADS if name in told["units"]]
    wide = COLUMNS if len(names) > FEW else min(2, len(names))
    tall = -(-len(names) // wide)
    figure = Figure((13.0, 3.8 * tall + 0.5), dpi=dpi, facecolor="white", layout="constrained")
    every = figure.subplots(tall, wide, squeeze=False).ravel().tolist()
    size, unit = time_unit(told["step_seconds"])
    x = [seconds / size for seconds in lead_seconds]
    for axes, name in zip(every, names, strict=False):
        run = baseline = 0
        for row in lead_times[0]:
            y = [math.nan if (v := at[row][name]) is None else v for at in lead_times]
            if row in told["rows"]:
                axes.plot(x, y, DASHES[baseline % len(DASHES)], color="0.45", label=row)
                baseline += 1
            else:
                colour, mark = COLOURS[run % len(COLOURS)], MARKS[run % len(MARKS)]
                axes.plot(x, y, color=colour, marker=mark, ms=4, label=row)
                run += 1
        axes.set_title(told["long_names"][name], size=11)
        axes.set_xlabel(f"lead time [{unit}]")
        axes.set_ylabel(head(name, told["units"][name]))
        axes.grid(color="0.9")
        if name != "ssim":
            axes.set_ylim(bottom=0)
    for axes in every[len(names) :]:
        axes.remove()
    lines, labels = every[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return pictures.saved(path, figure, Credit.of(told), "Scores by lead time")
