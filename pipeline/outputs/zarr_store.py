"""Frames -> a Zarr v3 group, one chunk per frame; CF, and consolidated."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning

from pipeline import store
from pipeline.errors import UserError
from pipeline.outputs.layout import Layout, is_output, plain

# Shuffled, what a model makes takes a quarter less; observed frames, whose values come from a
# calibration table, take more. Higher levels take longer for a few per cent.
PACKED = (BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec())


class Writer:
    """An open group to which frames are appended."""

    def __init__(self, path: Path, layout: Layout, count: int) -> None:
        attrs = {"Conventions": store.CONVENTIONS, **layout.attrs}
        self.group = zarr.create_group(path, zarr_format=3, attributes=as_json(attrs))
        self.layout, self.count = layout, 0
        self.series = {n: np.empty(count, dtype) for n, (dtype, _) in layout.series.items()}
        for name, values in layout.coordinates.items():
            self.small(name, (name,), values, layout.axes[name])
        for name, (seconds, about) in layout.moments.items():
            self.small(name, (), np.array(seconds, np.int64), about)
        H, W = len(layout.y), len(layout.x)
        self.fields = {
            name: self.group.create_array(
                name,
                shape=(count, H, W),
                chunks=(1, H, W),
                dtype="float32",
                fill_value=np.nan,
                compressors=PACKED,
                dimension_names=("time", *layout.coordinates),
                attributes=as_json(attrs),
            )
            for name, attrs in layout.fields.items()
        }

    def append(self, frames: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        for name, frame in frames.items():
            self.fields[name][self.count] = frame
        for name, value in values.items():
            self.series[name][self.count] = value
        self.count += 1

    def close(self) -> None:
        for name, values in self.series.items():
            self.small(name, ("time",), values, self.layout.series[name][1])
        with warnings.catch_warnings():
            # Readers that do not know it simply read each array's own metadata.
            warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
            zarr.consolidate_metadata(self.group.store)

    def small(
        self, name: str, dims: tuple[str, ...], values: np.ndarray, attrs: Mapping[str, Any]
    ) -> None:
        """A whole coordinate, series or single number, as one chunk."""
        missing = np.nan if values.dtype.kind == "f" else 0
        array = self.group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype=values.dtype,
            fill_value=missing,
            compressors=PACKED,
            dimension_names=dims,
            attributes=as_json(attrs),
        )
        array[...] = values


@contextmanager
def written(path: Path, layout: Layout, count: int) -> Iterator[Writer]:
    """A Writer of `count` frames to a new group. OSError: the disk refuses."""
    writer = Writer(path, layout, count)
    yield writer
    writer.close()


def refuse_others(out: Path, id: str) -> None:
    """Raises UserError for a folder that is no earlier output of infer: a store, say."""
    if not is_output(out):
        raise UserError(f"{out}: holds something else than an earlier output; choose another --out")


def as_json(attrs: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps({k: plain(v) for k, v in attrs.items()}))
    return made
