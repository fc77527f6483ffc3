"""What a track was made with, beside what is asked for now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import provenance
from pipeline.ingest import ConvertSettings
from pipeline.sources.options import Options


def kept(store: Path, settings: ConvertSettings) -> Path:
    """A store with a track that was converted so."""
    (store / "202107").mkdir(parents=True)
    attributes = {"settings": json.dumps(settings.model_dump())}
    (store / "202107/zarr.json").write_text(json.dumps({"attributes": attributes}))
    return store


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({}, {"max_missing": 0.05}, "--max-missing was 0.01, is now 0.05"),
        ({"valid_min": 150.0}, {}, "--valid-min was 150.0, is now not given"),
        (
            {"codec": "zstd", "valid_max": 330},
            {"valid_max": 340},
            "--codec was zstd, is now none, and --valid-max was 330.0, is now 340.0",
        ),
        (
            {"options": Options(variables=("tp",), region=(5, 16, 47, 55), accumulate=86400)},
            {"options": Options(variables=("tp", "t2m"), region=(5, 16, 47, 55), step=5400)},
            "--variable was tp, is now tp,t2m, and --accumulate was 24h, is now not given, "
            "and --step was not given, is now 1.5h",
        ),
    ],
)
def test_each_setting_that_differs_is_told(
    before: dict[str, Any], now: dict[str, Any], told: str, tmp_path: Path
) -> None:
    store = kept(tmp_path / "s.zarr", ConvertSettings(**before))
    found = provenance.other_settings(store, "202107", ConvertSettings(**now))
    assert found == f"202107 was converted with other settings: {told}"
    assert not set("{}'") & set(found)


def test_the_same_settings_differ_in_nothing(tmp_path: Path) -> None:
    how = ConvertSettings(options=Options(variables=("tp",)), valid_min=3)
    assert provenance.other_settings(kept(tmp_path / "s.zarr", how), "202107", how) == ""
