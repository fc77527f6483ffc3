"""Folders of numbered grey pictures: `<split>/<sequence>/frame_001.png`, 8 or 16 bits.

A picture does not say what its grey means, so that must be told: black is the first value of
`--range` and white the second, which may be the smaller (cold is bright in infrared). Nor does it
say when it was taken: frame n is n steps (`--step`, an hour if nothing is said) after `--start`,
1970-01-01 if nothing is said. A number that is left out is a gap. The id of a track is its folder,
`train-sequence_01`; the split stands in its attributes too.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from pathlib import Path

import numpy as np

from pipeline.errors import UsageError, UserError
from pipeline.sources import (
    Channel,
    FrameError,
    RawFrame,
    RawTrack,
    Release,
    filelist,
    hdf5_image,
    stretches,
)
from pipeline.sources.options import NONE, Options, said

OPTIONS = frozenset({"value_range", "units", "step", "start", "variables"})
MAX_MISSING = 1.0
ENDINGS = (".png",)
FILE_NAME = re.compile(r"(.*?)(\d+)\.png", re.IGNORECASE | re.ASCII)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">8xI4sIIBBBBB")  # length, IHDR, width, height, bits, colour, ...
KINDS = {0: "grey", 2: "colour", 3: "a palette", 4: "grey with transparency", 6: "colour"}
LARGEST_NUMBER = 10_000_000  # of a frame
HOUR = 3600


def recognises(path: Path) -> bool:
    """True where a file, or any file below a folder, is a picture whose name ends in a number."""
    if path.is_dir():
        return any(FILE_NAME.fullmatch(p.name) for p in filelist.below(path, ENDINGS))
    return any(FILE_NAME.fullmatch(p.name) for p in filelist.files(path, ENDINGS))


def scan(path: Path, options: Options = NONE) -> Release:
    """Group the pictures at or below `path` into tracks, one per folder.

    Raises UsageError where nothing says what grey means, UserError where two files claim one
    number.
    """
    if options.value_range is None:
        raise UsageError(
            f"{path}: pictures do not say what grey means; tell with --range BLACK,WHITE --units K"
        )
    if len(options.variables) > 1:
        raise UsageError("--variable: pictures have one channel; expected one name")
    step = options.step or HOUR
    start = np.datetime64(options.start or "1970-01-01", "s")
    folders: dict[Path, dict[int, Path]] = defaultdict(dict)
    problems = []
    for file in filelist.files(path, ENDINGS):
        match = FILE_NAME.fullmatch(file.name)
        if match is None or int(match[2]) > LARGEST_NUMBER:
            problems.append(f"{file}: name not understood; expected frame_001.png")
            continue
        number = int(match[2])
        if other := folders[file.parent].get(number):
            raise UserError(f"{other} and {file} both claim number {number}; move one away")
        folders[file.parent][number] = file
    folders = {folder: files for folder, files in folders.items() if files}
    if not folders:
        raise UserError(f"{path}: no usable picture; {problems[0] if problems else 'it is empty'}")
    black, white = options.value_range
    attrs: dict[str, str | int | float] = {
        "title": f"Pictures in {path.name}",
        "source": "grey PNG pictures",
        "conversion": f"black is {black:g}, white {white:g} {options.units or '1'}",
        "time_label": f"frame n is n x {said(step)} after {start}; pictures bear no time",
    }
    tracks: dict[str, RawTrack] = {}
    for folder, files in folders.items():
        id, split = named(path, folder)
        if id in tracks:
            other = tracks[id].frames[0].paths[0].parent
            raise UserError(f"{folder} and {other} would both be track {id}; rename one")
        frames = tuple(
            RawFrame(start + np.timedelta64(number * step, "s"), (file,), part=(black, white))
            for number, file in sorted(files.items())
        )
        more = {"sequence": folder.name, **({"split": split} if split else {})}
        tracks[id] = RawTrack(id, frames, attrs={**attrs, **more})
    channel = Channel(
        name=options.variables[0] if options.variables else "image",
        units=options.units or "1",
        long_name=f"grey of a picture, {black:g} to {white:g}",
        standard_name="",
        valid_min=min(black, white),
        valid_max=max(black, white),
    )
    return Release(
        format="png",
        path=path,
        attrs={key: value for key, value in attrs.items() if not isinstance(value, int)},
        channels=(channel,),
        tracks=tuple(tracks[id] for id in sorted(tracks)),
        problems=tuple(problems),
        notes=(str(attrs["conversion"]),),
        max_missing=MAX_MISSING,
    )


def named(path: Path, folder: Path) -> tuple[str, str]:
    """A track's id, and the split that it belongs to, by where its folder lies."""
    root = path if path.is_dir() else path.parent
    try:
        parts = folder.resolve().relative_to(root.resolve()).parts
    except ValueError:
        parts = folder.parts[-2:]  # a JSON list may name files elsewhere
    parts = tuple(part for part in parts if part not in ("/", ".", ".."))
    return (
        stretches.fit_name("-".join(parts or (folder.resolve().name,))),
        parts[-2] if len(parts) > 1 else "",
    )


def frame_shape(frame: RawFrame) -> tuple[int, int, int]:
    """(C, H, W), its pixels unread. Raises FrameError."""
    _, height, width = looked_at(frame.paths[0])
    return 1, height, width


def read_frame(
    frame: RawFrame, *, direct: bool = True, into: np.ndarray | None = None
) -> np.ndarray:
    """(1, H, W) float32 in the units that were told for black and white.

    direct=False: by another library. Raises FrameError for what is not a sound grey picture.
    """
    path = frame.paths[0]
    bits, height, width = looked_at(path)
    grey = by_pillow(path) if direct else by_opencv(path)
    if grey.shape != (height, width) or grey.dtype.kind != "u":
        raise FrameError(f"{path}: reads as {grey.dtype} {grey.shape}; expected {height}x{width}")
    black, white = frame.part
    values = black + grey * ((white - black) / (2**bits - 1))  # float64
    if into is None or into.shape != (1, height, width):
        return values.astype(np.float32)[None]
    into[0] = values
    return into


def looked_at(path: Path) -> tuple[int, int, int]:
    """Bits, height and width by the file's first bytes. Raises FrameError."""
    try:
        if not path.is_file():  # to open a pipe would be to wait for ever
            raise FrameError(f"{path}: not a file")
        with path.open("rb") as file:
            first = file.read(HEADER.size)
    except OSError as error:
        raise FrameError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if len(first) < HEADER.size or not first.startswith(SIGNATURE) or first[12:16] != b"IHDR":
        raise FrameError(f"{path}: not a PNG picture")
    _, _, width, height, bits, colour, *_ = HEADER.unpack(first)
    if colour != 0 or bits not in (8, 16):
        kind = KINDS.get(colour, "unknown")
        raise FrameError(f"{path}: is {kind} of {bits} bits; expected grey of 8 or 16 bits")
    if not 0 < min(height, width) <= max(height, width) <= hdf5_image.LARGEST_SIDE:
        raise FrameError(
            f"{path}: is {height}x{width}; expected sides of 1 to {hdf5_image.LARGEST_SIDE}"
        )
    return bits, height, width


def by_pillow(path: Path) -> np.ndarray:
    """(H, W) uint8 or uint16. Raises FrameError."""
    from PIL import Image  # not needed by who has no pictures

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            grey = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, struct.error, EOFError) as error:
        raise FrameError(f"{path}: damaged ({hdf5_image.brief(error)})") from None
    return grey.astype(np.uint16) if grey.dtype == np.int32 else grey


def by_opencv(path: Path) -> np.ndarray:
    """(H, W) uint8 or uint16. Raises FrameError."""
    import cv2

    grey = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if grey is None:
        raise FrameError(f"{path}: damaged")
    return np.asarray(grey)
