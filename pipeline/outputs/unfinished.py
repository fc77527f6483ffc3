"""The frames of an output that are done while it is not, so that the same command goes on.

They lie in a hidden folder beside the output, each whole or not there, and the output is made of
them when all are done: so it is the same, byte for byte, however often the work was stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import atomic

ABOUT = "about.json"


@dataclass(frozen=True)
class Part:
    """One frame of the output."""

    fields: dict[str, np.ndarray]  # by variable, (H, W) float32
    sums: dict[str, dict[str, Any]]  # by method: what its scores are made of, as plain data


class Unfinished:
    """The parts of one output."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = hidden(out)
        self.result = self.folder / "result"  # where the output is written
        self.old = self.folder / "old"  # the folder that was at `out`
        self.changed: list[str] = []  # what the parts found were made with other values of

    def begin(self, about: Mapping[str, Any]) -> None:
        """Keep the parts that are there when they were made with the same `about`."""
        if self.old.exists() and not self.out.exists():  # killed between two renames
            self.old.rename(self.out)
        file, wanted = self.folder / ABOUT, json.loads(json.dumps(about))
        try:
            found = json.loads(file.read_bytes())
        except (OSError, ValueError):
            found = None
        if found != wanted:
            if isinstance(found, dict) and self.kept():
                both = {**found, **wanted}
                self.changed = [k for k in both if found.get(k) != wanted.get(k)]
            for path in self.folder.iterdir():
                remove(path)
            atomic.write_json(file, wanted)
        for path in self.folder.iterdir():  # left by one that was killed while writing
            if path.suffix not in (".npz", ".json"):
                remove(path)

    def kept(self) -> set[str]:
        """The names of the parts that are there."""
        return {path.stem for path in self.folder.glob("[!.]*.npz")}

    def part(self, name: str, source: str | None = None) -> Part | None:
        """None where it is not there, damaged, or made of another `source`."""
        try:
            with np.load(self.folder / f"{name}.npz") as stored:
                about = json.loads(str(stored["about"]))
                if source not in (None, about["source"]):
                    return None
                fields = {n: stored[f"field {n}"] for n in about["fields"]}
                return Part(fields, about["sums"])
        except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def keep(self, name: str, source: str, part: Part) -> None:
        """source: the fingerprint of what it was made of. Raises OSError when the disk refuses."""
        about = json.dumps({"source": source, "fields": list(part.fields), "sums": part.sums})
        arrays = {f"field {n}": field for n, field in part.fields.items()}
        with (
            atomic.replacing(self.folder / f"{name}.npz") as temporary,
            temporary.open("wb") as file,
        ):
            np.savez(file, about=np.array(about), **arrays)  # type: ignore[arg-type]  # any name

    def publish(self) -> None:
        """The result takes the place of `out`; what it replaces goes when the parts go."""
        for folder, _, names in os.walk(self.result):
            for name in names:
                atomic.sync(Path(folder, name))
            atomic.sync(Path(folder))
        if self.result.is_file():
            atomic.sync(self.result)
        if self.out.is_dir():
            self.out.rename(self.old)
        try:
            self.result.replace(self.out)
        except OSError:
            if self.old.exists():
                self.old.rename(self.out)
            raise
        atomic.sync(self.out.parent)


@contextmanager
def opened(out: Path, about: Mapping[str, Any]) -> Iterator[Unfinished]:
    """The parts of an output, gone when the block ends well; else kept for the next time.

    about: what they depend on, as JSON; parts that depended on anything else are removed. Raises
    UserError when another process is at the same output. An OSError that names no file, or one in
    the hidden folder, names `out`.
    """
    unfinished = Unfinished(out)
    told = "another process is writing this output; wait for it, or choose another --out"
    try:
        with atomic.claimed(unfinished.folder, told):
            done = False
            try:
                unfinished.begin(about)
                yield unfinished
                done = True
            finally:
                if done or not unfinished.kept():
                    shutil.rmtree(unfinished.folder)
                else:
                    remove(unfinished.result)
    except OSError as error:
        inside = str(error.filename or "").startswith(str(unfinished.folder))
        if error.errno is None or (error.filename and not inside):
            raise
        raise OSError(error.errno, error.strerror, str(out)) from error


def hidden(out: Path) -> Path:
    return out.with_name(f".{out.name}.unfinished")


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fingerprint(frame: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(frame).tobytes()).hexdigest()
