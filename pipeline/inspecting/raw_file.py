"""One raw H5 file: how it is built, what its name says, and what its pixels are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline import ingest, quality, sources
from pipeline.errors import UserError
from pipeline.ingest import ConvertSettings
from pipeline.inspecting import timeline
from pipeline.inspecting.thumbnails import Thumbnail
from pipeline.sources import FrameError, RawFrame, Variable, census, digital_typhoon, hdf5_listing

SIGNATURE = b"\x89HDF\r\n\x1a\n"
CHANNELS = {str(number): channel for number, channel in digital_typhoon.CHANNELS.items()}


def is_hdf5(path: Path) -> bool:
    """By its name or its first bytes; a damaged file with the name counts."""
    if path.suffix.lower() in (".h5", ".hdf5"):
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def examine(path: Path, settings: ConvertSettings) -> tuple[dict[str, Any], list[Thumbnail]]:
    """Facts of one file, plain data, and its image. Raises FrameError where convert would."""
    name = census.named(path)
    frame = RawFrame(np.datetime64("NaT"), (path,))
    pixels = digital_typhoon.read_frame(frame)  # first: it refuses what must not be asked for more
    dataset, entries = hdf5_listing.listing(path, census.IMAGE_NAMES)
    channel = channel_of(name, path)
    low, high = ends(pixels)
    masked = pixels.copy()
    worth = quality.examine(masked, [vars(channel)])
    valid = masked[~np.isnan(masked)]
    flag = ingest.flag_of(worth, settings)
    state = timeline.state(worth.missing, flag)
    facts = {
        "kind": "file",
        "path": str(path),
        "bytes": path.stat().st_size,
        "name": {**name, "channel_name": channel.name} if name else None,
        "contents": entries,
        "image": {
            "dataset": dataset,
            "shape": list(pixels.shape[1:]),
            "units": channel.units,
            "stored_min": low,
            "stored_max": high,
            "valid_range": [channel.valid_min, channel.valid_max],
            "pixels": pixels[0].size,
            "missing": pixels[0].size - len(valid),
            "missing_fraction": worth.missing,
            "not_a_number": int(np.isnan(pixels).sum()),
            "below_range": int((pixels < channel.valid_min).sum()),
            "above_range": int((pixels > channel.valid_max).sum()),
            "statistics": timeline.numbers(worth.sums),
            "distinct_values": len(np.unique(valid)),
            "blank": worth.blank,
            "state": state,
            "flagged": bool(flag),
        },
        "settings": settings.model_dump(exclude={"codec"}),
        "channels": [vars(channel)],
        "best_track": best_track(path) if name else None,
        "problems": [],
        "notes": [] if name else [
            "its name is not like 2021071900-202107-HMW8-1.h5: `cli convert` leaves it out"
        ],
    }  # fmt: skip
    when, satellite, track = (name[k] if name else "" for k in ("time", "satellite", "track"))
    return facts, [Thumbnail(track, when, satellite, state, masked[0])]


def channel_of(name: dict[str, Any] | None, path: Path) -> sources.Channel:
    number = name["channel"] if name else "1"
    if number not in CHANNELS:
        raise FrameError(f"{path}: channel {number}; known are {', '.join(CHANNELS)}")
    return CHANNELS[number]


def ends(pixels: np.ndarray) -> tuple[float | None, float | None]:
    """Lowest and highest value in the file, infinite and undefined ones aside."""
    finite = pixels[np.isfinite(pixels)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (None, None)


def best_track(path: Path) -> dict[str, Any] | None:
    """The row of this hour, where a table lies beside the tree: each value with its unit."""
    try:
        raw = sources.scan(path).tracks[0]
    except UserError:
        return None
    values = {name: told(variable) for name, variable in raw.variables.items()}
    return None if all(each["value"] is None for each in values.values()) else values


def told(variable: Variable) -> dict[str, Any]:
    return {
        "value": timeline.plain(float(variable.values[0])),
        "units": variable.attrs["units"],
    }
