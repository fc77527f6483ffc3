"""Run folders: which there are, what they hold, and what a command asks of one.

Nothing heavy is imported here: a wrong folder is told of before torch is loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import UserError, few

MARKS = ("checkpoints", "settings.yaml", "model.safetensors")  # of runs, of exported models
SCORES = {"eval": "scores.json", "test": "scores-test.json"}


def is_one(folder: Path) -> bool:
    """Whether it is a run's folder, or that of an exported model."""
    return folder.is_dir() and any((folder / mark).exists() for mark in MARKS)


def beneath(folder: Path) -> list[Path]:
    """The runs that lie right in a folder, by name; none where it may not be looked into."""
    try:
        return sorted(path for path in folder.iterdir() if is_one(path))
    except OSError:
        return []


def checkpoints(run: Path) -> dict[str, Path]:
    """checkpoints/*.ckpt by name, in alphabetical order."""
    files = sorted((run / "checkpoints").glob("[!.]*.ckpt"))
    return {file.stem: file for file in files if file.is_file()}


def in_run(run: Path, which: str) -> Path:
    """checkpoints/<which>.ckpt of a run; `which` may be best, last or epoch-0010.

    Of an exported model settings.json. Raises UserError naming those that there are.
    """
    refuse_missing(run, which)
    found = checkpoints(run)
    if which in found:
        return found[which]
    if not (run / "checkpoints").is_dir() and (run / "settings.json").is_file():
        from pipeline.exporting import folder

        return folder.chosen(run, which)
    if not found:
        raise UserError(
            f"{run}: no checkpoint {which!r}, nor any other: its training stopped before it saved "
            f"one; run the same `cli train ... --run {run}` again"
        )
    likely = [*difflib.get_close_matches(which, found, n=1), "best", "last", *found]
    first = next(name for name in likely if name in found)
    raise UserError(
        f"{run}: no checkpoint {which!r}; it has {few(found)}: choose with --checkpoint, as in "
        f"--checkpoint {first}"
    )


def refuse_missing(run: Path, which: str = "") -> None:
    """Raises UserError for anything but a run's folder or an exported model's, naming those near.

    which: the checkpoint that is asked for.
    """
    if run.is_file():
        of = run.parent.parent if run.parent.name == "checkpoints" else None
        name = run.stem if of else which
        also = f", and --checkpoint {name}" if name else ""
        raise UserError(f"{run}: is a file; give the run's folder{f' {of}' if of else ''}{also}")
    if is_one(run) or (run / "settings.json").is_file():  # the last: a part of it is told missing
        return
    made = f"run `cli train --run {run}` first"
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder; {near(run) or made}")
    if inside := beneath(run):
        raise UserError(f"{run}: not a run folder, but one of runs; give one: {few(inside)}")
    raise UserError(
        f"{run}: not a run folder: neither checkpoints nor settings.yaml are in it; "
        f"{near(run) or 'give the folder that `cli train` made'}"
    )


def near(run: Path) -> str:
    """Which run may be meant: beside a folder that is none, or in runs/; "" where none is there."""
    places = [run.parent, *([Path("runs")] if run.parent == Path() else [])]
    there = [path for place in places for path in beneath(place) if path != run]
    by_name = {path.name: path for path in reversed(there)}
    if close := difflib.get_close_matches(run.name, by_name, n=3):
        return f"did you mean {' or '.join(str(by_name[name]) for name in close)}?"
    return f"there are {few(there)}" if there else ""


def refuse_unscored(runs: Iterable[Path], on: str) -> None:
    """Raises UserError naming all that were not evaluated on their eval or test tracks."""
    faults: list[object] = []
    for run in runs:
        try:
            refuse_missing(run)
        except UserError as error:
            faults += error.args
            continue
        if not (run / SCORES[on]).exists():
            again = f"cli evaluate {run}" + (" --on test" if on == "test" else "")
            faults.append(f"{run}: has no {SCORES[on]}; run `{again}` first")
    if faults:
        raise UserError(*faults)
