"""What a model says of a few fixed validation windows, drawn alike after every epoch.

Beside it what it was given, the usual baseline and the truth, in the reports' colours: the same
windows on the same scales, so that pictures of two epochs differ by what was learnt between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline import fonts, pictures
from pipeline.credit import Credit
from pipeline.metrics import Errors
from pipeline.pictures import Extent, Look, Panel
from pipeline.problem import Problem
from pipeline.reporting.storyboard import middle
from pipeline.reporting.windows import shrunk
from pipeline.reporting.words import DASH, TIMES, after, ahead, length, listed, method
from pipeline.scorecard import Yardstick
from pipeline.tasks import Forecast, Task

if TYPE_CHECKING:  # half a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODEL, MINUS_TRUTH = "Model", "minus truth"
UNKNOWN = "pixels"  # the unit of a pixel's side, where none is known
STILLS, STRIPS = 3, 2  # windows that are drawn, of super-resolution and of a forecast
LEADS = 3  # lead times, at most, of a forecast
# Pixels: five panels of a frame made finer, or two forecasts of four side by side, fit a screen.
STILL_SIDE, STRIP_SIDE = 304, 192
LETTER = 8  # pixels that one of a panel's title takes
MARGIN, GAP, BLOCK_GAP = 12, 6, 20
LINE, BARS, LEAST_WIDTH = 19, 76, 860
FOOT = 18  # a line of the credit
SMALL = 6  # that a letter of it takes, at most
BORDER = (120, 120, 120, 255)  # around a field: what is dry is as white as the paper
DPI = 100


@dataclass(frozen=True)
class Sample:
    """One window; of what is judged the first channel, at the times that are drawn."""

    number: int  # among the windows, from 1
    x: Tensor  # (1, T, C, h, w), physical units, NaN where missing
    given: np.ndarray  # (h, w), of x the frame that is drawn
    truth: Tensor  # (T', H, W), physical units, NaN where missing
    baseline: Tensor  # as truth, without NaN
    hidden: Tensor  # bool, as truth: nothing was seen of these


@dataclass(frozen=True)
class Outlined(Panel):
    """With a box around what is forecast."""

    box: Extent = (0.0, 0.0, 0.0, 0.0)  # pixels of the field, upwards from its bottom


Cell = Panel | str  # words, or none, instead of a field


@dataclass(frozen=True)
class Samples:
    """The windows that are drawn, and all of the picture that no training changes."""

    problem: Problem
    channel: Mapping[str, Any]
    yardstick: Yardstick
    look: Look
    errors: Look
    step: int  # seconds between frames; 0: not known
    times: list[int]  # the frames of y that are drawn
    samples: list[Sample]
    total: int  # windows that they were chosen from
    credit: Credit  # for the data

    @classmethod
    def of(
        cls,
        problem: Problem,
        channels: Sequence[Mapping[str, Any]],
        attrs: Mapping[str, Any],
        frames: Tensor,
        donors: Tensor | None = None,
        step: int = 0,
    ) -> Samples:
        """Choose among windows spread over the data: of each part of them the most varied truth.

        channels, attrs: of the store; frames: (n, T, C, H, W) on the CPU, physical units, NaN where
        missing; donors: as frames, where the task borrows; step: seconds between frames, as far as
        it is known. Raises UserError where one score cannot serve all channels.
        """
        targets = problem.channels(channels)
        known = {"accumulation_hours": step / 3600, **attrs}
        yardstick = Yardstick.of(targets, known, problem.task.side())
        forecast = isinstance(problem.task, Forecast)

        def posed(n: int) -> tuple[Tensor, Tensor]:
            others = None if donors is None else donors[n : n + 1]
            x, y = problem.task.split(frames[n : n + 1], others)
            return x, problem.task.judged(y)[0, :, 0]

        T = len(posed(0)[1])
        times = np.linspace(0, T - 1, min(LEADS, T)).round().astype(int) if forecast else [T // 2]
        shown = [int(time) for time in times]
        varied = [variety(posed(n)[1][shown]) for n in range(len(frames))]
        parts = np.array_split(np.arange(len(frames)), STRIPS if forecast else STILLS)
        samples = []
        for part in filter(len, parts):
            number = max(part.tolist(), key=varied.__getitem__)  # the first of equal ones
            x, truth = posed(number)
            baseline = problem.task.judged(problem.of_baseline(problem.rows[1], x))
            own = problem.task.inputs.index(problem.task.targets[0])
            samples.append(
                Sample(
                    number=number + 1,
                    x=x.clone(),
                    given=x[0, -1 if forecast else shown[0], own].numpy().copy(),
                    truth=truth[shown],
                    baseline=baseline[0, shown, 0],
                    hidden=problem.task.hidden(x)[0, shown, 0],
                )
            )
        hours = yardstick.hours
        return cls(
            problem=problem,
            channel=targets[0],
            yardstick=yardstick,
            look=pictures.look(targets[0], hours=hours),
            errors=pictures.error_look(
                targets[0],
                f"{'forecast' if forecast else 'model'} {MINUS_TRUTH}",
                hours,
                ahead=forecast,
            ),
            step=step,
            times=shown,
            samples=samples,
            total=len(frames),
            credit=Credit.of(attrs),
        )

    @torch.no_grad()
    def drawn(self, answer: Callable[[Tensor], Tensor], title: str = "") -> np.ndarray:
        """The picture, (H, W, 3) uint8, about 1600 pixels wide or less.

        answer: x (1, T, C, h, w) on the CPU, physical units, NaN where missing -> y in physical
        units, on any device; asked once for each window. title: what it is of, such as an epoch.
        """
        blocks = [self.block(sample, self.guess(sample, answer)) for sample in self.samples]
        if self.forecast:  # side by side
            rows = [list(chain.from_iterable(row)) for row in zip(*blocks, strict=True)]
        else:
            rows = list(chain.from_iterable(blocks))
        return self.painted(self.heading(title), self.told(), rows, len(blocks[0][0]))

    def heading(self, title: str) -> str:
        name = self.channel["long_name"]
        return f"{title}: {name}" if title else name[:1].upper() + name[1:]

    @property
    def forecast(self) -> bool:
        return isinstance(self.problem.task, Forecast)

    def guess(self, sample: Sample, answer: Callable[[Tensor], Tensor]) -> Tensor:
        """(T', H, W) physical units: what the model says at the times that are drawn."""
        said = self.problem.task.judged(answer(sample.x))
        return said[0, self.times, 0].float().cpu()

    def block(self, sample: Sample, guess: Tensor) -> list[list[Cell]]:
        """The panels of one window, by rows."""
        if self.forecast:
            return self.strip(sample, guess)
        return [self.still(sample, guess)]

    def still(self, sample: Sample, guess: Tensor) -> list[Cell]:
        """One frame as it was given, as it was made finer, and as it was."""
        y, task = self.yardstick, self.problem.task
        f = task.scale
        known = y.pixel_units != UNKNOWN
        coarse = length(f * y.pixel, y.pixel_units) if known else f"1 / {f}"
        fine = f", {length(y.pixel, y.pixel_units)}" if known else ""
        usual = method(self.problem.rows[1])
        truth = "Interpolated truth" if task.about()["truth"] == "interpolated" else "Truth"
        given = sample.given.repeat(f, 0).repeat(f, 1)
        return [
            Panel(f"Window {sample.number}: low-res, {coarse}", self.fitted(given)),
            self.panel(f"{usual}, {self.rmse(sample, sample.baseline)}", sample, sample.baseline),
            self.panel(f"{MODEL}, {self.rmse(sample, guess)}", sample, guess),
            Panel(f"{truth}{fine}", self.fitted(sample.truth[0].numpy())),
            self.difference(f"{MODEL} {MINUS_TRUTH}", sample, guess),
        ]

    def strip(self, sample: Sample, guess: Tensor) -> list[list[Cell]]:
        """What was seen last; then what came, what was forecast, and how both methods erred.

        Persistence, the usual baseline, is what was seen last: it is drawn once.
        """
        usual, places = method(self.problem.rows[1]), range(len(self.times))
        truth = [
            Panel(f"Truth, {self.lead(n)}", self.fitted(sample.truth[n].numpy())) for n in places
        ]
        model = [self.panel(self.rmse(sample, guess, n), sample, guess, n) for n in places]
        off = [self.difference("", sample, guess, n) for n in places]
        base = [
            self.difference(self.rmse(sample, sample.baseline, n), sample, sample.baseline, n)
            for n in places
        ]
        return [
            [self.observed(sample), *truth],
            [MODEL, *model],
            [f"{MODEL}\n{MINUS_TRUTH}", *off],
            [f"{usual}\n{MINUS_TRUTH}", *base],
        ]

    def observed(self, sample: Sample) -> Panel:
        """What was seen last, with a box around what of it is forecast."""
        field, title = self.fitted(sample.given), f"Window {sample.number}, observed"
        region = outlined(self.problem.task, sample)
        if region is None:
            return Panel(title, field)
        (rows, columns), (H, W) = region, field.shape
        y, x = H / sample.given.shape[0], W / sample.given.shape[1]
        box = (columns.start * x, columns.stop * x, H - rows.stop * y, H - rows.start * y)
        return Outlined(title, field, box=box)

    def panel(self, title: str, sample: Sample, values: Tensor, place: int = 0) -> Panel:
        """Of a method: nothing is shown where nothing was seen."""
        shown = values[place].masked_fill(sample.hidden[place], torch.nan)
        return Panel(title, self.fitted(shown.numpy()))

    def difference(self, title: str, sample: Sample, values: Tensor, place: int = 0) -> Panel:
        off = (values - sample.truth)[place].masked_fill(sample.hidden[place], torch.nan)
        return Panel(title, self.fitted(off.numpy()), error=True)

    def rmse(self, sample: Sample, values: Tensor, place: int = 0) -> str:
        """Of one whole frame, whatever part of it is drawn."""
        of = Errors.of(values[place], sample.truth[place], self.yardstick.peak)
        found = of.scores()["rmse"]
        written = DASH if math.isnan(found) else f"{found:#.4g}".rstrip(".")
        return f"RMSE {written}{after(self.yardstick.units)}"

    def lead(self, place: int) -> str:
        steps = self.times[place] + 1
        if not self.step:
            return f"+{steps} step{'s' * (steps > 1)}"
        return f"+{ahead(steps * self.step, self.step)}"

    def fitted(self, field: np.ndarray) -> np.ndarray:
        """(H, W) as it is drawn, so many pixels of the screen for each of its own.

        Of a larger one, made finer, the middle is shown: means would hide the detail. Of a larger
        forecast means are: motion is of the whole.
        """
        field = shrunk(field, self.side) if self.forecast else middle(field, self.part(field.shape))
        k = max(1, self.side // max(field.shape))
        return field.repeat(k, 0).repeat(k, 1)

    def part(self, whole: tuple[int, ...]) -> tuple[int, int]:
        """The rows and columns of a frame that are shown: what is cut off is whole pixels of x."""
        f = self.problem.task.scale
        H, W = (n - 2 * f * max(0, -(-(n - self.side) // (2 * f))) for n in whole)
        return H, W

    @property
    def side(self) -> int:
        return STRIP_SIDE if self.forecast else STILL_SIDE

    def told(self) -> list[str]:
        """Which windows these are, and what is shown of them; a sentence on each line."""
        numbers = listed([str(sample.number) for sample in self.samples])
        several = "s" * (len(self.samples) > 1)
        said = [f"Validation window{several} {numbers} of {self.total}, the same after every epoch"]
        if len(self.samples) < self.total:
            said[0] += ": of each part of them the one whose truth varies most"
        (H, W), y = self.samples[0].truth.shape[-2:], self.yardstick
        size = f"{W} {TIMES} {H} pixels"
        if y.pixel_units != UNKNOWN:
            size += f" of {length(y.pixel, y.pixel_units)}"
        h, w = self.part((H, W))
        f = -(-max(H, W) // self.side)
        if self.forecast and f > 1:
            size += f"; one shown is the mean of {f} {TIMES} {f}, the RMSE is of them all"
        elif not self.forecast and (h, w) != (H, W):
            size = f"The middle {w} {TIMES} {h} of {size}; the RMSE is of the whole frame"
        if outlined(self.problem.task, self.samples[0]):
            size += "; the box in what was observed is what is forecast"
        return [f"{sentence}." for sentence in (*said, size)]

    def painted(
        self, heading: str, told: Sequence[str], rows: Sequence[Sequence[Cell]], block: int
    ) -> np.ndarray:
        """(H, W, 3) uint8: a grid of panels, a wider gap after every `block` columns."""
        panels = [cell for row in rows for cell in row if isinstance(cell, Panel)]
        tall = max(panel.field.shape[0] for panel in panels) + 2
        wide = max(max(panel.field.shape[1] + 2, LETTER * len(panel.title)) for panel in panels)
        lefts = [n * (wide + GAP) + n // block * (BLOCK_GAP - GAP) for n in range(len(rows[0]))]
        width = max(LEAST_WIDTH, lefts[-1] + wide + 2 * MARGIN)
        beside = (width - lefts[-1] - wide) // 2
        tops = list(rows_from(rows, tall, LINE * (2 + len(told))))
        credit = fonts.credit_lines(self.credit, width // SMALL)
        sheet = Sheet.of(width, tops[-1] + tall + BARS + FOOT * len(credit), FOOT * len(credit))
        sheet.write(MARGIN, MARGIN, heading, va="top", size=13, weight="bold")
        for number, line in enumerate(told):
            sheet.write(MARGIN, LINE * (2 + number), line, va="top", color="0.3")
        for row, top in zip(rows, tops, strict=True):
            for cell, left in zip(row, (beside + left for left in lefts), strict=True):
                if isinstance(cell, str):
                    at = left + wide - GAP, top + tall / 2
                    sheet.write(*at, cell, ha="right", va="center", linespacing=1.5)
                else:
                    sheet.write(left + wide / 2, top - 5, cell.title, ha="center")
                    h, w = cell.field.shape
                    look = self.errors if cell.error else self.look
                    sheet.draw(left + (wide - w) // 2, top + (tall - h) // 2, cell, look)
        sheet.bars(self.look, self.errors)
        if credit:
            low = {"va": "bottom", "size": 7.5, "color": "0.45"}
            sheet.write(MARGIN, sheet.height - 4, "\n".join(credit), **low)
        return sheet.pixels()


@dataclass(frozen=True)
class Sheet:
    """A picture in the making; places count in pixels from its upper left corner."""

    width: int
    height: int
    foot: int  # of the height: below the scales
    figure: Figure

    @classmethod
    def of(cls, width: int, height: int, foot: int = 0) -> Sheet:
        from matplotlib.figure import Figure

        size = (width / DPI, height / DPI)
        return cls(width, height, foot, Figure(size, dpi=DPI, facecolor="white"))

    def axes(self, left: float, top: float, w: float, h: float, zorder: float = 0) -> Axes:
        bottom = self.height - top - h
        place = (left / self.width, bottom / self.height, w / self.width, h / self.height)
        return self.figure.add_axes(place, zorder=zorder)

    def write(self, left: float, top: float, text: str, **how: Any) -> None:
        how = {"size": 9.5, "family": fonts.families(text), **how}
        place = left / self.width, 1 - top / self.height
        self.figure.text(*place, fonts.able(text), **how)

    def draw(self, left: int, top: int, panel: Panel, look: Look) -> None:
        """A field, pixel by pixel, with a border around it."""
        h, w = panel.field.shape
        if np.isnan(panel.field).any():
            behind = self.axes(left, top, w, h, zorder=-1)
            behind.set_axis_off()
            pictures.hatch(behind)
        image = framed(panel.field, look)
        self.figure.figimage(image, left - 1, self.height - top - h - 1, origin="upper")
        if isinstance(panel, Outlined):
            above = self.axes(left, top, w, h, zorder=1)
            above.set(xlim=(0, w), ylim=(0, h))
            above.set_axis_off()
            pictures.draw_box(above, panel.box)

    def bars(self, fields: Look, errors: Look) -> None:
        """At the bottom: the key to missing pixels, the scale of fields and that of errors."""
        top, begin, end = self.height - self.foot - BARS + 17, MARGIN + 130, self.width - MARGIN
        between = MARGIN + 0.62 * (end - MARGIN)
        key = self.axes(MARGIN, top, 36, 13)
        key.set(xticks=[], yticks=[])
        pictures.hatch(key)
        self.write(MARGIN + 43, top + 6, "missing", va="center")
        pictures.draw_bar(self.axes(begin, top, between - begin, 13), fields)
        pictures.draw_bar(self.axes(between + 40, top, end - between - 40, 13), errors)

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def rows_from(rows: Sequence[Sequence[Cell]], tall: int, top: int) -> Iterator[int]:
    """Where the panels of each row begin: with room above them where one has a title."""
    for row in rows:
        titled = any(isinstance(cell, Panel) and cell.title for cell in row)
        top += LINE + GAP if titled else GAP
        yield top
        top += tall


def outlined(task: Task, sample: Sample) -> tuple[slice, slice] | None:
    """The rows and columns of x that are forecast, where that is not all of it."""
    if not isinstance(task, Forecast) or sample.given.shape == tuple(sample.truth.shape[-2:]):
        return None
    return task.region


def framed(field: np.ndarray, look: Look) -> np.ndarray:
    """(H, W) -> (H + 2, W + 2, 4) uint8, transparent where missing, with a border around it."""
    H, W = field.shape
    made = np.empty((H + 2, W + 2, 4), np.uint8)
    made[:] = BORDER
    made[1:-1, 1:-1] = pictures.opaque(field, look)
    return made


def variety(truth: Tensor) -> tuple[bool, float]:
    """How much there is to see: more where nothing is missing, and the more the values differ."""
    seen = truth[~truth.isnan()]
    return len(seen) == truth.numel(), float(seen.double().var(correction=0)) if len(seen) else -1.0
