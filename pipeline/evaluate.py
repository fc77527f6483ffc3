"""Run + split -> scores of whole tracks in physical units, each baseline's beside the model's.

One batch of frames is in memory at a time, whatever the number and the length of the tracks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
import torch

from pipeline import checkpoint, inputs, manifest, raw_tree, resampling, score_files, store, workers
from pipeline.answers import Answers
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.scorecard import Judge, Yardstick
from pipeline.scores import FrameScores, Scores, TrackScores


@dataclass(frozen=True)
class Evaluation:
    """What was written, and what it says."""

    file: Path
    scores: Scores
    left_out: int  # frames with a flag: blank, or with too many missing pixels
    seconds: float  # it took to score them


@dataclass(frozen=True)
class Job:
    """One track to score: all that another process needs."""

    track: store.Track
    checkpoint: Path
    written: int  # when the checkpoint was, ns: a later one is loaded anew
    device: str
    yardstick: Yardstick
    batch_size: int


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
) -> Evaluation:
    """Score a run's checkpoint on every usable frame of the split's eval or test tracks.

    store_path, split_path: instead of those the run was trained with. batch_size: frames that go
    through the model together. Neither that nor the number of processes changes a score beyond
    rounding. resamples, seed: of the intervals. Writes scores.json, scores.csv and the sums behind
    them into the run folder. Raises UserError for a run, store or split that is missing or does not
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
            f"{run}: was trained on {store.few(seen)}; evaluate on tracks that it has not seen"
        )
    inputs.refuse_others(opened.path, opened.channels, trained.data.channels)
    yardstick = Yardstick.of(trained.data.channels, {**trained.data.attrs, **opened.attrs})
    tracks = {id: opened.track(id) for id in ids}
    length = trained.task.scored_window
    jobs = {
        id: Job(track, file.absolute(), file.stat().st_mtime_ns, device, yardstick, batch_size)
        for id, track in tracks.items()
        if len(track.windows(length))
    }
    if not jobs:
        raise UserError(
            f"{opened.path}: no usable frame in the {on} tracks {store.few(ids)}; set others aside"
        )
    total = sum(len(tracks[id].windows(length)) for id in jobs)
    begun = time.monotonic()
    with progress("evaluate", total, "frames") as advance:
        done = dict(workers.for_each(score_track, jobs, advance, processes))
    seconds = time.monotonic() - begun
    left_out = sum(int((track.flag != 0).sum()) for track in tracks.values())
    scores = Scores(
        yardstick=yardstick,
        by_track={id: done[id] for id in jobs},
        about={**about(trained, which, opened), "on": on, "frames_left_out": left_out},
        resamples=resamples,
        seed=seed,
    )
    return Evaluation(score_files.write(run, on, scores), scores, left_out, seconds)


def about(trained: Checkpoint, which: str, opened: store.Store) -> dict[str, object]:
    """What the scores depend on, beside the tracks."""
    return {
        "model_name": trained.settings.model_name,
        "checkpoint": which,
        "epoch": trained.training["position"]["epoch"],
        "factor": trained.settings.task.factor,
        "store": str(opened.path),
        "manifest_hash": opened.manifest_hash,
        "trained_on": trained.data.train,
        "channel": trained.data.channels[0],
    }


def score_track(job: Job, advance: Callable[..., None]) -> TrackScores:
    """Every usable frame of one track."""
    answers = answers_of(job.checkpoint, job.written, job.device)
    track, length = job.track, answers.task.scored_window
    times, satellites = track.times, track.satellites
    joined = set(track.windows(2).tolist())  # the frames that another follows one step later
    judge = Judge(job.yardstick, answers.rows, length)
    done = TrackScores(judge.cards)
    firsts = track.windows(length)
    for some in np.split(firsts, range(job.batch_size, len(firsts), job.batch_size)):
        windows = np.stack([track.checked(int(first), length) for first in some])
        posed = answers.posed(windows, coarsen=True)
        assert posed.truth is not None  # coarsened
        fields = {row: answers.of(row, posed) for row in answers.rows}
        for i, first in enumerate(some.tolist()):
            for lead in range(length):
                number = first + lead
                errors = judge.frame(
                    {row: field[i, lead] for row, field in fields.items()},
                    posed.truth[i, lead],
                    follows=number - 1 in joined and (lead > 0 or length == 1),
                    lead=lead,
                )
                done.frames.append(
                    FrameScores(number, lead, int(times[number]), satellites[number], errors)
                )
        advance(len(some), track.id)
    return done


@lru_cache(maxsize=1)
def answers_of(file: Path, written: int, device: str) -> Answers:
    """The checkpoint's model, loaded once for all tracks that this process scores."""
    if parent_process() is not None:  # beside others: as many threads in all as there are cores
        torch.set_num_threads(1)
    return Answers(checkpoint.load(file), device)
