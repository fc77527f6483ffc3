"""What the shell is offered for an argument: runs, checkpoints, settings, stores, typhoons.

Read from the disk, without torch, zarr or any stage: a shell waits for it. What cannot be read
offers nothing, and then the shell completes names of files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

Offer = list[str | tuple[str, str]]  # words, or each with its meaning

Completer = Callable[[typer.Context, str], Offer]


def quietly(offered: Callable[[typer.Context, str], Iterable[str | tuple[str, str]]]) -> Completer:
    """Nobody who pressed Tab wants to read an error."""

    def complete(ctx: typer.Context, incomplete: str) -> Offer:
        try:
            found = offered(ctx, incomplete)  # typer keeps those that begin with the word
            return sorted(found, key=lambda o: o if isinstance(o, str) else o[0])
        except Exception:  # of a broken file or a folder that may not be read
            return []

    return complete


def near(incomplete: str, *usual: str) -> Iterator[Path]:
    """What lies in the folder that the word has come to; while it names none, in usual ones too."""
    folder, slash, _ = incomplete.rpartition("/")
    yield from Path(folder or slash or ".").iterdir()
    for name in () if slash else usual:
        if Path(name).is_dir():
            yield from Path(name).iterdir()


@quietly
def runs(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Run folders, and models that were exported."""
    from pipeline import runs as folders

    for path in near(incomplete, "runs"):
        if folders.is_one(path):
            yield str(path)


@quietly
def checkpoints(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    from pipeline import runs as folders

    named = given(ctx, "run")[:1]
    yield from {"best", "last"}.union(*(folders.checkpoints(run) for run in named))


def given(ctx: typer.Context, *names: str) -> list[Path]:
    """The paths on the command line so far: of the arguments of these names, and others.

    A command line that ends in an option without its value is not taken apart into arguments.
    """
    named = [ctx.params.get(name) for name in names]
    flat = [p for each in named for p in (each if isinstance(each, list | tuple) else [each]) if p]
    return [Path(word) for word in flat or ctx.args if not str(word).startswith("-")]


@quietly
def stores(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    for path in near(incomplete, "data"):
        if (path / "zarr.json").is_file():
            yield str(path)


@quietly
def configs(ctx: typer.Context, incomplete: str) -> Iterator[str | tuple[str, str]]:
    """Settings files: eddy's own by name, and those that lie here."""
    from pipeline import shipped

    yield from shipped.names().items()
    for path in near(incomplete, "configs"):
        if path.suffix in (".yaml", ".yml", ".json") and path.name != shipped.SCHEMA:
            yield str(path)


@quietly
def devices(ctx: typer.Context, incomplete: str) -> list[str]:
    return ["auto", "cpu", "cuda", "cuda:0"]


@quietly
def models(ctx: typer.Context, incomplete: str) -> list[str]:
    import models as package

    return package.names()


@quietly
def ids(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Typhoons of the store, the raw tree or the input that was named; after a comma, another."""
    before, comma, _ = incomplete.rpartition(",")
    places = given(ctx, "input", "path", "paths", "sources")
    for id in next(filter(None, map(tracks_at, reversed(places))), []):
        if id not in before.split(","):
            yield f"{before}{comma}{id}"


def tracks_at(path: Path) -> list[str]:
    """The ids in a store, or the typhoons' folders of a raw tree; [] elsewhere."""
    root = path / "zarr.json"
    if root.is_file():
        return list(json.loads(root.read_bytes())["attributes"]["tracks"])
    images = path / "image"
    folder = images if images.is_dir() else path
    inside = folder.iterdir() if folder.is_dir() else ()
    return [e.name for e in inside if e.is_dir() and e.name.isdigit()]


@quietly
def settings(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """KEY=, with its meaning; and where one key alone is left, the values that it may have."""
    known = schema()
    key = incomplete.partition("=")[0]
    fit = [key] if key in known else [name for name in known if name.startswith(key)]
    for name in fit:
        values = values_of(known[name]) if len(fit) == 1 else []
        for value in values or [""]:
            yield f"{name}={value}", meaning(known[name])


@quietly
def keys(ctx: typer.Context, incomplete: str) -> Iterator[str | tuple[str, str]]:
    """Settings, and the sections that they are in."""
    known = schema()
    yield from {name.partition(".")[0] for name in known}
    yield from ((name, meaning(about)) for name, about in known.items())


def meaning(about: Mapping[str, Any]) -> str:
    return " ".join(str(about.get("description", "")).split())


def schema() -> dict[str, Mapping[str, Any]]:
    """By key, what settings.schema.json says of every setting, whatever model it belongs to."""
    from pipeline import shipped

    whole = json.loads((shipped.folder() / shipped.SCHEMA).read_text(encoding="utf-8"))
    named = {f"#/definitions/{name}": part for name, part in whole["definitions"].items()}
    found: dict[str, Mapping[str, Any]] = {}
    for key, about in keys_of(whole, named, ""):
        found.setdefault(key, about)
    return found


def keys_of(
    part: Any, named: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The settings below a part of the schema."""
    if "$ref" in part:
        yield from keys_of(named[part["$ref"]], named, prefix)
    for key, about in part.get("properties", {}).items():
        if not isinstance(about, Mapping) or about.get("doNotSuggest") or key[0] == "$":
            continue  # refused here, another's name for a setting, or none
        inner = list(keys_of(about, named, f"{prefix}{key}."))
        if inner or about.keys() & {"properties", "$ref"}:
            yield from inner
        else:
            yield f"{prefix}{key}", about
    for condition in part.get("allOf", ()):
        yield from keys_of(condition.get("then", {}), named, prefix)


def values_of(about: Mapping[str, Any]) -> list[str]:
    """What a setting may be, as YAML; of numbers and names the default."""
    if "enum" in about:
        return [as_yaml(value) for value in about["enum"]]
    if about.get("type") == "boolean":
        return ["true", "false"]
    return [as_yaml(about["default"])] if about.get("default") not in (None, "", [], {}) else []


def as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
