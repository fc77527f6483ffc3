"""What is wrong with settings, a sentence each: who said it, what was expected, what is near."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

import models
from pipeline import tasks
from pipeline.settings_file import SECTIONS

MAKES = {"superres": "super-resolution", "forecast": "a forecast"}  # by what a model's TASK says


def told(
    error: ValidationError,
    origins: Mapping[str, str],
    section: str,
    known: Sequence[str],
    model: str | None = None,
) -> list[str]:
    """All faults, each with who made it.

    section: whose settings were judged; "" where its name is part of each fault's place. known: the
    keys that there are, with their sections. model: whose they are, if one is chosen.
    """
    faults: list[str] = []
    strange: dict[tuple[str, str], list[str]] = {}  # by who gave them, and section
    for fault in error.errors():
        where, kind = [str(part) for part in fault["loc"]], fault["type"]
        key = ".".join(part for part in (section, *where) if part)
        blame, given = blamed(origins, key), fault.get("input")
        said = f"{fault['msg'][0].lower()}{fault['msg'][1:]}"
        if kind == "extra_forbidden":
            if model and owners(key, model):
                strange.setdefault((blame, key.partition(".")[0]), []).append(key)
                continue
            sentence = f"unknown setting {key}; {hint(key, known)}"
            if key == "upstream":
                sentence = "its section upstream is for `cli upstream`, which takes this file"
        elif kind in ("model_type", "dict_type"):
            sentence = f"{key} is {given!r}; expected settings below it"
        elif kind == "value_error" and isinstance(given, Mapping):
            sentence = f"{key}: {fault['ctx']['error']}"  # of settings that do not go together
            below = dict.fromkeys(o for k, o in origins.items() if k.startswith(f"{key}."))
            blame = ", ".join(below) or blame
        elif kind == "missing":
            sentence, blame = f"{key}: {said}", blamed(origins, key.rpartition(".")[0])
        else:
            if kind == "value_error":
                said = str(fault["ctx"]["error"])
            sentence = f"{key}: {given!r}: {said}"
        faults.append(f"{blame}: {sentence}")
    return [*faults, *(of_others(who, keys, str(model)) for (who, _), keys in strange.items())]


def blamed(origins: Mapping[str, str], key: str) -> str:
    """Who set a key, a key below it, or the list that it is an item of."""
    if key in origins:
        return origins[key]
    return next(
        (
            origin
            for k, origin in origins.items()
            if f"{k}.".startswith(f"{key}.") or f"{key}.".startswith(f"{k}.")
        ),
        "settings",
    )


def hint(key: str, known: Sequence[str]) -> str:
    """Which setting may be meant by one that there is not."""
    section, _, leaf = key.rpartition(".")
    if same := [each for each in known if each.rpartition(".")[2] == leaf]:
        return f"did you mean {' or '.join(same)}?"  # without its section, or in another
    there = [each for each in known if each.rpartition(".")[0] == section]
    last = {each.rpartition(".")[2]: each for each in [*known, *SECTIONS]} if not section else {}
    last |= {each.rpartition(".")[2]: each for each in there}
    if near := difflib.get_close_matches(leaf, last, n=1):
        return f"did you mean {last[near[0]]}?"
    if there:
        return f"{section} has {', '.join(each.rpartition('.')[2] for each in there)}"
    return (
        f"settings lie in the sections {', '.join(SECTIONS[:-1])} and {SECTIONS[-1]}, as "
        "training.epochs; `cli settings show` lists them all"
    )


def owners(key: str, model: str) -> list[str]:
    """Whose setting it is, of the other models or tasks."""
    section, _, leaf = key.partition(".")
    if section == "model":
        others = [name for name in models.names() if name != model]
        return [name for name in others if leaf in models.find(name).Settings.model_fields]
    if section == "task":
        others = [kind for kind in tasks.SETTINGS if kind != models.find(model).TASK]
        return [MAKES[kind] for kind in others if leaf in tasks.SETTINGS[kind].model_fields]
    return []


def of_others(blame: str, keys: Sequence[str], model: str) -> str:
    """Settings that the model has not, in a sentence."""
    every = [owners(key, model) for key in keys]
    whose = [name for name in every[0] if all(name in each for each in every)]
    whose = whose or list(dict.fromkeys(name for each in every for name in each))
    one = len(keys) == 1
    return (
        f"{blame}: {', '.join(keys)} {'is a setting' if one else 'are settings'} of "
        f"{' and '.join(whose)}, not of {model}; leave {'it' if one else 'them'} out (`cli "
        f"settings show --model {model}` shows what it has)"
    )
