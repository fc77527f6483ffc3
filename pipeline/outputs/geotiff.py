"""Frames -> a folder of GeoTIFFs, one per frame.

Each is projected about its own storm centre, or lies on latitudes and longitudes (WGS 84).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import store
from pipeline.errors import UserError
from pipeline.inputs import Footage
from pipeline.outputs.layout import Layout, instant, moment, plain, stamp

BLOCK = 256  # pixels; side of a compressed tile
FLOATING = 3  # TIFF's predictor for floating-point numbers


class Writer:
    """A folder to which frames are appended."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        attrs = {"Conventions": store.CONVENTIONS, **layout.attrs}
        self.tags = {name: told(value) for name, value in attrs.items()}
        folder.mkdir()

    def append(self, frames: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        import rasterio

        layout = self.layout
        crs, transform = placed(layout, values)
        form = {
            "driver": "GTiff",
            "height": len(layout.y),
            "width": len(layout.x),
            "count": len(frames),
            "dtype": "float32",
            "nodata": math.nan,
            "crs": crs,
            "transform": transform,
            "interleave": "band",
            "tiled": True,
            "blockxsize": BLOCK,
            "blockysize": BLOCK,
            "compress": "deflate",
            "predictor": FLOATING,
            "BIGTIFF": "IF_SAFER",
        }
        # In memory first: GDAL hides what the disk says.
        with rasterio.MemoryFile() as memory:
            with memory.open(**form) as file:
                file.update_tags(**self.tags, **self.moment(values))
                for band, (name, frame) in enumerate(frames.items(), 1):
                    about = layout.fields[name]
                    file.write(frame, band)
                    file.set_band_description(band, name)
                    file.set_band_unit(band, about["units"])
                    file.update_tags(band, **{key: told(value) for key, value in about.items()})
            name = f"{layout.attrs['track_id']}-{stamp(values['time'])}.tif"
            (self.folder / name).write_bytes(memory.getbuffer())

    def moment(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Tags of one time step: the series by name, with their units; and TIFF's own."""
        tags = {name: instant(seconds) for name, (seconds, _) in self.layout.moments.items()}
        for name, (dtype, attrs) in self.layout.series.items():
            if name == "time":
                tags[name] = instant(values[name])
            elif "flag_meanings" in attrs:
                tags[name] = attrs["flag_meanings"].split()[values[name]]
            else:
                tags[name] = str(dtype.type(values[name]))  # as few digits as say all of it
                if attrs.get("units", "1") != "1":
                    tags[f"{name}_units"] = attrs["units"]
        known = self.tags
        rights = "; ".join(known[name] for name in ("license", "attribution") if name in known)
        return {
            **tags,
            "TIFFTAG_DATETIME": moment(values["time"]).strftime("%Y:%m:%d %H:%M:%S"),
            "TIFFTAG_IMAGEDESCRIPTION": known["title"],
            **({"TIFFTAG_COPYRIGHT": rights} if rights else {}),
        }


def placed(layout: Layout, values: Mapping[str, Any]) -> tuple[str | None, Any]:
    """The reference system, None where it is not known, and the transform into it."""
    import rasterio

    if layout.unit == "deg":
        down, right = (float(axis[1] - axis[0]) for axis in (layout.y, layout.x))
        west, north = layout.x[0] - right / 2, layout.y[0] - down / 2
        return "EPSG:4326", rasterio.Affine(right, 0, west, 0, down, north)
    side = layout.pixel * 1000  # m
    west, north = layout.x[0] * 1000 - side / 2, layout.y[0] * 1000 + side / 2
    system = projection(layout.attrs.get("projection", ""), values)
    return system, rasterio.Affine(side, 0, west, 0, -side, north)


@contextmanager
def written(path: Path, layout: Layout, count: int) -> Iterator[Writer]:
    """A Writer to a new folder; `count` is not needed here. OSError: the disk refuses."""
    yield Writer(path, layout)


def refuse_unfit(footage: Footage, unit: str) -> None:
    """Raises UserError without rasterio, a size of the pixels, or any storm centre.

    unit: of the output's coordinates, as a Layout has it.
    """
    try:
        import rasterio  # noqa: F401  # an extra
    except ImportError:
        raise UserError("GeoTIFF needs rasterio: pip install 'eddy[geotiff]'") from None
    if unit == "deg":
        return
    told = ": a GeoTIFF would lie nowhere; take --format netcdf or zarr"
    if unit != "km":
        raise UserError(f"{footage.path}: the size of its pixels is not known (pixel_km){told}")
    if unplaced(footage, range(len(footage.times))) == len(footage.times):
        raise UserError(f"{footage.path}: no best track says where {footage.id} was{told}")


def unplaced(footage: Footage, numbers: range | list[int]) -> int:
    """How many of these frames have no known centre."""
    places = ("latitude", "longitude")
    if not set(places) <= set(footage.variables):
        return len(numbers)
    centres = [{n: footage.variables[n].values[number] for n in places} for number in numbers]
    return sum(centre(values) is None for values in centres)


def centre(values: Mapping[str, Any]) -> tuple[float, float] | None:
    """Latitude and longitude (-180..180) of the storm; None where they are not known."""
    latitude, longitude = (float(values.get(n, math.nan)) for n in ("latitude", "longitude"))
    if not (abs(latitude) <= 90 and abs(longitude) <= 360):  # NaN is not
        return None
    return latitude, (longitude + 180) % 360 - 180


def projection(source: str, values: Mapping[str, Any]) -> str | None:
    """A PROJ string about the centre; None where that is not known.

    Azimuthal equidistant where the source says so, else Lambert equal-area, as the paper on Digital
    Typhoon has it (Kitamoto et al. 2023, arXiv:2311.02665).
    """
    found = centre(values)
    if found is None:
        return None
    kind = "aeqd" if "equidistant" in source.lower() else "laea"
    return (
        f"+proj={kind} +lat_0={found[0]:.6f} +lon_0={found[1]:.6f} +datum=WGS84 +units=m +no_defs"
    )


def refuse_others(out: Path, id: str) -> None:
    """Raises UserError for a folder that holds more than this typhoon's GeoTIFFs."""
    ours = re.compile(rf"{re.escape(id)}-\d{{10,14}}\.tif")
    if others := sorted(p.name for p in out.iterdir() if not ours.fullmatch(p.name)):
        raise UserError(
            f"{out}: would be replaced, and holds more than GeoTIFFs of {id} ({others[0]}); "
            "choose another --out"
        )


def told(value: Any) -> str:
    value = plain(value)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
