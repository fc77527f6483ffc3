"""Makes the frames of one output: reads, asks the model, counts the errors, keeps what is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline import forecasts, quality
from pipeline.answers import MODEL, Answers, shown
from pipeline.ensemble import Crew, Member
from pipeline.errors import UserError
from pipeline.familiarity import Outside
from pipeline.inputs import Footage
from pipeline.metrics import Ensemble, Errors
from pipeline.outputs import unfinished
from pipeline.outputs.unfinished import Part, Unfinished
from pipeline.product import ENSEMBLE, MEAN, SPREAD, TRUTH, Product
from pipeline.progress import progress, say
from pipeline.sources import FrameError

CRPS = "crps"


@dataclass
class Done:
    """Every frame, through the model."""

    kept: list[int] = field(default_factory=list)  # numbers of the frames that could be used
    problems: list[str] = field(default_factory=list)  # a sentence for each one left out
    flagged: int = 0  # of those kept, with too many missing pixels: in no score, as in evaluate
    errors: dict[str, Errors] = field(default_factory=dict)  # check: by row
    ensemble: Ensemble = field(default_factory=Ensemble)

    def count(self, part: Part, product: Product) -> None:
        """One frame into the scores."""
        for row in product.rows:
            self.errors[row] += Errors.of_plain(part.sums[row])
        if CRPS in part.sums:
            self.ensemble += Ensemble.of_plain(part.sums[CRPS])

    def scores(self, product: Product) -> dict[str, dict[str, float]]:
        """By row. With an ensemble also the CRPS, which of a single answer is its mean error."""
        scores = {row: self.errors[row].scores() for row in product.rows}
        if ENSEMBLE in scores:
            for row, of in scores.items():
                of[CRPS] = self.ensemble.scores()["crps"] if row == ENSEMBLE else of["mae"]
        return scores


@dataclass
class Maker:
    """Makes the frames of one output."""

    footage: Footage
    product: Product
    answers: Answers
    members: Sequence[Member]  # of an ensemble, the model first; or none
    device: str
    outside: Outside
    most: float = -np.inf  # of the first channel, in the frames that were used
    missing: dict[int, float] = field(default_factory=dict)  # fraction, of each frame used

    def __post_init__(self) -> None:
        others, tile = self.members[1:], self.answers.tile
        self.crew = Crew(self.answers, others, self.device, tile) if others else None
        self.names = sorted(set(self.footage.satellites))

    def made(self, parts: Unfinished, stopping: Callable[[], bool]) -> Done:
        """Every frame that is not there yet through the model, into the parts.

        Raises UserError when not one frame could be done, KeyboardInterrupt when told to stop.
        """
        done = Done(problems=list(self.footage.problems))
        done.errors = {row: Errors() for row in self.product.rows}
        wanted = {part_name(time) for time in self.footage.times}
        there = parts.kept() & wanted
        if there:
            say(f"{len(there)} of {len(wanted)} frames were done before")
        with progress("infer", len(wanted) - len(there), "frames") as advance:
            for number, time in enumerate(self.footage.times):
                name = part_name(time)
                refuse_stopping(stopping, parts, len(wanted))
                try:
                    frame = self.footage.read(number)
                except FrameError as error:
                    done.problems.append(str(error))
                    advance(name not in there)
                    continue
                source = unfinished.fingerprint(frame)
                part = parts.part(name, source)
                if part is None:
                    part = self.part(frame)
                    parts.keep(name, source, part)
                worth = quality.examine(frame, self.product.channels)
                self.missing[number] = worth.missing
                if self.footage.flag(number, worth):
                    done.flagged += 1
                else:
                    done.count(part, self.product)
                self.outside.look(frame)
                self.most = max(self.most, float(np.nanmax(frame[0])))
                done.kept.append(number)
                advance(name not in there, self.footage.id)
        if not done.kept:
            path, id = self.footage.path, self.footage.id
            raise UserError(f"{path}: not one usable frame of {id}; {done.problems[-1]}")
        return done

    def part(self, frame: np.ndarray) -> Part:
        """One frame of the output. frame: (C, H, W) float32, physical units, NaN where missing."""
        product = self.product
        posed = self.answers.posed(frame[None], split=product.mode == "check")
        made = {MODEL: self.answers.of(MODEL, posed)}
        sums = {}
        if self.crew:
            spread = self.crew.of(posed, made[MODEL], keep=posed.truth is not None)
            made[MEAN], made[SPREAD] = spread.mean, spread.deviation
            if posed.truth is not None and spread.members is not None:
                sums[CRPS] = Ensemble.of(spread.members, posed.truth).plain()
        if posed.truth is not None:
            made[product.baseline] = self.answers.of(product.baseline, posed)
            for row in product.rows:  # as evaluate scores: before anything is hidden
                answer = made[MEAN if row == ENSEMBLE else row]
                sums[row] = Errors.of(answer, posed.truth, product.peak).plain()
            made[TRUTH] = posed.truth
        fields = {what: shown(values, posed.hidden) for what, values in made.items()}
        return Part({n: fields[what][channel] for n, channel, what, _ in product.fields()}, sums)

    def values(self, number: int, part: Part) -> dict[str, Any]:
        """A number of every series."""
        footage = self.footage
        values = {
            "time": footage.times[number],
            "missing_fraction": self.missing[number],
            **self.satellite(number),
            **{name: v.values[number] for name, v in footage.variables.items()},
            **{f"rmse_{row}": score for row, score in rmse(part, self.product).items()},
        }
        if CRPS in part.sums:
            values["crps_ensemble"] = Ensemble.of_plain(part.sums[CRPS]).scores()["crps"]
        return values

    def satellite(self, number: int) -> dict[str, int]:
        """By its place among the names; a field on a map has none."""
        if self.product.on_a_map:
            return {}
        return {"satellite": self.names.index(self.footage.satellites[number])}

    def stored(
        self, parts: Unfinished, number: int
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """The fields of one frame, and its RMSE by row."""
        part = self.taken(parts, number)
        return part.fields, rmse(part, self.product)

    def taken(self, parts: Unfinished, number: int) -> Part:
        part = parts.part(part_name(self.footage.times[number]))
        if part is None:
            raise UserError(f"{parts.folder}: a part is gone; run the same command again")
        return part

    def unlike(self, kept: Sequence[int]) -> list[str]:
        """How the input differs from what was trained on."""
        product = self.product
        sizes = (1, product.factor) if product.mode == "enhance" else (1,)
        satellites = [self.footage.satellites[number] for number in kept]
        data, ours = self.outside.data, self.footage.attrs
        return [
            *self.outside.sentences(self.footage, satellites, sizes),
            *forecasts.unlike(data.channels[0], data.attrs, ours, sizes, self.most),
        ]


def refuse_stopping(stopping: Callable[[], bool], parts: Unfinished, total: int) -> None:
    if stopping():
        there = len(parts.kept())
        say(f"{there} of {total} frames are done; the same command goes on after them")
        raise KeyboardInterrupt


def rmse(part: Part, product: Product) -> dict[str, float]:
    return {row: Errors.of_plain(part.sums[row]).scores()["rmse"] for row in product.rows}


def part_name(time: int) -> str:
    return str(int(time))
