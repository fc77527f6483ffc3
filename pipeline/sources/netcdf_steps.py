"""One variable of NetCDF files in time: which steps there are, and what is added up of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.errors import UserError
from pipeline.sources import stretches
from pipeline.sources.amounts import Meaning
from pipeline.sources.netcdf_axes import listed
from pipeline.sources.netcdf_file import Where
from pipeline.sources.netcdf_read import Runs
from pipeline.sources.options import Options, said

DAY = 86400
FEW = 4  # times in a sentence
PER = {86400: "day", 3600: "hour", 1: "second"}


@dataclass(frozen=True)
class Times:
    """All time steps of one variable, in order."""

    name: str
    seconds: np.ndarray  # (n,) int64, since 1970
    files: np.ndarray  # (n,) numbers of files
    numbers: np.ndarray  # (n,) of the steps within them

    @classmethod
    def of(
        cls, name: str, parts: Sequence[tuple[int, np.ndarray]], files: Sequence[Where]
    ) -> Times:
        """Of each file's number and times. Raises UserError for a time that is there twice."""
        seconds = np.concatenate([times for _, times in parts])
        numbers = np.concatenate([np.arange(len(times)) for _, times in parts])
        which = np.concatenate([np.full(len(times), file) for file, times in parts])
        order = np.argsort(seconds, kind="stable")
        found = cls(name, seconds[order], which[order], numbers[order])
        again = np.flatnonzero(np.diff(found.seconds) == 0)
        if not len(again):
            return found
        at = again[0]
        one, two = (files[found.files[i]] for i in (at, at + 1))
        both = f"{one} and {two} both hold" if one != two else f"{one} holds twice"
        more = f" (and {len(again) - 1} more times)" if len(again) > 1 else ""
        way_out = (
            "move one away, or name the files in a JSON list"
            if one != two
            else "leave one out, as with xarray's drop_duplicates"
        )
        raise UserError(
            f"{both} {name} of {moment(found.seconds[at])}{more}; expected each time once: "
            f"{way_out}"
        )

    @cached_property
    def usual(self) -> int:
        """Seconds from one to the next, mostly; 0 for a single one."""
        gaps = Counter(np.diff(self.seconds).tolist())
        return int(gaps.most_common(1)[0][0]) if gaps else 0

    @cached_property
    def rhythm(self) -> Literal["monthly", "daily", "other"]:
        return stretches.rhythm(self.seconds)

    def runs(self, inside: np.ndarray) -> Runs:
        """Steps, by their places in order, as stretches of one file each."""
        runs: list[tuple[int, int, int]] = []
        for i in inside:
            file, number = int(self.files[i]), int(self.numbers[i])
            if runs and runs[-1][0] == file and runs[-1][2] == number:
                runs[-1] = (file, runs[-1][1], number + 1)
            else:
                runs.append((file, number, number + 1))
        return tuple(runs)


@dataclass(frozen=True)
class Steps:
    """Those of a variable whose meaning is known, as frames are made of them."""

    path: Path  # of the source
    times: Times
    meaning: Meaning
    options: Options

    @property
    def length(self) -> int:
        """Seconds of one step; 0 where nothing tells."""
        return self.times.usual or self.options.step or 0

    @property
    def seconds(self) -> float | None:
        """That one frame's rain is of; None: of a calendar month, or unknown."""
        if self.options.accumulate:
            return float(self.options.accumulate)
        if self.meaning.covers is not None:
            return float(self.meaning.covers)
        return None if self.times.rhythm == "monthly" or not self.length else float(self.length)

    @cached_property
    def factors(self) -> list[float]:
        """What makes the numbers of each time step millimetres per step; 1 for a state."""
        meaning, seconds = self.meaning, self.times.seconds
        if meaning.kind != "rate":
            return [meaning.factor] * len(seconds)
        if self.times.rhythm == "monthly":
            lengths = [stretches.month_seconds(int(second)) for second in seconds]
        else:
            lengths = [self.length] * len(seconds)
        return [meaning.factor * length / meaning.per for length in lengths]

    def frames(self, problems: list[str]) -> dict[int, tuple[Runs, float]]:
        """By the time that a frame bears: what it is read from, and the factor.

        What is left out is named in `problems`. Raises UserError where nothing can be added up.
        """
        if self.options.accumulate:
            groups = self.added(self.options.accumulate, problems)
        else:
            groups = {int(second): np.array([i]) for i, second in enumerate(self.times.seconds)}
        return {
            label: (self.times.runs(inside), self.factors[inside[0]])
            for label, inside in groups.items()
        }

    def added(self, over: int, problems: list[str]) -> dict[int, np.ndarray]:
        """The steps of each whole interval, by the time at which it begins.

        Intervals of hours are those of UTC; of days they count from the first day there is.
        """
        self.refuse_holes(over)
        times = self.times.seconds - (self.meaning.rain and self.meaning.label == "end")
        origin = int(times[0]) // DAY * DAY if over > DAY else 0
        labels, first, count = np.unique(
            (times - origin) // over, return_index=True, return_counts=True
        )
        begins = origin + labels * over
        need = over // self.times.usual
        whole = count == need
        if not whole.all():
            short = [
                f"{moment(begin)} ({there} of {need})"
                for begin, there in zip(begins[~whole], count[~whole], strict=True)
            ]
            problems.append(
                f"{self.path}: {self.times.name} of these intervals of {said(over)} is not "
                f"complete, they are left out: {listed(short, FEW)}"
            )
        return {
            int(begin): np.arange(at, at + need)
            for begin, at in zip(begins[whole], first[whole], strict=True)
        }

    def refuse_holes(self, over: int) -> None:
        """Sums over steps that do not cover the time would be too small. Raises UserError."""
        name, step, covers = self.times.name, self.times.usual, self.meaning.covers
        if self.times.rhythm == "monthly" or not step:
            raise UserError(f"{self.path}: {name} has no regular step to add up with --accumulate")
        if over % step:
            raise UserError(
                f"{self.path}: {name} comes every {said(step)}, which does not divide "
                f"--accumulate {said(over)}"
            )
        if covers is not None and covers != step:
            raise UserError(
                f"{self.path}: {name} is the rain of {said(covers)} given every {said(step)}: sums "
                f"over {said(over)} would not be those of the whole time; expected a file with "
                f"every {said(covers)}; or, if each value is that of its whole step, "
                f"--covers {said(step).replace(' ', '')}"
            )

    def converted(self) -> str:
        """How a variable became mm, for people."""
        meaning, usual = self.meaning, self.times.usual
        months = stretches.are_monthly(self.times.seconds)
        units = meaning.units or "1"
        if meaning.kind == "rate":
            if self.times.rhythm == "monthly":
                per = PER.get(meaning.per, said(meaning.per))
                return f"{units} (per {per}) x the length of each calendar month = mm"
            return f"{units} x {self.factors[0]:g} = mm of {said(self.length)}"
        of = f" of {said(meaning.covers)}" if meaning.covers else ""
        if months and not of:
            of = " of a calendar month"
        every = ""
        if meaning.covers and usual and meaning.covers != usual:
            every = ", given once a month" if months else f", given every {said(usual)}"
        return f"{units} x {meaning.factor:g} = mm{of}{every}"


def moment(second: int) -> str:
    """A time for a sentence: 2023-08-01, or 2023-08-01T06:00."""
    text = str(np.datetime64(int(second), "s"))[:16]
    return text.removesuffix("T00:00")
