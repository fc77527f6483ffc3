"""What a report shows of single frames: which ones, and their fields as pictures for a browser."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

from pipeline import inputs, pictures
from pipeline.answers import MODEL, Answers, shown
from pipeline.errors import UserError
from pipeline.pictures import Look
from pipeline.reporting import trackmap
from pipeline.reporting.trackmap import Course
from pipeline.store import Store

COARSE, TRUTH, ERROR = "coarse", "truth", "error"  # what a field shows, beside methods' names
STILL_SIDE, LOOP_SIDE = 512, 320  # pixels; of larger frames the middle is shown
LOOP_FRAMES = 48


@dataclass(frozen=True)
class Scored:
    """One frame of a track that was scored."""

    track: str
    number: int  # in the track
    time: str  # UTC, as in 2021-07-19T00:00Z
    satellite: str
    rmse: Mapping[str, float | None]  # by method
    reason: str = ""  # why it was chosen

    @property
    def key(self) -> tuple[str, int]:
        return self.track, self.number

    @property
    def seconds(self) -> int:
        """Since 1970."""
        return int(datetime.fromisoformat(self.time).timestamp())

    @property
    def when(self) -> str:
        return self.time.replace("T", " ").removesuffix("Z") + " UTC"


@dataclass(frozen=True)
class Still:
    """A chosen frame; every picture is a data: URI of one pixel per pixel of the field."""

    frame: Scored
    pictures: dict[str, str]  # by COARSE, method, TRUTH, ERROR
    shape: tuple[int, int]  # (H, W) of the fine ones
    whole: tuple[int, int]  # (H, W) of the frame that they are the middle of


@dataclass(frozen=True)
class Loop:
    """The frames of one storm, to be played."""

    track: str
    frames: list[Scored]
    pictures: list[dict[str, str]]  # of each frame, by COARSE, method, TRUTH
    shape: tuple[int, int]
    whole: tuple[int, int]
    every: int  # of so many scored frames one is shown
    course: Course | None
    places: list[int]  # of each frame, in the course


@dataclass(frozen=True)
class Board:
    """All pictures of a report."""

    stills: list[Still]
    loop: Loop | None  # None where no track has two scored frames
    methods: list[str]  # that are shown, the model last
    bars: dict[str, str] = field(default_factory=dict)  # colour bars, LEVELS x 1 pixels
    look: Look | None = None
    errors: Look | None = None


def scored(by_frame: Mapping[str, Any]) -> list[Scored]:
    """Every frame of scores.json, track by track."""
    made = []
    for id, told in by_frame.items():
        rows = told["rmse"]
        for place, number in enumerate(told["frame"]):
            rmse = {row: values[place] for row, values in rows.items()}
            made.append(Scored(id, number, told["time"][place], told["satellite"][place], rmse))
    return made


def chosen(frames: Sequence[Scored], count: int, against: str) -> list[Scored]:
    """The frames of the largest and the smallest gain, and `count` others spread over the tracks.

    In the order of `frames`, each with the reasons for it. A gain is how much smaller the model's
    RMSE is than that of the method `against`.
    """
    reasons: dict[tuple[str, int], str] = {}
    gains = {f.key: gain for f in frames if (gain := gain_of(f, against)) is not None}
    if len(gains) > 1:
        least, most = (pick(gains, key=lambda key: gains[key]) for pick in (min, max))
        reasons[most] = f"Largest gain over {against} of all frames"
        reasons[least] = f"Smallest gain over {against} of all frames"
        if gains[least] < 0:
            reasons[least] = f"Furthest behind {against} of all frames"
    for frame in spread([f for f in frames if f.key not in reasons], count):
        reasons[frame.key] = "Evenly spread over tracks and time"
    return [replace(frame, reason=reasons[frame.key]) for frame in frames if frame.key in reasons]


def gain_of(frame: Scored, against: str) -> float | None:
    ours, theirs = frame.rmse.get(MODEL), frame.rmse.get(against)
    return None if ours is None or theirs is None else theirs - ours


def spread(frames: Sequence[Scored], count: int) -> list[Scored]:
    """So many frames: as many of each track as can be, evenly within each."""
    tracks: dict[str, list[Scored]] = {}
    for frame in frames:
        tracks.setdefault(frame.track, []).append(frame)
    share = dict.fromkeys(tracks, 0)
    if count < len(tracks):  # evenly over the tracks too
        ids = list(tracks)
        for place in (np.arange(count) + 0.5) * len(ids) / max(count, 1):
            share[ids[int(place)]] = 1
    else:
        for _ in range(min(count, len(frames))):
            open_ = [id for id in tracks if share[id] < len(tracks[id])]
            share[min(open_, key=lambda id: share[id])] += 1
    return [
        tracks[id][int((k + 0.5) * len(tracks[id]) / n)]
        for id, n in share.items()
        for k in range(n)
    ]


def looped(frames: Sequence[Scored], most: int = LOOP_FRAMES) -> tuple[list[Scored], int]:
    """The frames of the track with most of them, and of how many each is one; none of one alone."""
    counts: dict[str, int] = {}
    for frame in frames:
        counts[frame.track] = counts.get(frame.track, 0) + 1
    if not counts or max(counts.values()) < 2:
        return [], 1
    id = max(counts, key=lambda id: counts[id])
    every = -(-counts[id] // most)
    return [frame for frame in frames if frame.track == id][::every], every


def drawn(
    opened: Store,
    answers: Answers,
    stills: Sequence[Scored],
    loop: Sequence[Scored],
    every: int,
    against: str,
) -> Iterator[Board | None]:
    """Restore and draw each of these frames; yields None after each, and then the whole board.

    Raises UserError where the store has not the frames that were scored.
    """
    channel = opened.channels[0]
    look, errors = pictures.look(channel), pictures.error_look(channel, "model minus truth")
    done: dict[tuple[str, int], Still] = {}
    moving: dict[tuple[str, int], dict[str, str]] = {}
    shape = whole = (0, 0)
    looping = {frame.key for frame in loop}
    wanted = {frame.key: frame for frame in [*loop, *stills]}
    for frame in wanted.values():
        fields = restored(opened, answers, frame, [against, MODEL])
        H, W = fields[TRUTH].shape
        if frame.key in looping:
            moving[frame.key], shape = middle_pictures(fields, LOOP_SIDE, look)
            whole = (H, W)
        if still := next((s for s in stills if s.key == frame.key), None):
            made, part = middle_pictures(fields, STILL_SIDE, look, exact=True)
            difference = middle(fields[MODEL] - fields[TRUTH], part)
            made[ERROR] = uri(pictures.coloured(difference, errors), exact=True)
            done[frame.key] = Still(still, made, part, (H, W))
        yield None
    yield Board(
        stills=[done[frame.key] for frame in stills],
        loop=Loop(
            loop[0].track,
            list(loop),
            [moving[frame.key] for frame in loop],
            shape,
            whole,
            every,
            *course(opened, loop),
        )
        if loop
        else None,
        methods=[against, MODEL],
        bars={"field": bar(look), "error": bar(errors)},
        look=look,
        errors=errors,
    )


def restored(
    opened: Store, answers: Answers, frame: Scored, rows: Sequence[str]
) -> dict[str, np.ndarray]:
    """(H, W) each, physical units, of the first channel: COARSE, `rows` and TRUTH; NaN: missing."""
    track = opened.track(frame.track)
    times = track.times
    if frame.number >= len(times) or int(times[frame.number]) != frame.seconds:
        raise UserError(
            f"{opened.path}: frame {frame.number} of {frame.track} is not that of {frame.when}, "
            "which was scored; run `cli evaluate` with this store again"
        )
    posed = answers.posed(track.checked(frame.number, 1), coarsen=True)
    assert posed.truth is not None  # coarsened
    fields = {row: shown(answers.of(row, posed), posed.hidden)[0] for row in rows}
    coarse = posed.x[0, 0, 0].cpu().numpy()
    return {COARSE: coarse, **fields, TRUTH: posed.truth[0, 0, 0].cpu().numpy()}


def middle_pictures(
    fields: Mapping[str, np.ndarray], side: int, look: Look, *, exact: bool = False
) -> tuple[dict[str, str], tuple[int, int]]:
    """The middle of each field as a picture, and the (H, W) of the fine ones."""
    whole = fields[TRUTH].shape
    f = whole[0] // fields[COARSE].shape[0]
    # What is cut off each side is whole coarse pixels.
    shape = [n - 2 * f * max(0, -(-(n - side) // (2 * f))) for n in whole]
    made = {}
    for what, values in fields.items():
        part = (shape[0] // f, shape[1] // f) if what == COARSE else (shape[0], shape[1])
        colours = pictures.coloured(middle(values, part), look)
        made[what] = uri(colours, exact=exact or what == COARSE)  # its pixels are to be seen
    return made, (shape[0], shape[1])


def middle(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """That many rows and columns about the centre."""
    top, left = ((n - m) // 2 for n, m in zip(values.shape, shape, strict=True))
    return values[top : top + shape[0], left : left + shape[1]]


def course(opened: Store, loop: Sequence[Scored]) -> tuple[Course | None, list[int]]:
    """The best track of the loop's storm, and the place of each frame in it."""
    footage = inputs.opened(opened.path, loop[0].track, opened.channels)
    found = trackmap.Course.of(footage.variables)
    numbers = {int(time): number for number, time in enumerate(footage.times)}
    return found, [numbers[frame.seconds] for frame in loop]


def bar(look: Look) -> str:
    """Every colour of a look, from low to high."""
    return uri(
        pictures.coloured(np.linspace(look.low, look.high, pictures.LEVELS)[None], look), exact=True
    )


def uri(image: np.ndarray, *, exact: bool) -> str:
    kind = "webp" if exact else "jpeg"
    text = base64.b64encode(pictures.encoded(image, exact=exact)).decode("ascii")
    return f"data:image/{kind};base64,{text}"
