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
from typing import Any

import numpy as np

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
from pipeline.sources.netcdf_axes import Axes, Timeless, gridded, listed, no_grid, numbers
from pipeline.sources.netcdf_file import File, Where
from pipeline.sources.netcdf_read import Field, Part, Reading
from pipeline.sources.netcdf_steps import FEW, Steps, Times, moment
from pipeline.sources.netcdf_window import Window
from pipeline.sources.options import NONE, WORDS, Options, said

OPTIONS = frozenset(WORDS) - {"value_range"}
MAX_MISSING = 1.0  # the sea of a land-only data set is missing in every frame
ENDINGS = (*netcdf_file.INSIDE, ".zip")
LONGEST_TEXT = 1000  # characters of an attribute that is passed on


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
    part: Part = frame.part
    return part.reading.shape


def read_frame(
    frame: RawFrame, *, direct: bool = True, into: np.ndarray | None = None
) -> np.ndarray:
    """(C, H, W) float32 of one time step: rain in mm, all else in its file's own units.

    direct=False: each time step by HDF5 alone, not from blocks that are kept. into: memory of that
    shape that may be used. Raises FrameError.
    """
    part: Part = frame.part
    fits = into is not None and into.shape == part.reading.shape
    out = into if fits else np.empty(part.reading.shape, np.float32)
    assert out is not None
    return part.read(out, kept=direct)


@dataclass
class Header:
    """What one file has of the variables that were asked for."""

    number: int
    where: Where
    attrs: Mapping[str, Any]  # of the file
    cut: Cut
    windows: dict[str, Window] = field(default_factory=dict)
    levels: dict[str, tuple[float, ...]] = field(default_factory=dict)
    about: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # each variable's attributes
    times: dict[str, np.ndarray] = field(default_factory=dict)  # (n,) int64
    untold: dict[str, tuple[int, str, str]] = field(default_factory=dict)  # steps, Timeless's words

    @classmethod
    def of(cls, number: int, file: File, names: Sequence[str], options: Options) -> Header:
        """Raises UserError for a file with other fields than are meant."""
        axes = {name: Axes.of(file, name) for name in names}
        header = cls(number, file.where, file.attrs, axes[names[0]].cut(file, options))
        for name, of in axes.items():
            cut = of.cut(file, options)
            if not header.cut.grid.same(cut.grid):
                raise grids.unlike(f"{file.where}: {name}", cut.grid, names[0], header.cut.grid)
            levels, places = of.levels(file, options.levels)
            header.levels[name] = levels
            header.windows[name] = Window(name, of.kinds, places, cut.rows, cut.columns)
            try:
                header.times[name] = of.times(file)
            except Timeless as error:
                header.untold[name] = of.count(file), str(error), error.own
            header.about[name] = file.variables[name].attrs
            cells = len(cut.rows) * len(cut.columns) * max(1, len(levels))
            if 8 * cells > netcdf_file.LARGEST_FIELD:
                raise UserError(
                    f"{file.where}: one time step of {name} is {cut.grid} of {max(1, len(levels))} "
                    "levels, too large to be read at once; cut a box with --region"
                )
        return header


@dataclass
class Scan:
    """One look through a source."""

    path: Path
    options: Options
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counted: str = ""  # how times were made where the files bear none

    def release(self) -> Release:
        where = self.places()
        wanted = self.options.variables or (self.only_variable(where),)
        if len(set(wanted)) < len(wanted):
            raise UsageError(f"--variable {','.join(wanted)}: names one of them twice")
        headers = self.headers(where, wanted)
        self.date(headers, wanted)
        self.refuse_unlike(headers, wanted)
        steps = [self.steps(name, headers) for name in wanted]
        reading, grid = self.reading(headers, steps)
        frames = list(self.frames(reading, steps, headers))
        if not frames:
            why = f"; {self.problems[-1]}" if self.problems else ""
            raise UserError(f"{self.path}: no frame of {', '.join(wanted)}{why}")
        seconds = interval(steps)
        attrs = {**self.about(headers, reading, grid, steps), **place_attrs(grid)}
        notes = [f"{s.times.name}: {s.converted()}" for s in steps if s.meaning.rain] + self.notes
        if "regridding" in attrs:
            notes.append(f"regridding: {attrs['regridding']}")
        return Release(
            format="netcdf",
            path=self.path,
            attrs=attrs,
            channels=tuple(c for f in reading.fields for c in channels_of(f, headers, seconds)),
            tracks=self.tracks(frames, grid, attrs),
            problems=tuple(dict.fromkeys(self.problems)),
            notes=tuple(notes),
            max_missing=MAX_MISSING,
        )

    def places(self) -> list[Where]:
        """Every file, and every member of a ZIP. Raises UserError where none can be used."""
        found = []
        files = filelist.files(self.path, netcdf_file.ENDINGS)
        if self.path.is_dir():  # where GRIB is what these were made of
            files = [f for f in files if f.name.lower().endswith(ENDINGS)] or files
        for path in files:
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
        found: list[Header] = []
        for place in where:
            try:
                file = netcdf_file.opened(place)
                if bad := [name for name in wanted if name in file.unfit]:
                    raise FrameError(f"{place}: {bad[0]} {file.unfit[bad[0]]}")
                if here := [name for name in wanted if name in file.variables]:
                    found.append(Header.of(len(found), file, here, self.options))
                else:
                    names = gridded(file)
                    has = f"it has {listed(names, 8)}" if names else no_grid(file)
                    self.problems.append(f"{place}: no {' or '.join(wanted)}; {has}")
            except FrameError as error:
                self.problems.append(str(error))
        have = {name for header in found for name in header.windows}
        for name in wanted:
            if name not in have:
                more = f": {self.problems[0]}" if self.problems else ""
                raise UserError(f"{self.path}: no usable file holds {name}{more}")
        return found

    def date(self, headers: Sequence[Header], wanted: Sequence[str]) -> None:
        """Give times to steps that bear none: from their files' names, else by counting.

        Each variable's steps count on from file to file, in the order of their names. Raises
        UsageError where neither is possible, UserError where they would lie beside times that
        other files do say.
        """
        options = self.options
        asked, step = options.start or "1970-01-01", options.step
        start = int(np.datetime64(asked, "s").astype(np.int64))
        counted, unusable = 0, dict[str, None]()
        for name in wanted:
            own = sum(name in header.times for header in headers)
            untold = [header for header in headers if name in header.untold]
            alone = bool(options.start) and sum(h.untold[name][0] for h in untold) == 1
            before = 0
            for header in untold:
                count, why, unfit = header.untold[name]
                dated = stretches.named(Path(header.where.member or header.where.path.name))
                if dated is not None and not options.start and (step or count == 1):
                    times = dated + np.arange(count) * (step or 0)
                elif own and (dated is None or options.start):
                    others = f"{own} other files bear times of their own"
                    if own == 1:
                        others = "1 other file bears times of its own"
                    raise UserError(f"{why}; {others}: mend this one or leave it out")
                elif step or alone:
                    times = start + (before + np.arange(count)) * (step or 0)
                    before += count
                    unusable |= dict.fromkeys([unfit] if unfit else [])
                else:
                    raise UsageError(self.undated(why, count, dated))
                header.times[name] = times
            counted += before
        if counted:
            every = f", every {said(step)}" if step else ""
            why_so = "since the files do not say them"
            if unusable:
                why_so = f"in place of the files' own ({listed(list(unusable), FEW)})"
            self.counted = f"counted{every} from {asked} on, {why_so}"
            self.notes.append(f"times are {self.counted}")
        elif options.start:
            self.notes.append(f"--start {asked} did not matter: the files bear times of their own")

    def undated(self, why: str, count: int, dated: int | None) -> str:
        """How the way out is told of steps without times."""
        if count > 1 and dated is not None:
            return f"{why}; give --step 1h to count them from the date in its name, {moment(dated)}"
        if count > 1:
            return f"{why}; give --start 2023-08-01 --step 1h to count them from there on"
        return (
            f"{why}; expected a time coordinate or a date in the file's name, as tp_19500801.nc; "
            "or give --step 24h --start 2023-08-01 to count them in the order of their names"
        )

    def refuse_unlike(self, headers: Sequence[Header], wanted: Sequence[str]) -> None:
        """Raises UserError for files of several grids or levels."""
        first = headers[0]
        for other in headers[1:]:
            if not first.cut.grid.same(other.cut.grid):
                told = str(other.where), other.cut.grid, str(first.where), first.cut.grid
                raise grids.unlike(*told)
        for name in wanted:
            first, *others = (header for header in headers if name in header.levels)
            for other in others:
                one, two = first.levels[name], other.levels[name]
                if one != two:
                    raise UserError(
                        f"{other.where}: {name} has the levels {numbers(two)}, in {first.where} "
                        f"{numbers(one)}; expected the same: choose some with --levels"
                    )

    def steps(self, name: str, headers: Sequence[Header]) -> Steps:
        """One variable in time, and what its numbers mean. Raises UserError."""
        parts = [(header.number, header.times[name]) for header in headers if name in header.times]
        times = Times.of(name, parts, [header.where for header in headers])
        return Steps(self.path, times, self.meaning(headers, times), self.options)

    def meaning(self, headers: Sequence[Header], times: Times) -> Meaning:
        """What a variable's numbers are; the same in all files. Raises UserError."""
        name, options = times.name, self.options
        if options.units and len(options.variables) > 1:
            raise UsageError("--units: expected one --variable only, whose units it says")
        found: dict[Meaning, Where] = {}
        for header in headers:
            if name in header.about:
                where, about = str(header.where), header.about[name]
                said_by_user = options.units, options.covers
                of = amounts.meaning(where, name, about, header.attrs, *said_by_user, times.rhythm)
                found.setdefault(of, header.where)
        if len(found) > 1:
            (one, first), (two, second) = list(found.items())[:2]
            raise UserError(
                f"{second}: {name} is {two.kind} in {two.units!r}, in {first} {one.kind} in "
                f"{one.units!r}; expected the same: convert them into stores of their own"
            )
        of = next(iter(found))
        length = times.usual or options.step
        if of.kind == "rate" and not length:
            raise UserError(
                f"{self.path}: {name} is in {of.units} and there is one time only, so that the "
                "length of its step is unknown; say it with --step 24h"
            )
        if of.rain and of.label is None:  # daily data bear their day, finer ones mostly their end
            of = replace(of, label="start" if (length or 0) >= 86400 else "end")
        return of

    def reading(self, headers: Sequence[Header], steps: Sequence[Steps]) -> tuple[Reading, Grid]:
        """How every frame is read, and its grid. Raises UserError."""
        first = headers[0]
        fields = []
        for of in steps:
            name = of.times.name
            having = [header for header in headers if name in header.windows]
            windows = {header.number: header.windows[name] for header in having}
            fields.append(Field(name, of.meaning, having[0].levels[name], windows))
        grid, regridding = first.cut.inner, None
        if self.options.resolution:
            if grid.projected:
                raise UserError(f"{first.where}: lies on a map projection, so no --resolution")
            try:
                grid = grids.refined(first.cut.inner, self.options.resolution)
            except ValueError as error:
                raise UserError(f"{first.where}: {error}") from None
            if 8 * len(grid.y) * len(grid.x) * len(fields) > netcdf_file.LARGEST_FIELD:
                raise UserError(f"{self.path}: --resolution makes {grid}, too many; see --region")
            how = self.options.regrid or way(first.cut.inner, self.options.resolution)
            regridding = Regridding.between(first.cut.grid, grid, how)
        elif self.options.regrid:
            raise UsageError("--regrid: expected a --resolution to bring the fields to")
        channels = sum(max(1, len(f.levels)) for f in fields)
        files = tuple(Where(h.where.path.absolute(), h.where.member) for h in headers)
        return Reading(files, tuple(fields), regridding, (channels, *grid.shape)), grid

    def frames(
        self, reading: Reading, steps: Sequence[Steps], headers: Sequence[Header]
    ) -> Iterator[RawFrame]:
        """Each time at which every variable is there; what is left out is named in problems."""
        found = [of.frames(self.problems) for of in steps]
        common = set.intersection(*map(set, found))
        if lost := sorted(set.union(*map(set, found)) - common):
            names = [
                s.times.name for s, have in zip(steps, found, strict=True) if lost[0] not in have
            ]
            self.problems.append(
                f"{self.path}: {listed([moment(s) for s in lost], FEW)}: no {' and '.join(names)}; "
                "left out"
            )
        for label in sorted(common):
            runs, factors = zip(*(have[label] for have in found), strict=True)
            paths = dict.fromkeys(headers[run[0]].where.path for each in runs for run in each)
            part = Part(reading, runs, factors)
            yield RawFrame(np.datetime64(label, "s"), tuple(paths), part=part)

    def about(
        self, headers: Sequence[Header], reading: Reading, grid: Grid, steps: Sequence[Steps]
    ) -> dict[str, str | float]:
        """Attributes for the store's root."""
        file = headers[0].attrs
        names = ", ".join(f.name for f in reading.fields)
        attrs: dict[str, str | float] = {
            "title": text_of(file, "title") or f"Gridded fields: {names}",
            "source": text_of(file, "source") or text_of(file, "institution") or "NetCDF files",
        }
        for key in ("license", "references", "acknowledgement"):
            if text := text_of(file, key):
                attrs[key] = text
        if rain := [s for s in steps if s.meaning.rain]:
            attrs["conversion"] = "; ".join(f"{s.times.name}: {s.converted()}" for s in rain)
        if (seconds := interval(steps)) is not None:
            attrs["accumulation_hours"] = seconds / 3600
        attrs["time_label"] = self.label([s.meaning for s in steps])
        if reading.regridding:
            old = headers[0].cut.inner
            coarse = max(old.sides) > max(grid.sides) * (1 + grids.ALIKE)
            attrs["regridding"] = f"{reading.regridding.how} from {old}" + (
                ", so no detail is finer than that" if coarse else ""
            )
            attrs["native_grid_degrees"] = max(old.sides)
        return attrs

    def label(self, meanings: Sequence[Meaning]) -> str:
        """What a frame's time is, in words."""
        origin = self.counted or "as in the files"
        if over := self.options.accumulate:
            how = "sums" if all(m.rain for m in meanings) else "sums of rain, means of all else,"
            more = f"; times are {origin}" if self.counted else ""
            return f"start of the interval: {how} over {said(over)} from each time on{more}"
        labels = sorted({m.label for m in meanings if m.label})
        if not labels:
            return origin
        return f"{origin}: for rain the {' or '.join(labels)} of its interval"

    def tracks(
        self, frames: Sequence[RawFrame], grid: Grid, attrs: Mapping[str, Any]
    ) -> tuple[RawTrack, ...]:
        """The frames by `--track-by`."""
        by = self.options.track_by
        files = file_names({frame.paths[0] for frame in frames}) if by == "file" else {}
        whole = stretches.fit_name(self.path.resolve().stem)
        groups: dict[str, list[RawFrame]] = defaultdict(list)
        for frame in frames:
            second = int(frame.time.astype("datetime64[s]").astype(np.int64))
            file = files.get(frame.paths[0], whole)
            groups[stretches.track_of(second, file, by)].append(frame)
        return tuple(
            RawTrack(id, tuple(groups[id]), attrs=dict(attrs), grid=grid) for id in sorted(groups)
        )


def file_names(paths: set[Path]) -> dict[Path, str]:
    """A track's id for each file: its name, and its folders' where several have the same."""
    names = {path: stretches.fit_name(path.stem) for path in paths}
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    root = os.path.commonpath([path.absolute().parent for path in paths])
    for path, name in names.items():
        if name in twice:  # CDS calls every file data_stream-oper_stepType-accum.nc
            parts = path.absolute().relative_to(root).with_suffix("").parts
            names[path] = stretches.fit_name("-".join(parts))
    return names


def interval(steps: Sequence[Steps]) -> float | None:
    """Seconds that the rain of one frame is of; None: months, unknown, or no rain at all."""
    found = {of.seconds for of in steps if of.meaning.rain}
    return found.pop() if len(found) == 1 else None


def way(old: Grid, resolution: float) -> str:
    """How to regrid if nothing is said: areas where that is coarser, so that no rain is lost."""
    return "conservative" if resolution > max(old.sides) * (1 + grids.ALIKE) else "bilinear"


def text_of(attrs: Mapping[str, Any], key: str) -> str:
    """An attribute of a file, under that name or one with a capital."""
    return str(attrs.get(key, attrs.get(key.capitalize(), ""))).strip()[:LONGEST_TEXT]


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
