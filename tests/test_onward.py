"""The last line of a command is one that works on the data that it was said of."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner, Result

import cli
from pipeline import manifest, store
from pipeline.commands import onward, screen
from pipeline.split import proposed, set_aside, split


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def following(result: Result) -> list[str]:
    """What a person would copy: the words after `cli` of the last line."""
    assert result.exit_code == 0, result.output
    word, name, *words = shlex.split(result.stdout.splitlines()[-1])
    assert (word, name) == ("Next", "cli")
    return words


def followed(words: list[str], home: Path) -> Result:
    """Do as one was told, with splits and manifests in `home`."""
    return run(*words, "--manifest-dir", home)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def convert(tiny, *words: object) -> Result:
    return run(
        "convert", tiny.root, tiny.home / "S.zarr", "--workers", 1,
        "--manifest-dir", tiny.home, *words,
    )  # fmt: skip


def half_missing(tiny, id: str, hours: range) -> None:
    pixels = tiny.pixels()
    pixels[:, :8] = np.nan
    for hour in hours:
        tiny.write(hour, id, pixels=pixels)


def rain(path: Path, hours: int) -> Path:
    times = np.datetime64("2023-06-28", "s") + np.arange(hours) * np.timedelta64(1, "h")
    values = np.random.default_rng(0).gamma(0.3, 2.0, (hours, 9, 13)).astype(np.float32)
    attrs = {"units": "mm", "standard_name": "lwe_thickness_of_precipitation_amount"}
    data = xr.Dataset(
        {"tp": (("time", "latitude", "longitude"), values, attrs)},
        coords={
            "time": times,
            "latitude": 50 - 0.25 * np.arange(9.0),
            "longitude": 5 + 0.25 * np.arange(13.0),
        },
    )
    data.to_netcdf(path, engine="h5netcdf")
    return path


# after a store


@pytest.mark.parametrize(
    ("tracks", "expected"),
    [
        # the latest seasons with a tenth of the triplets
        ({"201901": 9, "202001": 9, "202101": 9}, ["--eval-ids", "2021-2021"]),
        ({"201901": 40, "202001": 4, "202101": 4}, ["--eval-ids", "2020-2021"]),
        # and where the last holds nearly all, the one that has least
        ({"201901": 4, "202101": 40}, ["--eval-ids", "2019-2019"]),
        # a season without a triplet does not count
        ({"201901": 9, "202001": 9, "202101": 2}, ["--eval-ids", "2020-2020"]),
        # of one season typhoons
        ({"202101": 9, "202102": 9, "202103": 9}, ["--eval-ids", "202103"]),
        ({"202101": 9, "202102": 9, "202103": 2}, ["--eval-ids", "202102"]),
        # one alone has triplets: another is judged frame by frame
        ({"202101": 9, "202102": 1, "202103": 2}, ["--eval-ids", "202103"]),
    ],
)
def test_the_split_that_is_proposed_leaves_triplets_to_train_on(tiny, tracks, expected):
    for id, frames in tracks.items():
        tiny.track(id, range(frames))
    result = convert(tiny)
    words = following(result)
    assert words == ["split", str(tiny.home / "S.zarr"), *expected]
    for command in ("verify", "inspect"):
        assert following(run(command, tiny.home / "S.zarr")) == words
    divided = followed(words, tiny.home)
    made = manifest.Split.model_validate_json((tiny.home / "S.split.json").read_bytes())
    assert made.triplets["train"] > 0
    assert made.frames["eval"] > 0
    assert following(divided)[:2] == ["train", "tempogan_cpu"]


def test_what_is_set_aside_is_never_all():
    assert set_aside({"a": 1, "b": 1}) == ["b"]
    assert set_aside({"a": 100, "b": 1, "c": 1}) == ["b", "c"]
    assert set_aside({"a": 1, "b": 100}) == ["a"]


def test_of_one_typhoon_it_says_what_one_cannot_do(tiny):
    tiny.track("202101")
    result = convert(tiny)
    assert "only track 202101 holds a triplet, three sound frames in a row" in result.stderr
    assert "convert more tracks into it" in result.stderr
    assert following(result) == ["convert", "SOURCE", str(tiny.home / "S.zarr")]


@pytest.mark.parametrize("narrow", ["ids", "folder"])
def test_of_one_typhoon_of_a_tree_the_tree_is_proposed(tiny, narrow):
    tiny.track("202101")
    tiny.track("202102")
    words = ["convert", tiny.root, tiny.home / "S.zarr", "--workers", 1]
    words += ["--manifest-dir", tiny.home]
    if narrow == "ids":
        result = run(*words, "--ids", "202101")
    else:
        result = run("convert", tiny.root / "image" / "202101", *words[2:])
    assert "only track 202101 holds a triplet" in result.stderr
    assert following(result) == [str(word) for word in words]
    again = run(*following(result))
    assert following(again)[0] == "split"


def test_where_flags_leave_no_triplet_it_proposes_fewer(tiny):
    half_missing(tiny, "202101", range(5))
    half_missing(tiny, "202102", range(5))
    result = convert(tiny)
    assert "no track holds a triplet" in result.stderr
    words = following(result)
    assert words[-3:] == ["--max-missing", "1", "--replace"]
    assert following(run("verify", tiny.home / "S.zarr"))[1] == "SOURCE"
    again = run(*words)
    assert following(again)[:1] == ["split"]
    assert store.open_store(tiny.home / "S.zarr").attrs["settings"]["max_missing"] == 1


def test_of_one_stretch_of_rain_shorter_ones_are_proposed(tmp_path):
    file, target = rain(tmp_path / "rain.nc", 24 * 5), tmp_path / "rain.zarr"
    result = run("convert", file, target, "--manifest-dir", tmp_path, "--workers", 1)
    assert "only track 2023 holds a sound frame" in result.stderr
    words = following(result)  # 28 June to 2 July: two months, one season
    assert words[1:3] == [str(file), str(tmp_path / "rain-month.zarr")]
    assert words[-2:] == ["--track-by", "month"]
    words = following(run(*words))
    assert words == ["split", str(tmp_path / "rain-month.zarr"), "--eval-last", "0.2"]
    words = following(followed(words, tmp_path))
    split_file = str(tmp_path / "rain-month.split.json")
    assert words == ["train", "srgan_precipitation", "--store", str(tmp_path / "rain-month.zarr"),
                     "--split", split_file, "--set", "training.patch_size=8"]  # fmt: skip


@pytest.mark.slow
def test_what_follows_a_split_of_small_fields_can_be_trained(tmp_path):
    file, target = rain(tmp_path / "rain.nc", 24 * 5), tmp_path / "rain.zarr"
    run("convert", file, target, "--manifest-dir", tmp_path, "--workers", 1, "--track-by", "day")
    words = following(followed(following(run("verify", target)), tmp_path))
    planned = run(*words, "--dry-run")
    assert planned.exit_code == 0, planned.output


def test_of_rain_that_no_stretch_divides_more_is_asked_for(tmp_path):
    file, target = rain(tmp_path / "rain.nc", 12), tmp_path / "rain.zarr"
    result = run("convert", file, target, "--manifest-dir", tmp_path, "--workers", 1)
    assert "convert more, of other dates" in result.stderr
    assert following(result) == ["convert", "SOURCE", str(target)]


def test_a_store_that_was_not_named_is_named_in_what_follows():
    store, other = Path("data/WP.zarr"), Path("data/WP-day.zarr")
    assert onward.elsewhere(["convert", "a", "data/WP.zarr"], store, other)[2] == other
    assert onward.elsewhere(["convert", "a"], store, other) == ["convert", "a", other]
    assert onward.elsewhere(["convert"], store, other) == ["convert", "data/WP", other]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("data/WP", "WP"),
        ("x/era5", "era5"),
        ("x/tp.2023.nc", "tp.2023"),
        ("WP.tar.gz-00", "WP"),
        ("V1.2.tgz", "V1.2"),
        ("t10k-images-idx3-ubyte.gz", "t10k-images"),
    ],
)
def test_after_a_look_at_raw_files_the_store_bears_their_name(source, name):
    assert onward.to_convert(Path(source)) == ["convert", Path(source), Path(f"data/{name}.zarr")]


# after a split


def test_a_split_without_triplets_to_train_on_is_followed_by_a_better_one(tiny):
    tiny.track("202101", range(9))
    tiny.track("202102", range(2))
    store = tiny.store().path
    result = run("split", store, "--eval-ids", "202101", "--manifest-dir", tiny.home)
    assert "the train tracks hold no triplet" in result.stderr
    assert following(result) == ["split", str(store), "--eval-ids", "202102"]


def test_parts_without_a_triplet_or_a_frame_are_said(tiny):
    tiny.track("202101", range(9))
    tiny.track("202102", range(2))
    half_missing(tiny, "202103", range(3))
    words = ("--eval-ids", "202102", "--test-ids", "202103", "--dry-run")
    result = run("split", tiny.store().path, *words)
    assert "the eval tracks hold no triplet" in result.stderr
    assert "the test tracks hold no frame without a flag" in result.stderr
    assert "the train tracks" not in result.stderr
    rows = [line.split("│")[2:5] for line in result.stdout.splitlines() if line.startswith("│")]
    assert [[int(cell) for cell in row] for row in rows] == [[1, 9, 7], [1, 2, 0], [1, 0, 0]]


def test_a_raw_tree_is_followed_by_what_suits_its_channels(tiny):
    tiny.track("202101")
    tiny.track("202102")
    words = following(run("split", tiny.root, "--eval-ids", "202102", "--manifest-dir", tiny.home))
    assert words[:4] == ["train", "tempogan_cpu", "--store", str(tiny.root)]
    assert words[-2:] == ["--set", "training.patch_size=16"]


K, MM = {"name": "t", "units": "K", "long_name": ""}, {"name": "tp", "units": "mm", "long_name": ""}


def test_settings_that_suit_the_channels(monkeypatch):
    for found, end in ((False, "_cpu"), (True, "")):
        monkeypatch.setattr(onward, "has_gpu", lambda found=found: found)
        assert onward.setting_of([K]) == onward.setting_of([K, K]) == f"tempogan{end}"
        assert onward.setting_of([MM]) == "srgan_precipitation"
        assert onward.setting_of([K, MM]) == f"st_rainnet{end}"
        assert onward.setting_of([{**K, "units": "m s-1"}]) == "CONFIG"


def test_weather_and_rain_are_trained_towards_rain(monkeypatch):
    monkeypatch.setattr(onward, "about", lambda path: ([K, MM], (2, 64, 64)))
    made = SimpleNamespace(triplets={"train": 3}, frames={"train": 9, "eval": 3})
    words = onward.to_train(Path("fields.zarr"), made, None)
    assert words[1] == "st_rainnet_cpu"
    assert words[-2:] == ["--set", "task.targets=[tp]"]


def test_a_gpu_is_found_without_torch(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    devices: list[Path] = []
    monkeypatch.setattr(Path, "glob", lambda self, names: iter(devices))
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert not onward.has_gpu()
    devices.append(Path("/dev/nvidia0"))
    assert onward.has_gpu()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not onward.has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert onward.has_gpu()


def test_frames_count_where_triplets_do_not(tiny):
    """Rain is learnt frame by frame."""
    tiny.track("202101", range(2))
    tiny.track("202201", range(2))
    opened = tiny.store()
    assert proposed(opened, lambda track: len(track.windows(3))) == []
    assert proposed(opened, lambda track: len(track.windows(1))) == ["--eval-ids", "2022-2022"]


def test_a_command_that_is_led_proposes_nothing(tiny):
    tiny.track("202101")
    tiny.track("202102")
    with screen.led():
        inside = run("split", tiny.store().path, "--eval-ids", "202102", "--dry-run")
    assert inside.exit_code == 0
    assert "Next" not in inside.stdout
    assert "Next" in run("split", tiny.store().path, "--eval-ids", "202102", "--dry-run").stdout


def test_older_splits_do_not_say_their_frames(tiny):
    tiny.track("202101")
    tiny.track("202102")
    made = split(tiny.store().path, tiny.home / "s.json", eval_ids=["202102"])
    assert made.frames == {"train": 6, "eval": 6, "test": 0}
    plain = made.model_dump()
    del plain["frames"]
    assert manifest.Split(**plain).frames == {}
