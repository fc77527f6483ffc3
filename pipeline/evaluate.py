"""Run + split -> scores of whole tracks in physical units, each baseline's beside the model's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import atomic, checkpoint, inputs, manifest, metrics, raw_tree, store
from pipeline.answers import Answers
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UserError
from pipeline.metrics import Errors
from pipeline.progress import progress

FILES = {"eval": "scores.json", "test": "scores-test.json"}  # in the run folder


@dataclass(frozen=True)
class Evaluation:
    """Scores by row (model, then baselines) and score name; also per track."""

    file: Path
    rows: dict[str, dict[str, float]]
    tracks: dict[str, dict[str, dict[str, float]]]
    units: dict[str, str]
    peak: float  # the range of PSNR and SSIM, physical units
    frames: int
    left_out: int  # frames with a flag: blank, or with too many missing pixels


def evaluate(
    run: Path,
    *,
    on: str = "eval",
    which: str = "best",
    store_path: Path | None = None,
    split_path: Path | None = None,
    device: str = "auto",
) -> Evaluation:
    """Score a run's checkpoint on every usable frame of the split's eval or test tracks.

    store_path, split_path: instead of those the run was trained with. One frame is in memory at a
    time. Writes scores.json into the run folder. Raises UserError for a run, store or split that
    is missing or does not belong.
    """
    trained = checkpoint.load(checkpoint.in_run(run, which))
    data = trained.settings.data
    opened = raw_tree.opened(store_path or data.store)
    split = manifest.read_split(split_path or data.split_file, opened)
    ids = split.part(on)
    if seen := sorted(set(ids) & set(trained.data.train)):
        raise UserError(
            f"{run}: was trained on {store.few(seen)}; evaluate on tracks that it has not seen"
        )
    channels = trained.data.channels
    inputs.refuse_others(opened.path, opened.channels, channels)
    peak = metrics.peak(channels)
    tracks = [opened.track(id) for id in ids]
    length = trained.task.scored_window
    windows = {track.id: track.windows(length) for track in tracks}
    total = sum(map(len, windows.values()))
    if not total:
        raise UserError(
            f"{opened.path}: no usable frame in the {on} tracks {store.few(ids)}; set others aside"
        )

    answers = Answers(trained, device)
    by_track: dict[str, dict[str, Errors]] = {}
    with progress("evaluate", total, "frames") as advance:
        for track in tracks:
            sums = {row: Errors() for row in answers.rows}
            for first in windows[track.id]:
                posed = answers.posed(track.checked(int(first), length), coarsen=True)
                assert posed.truth is not None  # coarsened
                for row in answers.rows:
                    sums[row] += Errors.of(answers.of(row, posed), posed.truth, peak)
                advance(1, track.id)
            by_track[track.id] = sums

    whole = {row: sum((s[row] for s in by_track.values()), Errors()) for row in answers.rows}
    units = metrics.units(channels[0]["units"])
    made = Evaluation(
        file=run / FILES[on],
        rows={row: errors.scores() for row, errors in whole.items()},
        tracks={id: {r: e.scores() for r, e in sums.items()} for id, sums in by_track.items()},
        units=units,
        peak=peak,
        frames=total,
        left_out=sum(int((track.flag != 0).sum()) for track in tracks),
    )
    write(made, trained, on, which, channels[0])
    return made


def write(
    made: Evaluation, trained: Checkpoint, on: str, which: str, channel: dict[str, Any]
) -> None:
    """scores.json: a row of scores per method, and beside them all that they depend on."""
    atomic.write_json(
        made.file,
        {
            **{row: finite(scores) for row, scores in made.rows.items()},
            "units": made.units,
            "psnr_range": {
                "min": channel["valid_min"],
                "max": channel["valid_max"],
                "peak": made.peak,
                "units": channel["units"],
            },
            "on": on,
            "frames": made.frames,
            "frames_left_out": made.left_out,
            "checkpoint": which,
            "epoch": trained.training["position"]["epoch"],
            "store": trained.data.store,
            "manifest_hash": trained.data.manifest_hash,
            "trained_on": trained.data.train,
            "tracks": {
                id: {row: finite(scores) for row, scores in rows.items()}
                for id, rows in made.tracks.items()
            },
        },
    )


def finite(scores: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN: an undefined score is null."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}
