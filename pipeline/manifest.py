"""The files of data_manifest/: small JSON that says what a store and a split are, for git.

One manifest per converted release (its hash names the conversion), one file per split.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from pipeline import atomic, credit
from pipeline.errors import UserError
from pipeline.store import Store

FOLDER = Path("data_manifest")
PARTS = ("train", "eval", "test")
Numbers = Annotated[list[float], Field(min_length=1)]  # one per channel


def manifest_file(folder: Path, store: Path) -> Path:
    return folder / f"{store.stem}.json"


def split_file(folder: Path, store: Path) -> Path:
    return folder / f"{store.stem}.split.json"


def digest(value: Any) -> str:
    """Of plain data; the same whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Statistics(BaseModel, frozen=True, extra="forbid"):
    """Of the training tracks only, per channel, in the channel's units, missing pixels left out."""

    count: list[int]
    mean: Numbers
    std: Numbers
    min: Numbers
    max: Numbers


class Split(BaseModel, frozen=True, extra="forbid"):
    """Which whole tracks are for training, for evaluation and for the final test."""

    version: Literal[1] = 1
    store: str  # the store's name, for people
    # As the store says; older splits do not
    title: str = ""
    license: str = ""
    attribution: str = ""
    references: str = ""
    acknowledgement: str = ""
    manifest_hash: str  # the conversion that it divides
    selected_by: str  # how the tracks were chosen, in words
    train: list[str]
    eval: list[str]
    test: list[str] = []
    frames: dict[str, int] = {}  # per part, those without a flag; not written: see write_split
    triplets: dict[str, int]  # per part
    statistics: Statistics

    def part(self, name: str) -> list[str]:
        """The ids of one part. Raises UserError when that part is empty."""
        ids: list[str] = getattr(self, name)
        if not ids:
            raise UserError(f"this split has no {name} tracks; run `cli split` with --{name}-ids")
        return ids


def read_split(path: Path, store: Store) -> Split:
    """The split in `path`. Raises UserError when it is none, or divides another store."""
    once_more = f"run `cli split {store.path} --eval-ids ...`"
    if not path.is_file():
        raise UserError(f"{path}: no split file; {once_more} first")
    try:
        split = Split.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(f"{path}: not a split file: {where}: {first['msg']}; {once_more}") from None
    ids = [*split.train, *split.eval, *split.test]
    if twice := [id for id, count in Counter(ids).items() if count > 1]:
        raise UserError(f"{path}: track {', '.join(twice)} is in more than one part; {once_more}")
    if split.manifest_hash != store.manifest_hash:
        raise UserError(
            f"{path}: divides the store {split.store!r} of conversion {split.manifest_hash[:12]}, "
            f"but {store.path} is conversion {store.manifest_hash[:12]}; "
            f"{once_more} for this store"
        )
    if unknown := sorted(set(ids) - set(store.ids)):
        raise UserError(
            f"{path}: no track {', '.join(map(repr, unknown))} in {store.path}; {once_more}"
        )
    return split


def write_split(path: Path, split: Split) -> None:
    """Without what the store does not say of itself, and `frames`: older eddies refuse that."""
    plain = split.model_dump(exclude={"frames"})
    silent = {name for name in credit.RIGHTS if not plain[name]}
    atomic.write_json(path, {k: v for k, v in plain.items() if k not in silent})
