"""Looking before converting: what `cli inspect` says of a tree is what `cli convert` then makes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from rich.console import Console
from typer.testing import CliRunner, Result

import cli
from pipeline import convert as converting
from pipeline import inspection
from pipeline.errors import UserError
from pipeline.ingest import ConvertSettings
from pipeline.inspecting import timeline
from pipeline.sources.synthetic import demo_storms, write_tree

DATA = Path(os.environ.get("EDDY_DATA", Path(__file__).parents[2] / "shared/data/WP"))


def run(*words: object, columns: int = 80) -> Result:
    env = {"COLUMNS": str(columns)}
    return CliRunner(env=env).invoke(cli.app, ["inspect", *(str(word) for word in words)])


def refused(code: int, told: str, *words: object) -> None:
    result = run(*words)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert re.search(told, result.stderr.splitlines()[-1]), result.stderr
    assert "Traceback" not in result.output


def facts(path: Path, **options: Any) -> dict[str, Any]:
    found = inspection.inspect(path, workers=1, **options).facts
    json.dumps(found, allow_nan=False)  # plain data
    return found


def spoil(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def lose(pixels: np.ndarray, count: int) -> np.ndarray:
    pixels.flat[:count] = -19.1
    return pixels


@pytest.fixture
def ailing(tiny):
    """One typhoon with every fault of a frame, a sound one, and one that cannot be read at all."""
    files = tiny.track("202101", [0, 1, 2, 3, 4, 7, 8, 9, 10, 11])
    spoil(files[1])
    tiny.write(2, pixels=tiny.pixels(2, (8, 16)))
    tiny.write(3, pixels=np.full((16, 16), 170.0))
    tiny.write(4, pixels=lose(tiny.pixels(4), 40))
    tiny.write(7, pixels=lose(tiny.pixels(7), 2))
    files[-1].rename(tiny.path(11, satellite="HMW9"))
    tiny.table("202101", tiny.rows([0, 1, 2, 20, 21]))
    tiny.track("199902", range(0, 12, 3))
    spoil(tiny.write(0, "202103"))
    (tiny.root / "image/odd.h5").write_bytes(b"")
    about = {"202101": {"id": "202101", "name": "IN-FA", "season": 2021}}
    (tiny.root / "metadata.json").write_text(json.dumps(about))
    return tiny


# a tree


def beside_a_conversion(root: Path, home: Path, **settings: Any) -> dict[str, Any]:
    """Facts of a tree; asserts that a conversion of it has the very same in its manifest."""
    found = facts(root, **settings)
    done = converting.convert(
        root, home / "S.zarr", ConvertSettings(**settings), manifests=home / "m", workers=1
    )
    written = json.loads((home / "m/S.json").read_text())
    for id, record in written["tracks"].items():
        assert {key: found["tracks"][id][key] for key in record} == record
    left_out = [id for id in found["tracks"] if id not in written["tracks"]]
    assert all(found["tracks"][id]["frames"] == 0 for id in left_out)
    assert found["problems"] == written["problems"]
    assert {key: found["totals"][key] for key in written["totals"]} == written["totals"]
    assert found["settings"] | {"codec": "none"} == written["settings"]
    assert done.triplets == found["totals"]["triplets"]
    return found


def test_the_numbers_are_those_of_the_manifest(ailing, tmp_path):
    found = beside_a_conversion(ailing.root, tmp_path / "out")
    track = found["tracks"]["202101"]
    assert track["files"] == 10
    assert track["frames"] == 8
    assert [track[name] for name in ("unreadable", "other_shapes", "blank")] == [1, 1, 1]
    assert (track["frames_with_missing_pixels"], track["too_many_missing"]) == (2, 1)
    assert track["hours_missing"] == 4  # 1, 2, 5, 6
    assert track["satellite_changes"] == [["2021-07-19T11:00:00", "HMW8", "HMW9"]]
    assert (track["frames_without_best_track"], track["best_track_rows_without_frame"]) == (7, 2)
    assert track["triplets"] == 3  # 7 8 9 10 11
    assert (track["name"], track["season"]) == ("IN-FA", 2021)
    assert track["by_frame"]["state"] == [
        timeline.SOUND,
        timeline.UNREADABLE,
        timeline.OTHER_SHAPE,
        timeline.EMPTY,
        timeline.TOO_MANY,
        timeline.PARTLY,
        *[timeline.SOUND] * 4,
    ]
    early = found["tracks"]["199902"]
    assert (early["step_minutes"], early["hours_missing"], early["triplets"]) == (180, 0, 2)
    assert early["season"] == 1999
    assert found["tracks"]["202103"]["frames"] == 0
    total = found["totals"]
    assert (total["files"], total["frames"], total["tracks"]) == (15, 12, 2)
    assert (total["unreadable"], total["flagged"], total["triplets"]) == (2, 2, 5)
    assert total["store_bytes"] == 12 * 16 * 16 * 4


def test_another_threshold_is_the_conversion_s_too(ailing, tmp_path):
    found = beside_a_conversion(ailing.root, tmp_path / "out", max_missing=0.5)
    assert found["tracks"]["202101"]["too_many_missing"] == 0


def test_a_synthetic_release(tmp_path):
    write_tree(tmp_path / "WP", demo_storms(6), size=32)
    found = beside_a_conversion(tmp_path / "WP", tmp_path / "out")
    assert found["totals"]["flagged"] == 3
    assert found["totals"]["gaps"] == 1


@pytest.mark.skipif(not (DATA / "image").is_dir(), reason=f"no Digital Typhoon files in {DATA}")
def test_the_real_tree(tmp_path):
    found = beside_a_conversion(DATA, tmp_path / "out")
    assert (found["totals"]["tracks"], found["totals"]["frames"]) == (3, 83)
    assert found["totals"]["triplets"] == 38
    assert found["tracks"]["198702"]["flagged"] == 24
    assert found["tracks"]["198702"]["hours_missing"] == 5
    assert found["problems"] == []


@pytest.mark.slow
def test_several_processes_find_the_same(ailing):
    assert inspection.inspect(ailing.root, workers=2).facts == facts(ailing.root)


def test_only_the_typhoons_asked_for(ailing):
    found = facts(ailing.root, ids=["199902"])
    assert list(found["tracks"]) == ["199902"]
    assert found["totals"]["files"] == 4
    refused(1, "no track 202199; it has 199902, 202101, 202103", ailing.root, "--ids", "202199")


def test_quick_reads_no_frame(ailing, monkeypatch):
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a frame was read")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.sources.hdf5_image.with_image", forbidden)
        found = facts(ailing.root, quick=True)
    whole = facts(ailing.root)
    track = found["tracks"]["202101"]
    assert track["frames"] is track["blank"] is track["triplets"] is track["mean"] is None
    assert track["triplets_at_most"] == 3 + 3  # 0 1 2 3 4 | 7 8 9 10 11
    assert track["small_files"] == 1
    for name in ("files", "bytes", "season", "name", "step_minutes", "satellite_changes"):
        assert track[name] == whole["tracks"]["202101"][name], name
    assert found["totals"]["triplets"] is None
    result = run(ailing.root, "--quick")
    assert result.exit_code == 3
    told = " ".join(result.stdout.split())
    assert "not known are missing pixels, blank and unreadable frames" in told


def test_two_files_of_one_hour_are_all_named(ailing):
    copies = ailing.root / "image" / "copies"
    copies.mkdir()
    shutil.copy(ailing.path(0), copies)
    ailing.write(8, satellite="GOE9", pixels=ailing.pixels(99))
    found = facts(ailing.root)
    assert found["tracks"]["202101"]["duplicates"] == 2
    assert found["tracks"]["199902"]["duplicates"] == 0
    assert found["tracks"]["202101"]["frames"] == 8  # as if the second of each were moved away
    assert any("copies" in line and "the same bytes" in line for line in found["duplicates"])
    assert any("GOE9" in line and "different bytes" in line for line in found["duplicates"])
    with pytest.raises(UserError, match="two files for one hour"):
        ailing.conversion()
    (ailing.root / "image/odd.h5").unlink()
    result = run(ailing.root)
    assert result.exit_code == 1
    assert "IN-FA" in result.stdout
    assert "2 hours are claimed by two files each, of 202101" in result.stderr


def test_what_remains_of_a_tree_with_duplicates_is_as_converted(ailing, tmp_path):
    second = ailing.write(8, satellite="HMW9")
    with_pair = facts(ailing.root)
    second.unlink()
    found = beside_a_conversion(ailing.root, tmp_path / "out")
    for name in ("channels", "problems", "title", "license", "attribution"):
        assert with_pair[name] == found[name]
    with_pair["tracks"]["202101"]["duplicates"] = 0
    assert with_pair["tracks"] == found["tracks"]


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"202101": 3}', '{"202101": {"name": 7, "season": "x"}}', "\xff"]
)
def test_a_spoiled_table_of_names_is_no_obstacle(tiny, text):
    tiny.track()
    (tiny.root / "metadata.json").write_bytes(text.encode("latin-1"))
    found = facts(tiny.root)
    assert (found["tracks"]["202101"]["name"], found["tracks"]["202101"]["season"]) == (None, 2021)
    assert bool(found["notes"]) == (text in ("{", "[1]", "\xff"))


def test_not_one_readable_frame(tiny):
    for file in tiny.track(hours=range(3)):
        spoil(file)
    result = run(tiny.root)
    assert result.exit_code == 1
    assert re.search(r"raw: not one readable frame; .*not a readable HDF5", result.stderr)
    assert "3 unreadable" in result.stdout


def test_a_folder_around_a_tree_is_named(ailing):
    assert any("raw is a tree of its own" in note for note in facts(ailing.home)["notes"])
    assert facts(ailing.root)["notes"] == []


# what is shown


@pytest.mark.parametrize("columns", [80, 200])
def test_every_line_fits_and_no_number_is_cut(ailing, columns):
    result = run(ailing.root, columns=columns)
    assert result.exit_code == 3  # files would be left out
    table = result.stdout.split("Left out:")[0].splitlines()[1:]
    assert max(len(line.rstrip()) for line in table) <= columns
    assert "…" not in "".join(table)
    assert sum(line.startswith("202101") for line in table) == (1 if columns == 200 else 3)
    assert "2021-07-19 11h" in result.stdout
    assert "2021 IN-FA" in result.stdout
    for problem in facts(ailing.root)["problems"]:
        assert f"Left out: {problem}" in result.stdout


def test_of_many_tracks_those_with_faults_are_shown(tmp_path):
    track = {
        "files": 2, "frames": 2, "bytes": 9, "gaps": [], "hours_missing": 0, "satellites": {"A": 2},
        "satellite_changes": [], "start": "2021-07-19T00:00:00", "end": "2021-07-19T01:00:00",
        "step_minutes": 60, "flagged": 0, "season": 2021, "name": None, "shape": [1, 4, 4],
    }  # fmt: skip
    tracks = {f"2021{n:02d}": track for n in range(60)}
    tracks["202159"] = {**track, "flagged": 1}
    console = Console(width=200, file=(tmp_path / "screen").open("w"))
    from pipeline.inspecting import track_table

    for part in track_table.table_of(tracks, track_table.TREE, console):
        console.print(part)
    console.file.close()
    text = (tmp_path / "screen").read_text()
    assert "30 of 60 tracks are shown" in text
    assert "202159" in text
    assert "202158" not in text


def test_json_has_it_all_and_alone(ailing, tmp_path):
    result = run(ailing.root, "--json", "-")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == facts(ailing.root)
    assert run(ailing.root, "--json", tmp_path / "x.json").exit_code == 3
    assert json.loads((tmp_path / "x.json").read_text()) == facts(ailing.root)


def test_the_page_stands_alone(ailing, tmp_path):
    ailing.table("202101", ailing.rows([0]))
    (ailing.root / "metadata.json").write_text('{"202101": {"name": "<b>&"}}')
    result = run(ailing.root, "--html", tmp_path / "x.html")
    assert result.exit_code == 3, result.output
    page = (tmp_path / "x.html").read_text()
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)|@import|url\(|<script|<link", page)
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert page.count("data:image/png;base64,") >= 4
    for state in (timeline.EMPTY, timeline.TOO_MANY, timeline.UNREADABLE, timeline.NO_FILE):
        assert state in page
    strip = page.split('aria-label="Hours of 202101')[1].split("</svg>")[0]
    assert 'viewBox="0 0 12 10"' in page  # hours 0 to 11
    assert "2021-07-19 03:00 UTC: blank" in strip
    assert 'x="7" y="0" width="1"' in strip  # partly missing, after the gap of 5 and 6
    assert "odd.h5: name not understood" in page


def test_a_quick_page_has_no_pictures(ailing, tmp_path):
    assert run(ailing.root, "--quick", "--html", tmp_path / "x.html").exit_code == 3
    page = (tmp_path / "x.html").read_text()
    assert "data:image" not in page
    assert timeline.UNKNOWN in page


# neither of these


def test_what_is_none_of_these(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(1, "no such file or folder; expected an H5 file, a raw tree", tmp_path / "absent")
    refused(1, "empty: is an empty folder; expected", tmp_path / "empty")
    (tmp_path / "x.txt").write_text("words")
    refused(1, "x.txt: is not an HDF5 file; expected", tmp_path / "x.txt")
    (tmp_path / "x.yaml").write_text("a: 1")
    refused(1, "is a file of settings", tmp_path / "x.yaml")
    os.mkfifo(tmp_path / "pipe")
    refused(1, "neither a file nor a folder", tmp_path / "pipe")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/settings.yaml").write_text("a: 1")
    refused(1, "is a run, .*`cli evaluate .*run` .*`cli report .*run`", tmp_path / "run")
    folder = tmp_path / "thesis"
    folder.mkdir()
    for name in "abcdefg":
        (folder / name).write_text("")
    refused(1, "but a, b, c, d, e and 2 more; expected", folder)


def test_places_that_cannot_be_written_are_refused_before_anything_is_read(
    ailing, tmp_path, monkeypatch
):
    monkeypatch.setattr(inspection, "inspect", None)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    options = ("--json", "--html")
    for option in options:
        refused(1, "folder: is a folder; expected", ailing.root, option, tmp_path / "folder")
        refused(1, "file: cannot be written to", ailing.root, option, tmp_path / "file" / "x")
    # root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode, **_: not mode & os.W_OK)
    for option in options:
        refused(1, "cannot be written to; choose", ailing.root, option, tmp_path / "x")


def test_a_disk_that_refuses_still_shows_what_was_found(ailing, tmp_path, monkeypatch):
    def full(path, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    result = run(ailing.root, "--quick", "--json", tmp_path / "x.json")
    assert result.exit_code == 1
    assert "202101" in result.stdout
    assert f"{tmp_path / 'x.json'}: no space left on device; free" in result.stderr


def test_the_sentence_names_what_a_temporary_was_to_become():
    error = OSError(errno.EACCES, "Permission denied", "/a/.b.7.tmp", None, "/a/b")
    assert cli.on_disk(error).startswith("/a/b: permission denied; choose")


def test_options_that_mean_nothing_there(tiny):
    file = tiny.write(0)
    refused(2, "is one H5 file; --ids and --quick", file, "--ids", "202101", "--quick")
    store = tiny.conversion().store
    refused(2, "is a store; --max-missing", store, "--max-missing", "0.5")


def test_a_strip_of_hours():
    by_frame = {
        "time": [f"2021-07-19T{hour:02d}:00:00" for hour in (22, 23)] + ["2021-07-20T03:00:00"],
        "state": ["sound", "sound", "blank"],
    }
    runs = timeline.strip(by_frame, 3600)
    assert [(r["state"], r["start"], r["steps"]) for r in runs] == [
        ("sound", 0, 2),
        (timeline.NO_FILE, 2, 3),
        ("blank", 5, 1),
    ]
    assert (runs[1]["first"], runs[1]["last"]) == ("2021-07-20T00:00:00", "2021-07-20T02:00:00")


def test_one_netcdf_file_of_many_frames_is_a_source(tmp_path: Path) -> None:
    """Its bytes count once, and a dry field is no blank one."""
    times = np.arange("2023-12-30", "2024-01-02", np.timedelta64(6, "h"), "datetime64[ns]")
    rain = np.zeros((len(times), 4, 5), np.float32)
    rain[3] = 0.002
    axes = {"latitude": [50, 49, 48, 47], "longitude": [5, 6, 7, 8, 9], "valid_time": times}
    dims = ("valid_time", "latitude", "longitude")
    attrs = {"units": "m", "long_name": "Total precipitation"}
    xr.Dataset({"tp": (dims, rain, attrs)}, axes).to_netcdf(tmp_path / "rain.nc", engine="h5netcdf")
    facts = inspection.inspect(tmp_path / "rain.nc").facts
    assert {id: track["frames"] for id, track in facts["tracks"].items()} == {"2023": 8, "2024": 4}
    assert facts["totals"]["files"] == 1
    assert facts["totals"]["bytes"] == (tmp_path / "rain.nc").stat().st_size
    assert facts["totals"]["flagged"] == 0
    assert facts["channels"][0]["units"] == "mm"
    assert facts["totals"]["statistics"]["max"] == pytest.approx([2])
