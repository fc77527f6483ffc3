"""Digital Typhoon (NII, Kitamoto): hourly H5 images and the best track beside them.

A tree is `image/**/YYYYMMDDHH-<id>-<satellite>-<channel>.h5` with `metadata/<id>.csv` or one
`aux_data.csv`. The id in the *file name* makes the track: folders may be ids or calendar months.
Releases V1 and V2 hold one infrared channel; V3's further channels would be further `paths` of a
RawFrame.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import UserError
from pipeline.sources import (
    Channel,
    FrameError,
    RawFrame,
    RawTrack,
    Release,
    Variable,
    filelist,
    hdf5_image,
)
from pipeline.sources.options import NONE, Options

OPTIONS: frozenset[str] = frozenset()

Claims = Mapping[str, Mapping[np.datetime64, list[RawFrame]]]  # by typhoon and UTC hour
FILE_NAME = re.compile(r"((?:19|20)\d{8})-(\d{6})-([A-Za-z0-9]+)-(\d+)\.h5", re.ASCII)
DATASET_NAMES = ("Infrared", "infrared", "Data")  # V1 and V2, older copies, V3
KELVIN = re.compile(r"(degrees? )?k(elvins?)?\b", re.IGNORECASE)  # "K (kelvin)" in the release

INFRARED = Channel(
    name="infrared",
    units="K",
    long_name="brightness temperature of the infrared window channel",
    standard_name="toa_brightness_temperature",
    valid_min=150.0,
    valid_max=330.0,
)
ATTRS: dict[str, str | float] = {
    "title": "Digital Typhoon: hourly infrared images centred on tropical cyclones",
    "source": "geostationary satellites GMS, GOES-9, MTSAT and Himawari; best track of JMA or BoM",
    "license": "CC BY 4.0",
    "attribution": "Digital Typhoon Dataset (National Institute of Informatics), "
    "doi:10.20783/DIAS.664",
    "projection": "azimuthal, centred on the storm",
    "pixel_km": 5.0,
}
# csv column -> variable and its attributes. 0 kt stands in the table for "not analysed" below
# tropical-storm strength; it is kept as it is.
BEST_TRACK: dict[str, tuple[str, dict[str, str]]] = {
    "lat": (
        "latitude",
        {"standard_name": "latitude", "units": "degrees_north", "long_name": "storm centre"},
    ),
    "lng": (
        "longitude",
        {"standard_name": "longitude", "units": "degrees_east", "long_name": "storm centre"},
    ),
    "pressure": (
        "central_pressure",
        {"units": "hPa", "long_name": "central pressure", "comment": "best track"},
    ),
    "wind": (
        "max_wind",
        {
            "units": "kt",
            "long_name": "maximum sustained wind",
            "comment": "best track; 0 where it gives none (grade 2)",
        },
    ),
    "grade": (
        "grade",
        {
            "units": "1",
            "long_name": "best-track grade",
            "comment": "2 tropical depression, 3 tropical storm, 4 severe tropical storm, "
            "5 typhoon, 6 extratropical, 7 entering the area, 9 storm strength or more",
        },
    ),
    "intp": (
        "interpolated",
        {"units": "1", "long_name": "1 where interpolated between 6-hourly best-track points"},
    ),
}


def recognises(path: Path) -> bool:
    """True where a file, or any file below a folder, is named like a Digital Typhoon image."""
    return any(FILE_NAME.fullmatch(p.name) for p in h5_files(path))


def h5_files(path: Path) -> Iterator[Path]:
    """Every .h5 file at or below path (below path/image where that exists), in no fixed order.

    Of a JSON list, those that it names.
    """
    if filelist.is_list(path):
        yield from (file for file in filelist.listed(path) if file.name.endswith(".h5"))
    elif path.is_file():
        yield path
    else:
        root = path / "image" if (path / "image").is_dir() else path
        yield from (file for file in filelist.below(root, (".h5",)) if file.name.endswith(".h5"))


def scan(path: Path, _: Options = NONE) -> Release:
    """Group the files at or below `path` into tracks and join the best track.

    Raises UserError when no file name is understood or two files claim one hour of one typhoon.
    """
    claims, problems = claimed(path)
    twice = [f"{one} and {other}" for _, one, other in claimed_twice(claims)]
    if twice:
        more = f" (and {len(twice) - 1} more such pairs)" if len(twice) > 1 else ""
        raise UserError(
            f"{path}: two files for one hour of one typhoon: {twice[0]}{more}; "
            "expected one: move one of them away"
        )
    if not claims:
        raise UserError(f"{path}: no usable H5 file; {problems[0] if problems else 'it is empty'}")
    return release_of(path, claims, problems)


def claimed(path: Path) -> tuple[Claims, list[str]]:
    """Which files say that they are of which hour, and a sentence for each that is not used."""
    claims: dict[str, dict[np.datetime64, list[RawFrame]]] = defaultdict(lambda: defaultdict(list))
    problems = []
    for file in sorted(h5_files(path)):
        match = FILE_NAME.fullmatch(file.name)
        if match is None:
            problems.append(f"{file}: name not understood; expected 2021071900-202107-HMW8-1.h5")
            continue
        digits, track, satellite, channel = match.groups()
        if channel != "1":
            problems.append(f"{file}: channel {channel}; only channel 1 (infrared) is read yet")
            continue
        time = hour(digits)
        if time is None:
            problems.append(f"{file}: {digits} is not a UTC hour YYYYMMDDHH")
            continue
        claims[track][time].append(RawFrame(time, (file,), satellite))
    return claims, problems


def hour(digits: str) -> np.datetime64 | None:
    """Of YYYYMMDDHH; None where there is no such hour."""
    try:
        text = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}T{digits[8:]}:00"
        return np.datetime64(text).astype("datetime64[s]")
    except ValueError:
        return None


def claimed_twice(claims: Claims) -> Iterator[tuple[str, Path, Path]]:
    """Typhoon, the first file of an hour, and each other; in order of typhoon and hour."""
    for track, hours in sorted(claims.items()):
        for _, (first, *others) in sorted(hours.items()):
            yield from ((track, first.paths[0], other.paths[0]) for other in others)


def release_of(path: Path, claims: Claims, problems: Sequence[str]) -> Release:
    """Of each hour the first file, joined with the best track."""
    tables = BestTracks(path)
    tracks = []
    for track in sorted(claims):
        frames = tuple(first for _, (first, *_) in sorted(claims[track].items()))
        tracks.append(joined(track, frames, tables.rows(track)))
    return Release(
        format="digital_typhoon",
        path=path,
        attrs=ATTRS,
        channels=(INFRARED,),
        tracks=tuple(tracks),
        problems=(*problems, *dict.fromkeys(tables.problems)),
    )


def joined(track: str, frames: tuple[RawFrame, ...], rows: pd.DataFrame | None) -> RawTrack:
    """A track with its best-track values; hours without a row are NaN and counted."""
    attrs: dict[str, str | int | float] = {
        "season": int(track[:4]),
        "storm_number": int(track[4:]),
        **ATTRS,
    }
    if rows is None:
        return RawTrack(track, frames, attrs=attrs, unmatched_frames=len(frames))
    times = pd.DatetimeIndex([frame.time for frame in frames])
    found = rows.reindex(times)
    variables = {
        name: Variable(found[column].to_numpy(np.float32), dict(about))
        for column, (name, about) in BEST_TRACK.items()
    }
    return RawTrack(
        track,
        frames,
        variables,
        attrs,
        unmatched_frames=int((~times.isin(rows.index)).sum()),
        unmatched_rows=int((~rows.index.isin(times)).sum()),
    )


class BestTracks:
    """The best-track tables beside a tree: `metadata/<id>.csv`, or one `aux_data.csv` for all.

    They are looked for in the tree and up to two folders above, since `infer` is given
    `image/<id>` alone.
    """

    def __init__(self, path: Path) -> None:
        path = path.resolve()
        homes = [path, *list(path.parents)[: 3 if path.is_file() else 2]]
        self.folder = next((h / "metadata" for h in homes if (h / "metadata").is_dir()), None)
        tables = (h / name for h in homes for name in ("aux_data.csv", "metadata/aux_data.csv"))
        self.table = next((t for t in tables if t.is_file()), None)
        self.problems: list[str] = []
        self._all: pd.DataFrame | None = None

    def rows(self, track: str) -> pd.DataFrame | None:
        """Best-track rows of one typhoon, indexed by UTC hour; None where there are none."""
        if self.folder and (file := self.folder / f"{track}.csv").is_file():
            return self.parsed(file, self.read(file))
        if self.table is None:
            return None
        if self._all is None:
            self._all = self.read(self.table)
            if "id" not in self._all:
                if len(self._all.columns):  # else read() has already said why
                    self.problems.append(f"{self.table}: no column 'id'; its rows are left out")
                self._all["id"] = ""
        rows = self._all[self._all["id"].str.strip() == track]
        return self.parsed(self.table, rows) if len(rows) else None

    def read(self, file: Path) -> pd.DataFrame:
        try:
            return pd.read_csv(file, dtype=str, skipinitialspace=True)
        except (ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            self.problems.append(f"{file}: not a readable CSV table ({reason}); left out")
            return pd.DataFrame()

    def parsed(self, file: Path, rows: pd.DataFrame) -> pd.DataFrame | None:
        """Numbers by UTC hour; -1 and empty are missing, and the first of repeated hours counts."""
        hour = ["year", "month", "day", "hour"]
        absent = [c for c in [*hour, *BEST_TRACK] if c not in rows]
        if absent:
            if len(rows.columns):  # else read() has already said why
                self.problems.append(f"{file}: no column {', '.join(absent)}; its rows left out")
            return None
        times = pd.to_datetime(rows[hour].apply(pd.to_numeric, errors="coerce"), errors="coerce")
        if times.isna().any():
            self.problems.append(f"{file}: {times.isna().sum()} rows without a valid date left out")
        values = rows[list(BEST_TRACK)].apply(pd.to_numeric, errors="coerce")
        values = values.mask(values == -1).set_index(pd.DatetimeIndex(times))
        # A latitude or a longitude of -1 is a place; both at once are off Africa, with no storms.
        places = rows[["lat", "lng"]].apply(pd.to_numeric, errors="coerce")
        nowhere = (places == -1).all(axis=1)
        values[["lat", "lng"]] = places.mask(nowhere).to_numpy()
        values = values[values.index.notna()]
        return values[~values.index.duplicated()]


def read_frame(
    frame: RawFrame, *, direct: bool = True, into: np.ndarray | None = None
) -> np.ndarray:
    """Brightness temperature of one time step.

    (C, H, W) float32, kelvin, rows from north to south, values exactly as in the files (nothing
    is masked here). direct=False: by HDF5 alone. into: (C, ...) memory to use if it fits.
    Raises FrameError, naming the file, for anything that is not one readable 2-D floating-point
    image in kelvin per channel.
    """
    rooms = [None] * len(frame.paths) if into is None else into
    images = [read_image(*of, direct=direct) for of in zip(frame.paths, rooms, strict=True)]
    return images[0][None] if len(images) == 1 else np.stack(images)


def frame_shape(frame: RawFrame) -> tuple[int, int, int]:
    """(C, H, W) of one time step, its pixels unread. Raises FrameError."""
    H, W = hdf5_image.shape(frame.paths[0], DATASET_NAMES)
    return len(frame.paths), H, W


def read_image(path: Path, into: np.ndarray | None = None, *, direct: bool = True) -> np.ndarray:
    """(H, W) float32, kelvin, of one H5 file. Raises FrameError."""
    image, units = hdf5_image.read(path, DATASET_NAMES, direct=direct, into=into)
    if units and not KELVIN.match(units):
        raise FrameError(f"{path}: units are {units!r}; expected kelvin")
    return image
