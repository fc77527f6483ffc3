"""What a report shows of single frames: which ones, and their fields as pictures for a browser."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from pipeline import inputs, pictures
from pipeline.answers import MODEL, Answers, shown
from pipeline.credit import NOBODY, Credit
from pipeline.errors import UserError
from pipeline.metrics import Errors
from pipeline.pictures import Extent, Look
from pipeline.reporting import trackmap
from pipeline.reporting.choice import Scored, Window
from pipeline.reporting.trackmap import Course
from pipeline.store import Store

COARSE, TRUTH, ERROR = "coarse", "truth", "error"  # what a field shows, beside methods' names
STILL_SIDE, LOOP_SIDE = 512, 320  # pixels; of larger frames the middle is shown
DETAIL = 0.3  # of a picture's sides is shown enlarged below it
SAME = 1e-3  # of an RMSE, and in its unit: rounding, on another device too
SMALL = 128  # pixels; frames no larger are shown as they are, and need no second row


@dataclass(frozen=True)
class Still:
    """A chosen frame; every picture is a data: URI of one pixel per pixel of the field."""

    frame: Scored
    pictures: dict[str, str]  # by COARSE, method, TRUTH, ERROR
    shape: tuple[int, int]  # (H, W) of the fine ones
    whole: tuple[int, int]  # (H, W) of the frame that they are the middle of
    ground: Extent | None = None  # what they cover, degrees; None where frames follow something
    # where the part begins that is shown enlarged: shares of the width and of the height
    detail: tuple[float, float] = ((1 - DETAIL) / 2, (1 - DETAIL) / 2)


@dataclass(frozen=True)
class Strip:
    """A chosen window of a forecast: the last observed frame, then what was forecast."""

    window: Window
    leads: list[int]  # the lead times that are shown, from 0
    observed: str  # the picture of the last frame before the forecast
    pictures: dict[str, list[str]]  # at each of `leads`, by TRUTH, method, ERROR
    shape: tuple[int, int]
    whole: tuple[int, int]
    ground: Extent | None = None


@dataclass(frozen=True)
class Loop:
    """Frames of one track, to be played."""

    track: str
    frames: list[Scored]
    pictures: list[dict[str, str]]  # of each frame, by COARSE, method, TRUTH
    shape: tuple[int, int]
    whole: tuple[int, int]
    every: int  # of so many scored frames one is shown
    course: Course | None
    places: list[int]  # of each frame, in the course
    ground: Extent | None = None
    exact: bool = False  # whether its pictures have every pixel as it is
    # of each frame of a forecast, steps after the last observed one
    leads: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Board:
    """All pictures of a report."""

    stills: list[Still]
    loop: Loop | None  # None where no track has two scored frames
    methods: list[str]  # that are shown, in their order
    bars: dict[str, str] = field(default_factory=dict)  # colour bars, LEVELS x 1 pixels
    look: Look | None = None
    errors: Look | None = None
    strips: list[Strip] = field(default_factory=list)  # of a forecast, instead of stills


def drawn(
    opened: Store,
    answers: Answers,
    stills: Sequence[Scored],
    loop: Sequence[Scored],
    every: int,
    against: str,
    hours: float | None = None,
    again: str = "`cli evaluate`",
) -> Iterator[Board | None]:
    """Restore and draw each of these frames; yields None after each, and then the whole board.

    hours: that rain was accumulated over; again: the command that scores anew. Raises UserError
    where the store has not the frames that were scored.
    """
    channel, credit = opened.channels[0], Credit.of(opened.attrs)
    look = pictures.look(channel, hours=hours)
    errors = pictures.error_look(channel, "model minus truth", hours)
    done: dict[tuple[str, int], Still] = {}
    moving: dict[tuple[str, int], dict[str, str]] = {}
    shape = whole = (0, 0)
    exact = False
    looping = {frame.key for frame in loop}
    wanted = {frame.key: frame for frame in [*loop, *stills]}
    for frame in wanted.values():
        fields = restored(opened, answers, frame, [against, MODEL], again)
        H, W = fields[TRUTH].shape
        if frame.key in looping:
            exact = look.logarithmic or max(H, W) <= SMALL  # JPEG's ripples would be drizzle
            moving[frame.key], shape = middle_pictures(
                fields, LOOP_SIDE, look, exact=exact, credit=credit
            )
            whole = (H, W)
        if still := next((s for s in stills if s.key == frame.key), None):
            made, part = middle_pictures(fields, STILL_SIDE, look, exact=True, credit=credit)
            difference = middle(fields[MODEL] - fields[TRUTH], part)
            made[ERROR] = uri(pictures.coloured(difference, errors), exact=True, credit=credit)
            where = ground(opened, answers, frame.track, (H, W), part)
            found = Still(still, made, part, (H, W), where)
            if look.logarithmic:
                found = replace(found, detail=most_rain(middle(fields[TRUTH], part)))
            done[frame.key] = found
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
            *course(opened, loop[0].track, [frame.seconds for frame in loop]),
            ground=ground(opened, answers, loop[0].track, whole, shape),
            exact=exact,
        )
        if loop
        else None,
        methods=[against, MODEL],
        bars={"field": bar(look), "error": bar(errors)},
        look=look,
        errors=errors,
    )


def restored(
    opened: Store,
    answers: Answers,
    frame: Scored,
    rows: Sequence[str],
    again: str = "`cli evaluate`",
) -> dict[str, np.ndarray]:
    """(H, W) each, physical units, of the first channel: COARSE, `rows` and TRUTH; NaN: missing.

    Raises UserError where the frame, or what is restored of it, is not what was scored.
    """
    track = opened.track(frame.track)
    times = track.times
    if frame.number >= len(times) or int(times[frame.number]) != frame.seconds:
        raise UserError(
            f"{opened.path}: frame {frame.number} of {frame.track} is not that of {frame.when}, "
            f"which was scored; run {again} with this store again"
        )
    posed = answers.posed(track.checked(frame.number, 1), split=True)
    assert posed.truth is not None  # coarsened
    found = {row: answers.of(row, posed) for row in rows}
    for row, answer in found.items():
        if not as_scored(answer, posed.truth, frame.rmse[row]):
            raise UserError(
                f"{opened.path}: frame {frame.number} of {frame.track} has other scores now; run "
                f"{again} again"
            )
    fields = {row: shown(answer, posed.hidden)[0] for row, answer in found.items()}
    coarse = posed.x[0, 0, 0].cpu().numpy()
    return {COARSE: coarse, **fields, TRUTH: posed.truth[0, 0, 0].cpu().numpy()}


def as_scored(answer: Tensor, truth: Tensor, rmse: float | None) -> bool:
    """Whether one frame's RMSE over all channels is that of scores.json, but for rounding."""
    now = Errors.of(answer[0, 0], truth[0, 0], peak=1.0).scores()["rmse"]
    if rmse is None:
        return math.isnan(now)
    return math.isclose(now, rmse, rel_tol=SAME, abs_tol=SAME)


def middle_pictures(
    fields: Mapping[str, np.ndarray],
    side: int,
    look: Look,
    *,
    exact: bool = False,
    credit: Credit = NOBODY,
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
        kept = exact or what == COARSE  # its pixels are to be seen
        made[what] = uri(colours, exact=kept, credit=credit)
    return made, (shape[0], shape[1])


def middle(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """That many rows and columns about the centre."""
    top, left = ((n - m) // 2 for n, m in zip(values.shape, shape, strict=True))
    return values[top : top + shape[0], left : left + shape[1]]


def course(opened: Store, id: str, seconds: Sequence[int]) -> tuple[Course | None, list[int]]:
    """The best track of a storm, and the place of each of these times in it."""
    footage = inputs.opened(opened.path, id, opened.channels)
    found = trackmap.Course.of(footage.variables)
    numbers = {int(time): number for number, time in enumerate(footage.times)}
    return found, [numbers[time] for time in seconds]


def most_rain(truth: np.ndarray) -> tuple[float, float]:
    """Where the DETAIL of (H, W) begins that has most rain: shares of the width and the height."""
    (H, W), (h, w) = truth.shape, (max(1, round(DETAIL * n)) for n in truth.shape)
    total = np.pad(np.nan_to_num(truth), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return min(float(left) / W, 1 - DETAIL), min(float(top) / H, 1 - DETAIL)


def ground(
    opened: Store, answers: Answers, id: str, whole: tuple[int, int], part: tuple[int, int]
) -> Extent | None:
    """What the middle `part` of a track's whole pictures covers; None without degrees."""
    grid = opened.track(id).grid
    if grid is None or grid.projected:
        return None
    finer = round(1 / answers.task.side())
    west, east, south, north = pictures.covered(grid, whole, finer)
    (H, W), (h, w) = whole, part
    top, left = (H - h) // 2, (W - w) // 2
    x, y = (east - west) / W, (north - south) / H
    return (
        west + left * x,
        west + (left + w) * x,
        north - (top + h) * y,
        north - top * y,
    )


def bar(look: Look) -> str:
    """Every colour of a look, from low to high."""
    return uri(pictures.coloured(look.values()[None], look), exact=True)


def uri(image: np.ndarray, *, exact: bool, credit: Credit = NOBODY) -> str:
    kind = "webp" if exact else "jpeg"
    text = base64.b64encode(pictures.encoded(image, exact=exact, credit=credit)).decode("ascii")
    return f"data:image/{kind};base64,{text}"
