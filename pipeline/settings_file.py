"""What a settings file and `--set` say, by key, before anybody judges it.

Nothing heavy is imported here: a file that cannot be read is told of before torch is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline import runs, shipped
from pipeline.errors import UsageError, UserError

# The keys of the TempoGAN specification's config.json, where ours lie elsewhere ...
ALIASES = {
    "model.upsample_factor": "task.factor",
    "model.scale_factor": "task.factor",
    "training.lr_g": "training.lr_of.generator",
    "training.lr_d": "training.lr_of.discriminators",
    "training.lambda_content": "model.lambda_content",
    "training.lambda_adv_s": "model.lambda_adv_s",
    "training.lambda_adv_t": "model.lambda_adv_t",
    "training.save_interval": "training.checkpoint_every_epochs",
    "training.log_interval": "training.log_every_steps",
    "device": "training.device",
}
# ... and those that decide nothing here, each with the reason.
WITHOUT_EFFECT = {
    "model.in_channels": "the channels are measured from the store",
    "model.out_channels": "the channels are measured from the store",
    "training.data_root": "training reads a store; name it with --store",
    "training.num_workers": "the loader maps the store and needs no workers",
    "training.val_interval": "validation runs after every epoch",
    "training.checkpoint_dir": "checkpoints lie in the run folder; name it with --run",
    "training.log_dir": "logs lie in the run folder; name it with --run",
}
# What editors and people may write at the top of a file, and decides nothing.
BESIDE = ("$schema", "$comment")
SECTIONS = ("model", "task", "data", "scaling", "training")
SET = "--set "
REASONS = {  # in the YAML parser's words, and in ours
    "mapping values are not allowed": "a colon too many; or the line above lacks one, or is "
    "indented otherwise",
    "could not find expected ':'": "no colon with a space behind it; expected KEY: VALUE",
    "expected <block end>, but found '<block": "indented otherwise than the lines above it",
    "expected <block end>": "more than one value; put it between quotation marks",
    r"found character '\t'": "a tab; indent with spaces",
    "cannot start any token": "a value that begins so needs quotation marks",
    "undefined alias": "a value that begins with * needs quotation marks",
    "unexpected end of stream": "a quotation mark that nothing closes",
    "expected ',' or": "a bracket that nothing closes, or a comma is missing",
    "expected the node content": "a value is missing",
    "could not determine a constructor": "a tag (!...); expected a plain value",
    "found unhashable key": "a key that is no word; expected KEY: VALUE",
}
FROM = ("could not find", "unexpected end", "expected ',' or")  # of which it says where they end


class Given(NamedTuple):
    """What a file and overrides say, by key joined by dots."""

    values: dict[str, Any]
    origins: dict[str, str]  # by key, to blame whoever set it
    notes: list[str]  # a sentence each


def gathered(file: Path | None, overrides: Sequence[str] = ()) -> Given:
    """What a settings file and `KEY=VALUE` overrides say, under the names that settings have here.

    Raises UsageError for a file or value that cannot be read, and a setting that one of them gives
    under two names.
    """
    given = Given({}, {}, [])
    if file:
        put(given, flattened(read(file)), str(file))
    for item in overrides:
        key, sign, text = item.partition("=")
        if not sign or not all(part.strip() for part in key.split(".")):
            raise UsageError(f"{SET}{item}: expected KEY=VALUE, as in training.batch_size=8")
        leaves = flattened({key.strip(): parsed(text, f"{SET}{item}")})
        other = dict(leaves).get("model.name")
        if other and given.values.get("model.name", other) != other:
            its = [k for k in given.values if k.startswith("model.") and k != "model.name"]
            leave_out(given, its, f"the model {given.values['model.name']}")
        put(given, leaves, f"{SET}{item}")
    return given


def leave_out(given: Given, keys: Iterable[str], what: str) -> None:
    """Forget those of the keys that a file gives, with a note. what: for which it gives them."""
    if gone := [key for key in keys if not given.origins[key].startswith(SET)]:
        file = given.origins[gone[0]]
        for key in gone:
            del given.values[key], given.origins[key]
        given.notes.append(f"{', '.join(gone)}: left out, for {file} gives them for {what}")


def put(given: Given, leaves: Iterable[tuple[str, Any]], origin: str) -> None:
    """Add what one file or override says. Raises UsageError for a setting that it gives twice."""
    names: dict[str, str] = {}  # by our name the one that is used here
    for key, value in leaves:
        if key in WITHOUT_EFFECT:
            given.notes.append(f"{key} has no effect: {WITHOUT_EFFECT[key]}")
            continue
        ours = ALIASES.get(key, key)
        if ours in names and value != given.values[ours]:
            raise UsageError(
                f"{origin}: {names[ours]} is {given.values[ours]!r} and {key} is {value!r}, which "
                "are two names of one setting; leave one of them out"
            )
        if value == {} and any(name.startswith(f"{ours}.") for name in names):
            continue  # lr_of: {} beside lr_g takes nothing back
        names[ours] = key
        given.values[ours], given.origins[ours] = value, origin


def read(file: Path) -> dict[str, Any]:
    """A mapping from a YAML or JSON file, or one that comes with eddy. Raises UsageError."""
    file = shipped.find(file)
    try:
        text = file.read_text(encoding="utf-8-sig")  # Windows' editors begin with a mark
        # YAML forbids the tabs that JSON allows
        value = (
            json.loads(text, object_pairs_hook=once)
            if file.suffix == ".json"
            else yaml.load(text, OnceLoader)
        )
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: not readable as YAML or JSON ({reason(error)})") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{file}: holds a {type(value).__name__}; expected sections with settings")
    empty = {key for key in SECTIONS if value.get(key, "") is None}  # all comments
    return {key: its for key, its in value.items() if key not in {*BESIDE, *empty}}


def reason(error: Exception) -> str:
    """What is wrong with a file, and in which line and column, counted from 1."""
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} is not UTF-8; save it as UTF-8"
    if isinstance(error, json.JSONDecodeError):
        told = f"{error.msg[0].lower()}{error.msg[1:]}"
        return f"line {error.lineno}, column {error.colno}: {told}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        at, said = error.problem_mark, str(error.problem)
        if error.context_mark and any(words in said for words in FROM):
            at = error.context_mark
        told = next((ours for theirs, ours in REASONS.items() if theirs in said), said)
        return f"line {at.line + 1}, column {at.column + 1}: {told}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1} is none that YAML allows; save it as plain text"
    return " ".join(str(error).split())


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping without repeated keys, the first of which would be lost. Raises ValueError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"{twice} is given twice in one section; leave one of them out")
    return found


class OnceLoader(yaml.SafeLoader):
    """YAML's plain values; a key that is repeated within a mapping is a ValueError."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        once([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return super().construct_mapping(node, deep=deep)


def of_run(run: Path) -> dict[str, Any]:
    """The resolved settings that a run was started with. Raises UserError where there are none."""
    file = run / "settings.yaml"
    if not file.is_file():
        near = runs.near(run) if not run.exists() else ""
        meant = f"{near} Else " if near.endswith("?") else ""
        raise UserError(
            f"{run}: no training to resume here; {meant}leave out --resume to start one"
        )
    return read(file)


def parsed(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"{where}: {text!r} is not a YAML value") from None


def flattened(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of a nested mapping, keys joined by dots."""
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves += flattened(value, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise UsageError(f"{key}: {section} is a value, not a section")
        inner[leaf] = value
    return tree
