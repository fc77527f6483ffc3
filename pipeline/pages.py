"""The templates of pages and cards, which are written with the data in them."""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape


def environment(*, escaped: bool = True, trimmed: bool = True) -> Environment:
    """Of pipeline/templates; what one of them is not told is an error.

    escaped: text, as HTML wants it; trimmed: of a line that only steers nothing is written.
    """
    made = Environment(
        loader=PackageLoader("pipeline"),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=trimmed,
        lstrip_blocks=trimmed,
    )
    made.filters["coded"] = coded
    return made


def template(name: str) -> Template:
    """Of a page."""
    return environment().get_template(name)


def coded(text: str) -> Markup:
    """A sentence as HTML; what stands in it between two ` is code, of words that stay whole."""

    def code(found: re.Match[str]) -> str:
        return "<code>" + re.sub(r"\S+", r"<span>\g<0></span>", found[1]) + "</code>"

    return Markup(re.sub("`([^`]+)`", code, str(escape(text))))
