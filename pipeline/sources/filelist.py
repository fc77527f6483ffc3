"""The files of a source: one, all below a folder, or those that a JSON list names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import UserError

LONGEST_LIST = 256 << 20  # bytes; a larger JSON file is no list of files


def files(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """Every file at or below `path` with one of the endings, numbers in names in their order.

    A JSON list keeps its own order, and its relative names start from its own folder. Raises
    UserError for a JSON file that is not an array of names, or that names files that are not there.
    """
    if is_list(path):
        return [file for file in listed(path) if file.name.lower().endswith(endings)]
    if path.is_file():
        return [path] if path.name.lower().endswith(endings) else []
    return sorted(below(path, endings), key=natural)


def is_list(path: Path) -> bool:
    return path.suffix.lower() == ".json" and path.is_file()


def below(folder: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Every file below a folder with one of the endings, in no fixed order."""
    walked = set()
    for here, inside, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in walked:  # a link that leads back
            inside.clear()
            continue
        walked.add(real)
        for name in names:
            if name.lower().endswith(endings) and not name.startswith("."):  # ._x: left by macOS
                yield Path(here, name)


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts frame_2 before frame_10, and folder by folder."""
    key = []
    for part in path.parts:
        for digits, rest in re.findall(r"(\d+)|(\D+)", part):
            key.append((0, int(digits), "") if digits else (1, 0, rest))
        key.append((-1, 0, ""))
    return key


def listed(path: Path) -> list[Path]:
    """The files that a JSON array names. Raises UserError."""
    try:
        if path.stat().st_size > LONGEST_LIST:
            raise ValueError("too long")
        names = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError):
        raise UserError(f"{path}: not a readable JSON file; expected an array of names") from None
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names) or not names:
        raise UserError(f'{path}: expected a JSON array of file names, as in ["a.nc", "b.nc"]')
    found = [path.parent / name for name in dict.fromkeys(names)]
    absent = [file for file in found if not file.is_file()]
    if absent:
        more = f" (nor are {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise UserError(
            f"{path}: names {absent[0]}, which is not there{more}; "
            "relative names start from the folder of the list"
        )
    return found
