"""Files that appear whole or not at all, and folders with one writer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it takes its place, on failure it is gone.

    The data is on the disk before the name is: a crash leaves the old file or the new one. An
    OSError at the temporary path names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)
        raise
    sync(path.parent)


def sweep(folder: Path, names: str) -> None:
    """Remove what killed processes left of replacing files there; nobody may be at them now.

    names: of the files, as a glob pattern.
    """
    for left in folder.glob(f".{names}.[0-9]*.tmp"):
        left.unlink(missing_ok=True)


def refuse_place(file: Path) -> None:
    """Before long work: a place where a file can be written, and is none. Raises UserError."""
    if file.is_dir():
        raise UserError(f"{file}: is a folder; expected the name of a file to write")
    if file.exists() and not file.is_file():
        raise UserError(f"{file}: is no plain file; expected the name of a file to write")
    refuse_unwritable(file)


def refuse_unwritable(path: Path) -> None:
    """Raises UserError where nothing can be made in the folder of `path`, which may be missing."""
    folder = next(p for p in path.absolute().parents if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be written to; choose another place for {path.name}")


def json_text(value: Any) -> str:
    """Indented, so that a person may read it and git may compare it; NaN is refused."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Raises ValueError for a NaN."""
    text = json_text(value)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def claimed(path: Path, told: str) -> Iterator[None]:
    """Make a folder and keep other processes that claim it out of it.

    The lock is on the folder itself: it leaves no file, and ends with the process, however that
    ends. Raises UserError(told) when another holds it. Some disks (NFS) lock no folders; then none
    is.
    """
    path.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield  # Windows
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path}: {told}") from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
