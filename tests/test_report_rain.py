"""Reports and comparisons of rain on a grid: millimetres, degrees and no storm."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

from cli import app
from pipeline import compare, pictures, report, settings, split, train
from pipeline.convert import ConvertSettings, convert
from pipeline.errors import UserError
from pipeline.evaluate import evaluate
from pipeline.reporting import choice, panels, storyboard
from pipeline.reporting.choice import Scored
from pipeline.sources.options import Options
from pipeline.store import open_store

SMALL = [
    "model.name=srgan",
    "model.width=4",
    "model.fine_width=4",
    "model.n_residual_blocks=1",
    "model.discriminator_width=4",
    "model.discriminator_hidden=4",
    "model.pretrain_steps=4",
    "training.sequence_length=1",
    "training.patch_size=8",
    "training.batch_size=4",
    "training.epochs=1",
    "training.sample_every_epochs=0",
    "training.validation_crops=4",
    "training.ema=0",
]
INTERPOLATED = ["task.truth=interpolated", "task.factor=2"]
WEST, SOUTH, NORTH = 4.875, 50.875, 55.125  # edges of 17 rows and 23 columns of 0.25 degrees
DAYS, HOURS, H, W = 3, 6, 17, 23
WETTEST = 14  # of all frames, on the last day


def tp(path: Path) -> Path:
    """ERA5's total precipitation in metres: hourly showers, some hours dry, one pouring."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:H, :W]
    mm = np.zeros((DAYS * HOURS, H, W), np.float32)
    for number, frame in enumerate(mm):
        for _ in range(number % 3):
            r, c, width = rng.uniform(0, H), rng.uniform(0, W), rng.uniform(1, 4)
            frame += rng.gamma(1.0, 3.0) * np.exp(-((y - r) ** 2 + (x - c) ** 2) / width**2)
    mm[WETTEST] += 20
    first = np.datetime64("2023-06-01T01", "ns")
    hours = [24 * (n // HOURS) + n % HOURS for n in range(len(mm))]
    array = xr.DataArray(
        np.where(mm > 0.05, mm, 0) / 1000,
        dims=("valid_time", "latitude", "longitude"),
        coords={
            "valid_time": first + np.array(hours, "timedelta64[h]"),
            "latitude": ("latitude", 55 - 0.25 * np.arange(H), {"units": "degrees_north"}),
            "longitude": ("longitude", 5 + 0.25 * np.arange(W), {"units": "degrees_east"}),
        },
        attrs={"units": "m", "long_name": "Total precipitation"},
    )
    path.parent.mkdir(parents=True)
    array.to_dataset(name="tp").to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """R.zarr of three days, two of them held out; runs `one` and `two`, and one `interpolated`."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("rain")
    made = ConvertSettings(options=Options(variables=("tp",), track_by="day"))
    convert(tp(home / "nc" / "tp.nc"), home / "R.zarr", made, manifests=home, workers=1)
    split.split(home / "R.zarr", home / "R.split.json", eval_last=0.6)
    for run, more in (("one", []), ("two", ["training.seed=1"]), ("interpolated", INTERPOLATED)):
        asked, _ = settings.load(None, [*SMALL, *more])
        train.train(settings.located(asked, home / "R.zarr", home / "R.split.json"), home / run)
        sites = () if run == "one" else ("@8,8",)  # a third of a picture that nobody looks at here
        evaluate(home / run, resamples=50, sites=sites)
    return home


@pytest.fixture(scope="module")
def page(home: Path) -> str:
    return report.report(home / "one", frames=1).file.read_text(encoding="utf-8")


def words(page: str) -> str:
    """What people read: no pictures, styles or scripts."""
    shown = re.sub(r"<(style|script)[^>]*>.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r'src="data:[^"]*"', "", shown)


def bars(page: str) -> dict[str, dict[str, str]]:
    """Colour bars by kind: their attributes."""
    found = {}
    for tag in re.findall(r'<img class="levels"[^>]*>', page):
        told = dict(re.findall(r'data-([a-z]+)="([^"]*)"', tag))
        found[told["bar"]] = told
    return found


def test_units_are_millimetres_and_degrees(page: str) -> None:
    said = words(page)
    for text in (
        "RMSE [mm]",
        "from 1° to 0.25°",
        "wavelength [degrees]",
        "CSI heavy",
        "p99, error",
    ):
        assert text in said
    assert "Rain is light from 0.1 mm on" in said
    assert not re.search(r"\[K\]| km\b|°C", said)


def test_nothing_is_said_of_storms(page: str) -> None:
    said = words(page).lower()
    for word in ("storm", "typhoon", "kelvin", "satellite", "best track", "warm", "unknown"):
        assert word not in said
    assert "Radial profile" not in page
    assert 'class="chart map"' not in page


def test_one_scale_of_rain_and_one_of_errors(page: str) -> None:
    field, error = (bars(page)[kind] for kind in ("field", "error"))
    assert (field["colours"], field["scale"]) == ("rain", "log")
    assert (field["low"], field["high"], field["units"]) == ("0.1", "50", "mm")
    assert (error["colours"], error["low"], error["high"]) == ("BrBG", "-2", "2")


def test_pictures_say_which_degrees_they_cover(page: str) -> None:
    west, between, east = re.search(
        r'class="edges"><span>(.*?)</span><span>(.*?)</span><span>(.*?)<', page
    ).groups()
    assert (west, east) == ("4.88°E", "9.88°E")  # 20 of 23 columns fill whole coarse cells
    assert between == "51.12°N to 55.12°N"  # and 16 of 17 rows
    assert re.search(r'class="still ground" style="--ratio:0\.7', page)  # 5 x 4 degrees at 53 N


def test_the_wettest_frame_is_shown_and_played(page: str) -> None:
    assert "he wettest of all frames" in page
    wettest = "2023-06-03 03:00 UTC"
    assert f"2023-06-03 · {wettest}" in page
    (told,) = re.findall(r'<script type="application/json" id="loop-data">(.*?)</script>', page)
    loop = json.loads(told)["frames"]
    assert len(loop) == HOURS
    assert any(frame["label"].startswith(wettest) for frame in loop)
    assert all(frame["pictures"]["truth"].startswith("data:image/webp") for frame in loop)


def test_quantiles_of_rain_are_drawn_by_the_logarithm(page: str) -> None:
    assert "dry pixels too, from 0.01 mm on" in page
    assert "too wet there" in page


def test_interpolated_truth_is_said_wherever_scores_are(home: Path, page: str) -> None:
    text = report.report(home / "interpolated").file.read_text(encoding="utf-8")
    assert re.search(r"<h1>srgan .2 on .*, against interpolated truth</h1>", text)
    assert '<p class="caution">Interpolated truth: nothing in it is finer' in text
    for section in ("scores", "frames", "loop"):
        of = re.search(rf'<section id="{section}".*?</section>', text, re.DOTALL)
        assert "Interpolated truth" in words(of[0]), section
    assert "nterpolated truth" not in page


def test_a_comparison_is_of_the_earth_and_in_millimetres(home: Path, monkeypatch: Any) -> None:
    scenes = []
    monkeypatch.setattr(pictures, "panels", lambda path, scene: scenes.append(scene) or path)
    done = compare.compare([home / "one", home / "two"], home / "out", resamples=50)
    assert len(scenes) == 3
    for scene in scenes:
        assert scene.origin == "earth"
        assert scene.zoom is None
        assert scene.extent == (WEST, WEST + 5, SOUTH + 0.25, NORTH)
        assert scene.look.label == "Total precipitation in 1 h [mm]"
        assert "unknown" not in scene.title
    told = json.loads(done.file.read_text())["pictures"]
    assert [each["apart"] for each in told.values()] == sorted(
        each["apart"] for each in told.values()
    )
    assert ("2023-06-03", 2) in {(each["track"], each["number"]) for each in told.values()}


def test_another_truth_is_not_comparable(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"evaluated on other .*truths"):
        compare.compare([home / "one", home / "interpolated"], tmp_path)


def test_a_comparison_notes_interpolated_truth(home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (home / "interpolated").iterdir():
        (copy / file.name).symlink_to(file)
    asked = ["compare", str(home / "interpolated"), str(copy), "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(app, [*asked, "--pictures", "1"])
    assert said.exit_code == 0, said.output
    assert "Note: interpolated truth" in said.stderr
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["notes"]


# --- in a browser


@pytest.fixture(scope="module")
def tab(new_tab: Any, home: Path, page: str) -> Any:
    return new_tab()


def pointed(tab: Any, place: tuple[float, float]) -> str:
    """What is read at these shares of the width and height of the first frame's truth."""
    image = tab.locator("#still-0-truth")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    tab.mouse.move(box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"])
    return tab.inner_text("#readout")


def test_the_pointer_reads_millimetres(tab: Any, home: Path, page: str) -> None:
    tab.goto((home / "one" / "report.html").as_uri())
    id, day, hour = re.search(
        r"(\S+) · (\S+) (\d\d):00 UTC", tab.inner_text(".still h3 >> nth=0")
    ).groups()
    truth = open_store(home / "R.zarr").track(id).checked(int(hour) - 1, 1)[0, 0]
    assert id == day
    seen = {}
    for i, j in ((2, 3), (8, 10), (14, 17)):
        said = pointed(tab, ((j + 0.5) / 20, (i + 0.5) / 16))
        number = float(re.search(r"([\d.]+) mm", said)[1])
        if truth[i, j] < 0.1:
            assert said == "< 0.10 mm"
        else:
            assert number == pytest.approx(truth[i, j], rel=0.02, abs=0.006)
        seen[i, j] = said
    assert len(seen) == 3
    assert tab.locator(".part").count() == 0  # small frames are shown whole
    assert not tab.locator("#compare-zoom").is_visible()
    box = tab.locator("#still-0-truth").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(0.75, abs=0.02)  # 5 x 4 degrees at 53 N
    assert tab.faults == []


def test_of_large_frames_the_wettest_part_is_enlarged(
    tab: Any, home: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(panels, "SMALL", 8)
    out = tmp_path / "large.html"
    report.report(home / "one", frames=1, out=out)
    assert "below its wettest part" in out.read_text(encoding="utf-8")
    tab.goto(out.as_uri())
    still = tab.locator(".still").first
    left, top = (float(still.get_attribute(f"data-{side}")) for side in ("left", "top"))
    whole, part = (tab.locator(f"#still-0-truth{s}").bounding_box() for s in ("", "-middle"))
    frame = tab.locator("#still-0-truth-middle").locator("xpath=..").bounding_box()
    assert frame["width"] == pytest.approx(whole["width"], abs=1)
    assert frame["x"] - part["x"] == pytest.approx(left * part["width"], abs=1)
    assert frame["y"] - part["y"] == pytest.approx(top * part["height"], abs=1)
    assert tab.faults == []


# --- which frames


def hourly(*numbers: int, track: str = "1") -> list[Scored]:
    return [
        Scored(track, n, f"2023-06-{1 + n // 24:02d}T{n % 24:02d}:00Z", "unknown", {})
        for n in numbers
    ]


def test_wetness_is_the_mean_of_what_was_seen(home: Path) -> None:
    opened = open_store(home / "R.zarr")
    keys = [("2023-06-03", 2), ("2023-06-02", 0)]
    found = choice.wetness(opened, keys)
    for id, number in keys:
        truth = opened.track(id).checked(number, 1)[0, 0]
        assert found[id, number] == pytest.approx(float(truth.mean()), rel=1e-6)
    assert max(found, key=lambda key: found[key]) == ("2023-06-03", 2)


def test_the_wettest_are_a_day_apart() -> None:
    frames = hourly(*range(60))
    wet = {frame.key: float(frame.number in (30, 31, 5)) + frame.number / 100 for frame in frames}
    assert [f.number for f in choice.wettest(frames, wet, 2)] == [31, 5]


def test_the_stretch_with_most_rain_has_no_gap() -> None:
    frames = hourly(0, 1, 2, 3, 10, 11, 12)
    wet = {frame.key: {3: 3.0, 10: 5.0, 11: 1.0}.get(frame.number, 0.5) for frame in frames}
    assert [f.number for f in choice.wettest_stretch(frames, wet, 2)] == [10, 11]
    assert [f.number for f in choice.wettest_stretch(frames, wet, 9)] == [10, 11, 12]
    assert choice.wettest_stretch(hourly(4), {("1", 4): 1.0}) == []
    dry = hourly(0, 1, 2)
    assert choice.wettest_stretch(dry, dict.fromkeys([f.key for f in dry], 0.0)) == dry


def test_what_is_enlarged_is_where_it_rains() -> None:
    truth = np.zeros((20, 40))
    truth[14, 33] = 5.0
    left, top = storyboard.most_rain(truth)
    assert left * 40 <= 33 < (left + storyboard.DETAIL) * 40
    assert top * 20 <= 14 < (top + storyboard.DETAIL) * 20
    truth[19, 39] = 50.0
    assert storyboard.most_rain(truth) == pytest.approx((0.7, 0.7))
