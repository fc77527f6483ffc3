"""Where a forecast begins: the frames that it is made from, and those that it is held against."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline import quality
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UsageError, UserError
from pipeline.familiarity import refuse_unfit
from pipeline.inputs import Footage
from pipeline.outputs.layout import lasting, minute, stamp
from pipeline.reporting.words import count
from pipeline.scaling import is_rain
from pipeline.sources import FrameError
from pipeline.tasks import Forecast
from pipeline.windows import usual_step

# What a store's time_label says where a frame's time is the beginning of what it is of: of all
# frames that a conversion added up, or of rain as its files have it
ADDED_UP = re.compile(r"^start of the interval")
OF_RAIN = re.compile(r"for rain the .*\bstart of its interval")


@dataclass(frozen=True)
class Start:
    """Frames by their numbers in the footage."""

    past: list[int]  # that the forecast is made from, the last of the reference time
    future: list[int]  # that it is held against; empty where it need not be known
    donors: list[int]  # that the model sees outside its region, where those are of another date
    flagged: int  # of past and future, with too many missing pixels
    step: int  # seconds between frames
    reference: int  # the time of the last frame of past, seconds since 1970, UTC
    complete: int  # when that frame was: later, where its time is the beginning of what it is of
    valid: np.ndarray  # (steps,) int64, the times that are forecast
    problems: list[str]  # a sentence for each frame on the way that could not be read


def found(
    footage: Footage, trained: Checkpoint, task: Forecast, *, known: bool, at: str | None = None
) -> Start:
    """Where a forecast of a footage begins.

    known: the frames that are forecast must be there, too. at: the reference time, YYYYMMDDHH,
    whose frames may have flags; without it, the latest that has all its frames and none flagged.

    Raises UserError for frames that the task cannot be posed on, of another time step, or too few
    in a row; UsageError for a time that has no frame.
    """
    step = step_of(footage, trained, task)
    frames = Frames(footage, step, trained.data.channels)
    past, steps = task.settings.past, task.settings.future
    ahead = steps if known else 0
    every = range(len(footage.times) - 1, -1, -1) if at is None else [numbered(footage, at)]
    numbers = next(filter(None, (frames.around(n, past, ahead, at is None) for n in every)), None)
    if numbers is None:
        wanted = f"{count(past, 'frame')} up to it"
        wanted += f" and {count(ahead, 'frame')} after it" if ahead else ""
        where = f"{footage.id} has no time with" if at is None else f"--at {at} needs"
        why = f"; {frames.problems[-1]}" if frames.problems else ""
        raise UserError(
            f"{footage.path}: {where} {wanted}, one every {lasting(step)} and all usable{why}"
        )
    reference = int(footage.times[numbers[past - 1]])
    return Start(
        past=numbers[:past],
        future=numbers[past:],
        donors=frames.donors(numbers, past) if task.borrows else [],
        flagged=sum(not frames.worth(number).sound for number in numbers),
        step=step,
        reference=reference,
        complete=reference + interval(footage, trained, task, step),
        valid=reference + step * np.arange(1, steps + 1),
        problems=frames.problems,
    )


def notes(start: Start, footage: Footage, at: str | None, known: bool) -> list[str]:
    """What to know of where a forecast begins."""
    made = []
    last = int(footage.times[-1])
    if at is None and not known and start.reference != last:
        made.append(
            f"The forecast starts from {minute(start.reference)}: the input's last frame is of "
            f"{minute(last)}, and not all that are needed up to it are there and usable"
        )
    if start.flagged:
        made.append(
            f"{start.flagged} of {count(len(start.past) + len(start.future), 'frame')} are flagged "
            f"(more than {100 * footage.settings.max_missing:g} % missing)"
        )
    return made


@dataclass(frozen=True)
class Worth:
    """Of one frame."""

    readable: bool
    sound: bool  # and without a flag


@dataclass
class Frames:
    """A footage's frames by their times, each looked at once."""

    footage: Footage
    step: int  # seconds
    channels: Sequence[Mapping[str, Any]]
    problems: list[str] = field(default_factory=list)
    known: dict[int, Worth] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = {int(time): number for number, time in enumerate(self.footage.times)}

    def around(self, number: int, past: int, ahead: int, sound: bool) -> list[int] | None:
        """So many frames up to that one and so many after it; None where any is not usable."""
        time = int(self.footage.times[number])
        wanted = [time + k * self.step for k in range(1 - past, ahead + 1)]
        if not all(each in self.numbers for each in wanted):
            return None
        found = [self.numbers[each] for each in wanted]
        fit = (self.worth(each) for each in reversed(found))
        return found if all(each.sound if sound else each.readable for each in fit) else None

    def worth(self, number: int) -> Worth:
        if number not in self.known:
            try:
                frame = self.footage.read(number)
            except FrameError as error:
                self.problems.append(str(error))
                self.known[number] = Worth(readable=False, sound=False)
            else:
                flag = self.footage.flag(number, quality.examine(frame, self.channels))
                self.known[number] = Worth(readable=True, sound=not flag)
        return self.known[number]

    def donors(self, window: Sequence[int], past: int) -> list[int]:
        """So many frames in a row, none of them in the window, as far away in time as there are.

        Raises UserError.
        """
        every = range(len(self.footage.times))
        for number in sorted(every, key=lambda n: -abs(n - window[past - 1])):
            numbers = self.around(number, past, 0, sound=True)
            if numbers and not set(numbers) & set(window):
                return numbers
        raise UserError(
            f"{self.footage.path}: this model takes what lies outside its region from another date "
            f"(task.outside other_date), and {self.footage.id} has no other "
            f"{count(past, 'frame')} in a row"
        )


def step_of(footage: Footage, trained: Checkpoint, task: Forecast) -> int:
    """Seconds between the frames. Raises UserError where they do not fit the model."""
    step = usual_step(footage.times)
    refuse_unfit(footage.path, footage.shape, footage.grid, step, trained, task)
    if not step and not trained.data.step:
        raise UserError(f"{footage.path}: {footage.id} is one frame, which has no time step")
    return step or trained.data.step


def interval(footage: Footage, trained: Checkpoint, task: Forecast, step: int) -> int:
    """Seconds from a frame's time to the end of what it is of; 0 where its time is that end.

    A sum of rain is known only when its interval is over, which may begin at the time it bears. Of
    a state, or where nothing tells, a frame is of its time.
    """
    attrs = {**trained.data.attrs, **footage.attrs}
    label = str(attrs.get("time_label", ""))
    rain = any(is_rain(trained.data.channels[number]) for number in task.inputs)
    if not ADDED_UP.search(label) and not (rain and OF_RAIN.search(label)):
        return 0
    return round(3600 * float(attrs.get("accumulation_hours") or 0)) or step


def numbered(footage: Footage, at: str) -> int:
    """The frame of that hour. Raises UsageError."""
    stamps = [stamp(time) for time in footage.times]
    if at not in stamps:
        raise UsageError(
            f"--at {at}: expected an hour between {stamps[0]} and {stamps[-1]} (UTC, YYYYMMDDHH) "
            "that has a frame"
        )
    return stamps.index(at)
