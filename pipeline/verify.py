"""Store -> whatever in it is damaged, missing, stale or in the way; and, if asked, its source.

Every byte is looked at: nothing that was changed since the store was written passes unseen, see
seal.py. With the source, each of its frames is read once more and compared with the stored one. A
store may be made of several sources, one after the other, and of a part of one: a track that only
one of the two has is no fault.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipeline import seal, sources, store, store_writer
from pipeline.beside_source import Pair, compare
from pipeline.errors import UserError, few
from pipeline.faults import Check, Checked, Fault, check
from pipeline.progress import progress
from pipeline.provenance import again, once_more, settings_of
from pipeline.reporting.words import count
from pipeline.sources import Release
from pipeline.sources.options import NONE, Options
from pipeline.workers import for_each

FEW = 1000  # frames that one process has read before others have started
TRIPLETS = "triplets"  # the one folder of a store that is no track
Root = Mapping[str, Any]  # the root's metadata


@dataclass
class Verification:
    """What was looked at and what was found, for the screen."""

    store: Path
    tracks: int = 0
    frames: int = 0
    bytes: int = 0
    seconds: float = 0.0  # of reading the store
    equal: int | None = None  # frames that equal their files; None: not compared
    compared: int | None = None  # frames of the tracks that the source has too
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was not compared


def verify(path: Path, *, source: Path | None = None, workers: int | None = None) -> Verification:
    """Look through the store at `path`, and beside `source` where that is given; list all faults.

    Raises UserError for what is no finished store or no source, and for a source that has none of
    the store's tracks.
    """
    root = root_of(path)
    release = None if source is None else sources.scan(source, options_of(path, root))
    if release is not None and root is not None:
        refuse_stranger(release, path, ids_of(path, root))
    begun = time.monotonic()
    checked = look_through(path, root, workers)
    tracks = {name: found for name, found in checked.items() if name != TRIPLETS}
    done = Verification(
        path,
        len(tracks),
        sum(found.frames for found in tracks.values()),
        sum(found.bytes for found in checked.values()) + size_of_root(path),
        time.monotonic() - begun,
        faults=[*root_faults(path, root), *(f for found in checked.values() for f in found.faults)],
    )
    done.faults += stale_triplets(path, checked)
    if release is not None and root is None:
        done.notes.append(f"not compared with {release.path}: mend the store's root first")
    elif release is not None and root is not None:
        done.equal, faults = beside(release, path, root, tracks, workers)
        done.faults += faults
        in_both = tracks.keys() & {raw.id for raw in release.tracks}
        done.compared = sum(tracks[id].frames for id in in_both)
        done.notes += alone(release, path, list(tracks))
    return done


def refuse_stranger(release: Release, path: Path, ids: Sequence[str]) -> None:
    """Raises UserError for a source of which nothing can be compared."""
    there = [raw.id for raw in release.tracks]
    if not set(there) & set(ids):
        raise UserError(
            f"{release.path}: has none of the tracks of {path}: it has {few(there)}, the "
            f"store {few(ids)}; give the source that the store was converted from"
        )


def alone(release: Release, path: Path, ids: Sequence[str]) -> Iterator[str]:
    """A sentence on the tracks that only the store has, and one on those that only the source has.

    ids: of the store.
    """
    there = [raw.id for raw in release.tracks]
    if only := [id for id in ids if id not in set(there)]:
        yield (
            f"{count(len(only), 'track')} of the store {are(only)} not in {release.path}: "
            f"{few(only)}; "
            f"{'its' if len(only) == 1 else 'their'} frames were not compared"
        )
    if only := [id for id in there if id not in set(ids)]:
        yield (
            f"{count(len(only), 'track')} of {release.path} {are(only)} not in the store: "
            f"{few(only)}; "
            f"`cli convert {release.path} {path}`, with the options that the store was made with, "
            "adds those that have readable frames"
        )


def are(ids: Sequence[str]) -> str:
    return "is" if len(ids) == 1 else "are"


def root_of(path: Path) -> Root | None:
    """The root's metadata; None where they are damaged, or gone from among the tracks.

    Raises UserError for what is no store, is unfinished, or was written by a newer eddy.
    """
    file = path / "zarr.json"
    data = file.read_bytes() if file.is_file() else b""
    sound = seal.is_sound_root(data)
    if sound or not store_writer.holds_tracks_alone(path) or is_unfinished(path):
        store.open_store(path)
    return json.loads(data) if sound else None


def options_of(path: Path, root: Root | None) -> Options:
    """How the source was read when the store was made from it, by whichever track still says so."""
    for id in ids_of(path, root):
        try:
            return Options(**settings_of(path, id).get("options", {}))
        except (UserError, ValidationError, TypeError, AttributeError):
            continue  # damaged, or of another eddy: that will be told
    return NONE


def is_unfinished(path: Path) -> bool:
    try:
        return store.UNFINISHED in store.root_attrs(path)
    except UserError:
        return False


def size_of_root(path: Path) -> int:
    file = path / "zarr.json"
    return file.stat().st_size if file.is_file() else 0


def ids_of(path: Path, root: Root | None) -> list[str]:
    """The tracks that the store lists; where its root is damaged, those that are there."""
    if root is not None:
        return list(root["attributes"]["tracks"])
    return [folder.name for folder in store_writer.track_folders(path)]


def look_through(path: Path, root: Root | None, workers: int | None) -> dict[str, Checked]:
    """What is found in each track, and in the triplet index, by their names, in order."""
    jobs = {}
    for id in ids_of(path, root):
        way_out = again(path, id) if (path / id).exists() else once_more(path)
        jobs[id] = check_of(path, root, id, way_out)
    order = [*jobs, TRIPLETS]
    jobs = dict(sorted(jobs.items(), key=lambda item: -item[1].frames))
    jobs[TRIPLETS] = check_of(path, root, TRIPLETS, new_root(path))
    total = sum(job.frames for job in jobs.values())
    with progress("verify", total, "frames") as advance:
        found = dict(for_each(check, jobs, advance, workers or (1 if total < FEW else None)))
    return {name: found[name] for name in order}


def check_of(path: Path, root: Root | None, name: str, way_out: str) -> Check:
    if root is None:
        return Check(path, name, None, frames_there(path / name), way_out)
    copies = copies_of(root, name)
    frames = copies["frames"]["shape"][0] if "frames" in copies else 0
    return Check(path, name, copies, frames, way_out)


def copies_of(root: Root, name: str) -> dict[str, Any]:
    """The root's copies of the metadata of one group ("") and of the arrays in it."""
    copies = {}
    for place, node in root["consolidated_metadata"]["metadata"].items():
        group, _, array = place.partition("/")
        if group == name:  # a group's copy says that nothing is copied into it
            copies[array] = {k: v for k, v in node.items() if k != "consolidated_metadata"}
    return copies


def frames_there(folder: Path) -> int:
    """How many frames a track has by its own metadata; 0 where that is damaged."""
    try:
        return int(json.loads((folder / "frames/zarr.json").read_bytes())["shape"][0])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return 0


def root_faults(path: Path, root: Root | None) -> Iterator[Fault]:
    """What is wrong at the top of the store."""
    if root is None:
        there = (path / "zarr.json").is_file()
        what = "is damaged, or an older eddy wrote it" if there else "is missing"
        yield Fault("zarr.json", what, new_root(path))
    ids = ids_of(path, root)
    for entry in sorted(path.iterdir()):
        if entry.name in ("zarr.json", TRIPLETS, *ids):
            continue
        if store_writer.is_temporary(entry):
            yield Fault(entry.name, "was left by a killed conversion", f"remove {entry}")
        elif store_writer.is_track(entry):
            yield Fault(entry.name, "is a track that the store does not list", new_root(path))
        else:
            yield Fault(entry.name, "does not belong to the store", f"move {entry} elsewhere")


def new_root(path: Path) -> str:
    """The way out where no track is at fault."""
    return f"remove {path / 'zarr.json'} and {once_more(path)}; it keeps the tracks"


def stale_triplets(path: Path, checked: Mapping[str, Checked]) -> list[Fault]:
    """Whether the index is that of the tracks; nothing where one of them is damaged."""
    tracks = [found.triplets for name, found in checked.items() if name != TRIPLETS]
    if checked[TRIPLETS].faults or any(triplets is None for triplets in tracks):
        return []
    expected = [
        (number, first + 1)
        for number, triplets in enumerate(tracks)
        for first in np.asarray(triplets).tolist()
    ]
    found = store.Store(path, {}).triplets()
    if expected == list(zip(*(column.tolist() for column in found), strict=True)):
        return []
    what = f"is stale: {len(found[0])} triplets, the tracks have {len(expected)}"
    return [Fault(TRIPLETS, what, new_root(path))]


def beside(
    release: Release,
    path: Path,
    root: Root,
    tracks: Mapping[str, Checked],
    workers: int | None,
) -> tuple[int, list[Fault]]:
    """Of the tracks in both, how many frames equal their files, and the faults, by track."""
    there = {raw.id: raw for raw in release.tracks}
    channels = root["attributes"]["channels"]
    pairs = {
        id: Pair(path, there[id], release.format, channels, found.damaged)
        for id, found in tracks.items()
        if found.legible and id in there
    }
    total = sum(len(pair.raw.frames) for pair in pairs.values())
    with progress("compare", total, "frames") as advance:
        results = dict(for_each(compare, pairs, advance, workers))
    faults = [fault for id in pairs for fault in results[id][1]]
    return sum(equal for equal, _ in results.values()), sorted(faults, key=lambda f: f.where)
