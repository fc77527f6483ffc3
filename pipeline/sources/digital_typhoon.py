"""Digital Typhoon (NII, Kitamoto): hourly H5 images and the best track beside them.

A tree is `image/**/YYYYMMDDHH-<id>-<satellite>-<channel>.h5` with `metadata/<id>.csv` or one
`aux_data.csv`. The id in the *file name* makes the track: folders may be ids or calendar months.
Releases V1 and V2 hold one infrared channel; V3 has such a tree for each of four channels and both
basins, `<channel>/<WP or AU>/`: its root is read as one tree, a frame's files being those of one
hour. What a channel lacks at an hour is NaN.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import UsageError, UserError
from pipeline.sources import (
    Channel,
    FrameError,
    RawFrame,
    RawTrack,
    Release,
    Variable,
    archive,
    filelist,
    hdf5_image,
)
from pipeline.sources.options import NONE, Options

OPTIONS = frozenset({"variables", "basin"})
ENDINGS = (".h5", ".tar", ".tgz", ".tar.gz")

# by typhoon, and by UTC hour and channel
Claims = Mapping[str, Mapping[tuple[np.datetime64, int], list[RawFrame]]]
FILE_NAME = re.compile(r"((?:19|20)\d{8})-(\d{6})-([A-Za-z0-9]+)-(\d+)\.(?i:h5)", re.ASCII)
DATASET_NAMES = ("Infrared", "infrared", "Data")  # V1 and V2, older copies, V3
HEMISPHERES = {"WP": "north", "AU": "south"}  # by the release's basins
KELVIN = re.compile(r"(degrees? )?k(elvins?)?\b", re.IGNORECASE)  # "K (kelvin)" in the release

INFRARED = Channel(
    name="infrared",
    units="K",
    long_name="brightness temperature of the infrared window channel",
    standard_name="toa_brightness_temperature",
    valid_min=150.0,
    valid_max=330.0,
)
CHANNELS = {  # by the number in a file's name, as V3 (2025) has them
    1: INFRARED,
    2: replace(
        INFRARED,
        name="infrared_2",
        long_name="brightness temperature of the second infrared window channel",
    ),
    3: replace(
        INFRARED,
        name="water_vapour",
        long_name="brightness temperature of the water vapour channel",
    ),
    4: replace(
        INFRARED,
        name="near_infrared",
        long_name="brightness temperature of the near-infrared channel; by day with sunlight",
        valid_max=420.0,  # sunlit cloud and land are far warmer in it than they are
    ),
}
ATTRS: dict[str, str | float] = {
    "title": "Digital Typhoon: hourly infrared images centred on tropical cyclones",
    "source": "geostationary satellites GMS, GOES-9, MTSAT and Himawari; best track of JMA or BoM",
    "license": "CC BY 4.0",
    "attribution": "Digital Typhoon Dataset (National Institute of Informatics), "
    "doi:10.20783/DIAS.664",
    "projection": "azimuthal, centred on the storm",
    "pixel_km": 5.0,
}
INVENTED = "INVENTED.txt"  # beside image/: these storms are drawn in the release's form
OF_INVENTED: dict[str, str | float] = {
    "title": "Invented typhoons in the form of Digital Typhoon",
    "source": "drawn by eddy, not observed",
    "projection": ATTRS["projection"],
    "pixel_km": ATTRS["pixel_km"],
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
    """True where a file, or any file below a folder, is named like a Digital Typhoon image.

    Also for an archive, and a folder that holds nothing else: they are not opened here.
    """
    return archive.is_archive(path) or any(FILE_NAME.fullmatch(p.name) for p in h5_files(path))


def h5_files(path: Path) -> Iterator[Path]:
    """Every .h5 file at or below path (below path/image where that exists), in no fixed order.

    Of a JSON list, those that it names.
    """
    if filelist.is_list(path):
        yield from filelist.files(path, (".h5",))
    elif path.is_file():
        yield path
    else:
        root = path / "image" if (path / "image").is_dir() else path
        yield from filelist.below(root, (".h5",))


def scan(path: Path, options: Options = NONE) -> Release:
    """Group the files at or below `path` into tracks and join the best track.

    options: of V3, `basin` chooses one and `variables` the channels, by name or number. Raises
    UserError when no file name is understood, two files claim one hour of one typhoon, or both
    basins have a typhoon of one id; UsageError for a channel that there is not.
    """
    claims, problems = claimed(path, options)
    refuse_basins(path, claims)
    twice = [f"{one} and {other}" for _, one, other in claimed_twice(claims)]
    if twice:
        more = f" (and {len(twice) - 1} more such pairs)" if len(twice) > 1 else ""
        raise UserError(
            f"{path}: two files for one hour of one typhoon: {twice[0]}{more}; "
            "expected one: move one of them away"
        )
    if not claims:
        of = f" of the basin {options.basin}" if options.basin else ""
        told = problems[0] if problems else f"there is none{of}"
        if not problems and not of and archive.is_archive(path):
            told += f"; {archive.holds(path)}"
        raise UserError(f"{path}: no usable H5 file; {told}")
    return release_of(path, claims, problems, options)


def refuse_basins(path: Path, claims: Claims) -> None:
    """Raises UserError where two basins have a storm of one id: both number theirs from 1."""
    for track, hours in sorted(claims.items()):
        basins = {basin(frames[0].paths[0].parent) for frames in hours.values()}
        if len(basins) > 1:
            raise UserError(
                f"{path}: holds two storms {track}, of the basins {' and '.join(sorted(basins))}; "
                "choose one with `cli convert --basin`, or give the tree of one channel and basin"
            )


def claimed(path: Path, options: Options = NONE) -> tuple[Claims, list[str]]:
    """Which files say that they are of which hour, and a sentence for each that is not used."""
    claims: dict[str, dict[tuple[np.datetime64, int], list[RawFrame]]]
    claims = defaultdict(lambda: defaultdict(list))
    wanted = asked_for(path, options)
    listing = archive.listed(path) if archive.is_archive(path) else None
    problems = [*listing.problems] if listing else []
    for file in sorted(listing.images if listing else h5_files(path), key=lambda file: file.parts):
        if options.basin and basin(file.parent) != options.basin:
            continue
        match = FILE_NAME.fullmatch(file.name)
        if match is None:
            problems.append(f"{file}: name not understood; expected 2021071900-202107-HMW8-1.h5")
            continue
        digits, track, satellite, channel = match.groups()
        if int(channel) not in CHANNELS:
            problems.append(f"{file}: channel {channel}; known are {', '.join(map(str, CHANNELS))}")
            continue
        if channel != "1" and not wanted and not tree_of_v3(file.parent):
            problems.append(
                f"{file}: channel {channel}; outside of V3's folders only channel 1 (infrared) is "
                "read, or what --variable names"
            )
            continue
        time = hour(digits)
        if time is None:
            problems.append(f"{file}: {digits} is not a UTC hour YYYYMMDDHH")
            continue
        if int(channel) in (wanted or CHANNELS):
            at = (listing.images[file],) if listing else ()
            frame = RawFrame(time, (file,), satellite, packed=at)
            claims[track][time, int(channel)].append(frame)
    return claims, problems


def asked_for(path: Path, options: Options) -> list[int]:
    """The numbers of the channels that a user wants, in that order; [] for all."""
    known = {channel.name: number for number, channel in CHANNELS.items()}
    known |= {str(number): number for number in CHANNELS}
    if unknown := [word for word in options.variables if word not in known]:
        raise UsageError(
            f"{path}: no channel {', '.join(unknown)}; there are {', '.join(known)} for --variable"
        )
    return list(dict.fromkeys(known[word] for word in options.variables))


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


def release_of(
    path: Path, claims: Claims, problems: Sequence[str], options: Options = NONE
) -> Release:
    """Of each hour and channel the first file, joined with the best track."""
    home = archive.home_of_tables(path)
    tables = BestTracks(home)
    origin = OF_INVENTED if is_invented(home) else ATTRS
    there = {number for hours in claims.values() for _, number in hours}
    numbers = asked_for(path, options) or sorted(there)
    if absent := [CHANNELS[number].name for number in numbers if number not in there]:
        raise UserError(f"{path}: has no file of the channel {', '.join(absent)}")
    tracks = []
    without = 0
    beside: dict[Path, BestTracks] = {}
    for track in sorted(claims):
        firsts = {key: first for key, (first, *_) in sorted(claims[track].items())}
        frames = tuple(firsts.values()) if len(numbers) == 1 else together(firsts, numbers)
        rows = tables.rows(track)
        for tree in trees_of(frames) if rows is None else ():
            if tree not in beside:
                beside[tree] = BestTracks(tree)
            rows = beside[tree].rows(track)
            tables.problems += beside[tree].problems
            if rows is not None:
                break
        without += rows is None
        tracks.append(joined(track, frames, rows, origin))
    if archive.is_archive(path):
        archive.say_how(path, tracks)
    told = (problem.replace(str(home), str(path)) for problem in tables.problems)
    return Release(
        format="digital_typhoon",
        path=path,
        attrs=origin,
        channels=tuple(CHANNELS[number] for number in numbers),
        tracks=tuple(tracks),
        problems=(*problems, *dict.fromkeys(told)),
        notes=(*lacking(tracks, numbers), *unplaced(path, without, len(tracks))),
    )


def together(
    firsts: Mapping[tuple[np.datetime64, int], RawFrame], numbers: Sequence[int]
) -> tuple[RawFrame, ...]:
    """Frames of several channels; `part` has their number and which of them `paths` are."""
    by_hour: dict[np.datetime64, dict[int, RawFrame]] = defaultdict(dict)
    for (time, number), frame in firsts.items():
        by_hour[time][number] = frame
    frames = []
    for time, found in sorted(by_hour.items()):
        places = tuple(place for place, number in enumerate(numbers) if number in found)
        files = [found[numbers[place]] for place in places]
        frames.append(
            RawFrame(
                time,
                tuple(path for file in files for path in file.paths),
                files[0].satellite,
                part=(len(numbers), places),
                packed=tuple(member for file in files for member in file.packed),
            )
        )
    return tuple(frames)


def lacking(tracks: Sequence[RawTrack], numbers: Sequence[int]) -> Iterator[str]:
    """What is said of hours at which not all channels are there."""
    if len(numbers) == 1:
        return
    parts = [frame.part for track in tracks for frame in track.frames]
    names = [CHANNELS[number].name for number in numbers]
    without = {
        name: sum(place not in places for _, places in parts) for place, name in enumerate(names)
    }
    short = sum(len(places) < len(names) for _, places in parts)
    if short:
        each = ", ".join(f"{name} at {count}" for name, count in without.items() if count)
        yield (
            f"{short} of {len(parts)} hours lack a channel ({each}): it is NaN there, and those "
            f"frames are flagged as blank and in no window; --variable {names[0]} converts that "
            "channel alone"
        )


def unplaced(path: Path, without: int, of: int) -> Iterator[str]:
    """What is said of typhoons that no table of the best track is there for."""
    if without:
        yield (
            f"{path}: no best track for {without} of {of} typhoons: no usable metadata/<id>.csv "
            "beside image/ nor up to two folders above; their positions and pressures are missing"
        )


def trees_of(frames: Sequence[RawFrame]) -> list[Path]:
    """The trees that a track's files lie in: V3's, the first channel first; else what holds image/.

    So a tree is complete, too, which lies somewhere below the folder that was given.
    """
    folders = {path.parent for frame in frames for path in frame.paths}
    if of_v3 := {tree for tree in map(tree_of_v3, folders) if tree}:
        return sorted(of_v3, key=lambda tree: int(tree.parent.name))
    homes = ((one, *one.parents) for one in folders)
    images = (next((o for o in of if o.name.lower() == "image"), None) for of in homes)
    return sorted({image.parent for image in images if image})


@lru_cache(maxsize=4096)
def tree_of_v3(folder: Path) -> Path | None:
    """`<channel>/<WP or AU>`, the tree in whose image/ a folder is; None in any other."""
    here = folder.absolute()
    image = next((one for one in (here, *here.parents) if one.name == "image"), None)
    if image is None or image.parent.name not in HEMISPHERES:
        return None
    return image.parent if image.parent.parent.name in map(str, CHANNELS) else None


def joined(
    track: str,
    frames: tuple[RawFrame, ...],
    rows: pd.DataFrame | None,
    origin: dict[str, str | float],
) -> RawTrack:
    """A track with its best-track values; hours without a row are NaN and counted."""
    attrs: dict[str, str | int | float] = {
        "season": int(track[:4]),
        "storm_number": int(track[4:]),
        **origin,
    }
    if side := hemisphere(frames, rows):
        attrs["hemisphere"] = side
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


def hemisphere(frames: Sequence[RawFrame], rows: pd.DataFrame | None) -> str:
    """Where storms spin counter-clockwise, "north", or clockwise, "south"; "" where unknown.

    By the best track, else by the basin's folder.
    """
    middle = np.nan if rows is None else float(rows["lat"].median())
    if np.isnan(middle):
        return HEMISPHERES.get(basin(frames[0].paths[0].parent), "")
    return "south" if middle < 0 else "north"


@lru_cache(maxsize=4096)
def basin(folder: Path) -> str:
    """WP, AU, by what holds the image/ that a folder is in, as released; "" in another tree."""
    above = [one.name for one in (folder.absolute(), *folder.absolute().parents)]
    name = above[above.index("image") + 1] if "image" in above[:-1] else ""
    return name if name in HEMISPHERES else ""


def is_invented(path: Path) -> bool:
    """Whether a tree, or one up to two folders above, says so of itself."""
    return any((home / INVENTED).is_file() for home in homes(path))


def homes(path: Path) -> list[Path]:
    """Where what is said of a tree may lie: `infer` is given image/<id> alone."""
    path = path.resolve()
    return [path, *list(path.parents)[: 3 if path.is_file() else 2]]


def folder_of_tables(home: Path) -> Path | None:
    """metadata/ in a folder, or METADATA/ as some have unpacked it."""
    if (home / "metadata").is_dir():
        return home / "metadata"
    with suppress(OSError):  # a home above the source may be closed to us
        called = (each for each in home.iterdir() if each.name.lower() == "metadata")
        return next((each for each in called if each.is_dir()), None)
    return None


class BestTracks:
    """The best-track tables beside a tree: `metadata/<id>.csv`, or one `aux_data.csv` for all.

    They are looked for in the tree and up to two folders above, since `infer` is given
    `image/<id>` alone.
    """

    def __init__(self, path: Path) -> None:
        places = homes(path)
        folder = next(filter(None, map(folder_of_tables, places)), None)
        files = sorted(folder.iterdir()) if folder else []  # 202107.CSV before the usual form
        self.tables = {file.stem: file for file in files if file.suffix.lower() == ".csv"}
        tables = (h / name for h in places for name in ("aux_data.csv", "metadata/aux_data.csv"))
        self.table = next((t for t in tables if t.is_file()), None)
        self.problems: list[str] = []
        self._all: pd.DataFrame | None = None

    def rows(self, track: str) -> pd.DataFrame | None:
        """Best-track rows of one typhoon, indexed by UTC hour; None where there are none."""
        if file := self.tables.get(track):
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
    is masked here); a channel without a file is NaN. direct=False: by HDF5 alone. into: (C, ...)
    memory to use if it fits.
    Raises FrameError, naming the file, for anything that is not one readable 2-D floating-point
    image in kelvin per channel.
    """
    C, places = frame.part or (len(frame.paths), range(len(frame.paths)))
    fits = into is not None and len(into) == C
    rooms = [into[place] for place in places] if into is not None and fits else [None] * len(places)
    with archive.at_hand(frame) as there:
        images = [read_image(*of, direct=direct) for of in zip(there.paths, rooms, strict=True)]
    if C == 1:
        return images[0][None]
    if len({image.shape for image in images}) > 1:
        sizes = ", ".join(str(image.shape) for image in images)
        raise FrameError(f"{frame.paths[0]}: its hour's channels are {sizes}; expected one size")
    return stacked(images, places, C, into)


def stacked(
    images: Sequence[np.ndarray], places: Sequence[int], C: int, into: np.ndarray | None
) -> np.ndarray:
    """(C, H, W) float32: each image at its place, the others NaN; in `into` if that fits."""
    shape = (C, *images[0].shape)
    whole = into if into is not None and into.shape == shape else np.empty(shape, np.float32)
    for place in range(C):
        whole[place] = images[places.index(place)] if place in places else np.nan
    return whole


def frame_shape(frame: RawFrame) -> tuple[int, int, int]:
    """(C, H, W) of one time step, its pixels unread. Raises FrameError."""
    with archive.at_hand(frame) as there:
        H, W = hdf5_image.shape(there.paths[0], DATASET_NAMES)
    return (frame.part[0] if frame.part else len(frame.paths)), H, W


def read_image(path: Path, into: np.ndarray | None = None, *, direct: bool = True) -> np.ndarray:
    """(H, W) float32, kelvin, of one H5 file. Raises FrameError."""
    image, units = hdf5_image.read(path, DATASET_NAMES, direct=direct, into=into)
    if units and not KELVIN.match(units):
        raise FrameError(f"{path}: units are {units!r}; expected kelvin")
    return image
