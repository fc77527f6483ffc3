"""The templates of pages and cards, which are written with the data in them."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def environment(*, escaped: bool = True, trimmed: bool = True) -> Environment:
    """Of pipeline/templates; what one of them is not told is an error.

    escaped: text, as HTML wants it; trimmed: of a line that only steers nothing is written.
    """
    return Environment(
        loader=PackageLoader("pipeline"),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=trimmed,
        lstrip_blocks=trimmed,
    )


def template(name: str) -> Template:
    """Of a page."""
    return environment().get_template(name)
