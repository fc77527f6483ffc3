"""Moving MNIST: clips of handwritten digits that drift and bounce, drawn from a file of digits.

`t10k-images-idx3-ubyte.gz` and its like (IDX, gzip or not) hold still images; the clips are made of
them when they are read, as in Srivastava et al. 2015 (arXiv:1502.04681): on a black square of 64
pixels two digits, drawn at random, start anywhere and move straight on, a tenth of the free room
(64 - 28 pixels) a frame, in any direction. Who would leave the square stops at its edge and moves
back from there. Corners are cut to whole pixels; where digits overlap, the brighter pixel counts.
Values are grey / 255.

A track is a *reel*: clips one after the other on a nominal time axis, with one step left out
between two of them, so that no window spans both. Each reel draws from digits that no other reel of
its file has: whichever whole reels a split sets aside, none of their digits was trained on.

Every clip follows from the seed, the file's name, the reel and its own number alone. Only raw
output of PCG64 is drawn, which NumPy promises to keep the same in all versions.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import UsageError, UserError
from pipeline.reporting.words import size as in_bytes
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

OPTIONS = frozenset({"clips", "clip_frames", "digits", "image_size", "seed", "step", "start"})
CLIPS, CLIP_FRAMES, DIGITS, IMAGE_SIZE, SEED = 1000, 20, 2, 64, 0  # if nothing is said
REELS = 20  # of a file, at most
STEP_LENGTH = 0.1  # of the free room, per frame
HOUR = 3600
ENDINGS = ("-ubyte", "-ubyte.gz")
FILE_NAME = re.compile(
    r"(.*?)[-_.]?(images|labels)[-.]idx[13]-ubyte(\.gz)?", re.IGNORECASE | re.ASCII
)
HEADER = struct.Struct(">4I")  # magic, images, rows, columns
IMAGES, LABELS = 0x803, 0x801  # magic: bytes in three dimensions, in one
LARGEST_FILE = 1 << 30  # bytes of pixels
MOST_FRAMES = 2_000_000  # in all


@dataclass(frozen=True)
class Reel:
    """All that decides a track's pixels beside the digits themselves."""

    shape: tuple[int, int, int]  # of the file: images, rows, columns
    origin: int  # tells one file's draws from another's
    number: int  # from 0
    of: int  # reels of the file
    clips: int
    seed: int
    clip_frames: int
    digits: int
    image_size: int


class Moment(NamedTuple):
    """Which frame of which clip."""

    reel: Reel
    clip: int
    number: int


def recognises(path: Path) -> bool:
    """True for a file of digits or of their labels by its name, and where one lies below."""
    found = filelist.below(path, ENDINGS) if path.is_dir() else filelist.files(path, ENDINGS)
    return any(FILE_NAME.fullmatch(file.name) for file in found)


def scan(path: Path, options: Options = NONE) -> Release:
    """The reels of every file of digits at or below `path`.

    Raises UserError for what is no whole file of digits, UsageError for options that do not fit
    it.
    """
    step = options.step or HOUR
    start = np.datetime64(options.start or "1970-01-01", "s")
    clips, length = options.clips or CLIPS, options.clip_frames or CLIP_FRAMES
    size = options.image_size or IMAGE_SIZE
    sets = sets_of_digits(path)
    total = len(sets) * clips * length
    if total > MOST_FRAMES:
        raise UsageError(
            f"--clips {clips}: of {length} frames each from {len(sets)} files are {total} frames, "
            f"expected {MOST_FRAMES} at most"
        )
    tracks = [
        RawTrack(
            f"{name}-{reel.number + 1:02}",
            tuple(
                RawFrame(start + np.timedelta64(k * step, "s"), (file,), part=moment)
                for k, moment in moments(reel)
            ),
            attrs=attrs_of(file, reel, step),
        )
        for name, file in sets.items()
        for reel in reels(name, file, options)
    ]
    about = f"{clips} clips of {length} frames from each of {', '.join(sets)}"
    return Release(
        format="moving_mnist",
        path=path,
        attrs={
            "title": f"Moving MNIST: {about}",
            "source": "drawn from " + ", ".join(file.name for file in sets.values()),
            "references": "Srivastava et al. 2015, arXiv:1502.04681; digits: LeCun et al. 1998, "
            "doi:10.1109/5.726791",
        },
        channels=(Channel("image", "1", "grey of the digits, 0 to 1", "", 0.0, 1.0),),
        tracks=tuple(sorted(tracks, key=lambda raw: raw.id)),
        notes=(
            f"{about}, {in_bytes(total * size**2 * 4)}; a track is a reel of clips with gaps "
            "between them and digits of its own",
        ),
    )


def sets_of_digits(path: Path) -> dict[str, Path]:
    """Each file of digits, by the name of its set; a packed copy beside the file is left alone.

    Raises UserError where there are only labels, and where two files bear one name.
    """
    sets: dict[str, Path] = {}
    for file in sorted(filelist.files(path, ENDINGS)):  # the one without .gz comes first
        match = FILE_NAME.fullmatch(file.name)
        if match is None or match[2].lower() == "labels":
            continue
        name = stretches.fit_name(match[1] or "digits")
        other = sets.setdefault(name, file)
        if other not in (file, file.with_suffix("")):
            raise UserError(f"{other} and {file} are both called {name}; give one of them")
    if not sets:
        raise UserError(f"{path}: holds labels; expected the images, as t10k-images-idx3-ubyte.gz")
    return sets


def reels(name: str, file: Path, options: Options) -> list[Reel]:
    """Those of one file.

    Raises UserError for what is no file of digits, UsageError for an image too small for them.
    """
    try:
        count, rows, columns = pictures(file).shape
    except FrameError as error:
        raise UserError(str(error)) from None
    size = options.image_size or IMAGE_SIZE
    if not max(rows, columns) < size <= hdf5_image.LARGEST_SIDE:
        raise UsageError(
            f"--image-size {size}: digits of {file.name} are {rows}x{columns}, expected "
            f"{max(rows, columns) + 1} to {hdf5_image.LARGEST_SIDE}"
        )
    clips = options.clips or CLIPS
    of = min(REELS, clips, count)
    return [
        Reel(
            shape=(count, rows, columns),
            origin=zlib.crc32(name.lower().encode()),
            number=number,
            of=of,
            clips=len(range(number, clips, of)),
            seed=SEED if options.seed is None else options.seed,
            clip_frames=options.clip_frames or CLIP_FRAMES,
            digits=options.digits or DIGITS,
            image_size=size,
        )
        for number in range(of)
    ]


def moments(reel: Reel) -> Iterator[tuple[int, Moment]]:
    """Every frame of a reel, each after the step at which it stands."""
    length = reel.clip_frames + 1  # and the gap
    for clip in range(reel.clips):
        for number in range(reel.clip_frames):
            yield clip * length + number, Moment(reel, clip, number)


def attrs_of(file: Path, reel: Reel, step: int) -> dict[str, str | int | float]:
    return {
        "title": f"Moving MNIST: reel {reel.number + 1} of {reel.of} of {file.name}",
        "source": f"drawn from {len(share(reel))} digits of {file.name} that no other reel has",
        "clips": reel.clips,
        "clip_frames": reel.clip_frames,
        "digits_per_clip": reel.digits,
        "seed": reel.seed,
        "time_label": f"nominal: a frame every {said(step)}, one step left out between two clips",
    }


def frame_shape(frame: RawFrame) -> tuple[int, int, int]:
    """(C, H, W)."""
    size = frame.part.reel.image_size
    return 1, size, size


def read_frame(
    frame: RawFrame, *, direct: bool = True, into: np.ndarray | None = None
) -> np.ndarray:
    """(1, H, W) float32, 0 to 1; there is one way to draw it, whatever `direct`.

    Raises FrameError for a file of digits that has changed since it was scanned.
    """
    reel, clip, number = frame.part
    images = pictures(frame.paths[0])
    if images.shape != reel.shape:
        raise FrameError(
            f"{frame.paths[0]}: is {images.shape} now, was {reel.shape} when it was looked through"
        )
    _, rows, columns = reel.shape
    chosen, corners = motion(reel, clip)
    shape = frame_shape(frame)
    canvas = np.zeros(shape[1:], np.uint8)
    for image, (top, left) in zip(chosen, corners[number], strict=True):
        spot = canvas[top : top + rows, left : left + columns]
        np.maximum(spot, images[image], out=spot)
    out = np.empty(shape, np.float32) if into is None or into.shape != shape else into
    np.divide(canvas, np.float32(255), out=out[0])
    return out


@lru_cache(maxsize=8)  # frames are read in their order
def motion(reel: Reel, clip: int) -> tuple[list[int], list[list[list[int]]]]:
    """Which digits a clip shows, and [frame][digit] the row and column of the upper left corner."""
    draws = uniform(reel, (1 + reel.number, clip), 4 * reel.digits).reshape(-1, 4)
    own = share(reel)
    chosen = own[(draws[:, 0] * len(own)).astype(int)].tolist()
    position = draws[:, 1:3]  # (digits, 2), of the free room
    # not NumPy's sine, whose last bit depends on the processor
    angles = (2 * math.pi * draws[:, 3]).tolist()
    velocity = STEP_LENGTH * np.array([(math.sin(angle), math.cos(angle)) for angle in angles])
    room = np.array([reel.image_size - side for side in reel.shape[1:]])
    corners = []
    for _ in range(reel.clip_frames):
        position = position + velocity
        velocity = np.where((position <= 0) | (position >= 1), -velocity, velocity)
        position = position.clip(0, 1)
        corners.append((room * position).astype(int).tolist())
    return chosen, corners


@lru_cache(maxsize=2 * REELS)
def share(reel: Reel) -> np.ndarray:
    """(n,) the numbers of the digits that this reel has for itself."""
    order = uniform(reel, (0,), reel.shape[0]).argsort(kind="stable")
    return order[reel.number :: reel.of]


def uniform(reel: Reel, key: tuple[int, ...], count: int) -> np.ndarray:
    """(count,) float64 in 0..1, without 1."""
    seed = np.random.SeedSequence(reel.seed, spawn_key=(reel.origin, *key))
    return (np.random.PCG64(seed).random_raw(count) >> np.uint64(11)) * 2.0**-53


def pictures(path: Path) -> np.ndarray:
    """(n, rows, columns) uint8: all digits of a file. Raises FrameError."""
    try:
        if not path.is_file():  # to open a pipe would be to wait for ever
            raise FrameError(f"{path}: not a file")
        status = path.stat()
        return read_idx(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise FrameError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (EOFError, zlib.error) as error:
        raise FrameError(f"{path}: damaged ({hdf5_image.brief(error)})") from None


@lru_cache(maxsize=4)
def read_idx(path: Path, size: int, modified: int) -> np.ndarray:
    """As `pictures`; of a file of this size and time. Raises what gzip does, too."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        first = file.read(HEADER.size)
        magic = int.from_bytes(first[:4], "big") if len(first) >= 4 else 0
        if magic == LABELS:
            raise FrameError(f"{path}: holds labels; expected images")
        if magic != IMAGES or len(first) < HEADER.size:
            raise FrameError(
                f"{path}: begins with {first[:4].hex() or 'nothing'}, expected {IMAGES:08x} "
                "and three sizes: images as IDX"
            )
        _, *shape = HEADER.unpack(first)
        expected = math.prod(shape)
        if not 0 < expected <= LARGEST_FILE:
            raise FrameError(
                f"{path}: its header says {shape[0]} images of {shape[1]}x{shape[2]}; "
                f"expected 1 to {LARGEST_FILE} pixels in all"
            )
        pixels = file.read(expected + 1)
    if len(pixels) != expected:
        found = f"{len(pixels)} bytes" if len(pixels) < expected else "more bytes"
        raise FrameError(f"{path}: holds {found} of pixels, its header says {expected}")
    return np.frombuffer(pixels, np.uint8).reshape(shape)
