"""The formats of an output, its name and its place."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pipeline import atomic
from pipeline.errors import UsageError, UserError
from pipeline.inputs import Footage
from pipeline.outputs.layout import Layout, Writer

Name = Literal["netcdf", "zarr", "geotiff"]
Written = Callable[[Path, Layout, int], AbstractContextManager[Writer]]


@dataclass(frozen=True)
class Format:
    """One way to write an output; its module is imported when it is used."""

    name: Name
    title: str
    endings: tuple[str, ...]  # the first is the usual one
    module: str
    folder: bool = True  # else one file

    def written(self, path: Path, layout: Layout, count: int) -> AbstractContextManager[Writer]:
        """A Writer of `count` frames to a path where nothing is yet.

        What is there when the block ends badly is not whole. OSError: the disk refuses.
        """
        written: Written = importlib.import_module(self.module).written
        return written(path, layout, count)

    def refuse_unfit(self, footage: Footage, unit: str) -> None:
        """Raises UserError where the format cannot hold this typhoon; unit: as a Layout's."""
        if self.name == "geotiff":
            importlib.import_module(self.module).refuse_unfit(footage, unit)

    def refuse_others(self, out: Path, id: str) -> None:
        """Raises UserError where `out` is there and is not, or holds more than, an earlier output.

        An empty file or folder is nobody's.
        """
        if any(out.iterdir()) if out.is_dir() else out.exists() and out.stat().st_size:
            importlib.import_module(self.module).refuse_others(out, id)


FORMATS = (
    Format("netcdf", "NetCDF", (".nc",), "pipeline.outputs.netcdf", folder=False),
    Format("zarr", "Zarr", (".zarr",), "pipeline.outputs.zarr_store"),
    Format("geotiff", "GeoTIFF", (".tif", ".tiff", ""), "pipeline.outputs.geotiff"),
)


def chosen(out: Path, name: str | None) -> Format:
    """The format of that name, or that the ending of `out` stands for. Raises UsageError."""
    if out.name in ("", ".."):
        raise UsageError(f"{out}: is no name that could be written; give the output one of its own")
    if name is None:
        found = [form for form in FORMATS if out.suffix and out.suffix in form.endings]
        if not found:
            raise UsageError(
                f"{out}: give it a name that ends in .nc (NetCDF), .zarr or .tif (a folder of "
                "GeoTIFFs), or say --format"
            )
        return found[0]
    if name not in get_args(Name):
        raise UsageError(f"--format {name}: the formats are {', '.join(get_args(Name))}")
    form = next(form for form in FORMATS if form.name == name)
    if out.suffix not in form.endings:
        kind = "the folder of GeoTIFFs" if form.name == "geotiff" else f"the {form.title} output"
        usual = f"ends in {form.endings[0]}" + (" or has no ending" if "" in form.endings else "")
        raise UsageError(f"{out}: with --format {name} the name of {kind} {usual}")
    return form


def refuse_place(form: Format, out: Path, movies: Iterable[Path] = ()) -> None:
    """Before hours of work: places that can be written. Raises UserError."""
    if not form.folder:
        atomic.refuse_place(out)
    elif out.is_file():
        raise UserError(
            f"{out}: is a file; expected the name of a folder to write; choose another --out"
        )
    if beside(out).is_file():
        raise UserError(
            f"{beside(out)}: is a file, and the pictures need a folder there; choose another --out"
        )
    for movie in movies:
        if movie.is_dir():
            raise UserError(
                f"{movie}: is a folder, and the animation needs that name; choose another --out, "
                "or --no-animation"
            )
    atomic.refuse_unwritable(out)


def refuse_strangers(folder: Path, id: str) -> None:
    """Raises UserError where pictures of a typhoon would lie among what is none of them.

    Hidden files count for nothing: desktops leave them.
    """
    ours = re.compile(rf"{re.escape(id)}-\d{{10,14}}\.png|\..*")
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if others := [name for name in held if not ours.fullmatch(name)]:
        raise UserError(
            f"{folder}: the pictures would go there, and it holds more than pictures of {id} "
            f"({others[0]}); choose another --out, or --pictures none"
        )


def beside(out: Path) -> Path:
    """The folder of an output's pictures."""
    return out.with_suffix("") if out.suffix else out.with_name(f"{out.name}-pictures")
