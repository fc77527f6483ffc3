"""Pictures of forecasts: the windows that a report shows, and the one that it plays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import pictures
from pipeline.answers import MODEL, Answers
from pipeline.credit import NOBODY, Credit
from pipeline.errors import UserError
from pipeline.pictures import Extent, Look
from pipeline.reporting.choice import LOOP_FRAMES, Scored, Window
from pipeline.reporting.storyboard import (
    ERROR,
    LOOP_SIDE,
    SMALL,
    TRUTH,
    Board,
    Loop,
    Strip,
    as_scored,
    bar,
    course,
    uri,
)
from pipeline.score_files import utc
from pipeline.store import Store, Track
from pipeline.tasks import Forecast
from pipeline.windows import of_other_dates

BESIDE = 2  # baselines, at most, that are shown beside the model
SHOWN = 6  # lead times, at most, of a strip
STRIP_SIDE = 256  # pixels of a picture in a strip; of larger frames a pixel is a mean of several


@dataclass(frozen=True)
class Fields:
    """One window, of the first channel that is forecast; physical units, NaN where missing."""

    times: np.ndarray  # (past + future,) seconds since 1970
    past: np.ndarray  # (past, H, W)
    future: dict[str, np.ndarray]  # (future, H, W), by TRUTH and method


def drawn(
    opened: Store,
    answers: Answers,
    chosen: Sequence[Window],
    looped: Window,
    channel: Mapping[str, Any],
    hours: float | None = None,
    again: str = "`cli evaluate`",
) -> Iterator[Board | None]:
    """Forecast and draw each of these windows; yields None after each, and then the whole board.

    looped: the one of them that is played; channel: what is forecast; hours: that rain was
    accumulated over; again: the command that scores anew. Raises UserError where the store has not
    the frames that were scored.
    """
    look, credit = pictures.look(channel, hours=hours), Credit.of(opened.attrs)
    errors = pictures.error_look(channel, "model minus truth", hours, ahead=True)
    methods = answers.rows[: 1 + BESIDE]
    strips, loop = [], None
    for window in chosen:
        fields = restored(opened, answers, window, methods, again)
        track = opened.track(window.track)
        strips.append(strip(answers, window, fields, look, errors, track, credit))
        if window is looped:
            loop = played(opened, answers, window, fields, look)
        yield None
    yield Board(
        stills=[],
        loop=loop,
        methods=methods,
        bars={"field": bar(look), "error": bar(errors)},
        look=look,
        errors=errors,
        strips=strips,
    )


def restored(
    opened: Store,
    answers: Answers,
    window: Window,
    rows: Sequence[str],
    again: str = "`cli evaluate`",
) -> Fields:
    """Raises UserError where the frames, or what is forecast of them, are not what was scored."""
    task = answers.task
    assert isinstance(task, Forecast)
    track = opened.track(window.track)
    first, times = window.frames[0].number - task.first, track.times
    for frame in window.frames:
        if frame.number >= len(times) or int(times[frame.number]) != frame.seconds:
            raise UserError(
                f"{opened.path}: frame {frame.number} of {frame.track} is not that of "
                f"{frame.when}, which was scored; run {again} with this store again"
            )
    frames = track.checked(first, task.window)
    posed = answers.posed(frames, split=True, donors=donors(track, task, first))
    assert posed.truth is not None  # split
    found = {row: answers.of(row, posed) for row in rows}
    for row, answer in found.items():
        for lead, frame in enumerate(window.frames):
            if not as_scored(answer[:, lead:], posed.truth[:, lead:], frame.rmse[row]):
                raise UserError(
                    f"{opened.path}: frame {frame.number} of {frame.track}, forecast "
                    f"{lead + 1} steps ahead, has other scores now; run {again} again"
                )
    return Fields(
        times=times[first : first + task.window],
        past=task.judged(posed.x)[0, :, task.continues[0]].cpu().numpy(),
        future={
            what: values[0, :, 0].cpu().numpy()
            for what, values in ({TRUTH: posed.truth} | found).items()
        },
    )


def donors(track: Track, task: Forecast, first: int) -> np.ndarray | None:
    """The window of another date that an evaluation gives to the one that begins there."""
    if not task.borrows:
        return None
    firsts = track.windows(task.scored_window)
    others = of_other_dates(firsts)
    return track.checked(int(others[np.searchsorted(firsts, first)]), task.window)


def strip(
    answers: Answers,
    window: Window,
    fields: Fields,
    look: Look,
    errors: Look,
    track: Track,
    credit: Credit = NOBODY,
) -> Strip:
    future = len(window.frames)
    leads = np.linspace(0, future - 1, min(SHOWN, future)).round().astype(int).tolist()

    def drawn_in(style: Look, values: np.ndarray) -> str:
        image = pictures.coloured(shrunk(values, STRIP_SIDE), style)
        return uri(image, exact=True, credit=credit)

    made = {
        what: [drawn_in(look, values[lead]) for lead in leads]
        for what, values in fields.future.items()
    }
    off = fields.future[MODEL] - fields.future[TRUTH]
    made[ERROR] = [drawn_in(errors, off[lead]) for lead in leads]
    H, W = fields.past.shape[-2:]
    shape = shrunk(fields.past[-1], STRIP_SIDE).shape
    return Strip(
        window=window,
        leads=leads,
        observed=drawn_in(look, fields.past[-1]),
        pictures=made,
        shape=(shape[0], shape[1]),
        whole=(H, W),
        ground=ground(answers, track, (H, W)),
    )


def played(opened: Store, answers: Answers, window: Window, fields: Fields, look: Look) -> Loop:
    """The past, then the future: of the past every screen shows what was observed."""
    past, (H, W) = len(fields.past), fields.past.shape[-2:]
    shape = shrunk(fields.past[-1], LOOP_SIDE).shape
    exact = look.logarithmic or max(shape) <= SMALL  # JPEG's ripples would be drizzle
    credit = Credit.of(opened.attrs)

    def picture(values: np.ndarray) -> str:
        image = pictures.coloured(shrunk(values, LOOP_SIDE), look)
        return uri(image, exact=exact, credit=credit)

    every = -(-len(fields.times) // LOOP_FRAMES)
    places = list(range(len(fields.times)))[::every]
    shown = []
    for place in places:
        if place < past:
            shown.append(dict.fromkeys(fields.future, picture(fields.past[place])))
        else:
            future = fields.future.items()
            shown.append({what: picture(values[place - past]) for what, values in future})
    track, first = opened.track(window.track), window.frames[0].number - past
    observed = [
        Scored(track.id, first + n, utc(int(time)), track.satellites[first + n], {})
        for n, time in enumerate(fields.times[:past])
    ]
    frames = [*observed, *window.frames]
    return Loop(
        window.track,
        [frames[place] for place in places],
        shown,
        (shape[0], shape[1]),
        (H, W),
        every,
        *course(opened, window.track, [int(fields.times[place]) for place in places]),
        ground=ground(answers, track, (H, W)),
        exact=exact,
        leads=[place - past + 1 for place in places],
    )


def shrunk(field: np.ndarray, side: int) -> np.ndarray:
    """(H, W) -> no side longer than that: means over blocks, NaN where all of one is missing."""
    H, W = field.shape
    f = -(-max(H, W) // side)
    if f == 1:
        return field
    h, w = max(1, H // f), max(1, W // f)
    blocks = field[: h * f, : w * f].reshape(h, min(f, H), w, min(f, W))
    seen = (~np.isnan(blocks)).sum(axis=(1, 3))
    sums = np.nansum(blocks, axis=(1, 3), dtype=np.float64)
    return np.where(seen > 0, sums / np.maximum(seen, 1), np.nan)


def ground(answers: Answers, track: Track, whole: tuple[int, int]) -> Extent | None:
    """What pictures of a track cover; None without degrees."""
    _, height, width = track.shape
    _, cells = answers.task.place(track.grid, (height, width))
    if cells is None or cells.projected:
        return None
    return pictures.covered(cells, whole)
