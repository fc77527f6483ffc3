"""What the settings of more than one model share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator


def taken_by(arch: str, its: Mapping[str, Any]) -> Any:
    """A validator of Settings: what that arch has otherwise, where a setting is not given."""

    def fill(given: Any) -> Any:
        if isinstance(given, dict) and given.get("arch") == arch:
            return {**its, **given}
        return given

    return model_validator(mode="before")(fill)
