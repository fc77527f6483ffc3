"""A look at whatever lies at a path: one raw H5 file, a raw tree, or a store.

Of a tree: what `cli convert` would make of it, and what is wrong with it. Of a store: what it made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from pipeline import atomic, sources, store
from pipeline.errors import UsageError, UserError
from pipeline.ingest import ConvertSettings
from pipeline.inspecting import doctor, inventory, raw_file
from pipeline.inspecting import page as inspection_page
from pipeline.inspecting import screen as inspection_screen
from pipeline.inspecting.thumbnails import Thumbnail
from pipeline.outputs.layout import is_output
from pipeline.pictures import Palette
from pipeline.sources import archive

EXPECTED = (
    "expected an H5 file, a raw tree (a folder of files named like 2021071900-202107-HMW8-1.h5, "
    "or one that holds image/), or a store that `cli convert` made"
)
LISTED = 5  # of what a folder holds, in a sentence


@dataclass(frozen=True)
class Inspection:
    """What was found, for the screen and for files."""

    facts: dict[str, Any]  # plain data: what --json writes
    thumbnails: list[Thumbnail] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """What a conversion of a tree would leave out, one sentence each."""
        return list(self.facts["problems"]) if self.facts["kind"] == "tree" else []

    @property
    def refusal(self) -> str:
        """Why a conversion of a tree would stop; "" where it would not."""
        return str(self.facts.get("refusal", ""))

    @property
    def notes(self) -> list[str]:
        return list(self.facts.get("notes", ()))


def inspect(
    path: Path,
    *,
    ids: Sequence[str] = (),
    workers: int | None = None,
    quick: bool = False,
    max_missing: float | None = None,
    pictures: bool = False,
) -> Inspection:
    """Look at what lies at `path`.

    ids: only these typhoons of a tree or a store. quick: a tree by names, sizes and tables alone.
    max_missing: as for `cli convert`. pictures: also of a few frames of a tree or store. Raises
    UserError for what is none of these, is damaged or unfinished; UsageError for options that do
    not go with it.
    """
    kind = kind_of(path)
    if kind == "track":
        whole = path.resolve()  # of "." name and parent would be ""
        path, ids, kind = whole.parent, [whole.name], "store"
    refuse_options(path, kind, ids, quick, max_missing)
    settings = (
        ConvertSettings() if max_missing is None else ConvertSettings(max_missing=max_missing)
    )
    choose = partial(store.chosen, path, ids=ids)
    if kind == "file":
        return Inspection(*raw_file.examine(path, settings))
    if kind == "store":
        return Inspection(*inventory.examine(path, choose=choose, pictures=pictures))
    return Inspection(
        *doctor.examine(
            path, settings, choose=choose, workers=workers, quick=quick, pictures=pictures
        )
    )


def kind_of(path: Path) -> str:
    """file, tree, store or track (of a store). Raises UserError for anything else."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; {EXPECTED}")
    if is_output(path):
        raise UserError(
            f"{path}: is an output of `cli infer`, which xarray and QGIS open; {EXPECTED}"
        )
    if not path.is_dir():
        if sources.format_of(path) in ("netcdf", "moving_mnist"):  # the first may be HDF5 too
            return "tree"
        if archive.is_archive(path):
            return "tree"
        if raw_file.is_hdf5(path):
            return "file"
        raise UserError(f"{path}: {what_else(path)}; {EXPECTED}")
    if (path / "zarr.json").is_file():
        inside = (path / "frames").is_dir() and (path.resolve().parent / "zarr.json").is_file()
        return "track" if inside else "store"
    if is_run(path):
        raise UserError(
            f"{path}: is a run, the folder of one training; `cli evaluate {path}` scores it, "
            f"`cli report {path}` shows it"
        )
    if sources.format_of(path):
        return "tree"
    raise UserError(f"{path}: {what_is_inside(path)}; {EXPECTED}")


def is_run(path: Path) -> bool:
    return (path / "settings.yaml").is_file() and (
        (path / "checkpoints").is_dir() or (path / "metrics.jsonl").is_file()
    )


def what_else(path: Path) -> str:
    """Of a file that is no HDF5 file, what it is, as far as its name tells."""
    known = {
        ".json": "is JSON (a manifest, a split or scores): it can be read as it is",
        ".yaml": "is a file of settings: `cli train` takes it",
        ".yml": "is a file of settings: `cli train` takes it",
        ".ckpt": "is a checkpoint: give its run to `cli evaluate` or `cli infer`",
        ".csv": "is a table: give the tree that it belongs to",
    }
    if not path.is_file():
        return "is neither a file nor a folder"
    return known.get(path.suffix, "is not an HDF5 file")


def what_is_inside(path: Path) -> str:
    """Of a folder that is nothing we know, what it holds."""
    held = sorted(entry.name for entry in path.iterdir())
    if not held:
        return "is an empty folder"
    more = f" and {len(held) - LISTED} more" if len(held) > LISTED else ""
    return f"holds neither raw frames nor a store, but {', '.join(held[:LISTED])}{more}"


def refuse_options(
    path: Path, kind: str, ids: Sequence[str], quick: bool, max_missing: float | None
) -> None:
    wrong = {
        "--ids": bool(ids) and kind == "file",
        "--quick": quick and kind == "file",
        "--max-missing": max_missing is not None and kind == "store",
    }
    if given := [option for option, is_wrong in wrong.items() if is_wrong]:
        what = {"file": "one H5 file", "store": "a store"}[kind]
        raise UsageError(f"{path}: is {what}; {' and '.join(given)} has no meaning there")


def screen(
    done: Inspection, console: Console, palette: Palette = "enhanced"
) -> list[RenderableType]:
    """What to print, as wide as the console, in colour where it has any."""
    return inspection_screen.of(done.facts, done.thumbnails, console, palette)


def as_json(done: Inspection) -> str:
    return atomic.json_text(done.facts)


def refuse_places(*files: Path | None) -> None:
    """Before anything is read: places where files can be written. Raises UserError."""
    for file in filter(None, files):
        atomic.refuse_place(file)


def write(done: Inspection, as_data: Path | None, as_page: Path | None, palette: Palette) -> None:
    """Write the files that are asked for, each whole or not at all."""
    if as_data:
        atomic.write_json(as_data, done.facts)
    if as_page:
        page = inspection_page.of(done.facts, done.thumbnails, palette)
        with atomic.replacing(as_page) as temporary:
            temporary.write_text(page, encoding="utf-8")
