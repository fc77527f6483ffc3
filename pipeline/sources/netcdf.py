"""Gridded fields in NetCDF: ERA5 and the like, one file or many, as tracks of frames.

Variables are chosen by name and stacked as channels, one for each of their levels. Each file's
grid is turned north first and west to east; a box may be cut out and the rest brought to another
resolution. Rain becomes millimetres per step. A frame's time is as in the file, but for steps that
were added up: those bear the time at which they begin, so that a daily sum bears its day.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from pipeline.errors import UsageError, UserError
from pipeline.sources import (
    Channel,
    FrameError,
    RawFrame,
    RawTrack,
    Release,
    amounts,
    filelist,
    grids,
    netcdf_file,
    stretches,
)
from pipeline.sources.amounts import Meaning
from pipeline.sources.grids import Cut, Grid, Regridding
from pipeline.sources.netcdf_file import File, Where, Window
from pipeline.sources.options import NONE, WORDS, Options, said

OPTIONS = frozenset(WORDS) - {"value_range"}
MAX_MISSING = 1.0  # the sea of a land-only data set is missing in every frame
LATITUDES = ("latitude", "lat")
LONGITUDES = ("longitude", "lon")
LEVELS = ("level", "lev", "plev", "pressure_level", "pressure", "isobaricinhpa")
HECTOPASCAL = {"hpa": 1.0, "mb": 1.0, "mbar": 1.0, "millibar": 1.0, "millibars": 1.0, "pa": 0.01}
KILOMETRES = {"km": 1.0, "m": 0.001}
MARGIN = 1  # cells around a box that bilinear interpolation looks at
DAY = 86400
FEW = 4  # names in a sentence
LEVEL_DIGITS = 3  # 92500.001 Pa is 925 hPa


def recognises(path: Path) -> bool:
    """True for a file with a NetCDF's ending, a JSON list of such, and a folder with one."""
    if path.is_dir():
        return any(filelist.below(path, netcdf_file.ENDINGS))
    return bool(filelist.files(path, netcdf_file.ENDINGS))


def scan(path: Path, options: Options = NONE) -> Release:
    """Look through the files at `path`: grids, levels, times and units, no fields yet.

    Raises UsageError when the variables must be chosen first, UserError when files do not fit
    together, when one time is there twice, or when nothing fits the options.
    """
    return Scan(path, options).release()


def frame_shape(frame: RawFrame) -> tuple[int, int, int]:
    """(C, H, W) of one time step."""
    return frame.part.reading.shape


def read_frame(
    frame: RawFrame, *, direct: bool = True, into: np.ndarray | None = None
) -> np.ndarray:
    """(C, H, W) float32 of one time step: rain in mm, all else in its file's own units.

    direct=False: each time step from its file alone, not from blocks that are kept.
    into: memory of that shape that may be used. Raises FrameError.
    """
    part: Part = frame.part
    reading = part.reading
    fits = into is not None and into.shape == reading.shape
    out = into if fits else np.empty(reading.shape, np.float32)
    assert out is not None
    first = 0
    for what, runs, factor in zip(reading.fields, part.runs, part.factors, strict=True):
        fields = what.read(reading.files, runs, kept=direct)
        fields *= factor
        if what.meaning.rain:
            fields[(fields < 0) & (fields > -amounts.PACKING)] = 0.0
        if reading.regridding:
            fields = reading.regridding(fields)
        out[first : first + len(fields)] = fields
        first += len(fields)
    return out


Runs = tuple[tuple[int, int, int], ...]  # number of a file, first and last + 1 of its time steps


@dataclass(frozen=True, eq=False)
class Field:
    """One variable as it is read, from whichever files."""

    name: str
    meaning: Meaning
    levels: tuple[float, ...]  # hPa; () where it has none
    windows: Mapping[int, Window]  # by the file's number

    def read(self, files: Sequence[Where], runs: Runs, *, kept: bool) -> np.ndarray:
        """(L, h, w) float64: the sum of the steps if they are rain, else their mean."""
        total: np.ndarray | None = None
        count = 0
        for number, first, last in runs:
            for step in range(first, last):
                fields = self.windows[number].step(files[number], step, kept=kept)
                total = fields if total is None else total + fields
                count += 1
        assert total is not None
        return total if self.meaning.rain or count == 1 else total / count


@dataclass(frozen=True, eq=False)
class Reading:
    """What all frames of a release share."""

    files: tuple[Where, ...]
    fields: tuple[Field, ...]
    regridding: Regridding | None
    shape: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Part:
    """Where one frame lies: for each variable its time steps, and what makes them millimetres."""

    reading: Reading
    runs: tuple[Runs, ...]
    factors: tuple[float, ...]


@dataclass
class Header:
    """What one file has of the variables that were asked for."""

    number: int
    where: Where
    cut: Cut
    attrs: Mapping[str, Any]  # of the file
    windows: dict[str, Window]
    levels: dict[str, tuple[float, ...]]
    meanings: dict[str, Meaning]
    about: dict[str, Mapping[str, Any]]  # attributes of each variable
    times: dict[str, np.ndarray]  # (n,) int64 seconds; empty: the file does not say


@dataclass
class Steps:
    """All time steps of one variable, in order."""

    times: np.ndarray  # (n,) int64 seconds
    files: np.ndarray  # (n,) numbers of files
    numbers: np.ndarray  # (n,) of the steps within them
    usual: int  # seconds from one to the next, mostly; 0 for a single one
    rhythm: Literal["monthly", "daily", "other"]

    @property
    def monthly(self) -> bool:
        return self.rhythm == "monthly"


@dataclass
class Scan:
    """One look through a source."""

    path: Path
    options: Options
    problems: list[str] = field(default_factory=list)

    def release(self) -> Release:
        where = self.places()
        wanted = self.options.variables or (self.only_variable(where),)
        if len(set(wanted)) < len(wanted):
            raise UsageError(f"--variable {','.join(wanted)}: names one of them twice")
        headers = self.headers(where, wanted)
        self.date(headers)
        first = headers[0]
        for other in headers[1:]:
            self.refuse_unlike(first, other, wanted)
        steps = {name: self.steps(name, headers) for name in wanted}
        meanings = {name: self.meaning(name, headers, steps[name]) for name in wanted}
        reading, grid = self.reading(headers, wanted, meanings)
        frames = list(self.frames(reading, steps, meanings, headers))
        if not frames:
            raise UserError(f"{self.path}: no time at which all of {', '.join(wanted)} are there")
        about, notes = self.about(headers, reading, grid, steps, meanings)
        seconds = self.interval(steps, meanings)
        channels = tuple(
            channel for f in reading.fields for channel in channels_of(f, headers, seconds)
        )
        attrs = {**about, **place_attrs(grid)}
        tracks = self.tracks(frames, grid, attrs)
        return Release(
            format="netcdf",
            path=self.path,
            attrs=attrs,
            channels=channels,
            tracks=tracks,
            problems=tuple(dict.fromkeys(self.problems)),
            notes=notes,
            max_missing=MAX_MISSING,
        )

    def places(self) -> list[Where]:
        """Every file, and every member of a ZIP. Raises UserError where none can be used."""
        found = []
        for path in filelist.files(self.path, netcdf_file.ENDINGS):
            try:
                found += netcdf_file.members(path)
            except FrameError as error:
                self.problems.append(str(error))
        if not found:
            raise UserError(self.problems[0] if self.problems else f"{self.path}: no NetCDF file")
        return found

    def only_variable(self, where: Sequence[Where]) -> str:
        """The one field on a grid that the files hold. Raises UsageError where there are several.

        Of many files a few tell: they are alike, or a later look says so.
        """
        names: dict[str, None] = {}
        told = ""
        for place in where[:FEW]:
            try:
                file = netcdf_file.opened(place)
            except FrameError as error:
                told = told or str(error)
                continue
            found = gridded(file)
            names |= dict.fromkeys(found)
            if not found:
                told = told or f"{place}: {no_grid(file)}"
        if not names:
            raise UserError(told)
        if len(names) > 1:
            raise UsageError(
                f"{self.path}: holds {listed(list(names), 20)}; choose with --variable, as in "
                f"--variable {next(iter(names))}"
            )
        return next(iter(names))

    def headers(self, where: Sequence[Where], wanted: Sequence[str]) -> list[Header]:
        """What each file has of the variables. Raises UserError where no file has one of them."""
        found = []
        for place in where:
            try:
                file = netcdf_file.opened(place)
                here = [name for name in wanted if name in file.dataset.variables]
                if bad := [name for name in wanted if name in file.unfit]:
                    raise FrameError(f"{place}: {bad[0]} {file.unfit[bad[0]]}")
                if here:
                    found.append(self.header(len(found), file, here))
                else:
                    names = gridded(file)
                    has = f"it has {listed(names, 20)}" if names else no_grid(file)
                    self.problems.append(f"{place}: no {' or '.join(wanted)}; {has}")
            except FrameError as error:
                self.problems.append(str(error))
        have = {name for header in found for name in header.windows}
        for name in wanted:
            if name not in have:
                more = "" if not self.problems else f": {self.problems[0]}"
                raise UserError(f"{self.path}: no usable file holds {name}{more}")
        return found

    def header(self, number: int, file: File, names: Sequence[str]) -> Header:
        """Raises FrameError for a file that cannot be read, UserError for one that is not meant."""
        where, options = file.where, self.options
        header = Header(number, where, None, file.dataset.attrs, {}, {}, {}, {}, {})  # type: ignore[arg-type]
        for name in names:
            axes = Axes.of(file, name)
            cut = axes.cut(file, options)
            if header.cut is not None and not header.cut.grid.same(cut.grid):
                raise grids.unlike(f"{where}: {name}", cut.grid, names[0], header.cut.grid)
            header.cut = cut
            levels, numbers = axes.levels(file, options.levels)
            header.levels[name] = levels
            header.windows[name] = Window(name, axes.kinds, numbers, cut.rows, cut.columns)
            header.times[name] = axes.times(file)
            header.about[name] = file.dataset.variables[name].attrs
            field_bytes = 8 * len(cut.rows) * len(cut.columns) * max(1, len(levels))
            if field_bytes > netcdf_file.LARGEST_FIELD:
                raise UserError(
                    f"{where}: one time step of {name} is {cut.grid} of {max(1, len(levels))} "
                    "levels, too large to be read at once; cut a box with --region"
                )
        return header

    def date(self, headers: Sequence[Header]) -> None:
        """Give a time to files that bear none: from their names, else by counting steps.

        Raises UserError where neither is possible.
        """
        options = self.options
        start = np.datetime64(options.start or "1970-01-01", "s").astype(np.int64)
        undated = [h for h in headers if not all(len(t) for t in h.times.values())]
        for position, header in enumerate(undated):
            second = stretches.named(Path(header.where.member or header.where.path.name))
            if options.step and (options.start or second is None):
                second = int(start) + position * options.step
            if second is None:
                raise UserError(
                    f"{header.where}: bears no time; expected a time coordinate or a date in the "
                    "file's name, as tp_19500801.nc; or give --step 24h --start 2023-08-01 to "
                    "count them in the order of their names"
                )
            header.times |= {n: np.array([second]) for n, t in header.times.items() if not len(t)}

    def refuse_unlike(self, first: Header, other: Header, wanted: Sequence[str]) -> None:
        if not first.cut.grid.same(other.cut.grid):
            raise grids.unlike(str(other.where), other.cut.grid, str(first.where), first.cut.grid)
        for name in wanted:
            if name in first.levels and name in other.levels:
                one, two = first.levels[name], other.levels[name]
                if one != two:
                    raise UserError(
                        f"{other.where}: {name} has the levels {numbers(two)}, in {first.where} "
                        f"{numbers(one)}; expected the same: choose some with --levels"
                    )

    def steps(self, name: str, headers: Sequence[Header]) -> Steps:
        """All times of one variable. Raises UserError for one that is there twice."""
        parts = [(h.number, h.times[name]) for h in headers if name in h.times]
        times = np.concatenate([t for _, t in parts])
        files = np.concatenate([np.full(len(t), number) for number, t in parts])
        numbers = np.concatenate([np.arange(len(t)) for _, t in parts])
        order = np.argsort(times, kind="stable")
        times, files, numbers = times[order], files[order], numbers[order]
        if len(again := np.flatnonzero(np.diff(times) == 0)):
            at = again[0]
            one, two = (headers[files[i]].where for i in (at, at + 1))
            both = f"{one} and {two} both hold" if one != two else f"{one} holds twice"
            more = f" (and {len(again) - 1} more times)" if len(again) > 1 else ""
            raise UserError(
                f"{both} {name} of {moment(times[at])}{more}; expected each time once: move one "
                "away, or name the files in a JSON list"
            )
        gaps = np.diff(times)
        usual = int(Counter(gaps.tolist()).most_common(1)[0][0]) if len(gaps) else 0
        return Steps(times, files, numbers, usual, stretches.rhythm(times))

    def meaning(self, name: str, headers: Sequence[Header], steps: Steps) -> Meaning:
        """What a variable's numbers are; the same in all files. Raises UserError."""
        units = self.options.units if len(self.options.variables) < 2 else None
        if self.options.units and units is None:
            raise UsageError("--units: expected one --variable only, whose units it says")
        found: dict[Meaning, Where] = {}
        for header in headers:
            if name in header.about:
                of = amounts.meaning(
                    str(header.where),
                    name,
                    header.about[name],
                    header.attrs,
                    units,
                    self.options.covers,
                    steps.rhythm,
                )
                found.setdefault(of, header.where)
        if len(found) > 1:
            (one, first), (two, second) = list(found.items())[:2]
            raise UserError(
                f"{second}: {name} is {two.kind} in {two.units!r}, in {first} {one.kind} in "
                f"{one.units!r}; expected the same: convert them into stores of their own"
            )
        of = next(iter(found))
        if of.kind == "rate" and not steps.usual and not self.options.step:
            raise UserError(
                f"{self.path}: {name} is in {of.units} and there is one time only, so that the "
                "length of its step is unknown; say it with --step 24h"
            )
        if of.rain and of.label is None:
            length = steps.usual or self.options.step or 0
            of = replace(of, label="start" if length >= 86400 else "end")
        return of

    def reading(
        self, headers: Sequence[Header], wanted: Sequence[str], meanings: Mapping[str, Meaning]
    ) -> tuple[Reading, Grid]:
        """How every frame is read, and its grid. Raises UserError."""
        first = headers[0]
        fields = []
        for name in wanted:
            having = [header for header in headers if name in header.windows]
            fields.append(
                Field(
                    name,
                    meanings[name],
                    having[0].levels[name],
                    {header.number: header.windows[name] for header in having},
                )
            )
        grid, regridding = first.cut.inner, None
        if self.options.resolution:
            if grid.projected:
                raise UserError(f"{first.where}: lies on a map projection, so no --resolution")
            try:
                grid = grids.refined(first.cut.inner, self.options.resolution)
            except ValueError as error:
                raise UserError(f"{first.where}: {error}") from None
            how = self.options.regrid or way(first.cut.inner, self.options.resolution)
            regridding = Regridding.between(first.cut.grid, grid, how)
        elif self.options.regrid:
            raise UsageError("--regrid: expected a --resolution to bring the fields to")
        channels = sum(max(1, len(f.levels)) for f in fields)
        places = tuple(Where(h.where.path.absolute(), h.where.member) for h in headers)
        return Reading(places, tuple(fields), regridding, (channels, *grid.shape)), grid

    def interval(self, steps: Mapping[str, Steps], meanings: Mapping[str, Meaning]) -> float | None:
        """Seconds that the rain of one frame is of; None: months, unknown, or no rain at all."""
        rain = [name for name in steps if meanings[name].rain]
        if not rain:
            return None
        if self.options.accumulate:
            return float(self.options.accumulate)
        found = {self.seconds_of(steps[name], meanings[name]) for name in rain}
        return found.pop() if len(found) == 1 else None

    def seconds_of(self, steps: Steps, meaning: Meaning) -> float | None:
        if steps.monthly and meaning.covers is None:
            return None
        if meaning.covers is not None:
            return float(meaning.covers)
        return float(steps.usual or self.options.step or 0) or None

    def frames(
        self,
        reading: Reading,
        steps: Mapping[str, Steps],
        meanings: Mapping[str, Meaning],
        headers: Sequence[Header],
    ) -> Iterator[RawFrame]:
        """Each time at which every variable is there; what is left out is named in problems."""
        over = self.options.accumulate
        found = {}
        for name, of in steps.items():
            self.refuse_holes(name, of, meanings[name])
            groups = self.added(name, of, meanings[name]) if over else singly(of)
            factors = self.factors(of, meanings[name])
            found[name] = {
                label: (in_runs(of, inside), factors[inside[0]]) for label, inside in groups.items()
            }
        common = set.intersection(*(set(labels) for labels in found.values()))
        lost = sorted(set.union(*(set(labels) for labels in found.values())) - common)
        if lost:
            names = [n for n in found if not set(lost) <= set(found[n])]
            self.problems.append(
                f"{self.path}: {listed([moment(s) for s in lost], FEW)}: no {' and '.join(names)}; "
                "left out"
            )
        for label in sorted(common):
            runs = tuple(found[name][label][0] for name in steps)
            factors_here = tuple(found[name][label][1] for name in steps)
            paths = dict.fromkeys(headers[run[0]].where.path for each in runs for run in each)
            yield RawFrame(
                np.datetime64(label, "s"), tuple(paths), part=Part(reading, runs, factors_here)
            )

    def factors(self, steps: Steps, meaning: Meaning) -> list[float]:
        """What makes each time step millimetres per step."""
        if meaning.kind != "rate":
            return [meaning.factor] * len(steps.times)
        if steps.monthly:
            lengths = [stretches.month_seconds(int(second)) for second in steps.times]
        else:
            lengths = [steps.usual or self.options.step or 0] * len(steps.times)
        return [meaning.factor * length / meaning.per for length in lengths]

    def refuse_holes(self, name: str, steps: Steps, meaning: Meaning) -> None:
        """Sums over steps that do not cover the time would be too small. Raises UserError."""
        over, step = self.options.accumulate, steps.usual
        if not over:
            return
        if steps.monthly or not step:
            raise UserError(f"{self.path}: {name} has no regular step to add up with --accumulate")
        if over % step:
            raise UserError(
                f"{self.path}: {name} comes every {said(step)}, which does not divide "
                f"--accumulate {said(over)}"
            )
        if meaning.covers is not None and meaning.covers != step and over != step:
            raise UserError(
                f"{self.path}: {name} is the rain of {said(meaning.covers)} given every "
                f"{said(step)}: sums over {said(over)} would not be those of the whole time; "
                f"expected a file with every {said(meaning.covers)}; or, if each value is that of "
                f"its whole step, --covers {said(step).replace(' ', '')}"
            )

    def added(self, name: str, steps: Steps, meaning: Meaning) -> dict[int, np.ndarray]:
        """The steps of each whole interval, by the time at which it begins."""
        over = self.options.accumulate
        assert over
        ends = meaning.rain and meaning.label == "end"
        times = steps.times - ends
        origin = int(times[0]) // DAY * DAY if over > DAY else 0  # of hours: those of UTC
        interval = (times - origin) // over
        labels, first, count = np.unique(interval, return_index=True, return_counts=True)
        need = over // steps.usual
        whole = count == need
        if not whole.all():
            short = [
                f"{moment(origin + label * over)} ({there} of {need})"
                for label, there in zip(labels[~whole], count[~whole], strict=True)
            ]
            self.problems.append(
                f"{self.path}: {name} of these intervals of {said(over)} is not complete, they are "
                f"left out: {listed(short, FEW)}"
            )
        return {
            origin + int(label) * over: np.arange(at, at + need)
            for label, at in zip(labels[whole], first[whole], strict=True)
        }

    def about(
        self,
        headers: Sequence[Header],
        reading: Reading,
        grid: Grid,
        steps: Mapping[str, Steps],
        meanings: Mapping[str, Meaning],
    ) -> tuple[dict[str, str | float], tuple[str, ...]]:
        """Attributes for the store's root, and what a person should be told of them."""
        file = headers[0].attrs
        names = ", ".join(f.name for f in reading.fields)
        attrs: dict[str, str | float] = {
            "title": str(file.get("title", f"Gridded fields: {names}"))[:500],
            "source": str(file.get("source", file.get("institution", "NetCDF files")))[:500],
        }
        for key in ("license", "references", "acknowledgement"):
            if text := str(file.get(key, file.get(key.capitalize(), ""))).strip():
                attrs[key] = text[:1000]
        notes = []
        for name, meaning in meanings.items():
            if meaning.rain:
                notes.append(f"{name}: {self.converted(steps[name], meaning)}")
        if notes:
            attrs["conversion"] = "; ".join(notes)
        seconds = self.interval(steps, meanings)
        if seconds is not None:
            attrs["accumulation_hours"] = seconds / 3600
        attrs["time_label"] = self.label(meanings)
        if reading.regridding:
            old = headers[0].cut.inner
            note = f"{reading.regridding.how} from {old}"
            if max(old.sides) > max(grid.sides) * (1 + grids.ALIKE):
                note += ", so no detail is finer than that"
            attrs["regridding"] = note
            attrs["native_grid_degrees"] = max(old.sides)
            notes.append(f"regridding: {note}")
        return attrs, tuple(notes)

    def converted(self, steps: Steps, meaning: Meaning) -> str:
        """How a variable became mm, for people."""
        if meaning.kind == "amount":
            months = stretches.are_monthly(steps.times)
            of = f" of {said(meaning.covers)}" if meaning.covers else ""
            if not of and months:
                of = " of a calendar month"
            sampled = meaning.covers and steps.usual and meaning.covers != steps.usual
            every = "once a month" if months else f"every {said(steps.usual)}"
            every = f", given {every}" if sampled else ""
            return f"{meaning.units or '1'} x {meaning.factor:g} = mm{of}{every}"
        per = {86400: "day", 3600: "hour", 1: "second"}.get(meaning.per, said(meaning.per))
        if steps.monthly:
            return f"{meaning.units} (per {per}) x the length of each calendar month = mm"
        length = steps.usual or self.options.step or 0
        return f"{meaning.units} x {meaning.factor * length / meaning.per:g} = mm of {said(length)}"

    def label(self, meanings: Mapping[str, Meaning]) -> str:
        over = self.options.accumulate
        if over:
            how = "sums" if all(m.rain for m in meanings.values()) else "sums of rain, means else"
            return f"start of the interval: {how} over {said(over)} from each time on"
        labels = {m.label for m in meanings.values() if m.rain}
        if not labels:
            return "as in the files"
        return f"as in the files: for rain the {' or '.join(sorted(filter(None, labels)))} " + (
            "of its interval"
        )

    def tracks(
        self, frames: Sequence[RawFrame], grid: Grid, attrs: Mapping[str, Any]
    ) -> tuple[RawTrack, ...]:
        by = self.options.track_by
        groups: dict[str, list[RawFrame]] = defaultdict(list)
        names = {path: stretches.fit_name(path.stem) for f in frames for path in f.paths}
        twice = {name for name, count in Counter(names.values()).items() if count > 1}
        for frame in frames:
            path = frame.paths[0]
            file = names[path]
            if file in twice:  # CDS calls every file data_stream-oper_stepType-accum.nc
                file = stretches.fit_name(
                    "-".join(path.relative_to(common(names)).with_suffix("").parts)
                )
            if by == "none":
                file = stretches.fit_name(self.path.stem)
            second = int(frame.time.astype("datetime64[s]").astype(np.int64))
            groups[stretches.track_of(second, file, by)].append(frame)
        return tuple(
            RawTrack(id, tuple(groups[id]), attrs=dict(attrs), grid=grid) for id in sorted(groups)
        )


@dataclass(frozen=True)
class Axes:
    """The dimensions of one variable, by what they are."""

    name: str
    dims: tuple[str, ...]  # as the file calls them
    kinds: tuple[str, ...]  # time, expver, level, y, x; one: of length 1 and no matter
    projected: bool

    @classmethod
    def of(cls, file: File, name: str) -> Axes:
        """Raises UserError for a variable that is not a field on a regular grid."""
        variable = file.dataset.variables[name]
        kinds = []
        for dim, length in zip(variable.dims, variable.shape, strict=True):
            kind = kind_of(file.dataset, str(dim))
            if not kind and length == 1:
                kind = "one"
            if not kind:
                told = (
                    no_grid(file)
                    if not horizontal(file.dataset, variable)
                    else (
                        f"has the dimension {dim!r} of {length}, which is neither time, level, "
                        "latitude nor longitude; choose one of them first, as with ncks -d"
                    )
                )
                raise UserError(f"{file.where}: {name} {told}")
            kinds.append(kind)
        if not {"y", "x"} <= set(kinds):
            raise UserError(f"{file.where}: {name} {no_grid(file)}")
        if len(set(kinds) - {"one"}) < len([k for k in kinds if k != "one"]):
            raise UserError(f"{file.where}: {name} has two dimensions of one kind: {variable.dims}")
        if variable.dtype.kind not in "iuf":
            raise UserError(f"{file.where}: {name} is {variable.dtype}; expected numbers")
        y = str(variable.dims[kinds.index("y")])
        projected = file.dataset.variables[y].attrs.get("standard_name") == PROJECTION[0]
        return cls(name, tuple(map(str, variable.dims)), tuple(kinds), projected)

    def dim(self, kind: str) -> str | None:
        return self.dims[self.kinds.index(kind)] if kind in self.kinds else None

    def cut(self, file: File, options: Options) -> Cut:
        """The box of the grid that is read. Raises UserError."""
        y, x = (coordinate(file, str(self.dim(kind))) for kind in "yx")
        for values in (y, x):
            if not np.isfinite(values).all() or len(values) > netcdf_file.LARGEST_SIDE:
                raise UserError(
                    f"{file.where}: its grid has {len(values)} cells, or NaN among them"
                )
        if self.projected:
            return self.cut_projected(file, y, x, options)
        margin = MARGIN if options.resolution and options.region else 0
        try:
            return grids.cut(y, x, options.region, margin)
        except ValueError as error:
            raise UserError(f"{file.where}: {error}") from None

    def cut_projected(self, file: File, y: np.ndarray, x: np.ndarray, options: Options) -> Cut:
        if options.region:
            raise UserError(f"{file.where}: lies on a map projection, so no --region in degrees")
        units = str(file.dataset.variables[str(self.dim("y"))].attrs.get("units", ""))
        if units not in KILOMETRES:
            raise UserError(f"{file.where}: its grid is in {units!r}; expected degrees, km or m")
        rows = np.arange(len(y)) if y[0] > y[-1] else np.arange(len(y))[::-1]
        columns = np.arange(len(x)) if x[0] < x[-1] else np.arange(len(x))[::-1]
        grid = Grid(y[rows] * KILOMETRES[units], x[columns] * KILOMETRES[units], projected=True)
        if not all(side > 0 for side in grid.sides):
            raise UserError(f"{file.where}: the cells of its grid are not of one size")
        return Cut(rows, columns, grid, grid)

    def levels(
        self, file: File, wanted: tuple[float, ...]
    ) -> tuple[tuple[float, ...], np.ndarray | None]:
        """hPa and numbers of the levels that are read. Raises UserError for one that is not there.

        Without any wanted: all of them, as the file has them.
        """
        dim = self.dim("level")
        if dim is None:
            return (), None
        about = file.dataset.variables[dim].attrs
        factor = HECTOPASCAL.get(str(about.get("units", "hPa")).strip().lower(), 1.0)
        have = [round(float(v) * factor, LEVEL_DIGITS) for v in netcdf_file.whole(file, dim)]
        if absent := [level for level in wanted if level not in have]:
            raise UserError(
                f"{file.where}: {self.name} has no level of {numbers(absent)} hPa; it has "
                f"{numbers(sorted(have, reverse=True))}: choose with --levels those that every "
                "variable has"
            )
        chosen = wanted or tuple(have)
        return tuple(chosen), np.array([have.index(level) for level in chosen])

    def times(self, file: File) -> np.ndarray:
        """(n,) int64 seconds; empty where the file does not say. Raises UserError."""
        dim = self.dim("time")
        dataset = file.dataset
        holders = [
            str(name)
            for name, variable in dataset.variables.items()
            if variable.dims == ((dim,) if dim else ()) and " since " in units_of(variable)
        ]
        names = [n for n in holders if n == "valid_time"] + [n for n in holders if n == dim]
        names += [n for n in holders if dataset.variables[n].attrs.get("standard_name") == "time"]
        names += [n for n in holders if n == "time"]
        if not names and dim is None:
            return np.empty(0, np.int64)
        if not names:
            raise UserError(
                f"{file.where}: {self.name} has a dimension {dim!r} that bears no times"
            )
        try:
            values = np.atleast_1d(netcdf_file.whole(file, names[0]))
            return stretches.times(values, dataset.variables[names[0]].attrs)
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{file.where}: {error}") from None


PROJECTION = ("projection_y_coordinate", "projection_x_coordinate")


def kind_of(dataset: xr.Dataset, dim: str) -> str:
    """What a dimension is, by its coordinate: time, expver, level, y, x, or "" for none of them."""
    if dim == "expver":
        return "expver"
    variable = dataset.variables.get(dim)
    if variable is None:
        others = [v for v in dataset.variables.values() if v.dims == (dim,)]
        return "time" if any(" since " in units_of(v) for v in others) else ""
    units, name = units_of(variable), str(variable.attrs.get("standard_name", "")).lower()
    if name == "latitude" or dim.lower() in LATITUDES or units.startswith("degrees_north"):
        return "y"
    if name == "longitude" or dim.lower() in LONGITUDES or units.startswith("degrees_east"):
        return "x"
    if name in PROJECTION:
        return "yx"[PROJECTION.index(name)]
    if " since " in units:
        return "time"
    if dim.lower() in LEVELS or name == "air_pressure" or units.lower() in HECTOPASCAL:
        return "level"
    return ""


def units_of(variable: xr.Variable) -> str:
    return f"{variable.attrs.get('units', '')}"


def horizontal(dataset: xr.Dataset, variable: xr.Variable) -> bool:
    return {"y", "x"} <= {kind_of(dataset, str(dim)) for dim in variable.dims}


def gridded(file: File) -> list[str]:
    """The variables that are fields on a grid."""
    names = []
    for name, variable in file.dataset.variables.items():
        bounds = str(name).endswith(("_bnds", "_bounds"))
        if variable.dtype.kind in "iuf" and not bounds and horizontal(file.dataset, variable):
            names.append(str(name))
    return names


def no_grid(file: File) -> str:
    """Why there is no field in a file, for a sentence."""
    for name, variable in file.dataset.variables.items():
        about = f"{variable.attrs.get('standard_name', '')} {units_of(variable)}".lower()
        if variable.ndim > 1 and "degree" in about and "lat" in f"{name} {about}".lower():
            return (
                f"lies on a grid whose latitudes ({name}) are 2-D; expected 1-D ones: regrid it "
                "first, as with `cdo remapbil,GRID`"
            )
    have = listed([str(name) for name in file.dataset.variables], 8) or "no variable"
    told = next(
        (f"; {name!r} {why}" for name, why in file.unfit.items() if "numbers" not in why), ""
    )
    return f"has no field with a latitude and a longitude; it holds {have}{told}"


def coordinate(file: File, dim: str) -> np.ndarray:
    """(n,) float64 of a dimension's coordinate."""
    return netcdf_file.whole(file, dim).astype(np.float64)


def way(old: Grid, resolution: float) -> str:
    """How to regrid if nothing is said: areas where that is coarser, so that no rain is lost."""
    return "conservative" if resolution > max(old.sides) * (1 + grids.ALIKE) else "bilinear"


def singly(steps: Steps) -> dict[int, np.ndarray]:
    return {int(second): np.array([i]) for i, second in enumerate(steps.times)}


def in_runs(steps: Steps, inside: np.ndarray) -> Runs:
    """Steps, by their numbers in order, as stretches of one file each."""
    runs: list[tuple[int, int, int]] = []
    for i in inside:
        file, number = int(steps.files[i]), int(steps.numbers[i])
        if runs and runs[-1][0] == file and runs[-1][2] == number:
            runs[-1] = (file, runs[-1][1], number + 1)
        else:
            runs.append((file, number, number + 1))
    return tuple(runs)


def channels_of(
    field: Field, headers: Sequence[Header], seconds: float | None
) -> Iterator[Channel]:
    """One channel, or one for each level."""
    attrs = next(header.about[field.name] for header in headers if field.name in header.about)
    meaning = field.meaning
    low, high = amounts.valid_range(meaning, seconds)
    given = str(attrs.get("standard_name", "")).strip()
    standard = given if given.lower() not in ("unknown", "") and given == given.lower() else ""
    if meaning.rain:
        standard = "lwe_thickness_of_precipitation_amount"
    for level in field.levels or (None,):
        long_name = str(attrs.get("long_name", attrs.get("description", field.name))).strip()
        yield Channel(
            name=field.name if level is None else f"{field.name}_{level:g}",
            units="mm" if meaning.rain else amounts.cf_units(meaning.units),
            long_name=long_name if level is None else f"{long_name} at {level:g} hPa",
            standard_name=standard,
            valid_min=low,
            valid_max=high,
        )


def place_attrs(grid: Grid) -> dict[str, str | float]:
    """The side of a cell, where there is one."""
    height, width = grid.sides
    if not (height > 0 and width > 0):
        return {}
    square = abs(height - width) < grids.ALIKE * width
    if grid.projected:
        return {"pixel_km": height} if square else {}
    if square:
        return {"grid_degrees": height}
    return {"grid_degrees_latitude": height, "grid_degrees_longitude": width}


def moment(second: int) -> str:
    """A time for a sentence: 2023-08-01, or 2023-08-01T06:00."""
    text = str(np.datetime64(int(second), "s"))[:16]
    return text.removesuffix("T00:00")


def numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def listed(words: Sequence[str], most: int) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def common(paths: Mapping[Path, str]) -> str:
    return os.path.commonpath([path.parent for path in paths])
