"""A JSON Schema of settings files, by which editors complete, explain and check them.

Draft 7, which is what the editors' YAML server understands (github.com/redhat-developer/
yaml-language-server). configs/ keeps it as a file, which `cli settings schema --out` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import BaseModel

import models
from pipeline import atomic, explanations, tasks
from pipeline.experiment.plan import UpstreamSettings
from pipeline.settings import DataSettings, RunSettings, ScalingSettings, TrainSettings
from pipeline.settings_file import ALIASES, BESIDE, WITHOUT_EFFECT

DRAFT = "http://json-schema.org/draft-07/schema#"
Schema = dict[str, Any]


def schema() -> Schema:
    """Of a settings file: which keys there are, by the model and its task, and what each means.

    Nothing is required: what is left out has its default. Values that do not go together are told
    of by `cli settings check` alone.
    """
    about = {name: field.description for name, field in RunSettings.model_fields.items()}
    kinds = {name: models.find(name) for name in models.names()}
    default = RunSettings().model_name
    return {
        "$schema": DRAFT,
        "title": "Settings of eddy",
        "description": "For cli train, and with a section upstream for cli upstream.",
        "type": "object",
        "properties": {
            "model": {
                "description": about["model"],
                "type": "object",
                "properties": {"name": name_of(default)},
                "allOf": [
                    {"if": named(name, default), "then": {"$ref": f"#/definitions/model_{name}"}}
                    for name in kinds
                ],
            },
            "task": {"description": about["task"], "type": "object"},
            "data": section("data", DataSettings, about["data"]),
            "scaling": section("scaling", ScalingSettings, about["scaling"]),
            "training": section("training", TrainSettings, about["training"]),
            "upstream": section("upstream", UpstreamSettings, UpstreamSettings.__doc__),
            **elsewhere(""),
            **{key: {"type": "string", "description": "Decides nothing."} for key in BESIDE},
        },
        "additionalProperties": False,
        "allOf": [
            {
                "if": within("model", named(name, default), name, default),
                "then": {
                    "properties": {
                        "task": {"$ref": f"#/definitions/task_{module.TASK}"},
                        "training": {"properties": refused(module.Settings)},
                    }
                },
            }
            for name, module in kinds.items()
        ],
        "definitions": {
            **{f"model_{name}": of_model(name, module) for name, module in kinds.items()},
            **{
                f"task_{kind}": section("task", its, its.__doc__)
                for kind, its in tasks.SETTINGS.items()
            },
        },
    }


def text() -> str:
    """As a file."""
    return atomic.json_text(schema())


def named(name: str, default: str) -> Schema:
    """A section model of that name; one without a name is the default model's."""
    return within("name", {"const": name}, name, default)


def within(key: str, its: Schema, name: str, default: str) -> Schema:
    """That key is so; of the default model, or it is not there."""
    made: Schema = {"properties": {key: its}}
    return made if name == default else {**made, "required": [key]}


def name_of(default: str) -> Schema:
    told = {name: explanations.first(models.find(name).__doc__) for name in models.names()}
    return {"enum": list(told), "default": default, "description": "\n".join(told.values())}


def of_model(name: str, module: ModuleType) -> Schema:
    """Its section, but for names of settings that its task has not."""
    made = section("model", module.Settings, explanations.first(module.__doc__))
    has = tasks.SETTINGS[module.TASK].model_fields
    known = {
        key: its
        for key, its in made["properties"].items()
        if (target := ALIASES.get(f"model.{key}", "").partition("."))[0] != "task"
        or target[2] in has
    }
    return {**made, "properties": {"name": {"const": name}, **known}}


def section(name: str, kind: type[BaseModel], about: str | None) -> Schema:
    """The keys of one section, those of the specification's files too."""
    made = kind.model_json_schema()
    known = {key: plain(its) for key, its in made["properties"].items()}
    for key, field in kind.model_fields.items():
        words = explanations.allowed(field.annotation)
        if {"on", "off"} <= {*map(str, words)}:  # which to YAML 1.1 are truth values
            known[key]["enum"] = [*words, True, False]
    return {
        "description": about or name,
        "type": "object",
        "properties": {**known, **elsewhere(f"{name}.")},
        "additionalProperties": False,
    }


def plain(field: Mapping[str, Any]) -> Schema:
    """A field as pydantic describes it, without what only later drafts and programs know."""
    made = {key: its for key, its in field.items() if key not in ("title", "format")}
    if "description" in made:
        made["description"] = " ".join(made["description"].split())
    if "enum" in made:
        made.pop("type", None)  # which the words have, and not always one
    if "prefixItems" in made:
        made["items"] = made.pop("prefixItems")
    for key in ("anyOf", "items"):
        if isinstance(made.get(key), list):
            made[key] = [plain(each) for each in made[key]]
        elif key in made:
            made[key] = plain(made[key])
    return made


def elsewhere(prefix: str) -> Schema:
    """Keys that the TempoGAN specification's config.json has in that section, and where they go."""
    moved = {key: f"The specification's name for {ours}." for key, ours in ALIASES.items()}
    idle = {key: f"No effect: {why}." for key, why in WITHOUT_EFFECT.items()}
    return {
        key.removeprefix(prefix): {"description": told, "doNotSuggest": True}
        for key, told in {**moved, **idle}.items()
        if key.startswith(prefix) and "." not in key.removeprefix(prefix)
    }


def refused(kind: type[BaseModel]) -> Schema:
    """Keys in training that would be settings of a model which has none of that name."""
    return {
        key.removeprefix("training."): False
        for key, ours in ALIASES.items()
        if key.startswith("training.")
        and ours.startswith("model.")
        and ours.removeprefix("model.") not in kind.model_fields
    }
