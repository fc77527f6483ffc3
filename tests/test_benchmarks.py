"""The benchmarks run and print what they promise; never how fast anything is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.sources import synthetic

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = ("--quick", "--size", "128", "--frames", "12")


def run(script: str, tmp_path: Path, *options: str) -> tuple[str, dict]:
    """What it prints, and its --json."""
    done = started(script, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "work").glob("eddy-benchmark-*")), "left behind"
    return done.stdout, json.loads((tmp_path / "told.json").read_text())


def started(script: str, tmp_path: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, FOLDER / script, "--json", "told.json", "--work", "work", *options],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


def compared(told: dict) -> set[tuple[str, str]]:
    return {(row["what"], row["reference"]) for row in told["rows"]}


def check_rows(printed: str, told: dict) -> None:
    assert told["machine"]["CPU"] in printed
    for row in told["rows"]:
        assert row["what"].strip() in printed
        assert row["low"] <= row["figure"] <= row["high"]
        if row["reference"]:
            assert row["ratio"] is not None
            assert row["reference"] in printed
    for what in told["skipped"]:
        assert f"skipped: {what}" in printed


@pytest.mark.slow
def test_convert(tmp_path):
    """On a given tree; the loader's on drawn frames."""
    synthetic.write_tree(tmp_path / "raw", [synthetic.Storm(hours=5)], size=128)
    printed, told = run("convert.py", tmp_path, "--tree", "raw", *TINY)
    check_rows(printed, told)
    assert "5 of raw" in printed
    rows = compared(told)
    assert ("wall", "h5py, astype, zarr-python") in rows
    assert ("wall", "read, inflate, write, fsync") in rows
    assert ("user CPU", "read and inflate") in rows
    assert ("wall, 2 processes", "1 process") in rows
    assert ("--codec zstd, wall", "zarr-python's defaults") in rows
    assert ("peak memory, a track of 80", "a track of 8") in rows


@pytest.mark.slow
def test_loader(tmp_path):
    printed, told = run("loader.py", tmp_path, *TINY)
    check_rows(printed, told)
    rows = compared(told)
    for what in ("64 crops", "whole frames of 128"):
        for reference in ("memcpy", "H5 files", "zarr-python"):
            assert (what, reference) in rows
    assert ("128 crops, --codec zstd", "zarr-python, same store") in rows
    assert ("step with a batch of 128 crops", "the step alone") in rows
    assert {"open and map 50 tracks", "memory gained, store of 1 MiB"} <= {what for what, _ in rows}
    named = {reference.split(",")[0] for _, reference in rows} | set(told["skipped"])
    assert {"zarrs", "tensorstore", "mosaicml-streaming", "litdata", "webdataset"} <= named


def test_a_tree_of_another_form_is_refused(tmp_path, tiny):
    tiny.track()  # its pixels lie in one piece
    done = started("convert.py", tmp_path, "--tree", str(tiny.root), *TINY)
    assert done.returncode == 1
    assert "not in deflated chunks" in done.stderr
    assert len(done.stderr.splitlines()) == 1
