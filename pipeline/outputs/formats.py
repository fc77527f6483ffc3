"""The formats of an output, its name and its place."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pipeline.errors import UsageError, UserError
from pipeline.inputs import Footage
from pipeline.outputs.layout import Layout, Writer
from pipeline.product import Product

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

    def refuse_unfit(self, footage: Footage, product: Product) -> None:
        """Raises UserError where the format cannot hold this typhoon."""
        if self.name == "geotiff":
            importlib.import_module(self.module).refuse_unfit(footage, product)

    def refuse_others(self, out: Path, id: str) -> None:
        """Raises UserError where `out` is a folder that holds more than an earlier output."""
        if self.folder and out.is_dir() and any(out.iterdir()):
            importlib.import_module(self.module).refuse_others(out, id)


FORMATS = (
    Format("netcdf", "NetCDF", (".nc",), "pipeline.outputs.netcdf", folder=False),
    Format("zarr", "Zarr", (".zarr",), "pipeline.outputs.zarr_store"),
    Format("geotiff", "GeoTIFF", (".tif", ".tiff", ""), "pipeline.outputs.geotiff"),
)


def chosen(out: Path, name: str | None) -> Format:
    """The format of that name, or that the ending of `out` stands for. Raises UsageError."""
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


def refuse_place(form: Format, out: Path) -> None:
    """Before hours of work: a place that can be written. Raises UserError."""
    if form.folder and out.is_file():
        raise UserError(f"{out}: is a file; expected the name of a folder to write")
    if not form.folder and out.is_dir():
        raise UserError(f"{out}: is a folder; expected the name of a file to write")
    if beside(out).is_file():
        raise UserError(f"{beside(out)}: is a file; the pictures need a folder there")
    folder = next(p for p in out.absolute().parents if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be written to; choose another place for {out.name}")


def beside(out: Path) -> Path:
    """The folder of an output's pictures."""
    return out.with_suffix("") if out.suffix else out.with_name(f"{out.name}-pictures")
