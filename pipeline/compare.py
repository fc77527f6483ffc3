"""Runs beside one another on the same tracks: paired differences with intervals, and maps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import atomic, pictures, raw_tree, resampling, score_files
from pipeline.answers import MODEL, Answers, shown
from pipeline.checkpoint import Checkpoint
from pipeline.credit import Credit
from pipeline.errors import UsageError, UserError
from pipeline.pictures import Palette, Panel, Scene
from pipeline.progress import progress
from pipeline.reporting import choice, lead_plots, windows
from pipeline.reporting.words import ahead, listed
from pipeline.scaling import is_rain
from pipeline.scorecard import TRUTH, Card, Yardstick
from pipeline.scores import Table
from pipeline.sources.grids import Grid
from pipeline.store import Store

# what two runs must share to be compared at all: their name in scores.json, and in words
ASKED = {
    "past": "numbers of past frames",
    "future": "numbers of lead times",
    "coarsen": "coarsening",
    "channel": "channels",
}
# and what their evaluations must
SHARED = {
    "manifest_hash": "stores",
    "factor": "factors of refinement",
    "truth": "truths",
    "psnr_range": "valid ranges",
    "track_frames": "tracks or frames",
    "rows": "methods",
}


@dataclass(frozen=True)
class Scored:
    """One run's evaluation."""

    run: Path
    name: str
    told: dict[str, Any]  # scores.json
    trained: Checkpoint  # that was scored
    yardstick: Yardstick
    cards: dict[str, dict[str, Card]]  # by track and method


@dataclass(frozen=True)
class Comparison:
    """The first run is what the others are held against."""

    file: Path  # comparison.json
    pictures: list[Path]
    rows: Table  # scores by run, in the order given, and the baseline's
    differences: dict[str, dict[str, tuple[float, float, float]]]  # by other run: and its interval
    units: dict[str, str]
    tracks: int
    frames: int
    notes: tuple[str, ...] = ()  # that must be said beside the scores
    leads: int = 0  # of forecasts: lead times that each window was scored at


@dataclass(frozen=True)
class Frame:
    """One that all the runs were scored on."""

    track: str
    number: int
    when: str
    satellite: str
    apart: float  # RMSE of the second run minus the first's, of a forecast over all lead times
    lead: int | None = None  # of a forecast: the lead time that is drawn, from 0

    @property
    def key(self) -> choice.Key:
        return self.track, self.number

    @property
    def seconds(self) -> int:
        """Since 1970."""
        return int(datetime.fromisoformat(self.when).timestamp())


def compare(
    runs: Sequence[Path],
    out: Path,
    *,
    on: str = "eval",
    count: int = 3,
    store_path: Path | None = None,
    device: str = "auto",
    palette: Palette = "enhanced",
    resamples: int = resampling.RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Hold runs that were evaluated on the same frames against the first of them.

    out: a folder for comparison.json, and for pictures of `count` frames: from where the second
    run is furthest ahead of the first to where it is furthest behind; of forecasts of so many
    windows, at their last lead time, and charts of the scores by lead time. store_path: where the
    frames are now, if not where the first run had them. Raises UserError for runs that were not
    evaluated, or not on the same frames.
    """
    if len(runs) < 2:
        raise UsageError("one run alone; give two or more to compare")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; expected a folder to write the comparison into")
    every = [scored(run, name, on) for run, name in zip(runs, names(runs), strict=True)]
    refuse_unlike(every)
    first = every[0]
    baselines = [first.told["intervals"]["against"]]
    if first.told["task"] == "forecast":  # no one of them is the best at every lead time
        baselines = [row for row in first.told["rows"] if row != MODEL]
    tracks = [
        {each.name: each.cards[id][MODEL] for each in every}
        | {row: first.cards[id][row] for row in baselines}
        for id in first.cards
    ]
    forecast = first.told["task"] == "forecast"
    rows = {
        row: sum((track[row] for track in tracks), Card()).scores(first.yardstick)
        for row in tracks[0]
    }
    differences: dict[str, dict[str, tuple[float, float, float]]] = {}
    if len(tracks) >= resampling.FEWEST:
        drawn = resampling.drawn(tracks, first.yardstick, resamples, seed)
        for other in every[1:]:
            differences[other.name] = resampling.told(rows, drawn, other.name, first.name)
    frames, files = [], []
    if count:
        opened = same_store(first, store_path or Path(first.told["store"]))
        rain = opened if is_rain(first.told["channel"]) else None
        channel = first.trained.task.targets[0]
        every_frame = windows_of(every) if forecast else frames_of(every)
        frames = chosen(every_frame, count, rain, channel)
        with never_empty(out):
            files = draw(every, frames, out, opened, device, palette)
    leads = by_lead(every) if forecast else {}
    charts = []
    if leads:
        with never_empty(out):
            charts = [lead_plots.draw(out / "lead-times.png", **leads, told=first.told)]
    file = out / "comparison.json"
    told = {
        "runs": [{"name": each.name, "path": str(each.run), **about(each)} for each in every],
        "on": on,
        "tracks": list(first.cards),
        "frames": first.told["frames"],
        "truth": first.told.get("truth", "native"),
        "notes": first.told.get("notes", []),
        "units": first.told["units"],
        "better": first.told["better"],
        "scores": score_files.finite(rows),
        "against": first.name,
        "level": resampling.LEVEL,
        "resamples": resamples,
        "seed": seed,
        "differences": score_files.finite(differences),
        **leads,
        "pictures": {path.name: vars(frame) for path, frame in zip(files, frames, strict=True)},
    }
    with never_empty(out):
        atomic.write_json(file, told)
    return Comparison(
        file,
        [*charts, *files],
        rows,
        differences,
        first.told["units"],
        len(tracks),
        first.told["frames"],
        tuple(first.told.get("notes", [])),
        len(leads.get("lead_times", [])),
    )


@contextmanager
def never_empty(folder: Path) -> Iterator[None]:
    """On failure, as of a full disk, a folder in which nothing came to be is gone again."""
    try:
        yield
    except BaseException:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise


def about(each: Scored) -> dict[str, Any]:
    return {key: each.told[key] for key in ("model_name", "checkpoint", "epoch", "trained_on")}


def scored(run: Path, name: str, on: str) -> Scored:
    """Raises UserError for a run that was not evaluated, or was trained since."""
    told, trained = score_files.scored(run, on)
    return Scored(run, name, told, trained, *score_files.read_sums(run, on, told))


def names(runs: Sequence[Path]) -> list[str]:
    """The folders' names; where two are the same, with as many of their parents as it takes."""
    paths = [run.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise UsageError("a run is given twice; give different ones")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def refuse_unlike(every: Sequence[Scored]) -> None:
    """Scores of other frames, or by another measure, cannot be compared. Raises UserError."""
    first = every[0]
    for other in every[1:]:
        both = f"{first.run} and {other.run}"
        if first.told["task"] != other.told["task"]:
            raise UserError(
                f"{both} do different things: one makes frames finer, the other forecasts them; "
                "compare runs of one kind"
            )
        if unlike := [words for key, words in ASKED.items() if differ(first, other, key)]:
            raise UserError(
                f"{both} are of other {listed(unlike)}, so that their scores are not of the "
                "same frames"
            )
        if where(first) != where(other):
            raise UserError(f"{both} forecast other regions; their scores are not of one place")
        unlike = [words for key, words in SHARED.items() if differ(first, other, key)]
        if unlike:
            raise UserError(
                f"{both} were evaluated on other {listed(unlike)}; "
                "evaluate both on the same: cli evaluate RUN --store STORE --split SPLIT"
            )


def differ(first: Scored, other: Scored, key: str) -> bool:
    one, two = first.told.get(key), other.told.get(key)
    if key == "channel":  # by its name: how much has been seen of it is not what it is
        return any(first.told[key][part] != other.told[key][part] for part in ("name", "units"))
    return bool(one != two)


def where(run: Scored) -> Any:
    """The box that is forecast and scored; None: all."""
    return run.told.get("region") or run.told.get("area")


def by_lead(every: Sequence[Scored]) -> dict[str, Any]:
    """The scores of each run, and of the baselines, at each lead time."""
    first = every[0].told
    return {
        "lead_seconds": first["lead_seconds"],
        "lead_times": [
            {each.name: each.told["lead_times"][lead][MODEL] for each in every}
            | {row: scores for row, scores in first["lead_times"][lead].items() if row != MODEL}
            for lead in range(len(first["lead_times"]))
        ],
    }


def windows_of(every: Sequence[Scored]) -> list[Frame]:
    """As frames_of, of forecasts: the last frame of each window."""
    first, second = (choice.windows(each.told["by_frame"]) for each in every[:2])
    frames = [
        Frame(
            b.track,
            b.frames[-1].number,
            b.frames[-1].time,
            b.frames[-1].satellite,
            mine - theirs,
            len(b.frames) - 1,
        )
        for a, b in zip(first, second, strict=True)
        if (theirs := a.rmse(MODEL)) is not None and (mine := b.rmse(MODEL)) is not None
    ]
    return sorted(frames, key=lambda frame: frame.apart)


def frames_of(every: Sequence[Scored]) -> list[Frame]:
    """Those of the first two runs, the one where the second is furthest ahead first."""
    first, second = (each.told["by_frame"] for each in every[:2])
    frames = [
        Frame(id, number, when, satellite, mine - theirs)
        for id, by in first.items()
        for number, when, satellite, theirs, mine in zip(
            by["frame"],
            by["time"],
            by["satellite"],
            by["rmse"][MODEL],
            second[id]["rmse"][MODEL],
            strict=True,
        )
        if None not in (mine, theirs)
    ]
    return sorted(frames, key=lambda frame: frame.apart)


def chosen(
    frames: Sequence[Frame], count: int, opened: Store | None = None, channel: int = 0
) -> list[Frame]:
    """Evenly from the first to the last; of rain the first, the last, and between them the wettest.

    opened: where rain is read from, of which most frames are dry; None: it is not rain. channel:
    of the store, that is rain.
    """
    if opened is not None and count > 1 and len(frames) > count:
        wet = choice.wetness(opened, [frame.key for frame in frames], channel)
        between = choice.wettest(frames[1:-1], wet, count - 2)
        return sorted([frames[0], *between, frames[-1]], key=lambda frame: frame.apart)
    places = np.linspace(0, len(frames) - 1, min(count, len(frames)))
    return [frames[round(place)] for place in places]


def draw(
    every: Sequence[Scored],
    frames: Sequence[Frame],
    out: Path,
    opened: Store,
    device: str,
    palette: Palette,
) -> list[Path]:
    """A picture per frame: truth, each run, and where the second differs from the first."""
    future = every[0].told.get("future")
    answers = [Answers(each.trained, device, steps=future) for each in every]
    files, told = [], " and ".join(each.name for each in every)
    credit = Credit.of(opened.attrs, title=f"{told} beside the truth")
    with progress("draw", len(frames), "pictures") as advance:
        for frame in frames:
            track = opened.track(frame.track)
            hour = re.sub(r"\D", "", frame.when)
            if frame.lead is None:
                window = track.checked(frame.number, 1)
                scene = scene_of(every, answers, window, frame, palette, track.grid)
                hour = hour[:10]
            else:
                scene = forecast_scene(every, answers, opened, frame, palette)
            scene = replace(scene, credit=credit)
            files.append(pictures.panels(out / f"{frame.track}-{hour}.png", scene))
            advance(1, frame.track)
    return files


def scene_of(
    every: Sequence[Scored],
    answers: Sequence[Answers],
    window: np.ndarray,
    frame: Frame,
    palette: Palette,
    grid: Grid | None = None,
) -> Scene:
    """window: (1, C, H, W), physical units; grid: where its pixels lie."""
    posed = answers[0].posed(window, split=True)
    assert posed.truth is not None  # coarsened
    truth = shown(posed.truth, posed.hidden)[0]
    fields = [
        shown(each.of(MODEL, each.posed(window, split=True)), posed.hidden)[0] for each in answers
    ]
    interpolated = every[0].told.get("truth") == "interpolated"
    panel = Panel("Interpolated truth" if interpolated else "Truth", truth)
    where = place(truth.shape, every[0].yardstick, grid, round(1 / answers[0].task.side()))
    return composed(every, frame, [panel], fields, palette, where)


def forecast_scene(
    every: Sequence[Scored],
    answers: Sequence[Answers],
    opened: Store,
    frame: Frame,
    palette: Palette,
) -> Scene:
    """The last frame of a window: what was observed last, what came, and what each run said."""
    found = []
    for each, its in zip(every, answers, strict=True):
        window = next(
            window
            for window in choice.windows({frame.track: each.told["by_frame"][frame.track]})
            if window.frames[-1].number == frame.number
        )
        again = score_files.command(each.run, each.told["on"])
        found.append(windows.restored(opened, its, window, [MODEL], again))
    track, lead = opened.track(frame.track), said_ahead(every[0])
    _, height, width = track.shape
    shape, cells = answers[0].task.place(track.grid, (height, width))
    panels = [
        Panel(f"Last observed, {lead} before", found[0].past[-1]),
        Panel("Truth", found[0].future[TRUTH][-1]),
    ]
    fields = [each.future[MODEL][-1] for each in found]
    where = place(shape, every[0].yardstick, cells, 1)
    return composed(every, frame, panels, fields, palette, where)


def composed(
    every: Sequence[Scored],
    frame: Frame,
    panels: Sequence[Panel],
    fields: Sequence[np.ndarray],
    palette: Palette,
    where: Mapping[str, Any],
) -> Scene:
    """panels: what was observed, the truth last; fields: what each run says, (H, W)."""
    first, second = every[:2]
    channel, y, truth = first.told["channel"], first.yardstick, panels[-1].field
    nearer = np.abs(fields[1] - truth) - np.abs(fields[0] - truth)
    said = [frame.track, frame.when.replace("T", " ").replace("Z", " UTC"), frame.satellite]
    over = ""
    if frame.lead is not None:
        said, over = [*said, f"{said_ahead(first)} ahead"], " over all lead times"
    interpolated = first.told.get("truth") == "interpolated"
    return Scene(
        title="    ".join(part for part in said if part != "unknown"),
        subtitle=f"RMSE{over} of {second.name} minus {first.name}: {frame.apart:+.3f} {y.units}"
        + "    (interpolated truth)" * interpolated,
        panels=[
            *panels,
            *(Panel(each.name, field) for each, field in zip(every, fields, strict=True)),
            Panel(f"{second.name} minus {first.name}", fields[1] - fields[0], error=True),
            Panel(f"|error|: {second.name} minus {first.name}", nearer, error=True),
        ],
        look=pictures.look(channel, palette, y.hours),
        errors=pictures.error_look(channel, "difference", y.hours),
        unit=y.pixel_units,
        **where,
    )


def said_ahead(run: Scored) -> str:
    """Its last lead time."""
    return ahead(run.told["lead_seconds"][-1], run.told["step_seconds"])


def place(shape: tuple[int, ...], y: Yardstick, grid: Grid | None, finer: int) -> dict[str, Any]:
    """Where a picture of (H, W) lies, as a Scene takes it; finer: than the grid's cells."""
    if grid is not None:
        extent = pictures.covered(grid, (shape[0], shape[1]), finer)
        return {"extent": extent, "origin": "map" if grid.projected else "earth"}
    height, width = (side * y.pixel / 2 for side in shape)
    extent = (-width, width, -height, height)
    return {"extent": extent, "zoom": pictures.zoomed(extent, 0.3)}


def same_store(first: Scored, path: Path) -> Store:
    """What the runs were evaluated on. Raises UserError for another."""
    opened = raw_tree.opened(path)
    if opened.manifest_hash != first.told["manifest_hash"]:
        raise UserError(
            f"{path}: not the store that the runs were evaluated on; give the right one with "
            "--store"
        )
    return opened
