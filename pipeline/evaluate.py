"""Run + split -> scores of whole tracks in physical units, each baseline's beside the model's.

One batch of frames is in memory at a time, whatever the number and the length of the tracks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline import (
    checkpoint,
    credit,
    inputs,
    manifest,
    raw_tree,
    resampling,
    score_files,
    store,
    workers,
)
from pipeline.answers import MODEL, Answers
from pipeline.arrays import Arrays
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UserError, few
from pipeline.familiarity import refuse_unfit
from pipeline.progress import progress
from pipeline.scorecard import TRUTH, Judge, Yardstick
from pipeline.scores import FrameScores, Scores, TrackScores
from pipeline.sites import Site, chosen
from pipeline.tasks import Task
from pipeline.windows import of_other_dates, refuse_same_dates, usual_step


@dataclass(frozen=True)
class Evaluation:
    """What was written, and what it says."""

    file: Path
    scores: Scores
    left_out: int  # frames with a flag: blank, or with too many missing pixels
    seconds: float  # it took to score them
    notes: tuple[str, ...] = ()  # what must be said beside the scores
    sites: Path | None = None  # the picture of the sites that were followed


@dataclass(frozen=True)
class Job:
    """One track to score: all that another process needs."""

    track: store.Track
    checkpoint: Path
    written: int  # when the checkpoint was, ns: a later one is loaded anew
    device: str
    yardstick: Yardstick
    batch_size: int
    steps: int | None = None  # future frames, if not as trained
    arrays: Path | None = None  # where to keep what is scored
    sites: tuple[Site, ...] = ()


def evaluate(
    run: Path,
    *,
    on: str = "eval",
    which: str = "best",
    store_path: Path | None = None,
    split_path: Path | None = None,
    device: str = "auto",
    batch_size: int = 1,
    processes: int = 1,
    resamples: int = resampling.RESAMPLES,
    seed: int = 0,
    sites: Sequence[str] = (),
    steps: int | None = None,
    arrays: Path | None = None,
) -> Evaluation:
    """Score a run's checkpoint on every usable frame of the split's eval or test tracks.

    store_path, split_path: instead of those the run was trained with. batch_size: frames that go
    through the model together. Neither that nor the number of processes changes a score beyond
    rounding. resamples, seed: of the intervals. sites: places `latitude,longitude` or
    `@row,column` to follow date by date; of rain the wettest, the median and the driest otherwise.
    steps: of a forecast, how many ahead, if not as trained; the model goes on from its own.
    arrays: a folder for inputs, truth and predictions, as `Arrays` keeps them.
    Writes scores.json, scores.csv and the sums behind them into the run folder, and of sites their
    series and a picture. Raises UserError for a run, store or split that is missing or does not
    belong.
    """
    file = checkpoint.in_run(run, which)
    trained = checkpoint.load(file)
    data = trained.settings.data
    opened = raw_tree.opened(store_path or data.store)
    split = manifest.read_split(split_path or data.split_file, opened)
    ids = split.part(on)
    if seen := sorted(set(ids) & set(trained.data.train)):
        raise UserError(
            f"{run}: was trained on {few(seen)}; evaluate on tracks that it has not seen"
        )
    inputs.refuse_others(opened.path, opened.channels, trained.data.channels)
    tracks = {id: opened.track(id) for id in ids}
    yardstick = Yardstick.of_trained(trained, opened.attrs, tracks.values())
    task = Answers.task_of(trained, steps)
    length = task.scored_window
    fit = {id: track for id, track in tracks.items() if len(track.windows(length))}
    if not fit:
        what = "usable frame" if length == 1 else f"window of {length} usable frames at equal steps"
        raise UserError(
            f"{opened.path}: no {what} in the {on} tracks {few(ids)}; set others aside"
            + (", or ask for fewer --steps" if steps else "")
        )
    for track in fit.values():
        where = track.store / track.id
        refuse_unfit(where, track.shape, track.grid, usual_step(track.times), trained, task)
        if task.borrows:
            refuse_same_dates(track.windows(length), length, where)
    followed: list[Site] = []
    if sites or yardstick.is_rain:
        followed = chosen(list(fit.values()), task, sites)
    jobs = {
        id: Job(
            track=track,
            checkpoint=file.absolute(),
            written=file.stat().st_mtime_ns,
            device=device,
            yardstick=yardstick,
            batch_size=batch_size,
            steps=steps,
            arrays=arrays,
            sites=tuple(followed),
        )
        for id, track in fit.items()
    }
    total = sum(len(tracks[id].windows(length)) for id in jobs)
    begun = time.monotonic()
    with progress("evaluate", total, "windows" if length > 1 else "frames") as advance:
        done = dict(workers.for_each(score_track, jobs, advance, processes))
    seconds = time.monotonic() - begun
    left_out = sum(int((track.flag != 0).sum()) for track in tracks.values())
    scores = Scores(
        yardstick=yardstick,
        by_track={id: done[id] for id in jobs},
        about={
            **about(trained, task, which, opened),
            "on": on,
            "frames_left_out": left_out,
            "tracks_left_out": [id for id in ids if id not in fit],
        },
        resamples=resamples,
        seed=seed,
        sites=tuple(followed),
    )
    return Evaluation(
        file=score_files.write(run, on, scores),
        scores=scores,
        left_out=left_out,
        seconds=seconds,
        notes=(*score_files.notes(scores), *notes(scores)),
        sites=score_files.path(run, on, ".sites.png") if followed else None,
    )


def notes(scores: Scores) -> list[str]:
    """What must be said on the screen beside them."""
    made = []
    if without := scores.about["tracks_left_out"]:
        made.append(f"tracks without a usable frame are left out: {few(without)}")
    chosen_on = scores.about["chosen_on"] if scores.about["checkpoint"] == "best" else []
    judged = [id for id in scores.by_track if id in chosen_on]
    if judged and scores.about["on"] == "test":
        made.append(
            f"the checkpoint was chosen by its RMSE on {few(judged)}, which flatters it a "
            "little; to quote a figure, take tracks that training has not looked at"
        )
    return made


def about(trained: Checkpoint, task: Task, which: str, opened: store.Store) -> dict[str, object]:
    """What the scores depend on, beside the tracks."""
    told = task.about()
    # Native or interpolated: by the task, or already by the conversion, onto a finer grid.
    native, side = (opened.attrs.get(key) for key in ("native_grid_degrees", "grid_degrees"))
    if native and side and side < 0.999 * native:
        told["truth"] = "interpolated"
    return {
        "model_name": trained.settings.model_name,
        "checkpoint": which,
        "epoch": trained.training["position"]["epoch"],
        "step": trained.training["position"]["step"],
        "task": task.kind,
        **told,
        "step_seconds": trained.data.step,
        "store": str(opened.path.resolve()),
        **credit.rights(opened.attrs),
        "manifest_hash": opened.manifest_hash,
        "trained_manifest_hash": trained.data.manifest_hash,
        "trained_on": trained.data.train,
        "chosen_on": trained.data.eval,
        "channel": trained.targets[0],
    }


def score_track(job: Job, advance: Callable[..., None]) -> TrackScores:
    """Every usable frame of one track."""
    answers = answers_of(job.checkpoint, job.written, job.device, job.steps)
    track, task = job.track, answers.task
    length, leads = task.scored_window, task.scored_window - task.first
    times, satellites = track.times, track.satellites
    joined = set(track.windows(2).tolist())  # the frames that another follows one step later
    judge = Judge(job.yardstick, answers.rows, leads)
    done = TrackScores(judge.cards)
    before = -1  # the frame that was judged before
    firsts = track.windows(length)
    kept = Arrays(job.arrays / track.id, len(firsts)) if job.arrays else None
    others = of_other_dates(firsts)
    for some in np.split(
        np.arange(len(firsts)), range(job.batch_size, len(firsts), job.batch_size)
    ):
        windows = read(track, firsts[some], length)
        donors = read(track, others[some], length) if task.borrows else None
        posed = answers.posed(windows, split=True, donors=donors)
        assert posed.truth is not None  # split
        fields = {row: answers.of(row, posed) for row in answers.rows}
        if kept:
            kept.put(inputs=posed.x, truth=posed.truth, predictions=fields[MODEL])
        for i, first in enumerate(firsts[some].tolist()):
            for lead in range(leads):
                number = first + task.first + lead
                errors = judge.frame(
                    {row: field[i, lead] for row, field in fields.items()},
                    posed.truth[i, lead],
                    follows=before == number - 1 in joined and (lead > 0 or leads == 1),
                    lead=lead,
                )
                before = number
                done.frames.append(
                    FrameScores(
                        number,
                        lead,
                        int(times[number]),
                        satellites[number],
                        errors,
                        at_sites({TRUTH: posed.truth, **fields}, i, lead, job.sites),
                    )
                )
        advance(len(some), track.id)
    if kept:
        kept.finish(times=times[firsts[:, None] + task.first + np.arange(leads)])
    return done


def read(track: store.Track, firsts: np.ndarray, length: int) -> np.ndarray:
    """The windows that begin there, (B, T, C, H, W)."""
    return np.stack([track.checked(int(first), length) for first in firsts])


def at_sites(
    fields: Mapping[str, Tensor], i: int, lead: int, sites: Sequence[Site]
) -> dict[str, list[float]]:
    """Of each field (B, T, C, H, W) its first channel's values at the sites."""
    if not sites:
        return {}
    rows, columns = ([getattr(site, axis) for site in sites] for axis in ("row", "column"))
    return {name: field[i, lead, 0, rows, columns].tolist() for name, field in fields.items()}


@lru_cache(maxsize=1)
def answers_of(file: Path, written: int, device: str, steps: int | None) -> Answers:
    """The checkpoint's model, loaded once for all tracks that this process scores."""
    if parent_process() is not None:  # beside others: as many threads in all as there are cores
        torch.set_num_threads(1)
    return Answers(checkpoint.load(file), device, steps=steps)
