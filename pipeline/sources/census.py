"""A Digital Typhoon tree by its names: hours that two files claim, what storms are called.

digital_typhoon.scan refuses a tree in which two files claim one hour, and names the first pair.
Here all are listed, and the tree is seen as it would be once the second of each is moved away.
"""

from __future__ import annotations

import filecmp
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from pipeline import sources
from pipeline.errors import UserError
from pipeline.reporting.words import size
from pipeline.sources import Release, archive
from pipeline.sources.digital_typhoon import (
    DATASET_NAMES,
    FILE_NAME,
    claimed,
    claimed_twice,
    hour,
    refuse_basins,
    release_of,
)

IMAGE_NAMES = DATASET_NAMES  # of an H5 file's image
LARGEST_TABLE = 64 * 10**6  # bytes of metadata.json; the release's own has 0.2 MB
Named = dict[str, dict[str, Any]]


def named(path: Path) -> dict[str, Any] | None:
    """What a file's name says: UTC hour, typhoon, satellite, channel; None where it is another."""
    match = FILE_NAME.fullmatch(path.name)
    time = hour(match[1]) if match else None
    if match is None or time is None:
        return None
    return {"time": str(time), "track": match[2], "satellite": match[3], "channel": match[4]}


def tree(path: Path) -> tuple[Release, dict[str, list[tuple[Path, Path]]]]:
    """What `sources.scan` finds, and by typhoon each pair of files that claim one hour.

    Of such a pair the Release has the first. Raises UserError as scan does for anything else.
    """
    try:
        return sources.scan(path), {}
    except UserError:
        if archive.is_archive(path):  # whose pairs could not be compared here
            raise
        claims, problems = claimed(path)
        refuse_basins(path, claims)
        pairs: dict[str, list[tuple[Path, Path]]] = defaultdict(list)
        for track, one, other in claimed_twice(claims):
            pairs[track].append((one, other))
        if not pairs:
            raise
    return release_of(path, claims, problems), dict(sorted(pairs.items()))


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
    path = archive.home_of_tables(path).resolve()
    homes = [path, *list(path.parents)[:2]]
    places = (home / name for home in homes for name in ("metadata.json", "metadata/metadata.json"))
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return {}, []
    try:
        if file.stat().st_size > LARGEST_TABLE:
            return {}, [f"{file}: larger than {size(LARGEST_TABLE)}; names are left out"]
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
