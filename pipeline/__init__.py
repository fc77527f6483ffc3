"""The stages (verbs) and what they share (nouns); see the README for the map."""

from importlib.metadata import version


def software() -> str:
    """What every product names as its maker."""
    return f"eddy {version('eddy')}"
