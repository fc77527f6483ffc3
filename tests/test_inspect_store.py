"""A store: what it says of itself, and one sentence where it is damaged or unfinished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import cli
from pipeline import inspection, store
from pipeline.errors import UserError


def facts(path: Path, **options: Any) -> dict[str, Any]:
    found = inspection.inspect(path, **options).facts
    json.dumps(found, allow_nan=False)
    return found


@pytest.fixture
def made(tiny):
    """A store of two tracks, with a gap, a flagged and a blank frame, and a change of satellite."""
    tiny.track("202101", [0, 1, 2, 3, 6])
    pixels = tiny.pixels(7)
    pixels[0] = -19.1
    tiny.write(7, pixels=pixels)
    tiny.write(8, pixels=np.full((16, 16), 170.0), satellite="HMW9")
    tiny.track("199902", range(0, 9, 3))
    tiny.table("202101", tiny.rows([0, 1, 2, 20]))
    return tiny


@pytest.mark.parametrize("codec", store.CODECS)
def test_a_store_says_what_its_manifest_says(made, codec):
    done = made.conversion(codec=codec)
    found = facts(done.store)
    written = json.loads(done.manifest.read_text())
    for id, record in written["tracks"].items():
        same = [key for key in record if key != "mean"]
        assert {key: found["tracks"][id][key] for key in same} == {key: record[key] for key in same}
        assert found["tracks"][id]["statistics"]["mean"] == pytest.approx(record["mean"])
    for key, value in written["totals"].items():
        assert found["totals"][key] == value
    for key in ("manifest_hash", "software", "settings", "license", "attribution", "channels"):
        assert found[key] == written[key]
    assert (found["codec"], found["format_version"], found["finished"]) == (
        codec,
        store.FORMAT_VERSION,
        True,
    )
    track = found["tracks"]["202101"]
    assert track["shape"] == [1, 16, 16]
    assert track["hours_missing"] == 2
    assert track["satellite_changes"] == [["2021-07-19T08:00:00", "HMW8", "HMW9"]]
    assert track["missing_fraction"]["max"] == pytest.approx(1 / 16)
    assert track["bytes"] == sum(
        file.stat().st_size for file in (done.store / "202101").rglob("*") if file.is_file()
    )


def test_statistics_are_those_of_the_usable_pixels(made):
    opened = made.store()
    values = np.concatenate([t.frames[t.flag == 0].ravel() for t in opened]).astype(np.float64)
    values = values[~np.isnan(values)]
    found = {key: each[0] for key, each in facts(opened.path)["totals"]["statistics"].items()}
    assert (found["min"], found["max"]) == (values.min(), values.max())
    assert found["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert found["std"] == pytest.approx(values.std(), rel=1e-9)


def test_some_tracks_or_one_by_its_folder(made, monkeypatch):
    path = made.conversion().store
    assert list(facts(path, ids=["199902"])["tracks"]) == ["199902"]
    assert facts(path / "199902") == facts(path, ids=["199902"])
    monkeypatch.chdir(path / "199902")
    assert list(facts(Path("."))["tracks"]) == ["199902"]
    with pytest.raises(UserError, match="no track 9; it has 199902, 202101"):
        inspection.inspect(path, ids=["9"])


@pytest.mark.parametrize("columns", [80, 200])
def test_its_tables_fit(made, columns):
    path = made.conversion().store
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(cli.app, ["inspect", str(path)])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines()[1:] if not line.startswith("Next ")]
    assert max(len(line.rstrip()) for line in lines) <= columns
    assert "…" not in result.stdout
    assert "HMW8 (9), HMW9 (1), 1 change" in result.stdout
    assert "CC BY 4.0" in result.stdout


def test_its_page_has_pictures_and_the_worst_frame(made, tmp_path):
    path = made.conversion().store
    words = ["inspect", str(path), "--html", str(tmp_path / "x.html")]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    page = (tmp_path / "x.html").read_text()
    assert 4 < page.count("data:image/png;base64,") <= 8
    assert "too much missing" in page
    assert ">HMW9</span>" in page  # where the satellite changed


def remove_shard(path: Path) -> None:
    (path / "202101" / store.SHARD_FILE).unlink()


def cut_shard(path: Path) -> None:
    file = path / "202101" / store.SHARD_FILE
    file.write_bytes(file.read_bytes()[:-3])


def spoil_flags(path: Path) -> None:
    file = path / "202101/flag/c/0"
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))


def lose_track(path: Path) -> None:
    shutil.rmtree(path / "202101")


def lose_triplets(path: Path) -> None:
    shutil.rmtree(path / "triplets")


def lose_a_variable(path: Path) -> None:
    shutil.rmtree(path / "202101/satellite")


def spoil_root(path: Path) -> None:
    (path / "zarr.json").write_text("{")


def unfinish(path: Path) -> None:
    file = path / "zarr.json"
    root = json.loads(file.read_text())
    del root["attributes"]["format_version"]
    file.write_text(json.dumps(root))


def without_settings(path: Path) -> None:
    file = path / "zarr.json"
    root = json.loads(file.read_text())
    del root["attributes"]["settings"]
    file.write_text(json.dumps(root))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (remove_shard, "202101/frames/c/0/0/0/0: damaged"),
        (cut_shard, "202101/frames/c/0/0/0/0: damaged"),
        (spoil_flags, "202101/flag: damaged"),
        (lose_track, "202101: not there, though the store lists it"),
        (lose_triplets, "triplets: damaged or gone"),
        (lose_a_variable, "satellite: not there"),
        (spoil_root, "not the metadata of a Zarr v3 group"),
        (unfinish, "not a finished store"),
        (without_settings, "its metadata make no sense"),
    ],
)
def test_damage_is_one_sentence(made, harm, told):
    path = made.conversion().store
    harm(path)
    result = CliRunner().invoke(cli.app, ["inspect", str(path)])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    assert told in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output


def test_an_older_format(made):
    """Format 1 kept a track's record as an object, not as text."""
    path = made.conversion().store
    for file in (path / "199902/zarr.json", path / "202101/zarr.json"):
        node = json.loads(file.read_text())
        node["attributes"]["record"] = json.loads(node["attributes"]["record"])
        file.write_text(json.dumps(node))
    assert facts(path)["tracks"]["202101"]["best_track_rows_without_frame"] == 1
