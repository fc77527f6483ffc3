"""The settings files that come with eddy, by name, wherever it is installed.

In a checkout they are configs/; a wheel holds the same files as pipeline/configs (setup.py). Here
nothing heavy is imported: a wrong name is told of before torch is loaded.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path

import models
from pipeline.errors import UsageError

HERE = Path(__file__).parent
SCHEMA = "settings.schema.json"
MOST = 4  # names in a sentence
ENDS = re.compile(r"(?<=\.)\s+(?=[A-Z`])")  # of sentences


def folder() -> Path:
    """Where they lie."""
    installed = HERE / "configs"
    return installed if installed.is_dir() else HERE.parent / "configs"


def files() -> dict[str, Path]:
    """By name without suffix, in alphabetical order."""
    found = sorted(p for p in folder().iterdir() if p.suffix in (".yaml", ".json"))
    return {file.stem: file for file in found if file.name != SCHEMA}


def names() -> dict[str, str]:
    """What each of them says of itself in its first sentence."""
    return {name: about(file) for name, file in files().items()}


def about(file: Path) -> str:
    """The first sentence of a file's leading comment; of JSON of its $comment. "" without one."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        return ENDS.split(str(json.loads(text).get("$comment", "")))[0]
    told: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# yaml-language-server:"):
            told.append(line.lstrip("# "))
    return ENDS.split(" ".join(told))[0]


def find(given: Path) -> Path:
    """That file; or the one of that name that comes with eddy, with or without suffix and folder.

    Raises UsageError where there is neither, naming those near it.
    """
    if given.is_file():
        return given
    known = files()
    if given.parent in (Path(), Path("configs")):
        for name, file in known.items():
            if given.name in (name, file.name):
                return file
    if given.is_dir() or given == Path():
        raise UsageError(
            f"{given}: a folder; expected a settings file, or the name of one of eddy's own, as "
            "`cli settings list` shows them (a store is named with --store)"
        )
    if given.stem in known:
        raise UsageError(f"{given}: no such settings file; for eddy's own say {given.stem} alone")
    begun = [name for name in known if given.stem and name.startswith(given.stem)]
    near = dict.fromkeys([*begun, *difflib.get_close_matches(given.stem, known, n=3)])
    hint = f"did you mean {' or '.join([*near][:MOST])}? " if near else ""
    if given.name in models.names():
        hint += f"{given} is a model, whose defaults --set model.name={given} takes; "
    raise UsageError(
        f"{given}: no such settings file, and none of that name comes with eddy; {hint}"
        "`cli settings list` shows them all"
    )
