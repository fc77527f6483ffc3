"""A Digital Typhoon tree by its names: hours that two files claim, what storms are called.

digital_typhoon.scan refuses a tree in which two files claim one hour, and names the first pair.
Here all are listed, and the tree is seen as it would be once the second of each is moved away.
"""

from __future__ import annotations

import filecmp
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import sources
from pipeline.errors import UserError
from pipeline.sources import RawFrame, Release
from pipeline.sources.digital_typhoon import (
    DATASET_NAMES,
    FILE_NAME,
    BestTracks,
    h5_files,
    joined,
)

IMAGE_NAMES = DATASET_NAMES  # of an H5 file's image
LARGEST_TABLE = 64 << 20  # bytes of metadata.json; the release's own has 0.2 MiB
Named = dict[str, dict[str, Any]]


def named(path: Path) -> dict[str, Any] | None:
    """What a file's name says: UTC hour, typhoon, satellite, channel; None where it is another."""
    match = FILE_NAME.fullmatch(path.name)
    time = hour(match[1]) if match else None
    if match is None or time is None:
        return None
    return {"time": str(time), "track": match[2], "satellite": match[3], "channel": match[4]}


def hour(digits: str) -> np.datetime64 | None:
    """Of YYYYMMDDHH; None where there is no such hour."""
    try:
        text = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}T{digits[8:]}:00"
        return np.datetime64(text).astype("datetime64[s]")
    except ValueError:
        return None


def tree(path: Path) -> tuple[Release, dict[str, list[tuple[Path, Path]]]]:
    """What `sources.scan` finds, and by typhoon each pair of files that claim one hour.

    Of such a pair the Release has the first. Raises UserError as scan does for anything else.
    """
    try:
        return sources.scan(path), {}
    except UserError:
        pairs = claimed_twice(path)
        if not pairs:
            raise
    return as_if_moved(path, {second for of in pairs.values() for _, second in of}), pairs


def usable(path: Path) -> dict[tuple[str, np.datetime64], list[Path]]:
    """The files of each typhoon's each hour, in the order of their paths."""
    files: dict[tuple[str, np.datetime64], list[Path]] = defaultdict(list)
    for file in sorted(h5_files(path)):
        match = FILE_NAME.fullmatch(file.name)
        time = hour(match[1]) if match and match[4] == "1" else None
        if match and time is not None:
            files[match[2], time].append(file)
    return files


def claimed_twice(path: Path) -> dict[str, list[tuple[Path, Path]]]:
    pairs: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
    for (track, _), files in sorted(usable(path).items()):
        pairs[track] += [(files[0], other) for other in files[1:]]
    return {track: found for track, found in pairs.items() if found}


def as_if_moved(path: Path, away: set[Path]) -> Release:
    """The Release of a tree without these files."""
    tables = BestTracks(path)
    frames: dict[str, list[RawFrame]] = defaultdict(list)
    claims = usable(path)
    understood = {file for files in claims.values() for file in files}
    problems = [
        f"{file}: name not understood; expected 2021071900-202107-HMW8-1.h5"
        for file in sorted(h5_files(path))
        if file not in understood
    ]
    for (track, time), files in sorted(claims.items()):
        kept = next(file for file in files if file not in away)
        match = FILE_NAME.fullmatch(kept.name)
        assert match is not None
        frames[track].append(RawFrame(time, (kept,), match[3]))
    tracks = tuple(joined(id, tuple(of), tables.rows(id)) for id, of in sorted(frames.items()))
    one = sources.scan(tracks[0].frames[0].paths[0])  # for what is the same of any tree
    problems += dict.fromkeys(tables.problems)
    return replace(one, path=path, tracks=tracks, problems=tuple(problems))


def same_bytes(pair: tuple[Path, Path]) -> bool:
    """Whether two files are copies of one another; False where one cannot be read."""
    try:
        return filecmp.cmp(*pair, shallow=False)
    except OSError:
        return False


def storms(path: Path) -> tuple[Named, list[str]]:
    """Name and season by typhoon, from the tree's metadata.json, and what is wrong with that.

    Looked for in the tree and up to two folders above, as the best track is.
    """
    homes = [path.resolve(), *list(path.resolve().parents)[:2]]
    places = (home / name for home in homes for name in ("metadata.json", "metadata/metadata.json"))
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return {}, []
    try:
        if file.stat().st_size > LARGEST_TABLE:
            return {}, [f"{file}: larger than {LARGEST_TABLE >> 20} MiB; names are left out"]
        table = json.loads(file.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        return {}, [f"{file}: not readable JSON ({told}); names are left out"]
    if not isinstance(table, dict):
        return {}, [f"{file}: expected an object of typhoons by id; names are left out"]
    return {id: told_of(about) for id, about in table.items() if isinstance(about, dict)}, []


def told_of(about: dict[str, Any]) -> dict[str, Any]:
    name, season = about.get("name"), about.get("season")
    return {
        "name": name.strip()[:40] if isinstance(name, str) and name.strip() else None,
        "season": season if isinstance(season, int) and not isinstance(season, bool) else None,
    }
