"""Pictures of an experiment: intervals, where it helps, what the model looks at, and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import fonts, pictures
from pipeline.credit import NOBODY, Credit
from pipeline.experiment.findings import Comparison, Findings
from pipeline.experiment.plan import TITLES
from pipeline.pictures import Panel, Scene
from pipeline.reporting.words import head
from pipeline.sources.grids import Grid

if TYPE_CHECKING:  # half a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
WITHIN = 0.95  # of all differences lie within the scale of their maps
BETTER, WORSE, UNCLEAR = "#0a6b45", "#a3330b", "#6b7480"
MARKS = {BETTER: "o", WORSE: "s", UNCLEAR: "D"}  # not by colour alone


@dataclass(frozen=True)
class Dated:
    """One window as the arms see it; fields (H, W) of the first lead time and channel."""

    title: str
    subtitle: str
    truth: np.ndarray
    alone: np.ndarray
    upstream: np.ndarray

    @property
    def differences(self) -> dict[str, np.ndarray]:
        return {
            "1 minus truth": self.alone - self.truth,
            "2 minus truth": self.upstream - self.truth,
            "2 minus 1": self.upstream - self.alone,
        }


def intervals(path: Path, findings: Findings, credit: Credit = NOBODY) -> Path:
    """What experiment 2 gains over each arm, score by score."""
    from matplotlib.figure import Figure

    by_score: dict[str, list[Comparison]] = {}
    for each in findings.comparisons:
        by_score.setdefault(each.score, []).append(each)
    others = [TITLES[each.other] for each in next(iter(by_score.values()))]
    height = 1.3 + 0.42 * len(others)
    figure = Figure((4.2 + 2.9 * len(by_score), height), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, len(by_score), squeeze=False, sharey=True)[0]
    for place, (score, compared) in zip(axes, by_score.items(), strict=True):
        gains(place, compared)
        unit = findings.units if score == "rmse" else "1"
        place.set_title(head(score, unit), size=11)
        place.set_xlabel("gain of experiment 2", size=9)
    axes[0].set_yticks(range(len(others)), others, size=10)
    axes[0].set_ylim(len(others) - 0.5, -0.5)
    return pictures.saved(path, figure, credit, "What experiment 2 gains over the others")


def gains(place: Axes, compared: Sequence[Comparison]) -> None:
    """Points with their intervals; to the right of 0 experiment 2 is better."""
    from matplotlib.ticker import MaxNLocator

    place.axvline(0, color="0.2", linewidth=1)
    place.grid(axis="x", color="0.9")
    place.set_axisbelow(True)
    for number, each in enumerate(compared):
        gain, low, high = each.gain
        colour = BETTER if each.won else WORSE if each.lost else UNCLEAR
        if np.isfinite([low, high]).all():
            place.plot([low, high], [number, number], color=colour, linewidth=2.2)
        place.plot(gain, number, MARKS[colour], color=colour, markersize=7)
    place.xaxis.set_major_locator(MaxNLocator(4))
    place.tick_params(labelsize=9)
    place.spines[["top", "right", "left"]].set_visible(False)
    place.tick_params(axis="y", length=0)


def where(
    path: Path,
    gain: np.ndarray,
    region: Grid,
    importance: np.ndarray,
    whole: Grid,
    unit: str,
    credit: Credit = NOBODY,
) -> Path:
    """Maps of what experiment 2 gains, and of what its forecast depends on.

    gain: (H, W), RMSE of experiment 1 minus that of 2, of each cell of region 1; importance: as
    `occlusion.importance` gives it, of blocks of the whole input.
    """
    from matplotlib.figure import Figure

    figure = Figure((14, 4.6), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.6])
    most = max(float(np.nanmax(np.abs(gain), initial=0)), 1e-9)
    drawn = left.imshow(
        gain, extent=pictures.covered(region, region.shape), cmap="BrBG", vmin=-most, vmax=most
    )
    left.set_title("RMSE of experiment 1 minus that of experiment 2", size=11)
    bar(figure, left, drawn, f"gain [{unit}]; green: region 2 helps")
    drawn = right.imshow(
        importance, extent=pictures.covered(whole, whole.shape), cmap="viridis", vmin=0
    )
    frame = pictures.covered(region, region.shape)
    outline(right, frame)
    right.text((frame[0] + frame[1]) / 2, frame[3], "region 1", size=10, ha="center", va="bottom")
    right.set_title(
        "Change of region 1's forecast where a block of the input is hidden", size=11, pad=16
    )
    bar(figure, right, drawn, f"mean absolute change [{unit}]")
    for place in (left, right):
        place.set_aspect(1 / np.cos(np.radians(region.y.mean())) if not region.projected else 1)
        degrees(place, region.projected)
    if lines := fonts.credit_lines(credit, 150):
        family = fonts.families(*lines)
        figure.supxlabel("\n".join(lines), size=8, color="0.45", family=family)
    return pictures.saved(path, figure, credit, "Where region 2 helps, and what is looked at")


def bar(figure: Figure, place: Axes, drawn: Any, label: str) -> None:
    figure.colorbar(drawn, ax=place, orientation="horizontal", label=label, shrink=0.8)


def outline(place: Axes, frame: pictures.Extent) -> None:
    left, right, bottom, top = frame
    place.plot(
        [left, right, right, left, left],
        [bottom, bottom, top, top, bottom],
        color="white",
        linewidth=2.5,
    )
    place.plot(
        [left, right, right, left, left], [bottom, bottom, top, top, bottom], color="k", linewidth=1
    )


def degrees(place: Axes, projected: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    (left, right), (bottom, top) = place.get_xlim(), place.get_ylim()
    narrow = abs(right - left) < abs(top - bottom)  # where names side by side would overlap
    place.xaxis.set_major_locator(MaxNLocator(2 if narrow else 7, steps=[1, 2, 5, 10]))
    place.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if projected:
        place.set_xlabel("km east")
        place.set_ylabel("km north")
        return
    place.xaxis.set_major_formatter(lambda value, _: pictures.degree(value, "E", "W"))
    place.yaxis.set_major_formatter(lambda value, _: pictures.degree(value, "N", "S"))
    place.set_xlabel("longitude")
    place.set_ylabel("latitude")


def maps(
    files: Sequence[Path],
    dates: Sequence[Dated],
    channel: Mapping[str, Any],
    hours: float | None,
    grid: Grid,
    credit: Credit = NOBODY,
) -> list[Path]:
    """Truth, both experiments, and their differences; a picture of each date, all of one scale."""
    every = np.concatenate([field for dated in dates for field in dated.differences.values()])
    errors = pictures.error_look(channel, "difference", hours)
    most = max(errors.high, rounded_up(float(np.nanquantile(np.abs(every), WITHIN))))
    errors = replace(errors, low=-most, high=most)
    look = pictures.look(channel, hours=hours)
    return [
        pictures.panels(file, replace(scene(dated, look, errors, grid), credit=credit), 100)
        for file, dated in zip(files, dates, strict=True)
    ]


def rounded_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value)) if value > 0 else 1.0
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value))


def scene(dated: Dated, look: pictures.Look, errors: pictures.Look, grid: Grid) -> Scene:
    return Scene(
        title=dated.title,
        subtitle=dated.subtitle,
        panels=[
            Panel("Truth", dated.truth),
            Panel("Experiment 1", dated.alone),
            Panel("Experiment 2", dated.upstream),
            *(Panel(title, field, True) for title, field in dated.differences.items()),
        ],
        look=look,
        errors=errors,
        extent=pictures.covered(grid, grid.shape),
        unit="km" if grid.projected else "deg",
        origin="map" if grid.projected else "earth",
    )
