"""What the dimensions of a NetCDF variable are: time, level, latitude, longitude, in any order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import UserError
from pipeline.sources import grids, netcdf_file, stretches
from pipeline.sources.grids import Cut, Grid
from pipeline.sources.netcdf_file import File
from pipeline.sources.netcdf_stored import Stored
from pipeline.sources.options import Options

LATITUDES = ("latitude", "lat")
LONGITUDES = ("longitude", "lon")
NORTH = ("degrees_n", "degree_n", "degreesn", "degreen")  # as CF spells them, and longer ones
EAST = ("degrees_e", "degree_e", "degreese", "degreee")
TIMES = (  # a dimension of such a name is time, though nothing says which
    *("time", "times", "t", "nt", "ntime", "valid_time", "time_counter", "xtime", "date", "dates"),
    *("datetime", "hour", "hours", "day", "days", "month", "months", "year", "years"),
    *("step", "steps", "tstep", "record", "records", "frame", "frames"),
)
LEVELS = ("level", "lev", "plev", "pressure_level", "pressure", "isobaricinhpa")
HECTOPASCAL = {"hpa": 1.0, "mb": 1.0, "mbar": 1.0, "millibar": 1.0, "millibars": 1.0, "pa": 0.01}
KILOMETRES = {"km": 1.0, "m": 0.001}
PROJECTION = ("projection_y_coordinate", "projection_x_coordinate")
MARGIN = 1  # cells around a box that bilinear interpolation looks at
LEVEL_DIGITS = 3  # 92500.001 Pa is 925 hPa


class Timeless(UserError):
    """A file does not say when its fields are of, or not so that it can be used; a user may, who
    counts them.

    own: what the file says of times that cannot be used, for a note; "" where it says nothing.
    """

    def __init__(self, told: str, own: str = "") -> None:
        super().__init__(told)
        self.own = own


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
        variable = file.variables[name]
        sizes = dict(zip(variable.dims, variable.shape, strict=True))
        known = {dim: kind_of(file, dim) for dim in variable.dims} | along_lead(file, sizes)
        if "time" not in known.values():
            unsaid = (dim for dim in sizes if not known[dim] and called_time(file, dim))
            known |= dict.fromkeys(list(unsaid)[:1], "time")
        kinds = []
        for dim, length in zip(variable.dims, variable.shape, strict=True):
            kind = known[dim] or ("one" if length == 1 else "")
            if not kind:
                told = (
                    no_grid(file)
                    if not horizontal(file, variable)
                    else (
                        f"has the dimension {dim!r} of {length}, which is neither time, level, "
                        "latitude nor longitude: rename it to time if it is that, or choose one "
                        f"of the {length}, as with xarray's isel({dim}=0)"
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
        projected = file.variables[y].attrs.get("standard_name") == PROJECTION[0]
        return cls(name, variable.dims, tuple(kinds), projected)

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
        units = str(file.variables[str(self.dim("y"))].attrs.get("units", ""))
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
        """Levels in hPa, and their numbers, as read. Raises UserError for one that is not there.

        Without any wanted: all of them, as the file has them.
        """
        dim = self.dim("level")
        if dim is None:
            return (), None
        about = file.variables[dim].attrs
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

    def count(self, file: File) -> int:
        """Time steps."""
        dim = self.dim("time")
        return 1 if dim is None else file.variables[self.name].shape[self.dims.index(dim)]

    def times(self, file: File) -> np.ndarray:
        """(n,) int64 seconds. Raises Timeless where the file does not say them, UserError: one of
        them is missing.
        """
        dim, count = self.dim("time"), self.count(file)
        names = self.tellers(file, [dim] if dim else [])
        if dim and count == 1:  # a time beside the one step
            names += self.tellers(file, [])
        if not names:
            own = f"{dim!r} {file.unfit[dim]}" if dim and dim in file.unfit else ""
            raise Timeless(f"{file.where}: {self.name} {no_times(file, dim, count)}", own)
        attrs = file.variables[names[0]].attrs
        try:
            return stretches.times(np.ravel(netcdf_file.whole(file, names[0])), attrs)
        except stretches.MissingTime as error:
            raise UserError(f"{file.where}: {error}; mend this file or leave it out") from None
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            calendar = str(attrs.get("calendar", "")).lower()
            foreign = calendar not in stretches.CALENDARS
            own = f"calendar {calendar!r}" if foreign else f"units {attrs.get('units', '')!r}"
            raise Timeless(f"{file.where}: {error}", own) from None

    def tellers(self, file: File, dims: Sequence[str]) -> list[str]:
        """The variables along `dims` and no others that tell the steps' times, the best first."""
        spare = {name for name, kind in zip(self.dims, self.kinds, strict=True) if kind == "one"}
        holders = [
            str(name)
            for name, variable in file.variables.items()
            if [d for d in variable.dims if d not in spare] == dims and tells_times(variable)
        ]
        names = [n for n in holders if n == "valid_time"] + [n for n in holders if n in dims]
        names += [n for n in holders if file.variables[n].attrs.get("standard_name") == "time"]
        names += [n for n in holders if n == "time"]
        return names + [n for n in holders if dims]


def no_times(file: File, dim: str | None, count: int) -> str:
    """Why a variable's steps bear no times, for a sentence."""
    if dim is None:
        return "bears no time"
    steps = "1 step" if count == 1 else f"{count} steps"
    if dim in file.unfit:
        return f"has {steps} whose {dim!r} {file.unfit[dim]}"
    if dim not in file.variables:
        return f"has {steps}, and nothing in the file says of which times"
    units = units_of(file.variables[dim])
    told = f"in units {units!r}" if units else "without units"
    return f"has {steps} whose {dim!r} is {told}, not such as 'hours since 1900-01-01'"


def along_lead(file: File, sizes: Mapping[str, int]) -> dict[str, str]:
    """What two dimensions are, of which one is a forecast's start and the other its lead.

    As the CDS and cfgrib have them: valid_time(start, lead). One of them must be of length 1.
    """
    for variable in file.variables.values():
        dims = variable.dims
        if len(dims) > 1 and set(dims) <= set(sizes) and tells_times(variable):
            if any(kind_of(file, dim) in ("y", "x", "level", "expver") for dim in dims):
                continue  # the time of a row or a pixel is no forecast's lead
            long = [dim for dim in dims if sizes[dim] > 1]
            if len(long) < 2:
                return {dim: "time" if dim == (long or dims)[0] else "one" for dim in dims}
    return {}


def called_time(file: File, dim: str) -> bool:
    """Whether a dimension that bears no times is one of time, by its name or attributes."""
    attrs = file.variables[dim].attrs if dim in file.variables else {}
    return (
        dim.lower() in TIMES
        or str(attrs.get("standard_name", "")).lower() == "time"
        or str(attrs.get("axis", "")).upper() == "T"
    )


def tells_times(variable: Stored) -> bool:
    units = units_of(variable)
    return " since " in units or units.startswith(stretches.ABSOLUTE)


def kind_of(file: File, dim: str) -> str:
    """What a dimension is, by its coordinate: time, expver, level, y, x, or "" for none of them."""
    if dim == "expver":
        return "expver"
    variable = file.variables.get(dim)
    if variable is None:
        others = [v for v in file.variables.values() if v.dims == (dim,)]
        return "time" if any(map(tells_times, others)) else ""
    units, name = units_of(variable), str(variable.attrs.get("standard_name", "")).lower()
    if name == "latitude" or dim.lower() in LATITUDES or units.lower().startswith(NORTH):
        return "y"
    if name == "longitude" or dim.lower() in LONGITUDES or units.lower().startswith(EAST):
        return "x"
    if name in PROJECTION:
        return "yx"[PROJECTION.index(name)]
    if tells_times(variable):
        return "time"
    if dim.lower() in LEVELS or name == "air_pressure" or units.lower() in HECTOPASCAL:
        return "level"
    return ""


def units_of(variable: Stored) -> str:
    return f"{variable.attrs.get('units', '')}"


def horizontal(file: File, variable: Stored) -> bool:
    return {"y", "x"} <= {kind_of(file, dim) for dim in variable.dims}


def gridded(file: File) -> list[str]:
    """The variables that are fields on a grid."""
    names = []
    for name, variable in file.variables.items():
        bounds = str(name).endswith(("_bnds", "_bounds"))
        if variable.dtype.kind in "iuf" and not bounds and horizontal(file, variable):
            names.append(str(name))
    return names


def no_grid(file: File) -> str:
    """Why there is no field in a file, for a sentence."""
    for name, variable in file.variables.items():
        about = f"{variable.attrs.get('standard_name', '')} {units_of(variable)}".lower()
        if len(variable.dims) > 1 and "degree" in about and "lat" in f"{name} {about}".lower():
            return (
                f"lies on a grid whose latitudes ({name}) are 2-D; expected 1-D ones: regrid it "
                "first, as with `cdo remapbil,GRID`"
            )
    have = listed([str(name) for name in file.variables], 8) or "no variable"
    told = next(
        (f"; {name!r} {why}" for name, why in file.unfit.items() if "numbers" not in why), ""
    )
    return (
        f"has no field with a latitude and a longitude; it holds {have}{told}; expected 1-D "
        "coordinates called latitude and longitude, or in degrees_north and degrees_east"
    )


def coordinate(file: File, dim: str) -> np.ndarray:
    """(n,) float64 of a dimension's coordinate."""
    return netcdf_file.whole(file, dim).astype(np.float64)


def numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def listed(words: Sequence[str], most: int) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
