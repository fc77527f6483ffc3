"""The files of a source: one, all below a folder, or those that a JSON list names."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from pipeline.errors import UserError

LITTER = "__MACOSX"  # macOS's own folder in what it packs
KNOWN = (  # endings of what lies beside data: nobody misses these in a store
    *(".txt", ".md", ".rst", ".html", ".htm", ".pdf", ".csv", ".tsv", ".json", ".jsonl", ".xml"),
    *(".yaml", ".yml", ".toml", ".ini", ".cff", ".bib", ".log", ".py", ".ipynb", ".sh", ".bat"),
    *(".idx", ".md5", ".sha1", ".sha256", ".sha512", ".asc", ".sig", ".db", ".lnk", ".url"),
)
PACKED = (".tar", ".tgz", ".tar.gz")  # what may come in numbered parts
PART = re.compile(r"[-._]?(\d+|[a-z]{2})$", re.ASCII)
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


def below(folder: Path, endings: tuple[str, ...] = ("",)) -> Iterator[Path]:
    """Every file below a folder with one of the endings, in no fixed order, as `walked`."""
    for here, name in walked(folder):
        if name.lower().endswith(endings):
            yield Path(here, name)


def walked(folder: Path) -> Iterator[tuple[str, str]]:
    """Folder and name of every file below a folder.

    But for what is hidden, or lies in a hidden folder, and macOS's litter.
    """
    seen = set()
    for here, inside, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link that leads back
            inside.clear()
            continue
        seen.add(real)
        inside[:] = [name for name in inside if not is_litter(name)]
        yield from ((here, name) for name in names if not is_litter(name))


def is_litter(name: str) -> bool:
    """Whether a file's or folder's name, or any of a path with slashes, is hidden or macOS's own.

    `._x` is what macOS leaves beside x.
    """
    parts = name.split("/")
    return any(part == LITTER or (part.startswith(".") and part.strip(".")) for part in parts)


def others(folder: Path, endings: tuple[str, ...]) -> list[str]:
    """Names of files below a folder that have none of the endings, in no fixed order.

    But for what lies beside data, as a licence or a table does, and for what is in a Zarr store.
    An archive's ending may have the number of a part after it; a.nc.1 is wget's second a.nc.
    """
    usual = (*endings, *KNOWN)
    parted = tuple(ending for ending in endings if ending in PACKED)
    found = []
    for here, name in walked(folder):
        low = name.lower()
        if low.endswith(usual) or PART.sub("", low).endswith(parted) or not PurePath(low).suffix:
            continue
        if not any(part.endswith(".zarr") for part in Path(here).relative_to(folder).parts):
            found.append(name)
    return found


def counted(names: Iterable[str], most: int = 4) -> str:
    """Names by their endings, for a sentence: 3 .grib, 1 .tif, 1 .nc.1; "" for none."""
    endings = Counter(ending(name) or "without an ending" for name in names)
    ranked = sorted(endings.items(), key=lambda of: (-of[1], of[0]))
    told = [f"{count} {ending}" for ending, count in ranked]
    more = sum(count for _, count in ranked[most:])
    return ", ".join(told[:most] + ([f"{more} more"] if more else []))


def ending(name: str) -> str:
    """Of a file's name, in lower case; a number at its end is told with what is before it."""
    path = PurePath(name.lower())
    return "".join(path.suffixes[-2:]) if path.suffix[1:].isdigit() else path.suffix


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
