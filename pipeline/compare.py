"""Runs beside one another on the same tracks: paired differences with intervals, and maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import atomic, checkpoint, pictures, raw_tree, resampling, score_files
from pipeline.answers import MODEL, Answers, shown
from pipeline.errors import UsageError, UserError
from pipeline.pictures import Palette, Panel, Scene
from pipeline.progress import progress
from pipeline.scorecard import Card, Yardstick

Table = dict[str, dict[str, float]]
# what two evaluations must share to be compared: their name in scores.json, and in words
SHARED = {
    "manifest_hash": "stores",
    "factor": "factors of refinement",
    "psnr_range": "valid ranges",
    "track_frames": "tracks or frames",
}


@dataclass(frozen=True)
class Scored:
    """One run's evaluation."""

    run: Path
    name: str
    told: dict[str, Any]  # scores.json
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


@dataclass(frozen=True)
class Frame:
    """One that all the runs were scored on."""

    track: str
    number: int
    when: str
    satellite: str
    apart: float  # RMSE of the second run minus the first's


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
    run is furthest ahead of the first to where it is furthest behind. store_path: where the frames
    are now, if not where the first run had them. Raises UserError for runs that were not evaluated,
    or not on the same frames.
    """
    if len(runs) < 2:
        raise UsageError("one run alone; give two or more to compare")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; expected a folder to write the comparison into")
    every = [scored(run, name, on) for run, name in zip(runs, names(runs), strict=True)]
    refuse_unlike(every)
    first = every[0]
    baseline = first.told["intervals"]["against"]
    tracks = [
        {each.name: each.cards[id][MODEL] for each in every} | {baseline: first.cards[id][baseline]}
        for id in first.cards
    ]
    rows = {
        row: sum((track[row] for track in tracks), Card()).scores(first.yardstick)
        for row in tracks[0]
    }
    differences: dict[str, dict[str, tuple[float, float, float]]] = {}
    if len(tracks) >= resampling.FEWEST:
        drawn = resampling.drawn(tracks, first.yardstick, resamples, seed)
        for other in every[1:]:
            ends = resampling.differences(drawn, other.name, first.name)
            differences[other.name] = {
                name: (rows[other.name][name] - rows[first.name][name], *ends[name])
                for name in ends
            }
    frames = chosen(frames_of(every), count)
    files = draw(every, frames, out, store_path or Path(first.told["store"]), device, palette)
    file = out / "comparison.json"
    atomic.write_json(
        file,
        {
            "runs": [{"name": each.name, "path": str(each.run), **about(each)} for each in every],
            "on": on,
            "tracks": list(first.cards),
            "frames": first.told["frames"],
            "units": first.told["units"],
            "better": first.told["better"],
            "scores": score_files.finite(rows),
            "against": first.name,
            "level": resampling.LEVEL,
            "resamples": resamples,
            "seed": seed,
            "differences": score_files.finite(differences),
            "pictures": {path.name: vars(frame) for path, frame in zip(files, frames, strict=True)},
        },
    )
    units = first.told["units"]
    return Comparison(file, files, rows, differences, units, len(tracks), first.told["frames"])


def about(each: Scored) -> dict[str, Any]:
    return {key: each.told[key] for key in ("model_name", "checkpoint", "epoch", "trained_on")}


def scored(run: Path, name: str, on: str) -> Scored:
    """Raises UserError for a run that was not evaluated."""
    return Scored(run, name, score_files.read(run, on), *score_files.read_sums(run, on))


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
        unlike = [words for key, words in SHARED.items() if first.told[key] != other.told[key]]
        if unlike:
            raise UserError(
                f"{first.run} and {other.run} were evaluated on other {' and '.join(unlike)}; "
                "evaluate both on the same: cli evaluate RUN --store STORE --split SPLIT"
            )


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


def chosen(frames: Sequence[Frame], count: int) -> list[Frame]:
    """Evenly from the first to the last."""
    places = np.linspace(0, len(frames) - 1, min(count, len(frames)))
    return [frames[round(place)] for place in places]


def draw(
    every: Sequence[Scored],
    frames: Sequence[Frame],
    out: Path,
    store_path: Path,
    device: str,
    palette: Palette,
) -> list[Path]:
    """A picture per frame: truth, each run, and where the second differs from the first."""
    if not frames:
        return []
    opened = raw_tree.opened(store_path)
    if opened.manifest_hash != every[0].told["manifest_hash"]:
        raise UserError(f"{store_path}: not the store that the runs were evaluated on; use --store")
    answers = [
        Answers(checkpoint.load(checkpoint.in_run(each.run, each.told["checkpoint"])), device)
        for each in every
    ]
    files = []
    with progress("draw", len(frames), "pictures") as advance:
        for frame in frames:
            window = opened.track(frame.track).checked(frame.number, 1)
            scene = scene_of(every, answers, window, frame, palette)
            hour = frame.when.replace("-", "").replace("T", "")[:10]
            files.append(pictures.panels(out / f"{frame.track}-{hour}.png", scene))
            advance(1, frame.track)
    return files


def scene_of(
    every: Sequence[Scored],
    answers: Sequence[Answers],
    window: np.ndarray,
    frame: Frame,
    palette: Palette,
) -> Scene:
    """window: (1, C, H, W), physical units."""
    first, second = every[:2]
    posed = answers[0].posed(window, coarsen=True)
    assert posed.truth is not None  # coarsened
    truth = shown(posed.truth, posed.hidden)[0]
    fields = [
        shown(each.of(MODEL, each.posed(window, coarsen=True)), posed.hidden)[0] for each in answers
    ]
    channel, y = first.told["channel"], first.yardstick
    nearer = np.abs(fields[1] - truth) - np.abs(fields[0] - truth)
    height, width = (side * y.pixel / 2 for side in truth.shape)
    extent = (-width, width, -height, height)
    when = frame.when.replace("T", " ").replace("Z", " UTC")
    return Scene(
        title=f"{frame.track}    {when}    {frame.satellite}",
        subtitle=f"RMSE of {second.name} minus {first.name}: {frame.apart:+.3f} {y.units}",
        panels=[
            Panel("Truth", truth),
            *(Panel(each.name, field) for each, field in zip(every, fields, strict=True)),
            Panel(f"{second.name} minus {first.name}", fields[1] - fields[0], error=True),
            Panel(f"|error|: {second.name} minus {first.name}", nearer, error=True),
        ],
        look=pictures.look(channel, palette),
        errors=pictures.error_look(channel, "difference"),
        extent=extent,
        unit=y.pixel_units,
        zoom=pictures.zoomed(extent, 0.3),
    )
