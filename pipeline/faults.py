"""One track of a store, looked through byte by byte: what is damaged, missing or in the way."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import seal, store
from pipeline.workers import Advance

SENSELESS = (KeyError, IndexError, TypeError, ValueError)  # what damaged metadata lead to


@dataclass(frozen=True)
class Fault:
    """One thing found: where, what, and the way out."""

    where: str  # a track, or a file or folder of the store
    what: str
    way_out: str


@dataclass(frozen=True)
class Check:
    """One track, or the triplet index, to be looked through by one process."""

    store: Path
    name: str
    copies: Mapping[str, Any] | None  # the root's copies of its metadata; None: that is damaged
    frames: int  # for the progress
    way_out: str


@dataclass
class Checked:
    """What was found in one track, or in the triplet index."""

    faults: list[Fault] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)  # frames
    frames: int = 0
    bytes: int = 0
    triplets: np.ndarray | None = None  # the first frame of each; None: it cannot be told
    legible: bool = False  # everything can be read but those frames


def check(job: Check, advance: Advance) -> Checked:
    """Read every byte of a track, or of the triplet index; advance() is called for each frame."""
    left = job.frames

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        advance()

    found = Look(job).through(count)
    if left:
        advance(left)  # of a shard that cannot be read to its end
    return found


class Look:
    """At one folder of a store; all that is wrong is collected in `found`."""

    def __init__(self, job: Check) -> None:
        self.job = job
        self.folder = job.store / job.name
        self.track = store.Track(job.store, job.name)
        self.found = Checked()

    def through(self, advance: Advance) -> Checked:
        if not self.folder.is_dir():
            self.fault("", "is not there, though the store lists it")
            return self.found
        try:
            nodes = self.metadata()
            small = {name: node for name, node in nodes.items() if is_small(name, node)}
            files = {f"{name}/zarr.json".lstrip("/") for name in nodes}
            files |= {file for name, node in small.items() for file in self.array(name, node)}
            if frames := nodes.get("frames"):
                self.found.legible = not self.found.faults
                self.index_triplets()
                files |= set(self.frames(frames, nodes[""]["attributes"], advance))
        except SENSELESS as error:
            self.fault("", f"has metadata that make no sense ({error!r})")
            return self.found
        self.others_than(files)
        return self.found

    def fault(self, file: str, what: str, way_out: str = "") -> None:
        """file: its path within the folder."""
        where = f"{self.job.name}/{file}" if file else self.job.name
        self.found.faults.append(Fault(where, what, way_out or self.job.way_out))

    def read(self, file: str) -> bytes | None:
        """A whole small file; None, and a fault, when it cannot be had."""
        try:
            data = (self.folder / file).read_bytes()
        except OSError as error:
            self.fault(file, unreadable(error))
            return None
        self.found.bytes += len(data)
        return data

    def metadata(self) -> dict[str, Any]:
        """Of the group ("") and each array, by its name: the root's copies, where it is sound."""
        copies = self.job.copies
        if copies is None:
            found = sorted(self.folder.rglob("zarr.json"))
            names = ["/".join(f.parent.relative_to(self.folder).parts) for f in found]
            return {name: self.own_metadata(name) for name in names}
        for name, copy in copies.items():
            own = self.own_metadata(name)
            if own is not None and own != copy:
                self.fault(f"{name}/zarr.json".lstrip("/"), "is not as the root's copy of it")
        return dict(copies)

    def own_metadata(self, name: str) -> Any:
        """What an array's or the group's own file says; None, and a fault, when it is damaged."""
        file = f"{name}/zarr.json".lstrip("/")
        data = self.read(file)
        try:
            return None if data is None else seal.parsed(data)
        except ValueError:
            self.fault(file, "is damaged")
            return None

    def array(self, name: str, node: Any) -> list[str]:
        """Look at the chunks of an array beside the frames; returns their files."""
        if node["codecs"][-1]["name"] != "crc32c":
            self.fault(name, "has no checksum: an older eddy wrote it")
        files = chunk_files(name, node)
        for file in files:
            data = self.read(file)
            if data is not None and not seal.is_sound_chunk(data):
                self.fault(file, "is damaged (crc32c)")
        return files

    def frames(self, node: Any, attrs: Any, advance: Advance) -> list[str]:
        """Look at the frames; returns the file of their one shard."""
        T, C, H, W = node["shape"]
        (file,) = chunk_files("frames", node)
        codec = codec_of(node)
        self.found.frames = T
        try:
            bad, crc = seal.look_through(self.folder / file, (T, C, H, W), codec, advance)
        except OSError as error:
            self.fault(file, unreadable(error))
            self.found.legible = False
        except ValueError as error:
            self.fault(file, f"is damaged ({error})")
            self.found.legible = False
        else:
            self.found.bytes += (self.folder / file).stat().st_size
            self.found.damaged = bad
            for number in bad:
                self.fault("", f"{self.named(number)} is damaged ({CHECKS[codec]})")
            if crc and seal.SHARD_CRC not in attrs:
                self.fault(file, "has no checksum as a whole: an older eddy wrote it")
            elif crc and not bad and crc != attrs[seal.SHARD_CRC]:
                self.fault(file, "is damaged (crc32c), though all its frames can be read")
        return [file]

    def index_triplets(self) -> None:
        if self.found.legible:
            self.found.triplets = self.track.windows(3)

    def named(self, number: int) -> str:
        return frame_name(number, int(self.track.times[number]) if self.found.legible else None)

    def others_than(self, files: set[str]) -> None:
        """Name every file that is not one of these."""
        for path in sorted(self.folder.rglob("*")):
            file = "/".join(path.relative_to(self.folder).parts)
            if file not in files and not path.is_dir():
                self.fault(file, "does not belong to the store", f"move {path} elsewhere")


CHECKS = {"none": "crc32c", "zstd": "zstd"}  # codec -> what finds a damaged frame


def unreadable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return f"cannot be read ({(error.strerror or str(error)).lower()})"


def is_small(name: str, node: Any) -> bool:
    return bool(node) and node["node_type"] == "array" and name != "frames"


def chunk_files(name: str, node: Any) -> list[str]:
    """The files that hold an array's chunks, by its metadata."""
    sides = node["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [-(-n // side) for n, side in zip(node["shape"], sides, strict=True)]
    places = itertools.product(*(range(count) for count in counts))
    return ["/".join([name, "c", *map(str, place)]) for place in places]


def codec_of(node: Any) -> str:
    """How frames are stored, by the metadata of their array: none or zstd."""
    inner = node["codecs"][0]["configuration"]["codecs"]
    return "zstd" if any(codec["name"] == "zstd" for codec in inner) else "none"


def frame_name(number: int, time: int | None) -> str:
    """A frame for a person: its number, and its UTC time (seconds since 1970) where known."""
    if time is None:
        return f"frame {number}"
    told = str(np.datetime64(time, "s"))
    return f"frame {number} ({told[:-6] if told.endswith(':00:00') else told})"
