"""What a forecast says, and the grid, the variables and the attributes of its output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline import forecasts, metrics
from pipeline.answers import MODEL, Answers, Posed
from pipeline.checkpoint import Checkpoint
from pipeline.ensemble import Crew, Member
from pipeline.errors import UserError
from pipeline.familiarity import Outside
from pipeline.forecasts import Place
from pipeline.inputs import Footage
from pipeline.metrics import Ensemble, Errors
from pipeline.outputs.layout import Layout, instant, lasting, minute
from pipeline.product import (
    ENSEMBLE,
    MEAN,
    SPREAD,
    TIME,
    TRUTH,
    Field,
    Mode,
    centred,
    described,
    ensemble_of,
    errors_of,
    fields_of,
    on_a_map,
    origin,
)
from pipeline.reporting.words import count
from pipeline.sources import FrameError
from pipeline.start import Start
from pipeline.store import TIME_ATTRS
from pipeline.tasks import Forecast

REFERENCE, PERIOD = "forecast_reference_time", "forecast_period"  # CF's standard names


@dataclass(frozen=True)
class Made:
    """A forecast; fields in physical units, NaN where missing."""

    fields: dict[str, np.ndarray]  # by what they show, (T, C, H, W) float32
    past: np.ndarray  # (T, H, W) the first of these channels, as the model was given it
    missing: float  # fraction of all that it was given
    errors: list[dict[str, Errors]]  # check: of each lead, by row
    ensemble: list[Ensemble]  # check, of an ensemble: of each lead

    def scores(self) -> list[dict[str, dict[str, float]]]:
        """By lead and row."""
        return [
            scored(errors, self.ensemble[lead] if self.ensemble else None)
            for lead, errors in enumerate(self.errors)
        ]

    def total(self) -> dict[str, dict[str, float]]:
        """Of all leads, by row."""
        rows = self.errors[0] if self.errors else ()
        errors = {row: sum((each[row] for each in self.errors), Errors()) for row in rows}
        return scored(errors, sum(self.ensemble, Ensemble()) if self.ensemble else None)


def scored(errors: Mapping[str, Errors], crps: Ensemble | None) -> dict[str, dict[str, float]]:
    """By row. With an ensemble also the CRPS, which of a single answer is its mean error."""
    made = {row: of.scores() for row, of in errors.items()}
    if crps is not None:
        for row, of in made.items():
            of["crps"] = crps.scores()["crps"] if row == ENSEMBLE else of["mae"]
    return made


@dataclass(frozen=True)
class Outlook:
    """One forecast and its output, before it is made."""

    trained: Checkpoint
    footage: Footage
    task: Forecast
    start: Start
    mode: Mode  # forecast, or check: beside what came and what the baselines say
    baselines: Sequence[str]  # persistence first
    members: Sequence[Member] = ()  # of an ensemble, the model first

    def __post_init__(self) -> None:
        """Raises UserError for channels that no one score can serve."""
        if self.mode == "check":
            metrics.peak(self.channels)

    @property
    def model(self) -> str:
        return self.trained.settings.model_name

    @cached_property
    def channels(self) -> list[Mapping[str, Any]]:
        """That are forecast."""
        return self.trained.targets

    @cached_property
    def place(self) -> Place:
        """Where the pixels lie: on a map, else about a storm's centre."""
        shape, grid = self.task.place(self.footage.grid, self.footage.shape[-2:])
        if grid is not None:
            return forecasts.place(grid, 1, shape)
        coarser = self.task.settings.coarsen
        return centred(self.trained, self.footage, shape, coarser=coarser)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.place.y), len(self.place.x)

    @property
    def moves(self) -> bool:
        """Whether the frames follow a storm, so that nobody knows where they will lie."""
        return not on_a_map(self.place.axes)

    @property
    def rows(self) -> list[str]:
        """What is compared with the truth, in check mode."""
        if self.mode != "check":
            return []
        return [MODEL, *([ENSEMBLE] if self.members else []), *self.baselines]

    def lead(self, number: int) -> str:
        """As in `+3 h`."""
        return f"+{lasting((number + 1) * self.start.step)}"

    # What is made

    def made(self, answers: Answers, device: str) -> Made:
        """The forecast. Raises UserError for a frame that can be read no longer."""
        posed = self.posed(answers)
        found = {MODEL: answers.of(MODEL, posed)}
        everyone = None
        if self.members:
            others, steps = self.members[1:], self.task.settings.future
            crew = Crew(answers, others, device, answers.tile, steps)
            spread = crew.of(posed, found[MODEL], keep=self.mode == "check")
            found[MEAN], found[SPREAD], everyone = spread.mean, spread.deviation, spread.members
        errors: list[dict[str, Errors]] = []
        ensemble: list[Ensemble] = []
        if self.mode == "check":
            truth = posed.truth
            assert truth is not None  # split
            found |= {row: answers.of(row, posed) for row in self.baselines}
            asked = {row: found[MEAN if row == ENSEMBLE else row] for row in self.rows}
            peak = metrics.peak(self.channels)
            for n in range(truth.shape[1]):
                errors.append(
                    {row: Errors.of(of[:, n], truth[:, n], peak) for row, of in asked.items()}
                )
                if everyone is not None:
                    ensemble.append(Ensemble.of(everyone[:, :, n], truth[:, n]))
            found[TRUTH] = truth
        given = self.task.judged(posed.x)
        return Made(
            fields={what: values[0].cpu().numpy() for what, values in found.items()},
            past=given[0, :, self.task.continues[0]].cpu().numpy(),
            missing=float(given.isnan().double().mean()),
            errors=errors,
            ensemble=ensemble,
        )

    def posed(self, answers: Answers) -> Posed:
        """The frames as evaluate poses them; where the future is not known, nothing of it."""
        past, task = self.past, self.task.settings
        future = np.full((task.future, *past.shape[1:]), np.nan, np.float32)
        if self.start.future:
            future = self.read(self.start.future)
        donors = self.read(self.start.donors) if self.start.donors else None
        return answers.posed(np.concatenate([past, future]), split=True, donors=donors)

    @cached_property
    def past(self) -> np.ndarray:
        """The frames that the forecast is made from."""
        return self.read(self.start.past)

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """(T, C, H, W) float32, physical units, NaN where missing. Raises UserError."""
        try:
            return np.stack([self.footage.read(number) for number in numbers])
        except FrameError as error:
            raise UserError(str(error)) from None

    def unlike(self) -> list[str]:
        """How the input differs from what was trained on."""
        data, ours = self.trained.data, self.footage.attrs
        outside, inputs = Outside(data), self.task.inputs
        rows, columns = self.task.area or (slice(None), slice(None))
        past = self.past[..., rows, columns]
        for frame in past:
            outside.look(frame, inputs)
        satellites = [self.footage.satellites[number] for number in self.start.past]
        told = outside.sentences(self.footage, satellites, (1,))
        for number in inputs:
            most = float(np.nanmax(past[:, number], initial=-np.inf))
            told += forecasts.unlike(data.channels[number], data.attrs, ours, (1,), most)
        return list(dict.fromkeys(told))  # grids and sums are the same for all channels

    # What is written

    def fields(self) -> Iterator[Field]:
        named = {MODEL: ("", f"forecast by {self.model}"), **ensemble_of(len(self.members))}
        if self.mode == "check":
            for row in self.baselines:
                named[row] = (f"_{row}", f"forecast by {row.replace('_', ' ')}")
            named[TRUTH] = (f"_{TRUTH}", "as observed")
        return fields_of(self.channels, named)

    def layout(self, attrs: Mapping[str, Any]) -> Layout:
        lead = {"standard_name": PERIOD, "long_name": "time since the reference time"}
        since = "when the last frame that the forecast is made from was complete, UTC"
        return Layout(
            y=self.place.y,
            x=self.place.x,
            unit=self.place.unit,
            pixel=self.place.pixel,
            axes=self.place.axes,
            fields=described(self.channels, self.fields(), (REFERENCE, PERIOD)),
            series={
                "time": TIME,
                # not "hours", of which xarray makes nanoseconds
                PERIOD: (np.dtype("f8"), {**lead, "units": "h"}),
                **errors_of(self.rows, self.model, self.channels[0]["units"]),
            },
            attrs=attrs,
            moments={
                REFERENCE: (
                    self.start.complete,
                    {**TIME_ATTRS, "standard_name": REFERENCE, "long_name": since},
                )
            },
        )

    def frame(self, made: Made, lead: int) -> dict[str, np.ndarray]:
        """(H, W) by variable."""
        return {name: made.fields[what][lead, c] for name, c, what, _ in self.fields()}

    def values(self, made: Made, lead: int) -> dict[str, Any]:
        """A number of every series."""
        values: dict[str, Any] = {
            "time": self.start.valid[lead],
            PERIOD: (self.start.valid[lead] - self.start.complete) / 3600,
        }
        if made.errors:
            of = made.errors[lead]
            values |= {f"rmse_{row}": of[row].scores()["rmse"] for row in self.rows}
        if made.ensemble:
            values["crps_ensemble"] = made.ensemble[lead].scores()["crps"]
        return values

    def about(self, made: Made, unlike: Sequence[str]) -> dict[str, Any]:
        """The output's attributes: nothing in them depends on when it was made."""
        what = " and ".join(channel["long_name"] for channel in self.channels)
        since, times = minute(self.start.complete), self.footage.times[self.start.past]
        return origin(
            self.trained,
            self.footage,
            unlike,
            title=f"{self.footage.id}: {what}, forecast from {since} by {self.model}",
            source=f"forecast by {self.model} of eddy",
            comment=" ".join(self.comments(made)),
            mode=self.mode,
            members=[member.name for member in self.members],
            forecast_input_times=" ".join(map(instant, times)),
            **self.reference_centre(),
        )

    def comments(self, made: Made) -> list[str]:
        """Sentences on what was done."""
        trained, step = self.trained.task, self.start.step
        assert isinstance(trained, Forecast)
        steps, learnt, side = len(self.start.valid), trained.settings.future, trained.side()
        said = [
            f"A forecast of {count(steps, 'frame')}, one every {lasting(step)}, from the "
            f"{count(len(self.start.past), 'frame')} up to {minute(self.start.reference)}."
        ]
        if steps > learnt:
            said.append(
                f"The model learnt to forecast {count(learnt, 'frame')}: what lies beyond "
                f"{self.lead(learnt - 1)} is made from its own forecast."
            )
        if self.start.complete != self.start.reference:
            of = lasting(self.start.complete - self.start.reference)
            said.append(
                f"Each time is the beginning of the {of} that its frame is of: the last that was "
                f"given was complete at {minute(self.start.complete)}."
            )
        if side != 1:
            said.append(f"Each pixel is a mean of {side:g}x{side:g} pixels of the input's.")
        if self.moves:
            said.append(
                "y and x count from the storm's centre at each time, as in the input; where that "
                "will be is not forecast."
            )
        if made.missing:
            said.append(
                f"{100 * made.missing:.2g} % of the values that the model was given were missing, "
                "and filled with the mean of the training tracks."
            )
        if self.mode == "check":
            ends = ", ".join(f"_{name}" for name in (*self.baselines, TRUTH))
            said.append(f"The variables that end in {ends} are what to compare with.")
        return said

    def reference_centre(self) -> dict[str, float]:
        """Of the storm at the reference time, where that is known."""
        last, known = self.start.past[-1], self.footage.variables
        found = {n: float(known[n].values[last]) for n in ("latitude", "longitude") if n in known}
        return {f"reference_{n}": round(v, 4) for n, v in found.items() if np.isfinite(v)}
