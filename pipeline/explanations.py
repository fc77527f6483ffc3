"""Settings as YAML with the meaning of each, as the docstrings below their fields say it."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

COLUMNS = 100
ALIGNED = 32  # trailing comments begin here, where the settings before them are no longer
INDENT = "  "


def allowed(annotation: Any) -> list[Any]:
    """The words of a Literal, also one within a union or a tuple; none of other types."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return list(dict.fromkeys(word for part in get_args(annotation) for word in allowed(part)))


def meaning(field: FieldInfo) -> str:
    """In one line, after the words that it may be."""
    words = [w if isinstance(w, str) else json.dumps(w) for w in allowed(field.annotation)]
    told = " ".join((field.description or "").split())  # none where there is no source to read
    return ". ".join(part for part in (" | ".join(words), told) if part)


def first(docstring: str | None) -> str:
    """Its first paragraph in one line; "" with python -OO."""
    return " ".join((docstring or "").partition("\n\n")[0].split())


def value(of: Any) -> str:
    """A plain value as YAML in one line."""
    text = yaml.safe_dump(of, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def section(name: str, about: str, values: Mapping[str, Any], meanings: Mapping[str, str]) -> str:
    """One section; a comment stands behind its setting where it fits, else above."""
    settings = {key: f"{INDENT}{key}: {value(of)}" for key, of in values.items()}
    column = max((len(s) for s in settings.values() if len(s) <= ALIGNED), default=0)
    lines = [*wrapped(about, ""), f"{name}:"]
    for key, setting in settings.items():
        behind = f"{setting:<{column}}  # {meanings[key]}"
        if not meanings[key]:
            lines.append(setting)
        elif len(behind) <= COLUMNS:
            lines.append(behind)
        else:
            lines += [*wrapped(meanings[key], INDENT), setting]
    return "\n".join(lines) + "\n"


def wrapped(told: str, indent: str) -> list[str]:
    """As comments."""
    start = f"{indent}# "
    return textwrap.wrap(
        told, COLUMNS, initial_indent=start, subsequent_indent=start, break_on_hyphens=False
    )
