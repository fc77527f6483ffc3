"""What a track was made from: its source's files and table rows, and the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline import manifest, sources, store
from pipeline.errors import UserError
from pipeline.ingest import ConvertSettings
from pipeline.sources import RawTrack
from pipeline.sources.archive import Member
from pipeline.sources.options import WORDS

DURATIONS = ("--covers", "--accumulate", "--step")  # kept in seconds


def fingerprint(raw: RawTrack, settings: ConvertSettings) -> str:
    """Changes when a source file, a table's row or a setting does."""
    packed = {p: m for f in raw.frames for p, m in zip(f.paths, f.packed, strict=False)}
    paths = dict.fromkeys(p for f in raw.frames for p in f.paths)
    files = [stamp(p) if p not in packed else stamp_in_archive(p, packed[p]) for p in paths]
    tables = {name: repr(v.values.tolist()) for name, v in raw.variables.items()}
    unmatched = [raw.unmatched_frames, raw.unmatched_rows]
    made_of: list[Any] = [store.FORMAT_VERSION, files, tables, unmatched, settings.model_dump()]
    if any(frame.part is not None for frame in raw.frames):  # which parts of those files
        made_of += [sources.seconds(raw.frames).tolist()]
    return manifest.digest(made_of)


def stamp(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return path.name, -1, -1  # a link to nowhere: named when its turn comes to be read
    return path.name, status.st_size, status.st_mtime_ns


def stamp_in_archive(path: Path, member: Member) -> tuple[str, int, int]:
    """As of the same file unpacked."""
    return path.name, member.size, member.mtime_ns


def attrs_of(target: Path, id: str) -> dict[str, Any]:
    """A track's attributes, straight from its file. Raises UserError when that is damaged."""
    file = target / id / "zarr.json"
    try:
        return dict(json.loads(file.read_bytes())["attributes"])
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; {again(target, id)}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: damaged; {again(target, id)}") from None


def record_of(target: Path, id: str) -> dict[str, Any]:
    """A track as the manifest has it, and the problems met in converting it."""
    record: dict[str, Any] = part_of(target, id, "record")
    return record


def settings_of(target: Path, id: str) -> dict[str, Any]:
    """The settings that a track was converted with."""
    settings: dict[str, Any] = part_of(target, id, "settings")
    return settings


def other_settings(target: Path, id: str, settings: ConvertSettings) -> str:
    """How the settings that a track was converted with differ from these; "" if they do not."""
    before, now = (as_typed(its) for its in (settings_of(target, id), settings.model_dump()))
    differing = [option for option in {**before, **now} if before.get(option) != now.get(option)]
    told = [
        f"{option} was {before.get(option, 'not given')}, is now {now.get(option, 'not given')}"
        for option in differing
    ]
    return f"{id} was converted with other settings: {', and '.join(told)}" if told else ""


def as_typed(settings: dict[str, Any]) -> dict[str, str]:
    """Plain settings by the option of `cli convert` that says each; those that say nothing not."""
    plain = {key: value for key, value in settings.items() if key != "options"}
    given = {f"--{key.replace('_', '-')}": value for key, value in plain.items()}
    given |= {WORDS.get(key, key): value for key, value in settings.get("options", {}).items()}
    return {option: in_a_word(option, of) for option, of in given.items() if of is not None}


def in_a_word(option: str, value: Any) -> str:
    if option in DURATIONS:
        return f"{value / 3600:g}h"
    return ",".join(f"{v}" for v in value) if isinstance(value, list | tuple) else f"{value}"


def part_of(target: Path, id: str, name: str) -> Any:
    """An attribute that is JSON within JSON. Raises UserError when it is damaged."""
    attrs = attrs_of(target, id)
    try:
        return json.loads(attrs[name])
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{target / id / 'zarr.json'}: no sound attribute {name!r}; {again(target, id)}"
        ) from None


def is_done(target: Path, id: str, print_of_source: str) -> bool:
    """Whether the store holds the track, made from just this."""
    return (target / id / "zarr.json").is_file() and (
        attrs_of(target, id).get("source_fingerprint") == print_of_source
    )


def again(target: Path, id: str) -> str:
    """The way out for a damaged track."""
    return f"remove {target / id} and {once_more(target)}"


def once_more(target: Path) -> str:
    """The way out for what a conversion would mend by itself."""
    return f"run `cli convert SOURCE {target}` again"
