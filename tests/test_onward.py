"""The last line of a command is one that works on the data that it was said of."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

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
    opened = store.open_store(tiny.home / "S.zarr")
    assert any(len(opened.track(id).windows(1)) for id in made.eval)
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


def weather(home: Path, *hours: int) -> Path:
    """A store of days of temperature and rain, each of so many hours from midnight on."""
    days = [
        np.datetime64("2023-06-01", "h") + 24 * day + np.arange(n) for day, n in enumerate(hours)
    ]
    times = np.concatenate(days).astype("datetime64[s]")
    random, shape = np.random.default_rng(0), (len(times), 16, 16)
    dims = ("time", "latitude", "longitude")
    of_rain = {"units": "mm", "standard_name": "lwe_thickness_of_precipitation_amount"}
    data = xr.Dataset(
        {
            "t2m": (dims, random.uniform(280, 300, shape).astype(np.float32), {"units": "K"}),
            "tp": (dims, random.gamma(0.3, 2.0, shape).astype(np.float32), of_rain),
        },
        coords={
            "time": times,
            "latitude": 50 - 0.25 * np.arange(16.0),
            "longitude": 5 + 0.25 * np.arange(16.0),
        },
    )
    data.to_netcdf(home / "weather.nc", engine="h5netcdf")
    made = run(
        "convert", home / "weather.nc", home / "weather.zarr", "--manifest-dir", home,
        "--workers", 1, "--track-by", "day", "--variable", "t2m,tp",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    return home / "weather.zarr"


def test_weather_and_rain_are_trained_towards_rain(tmp_path):
    """Six hours and three ahead are a window of nine, which a day of eight hours has not."""
    path = weather(tmp_path, 8, 12, 8, 12)
    first, second, third, fourth = store.open_store(path).ids
    words = following(run("verify", path))
    assert words == ["split", str(path), "--eval-last", "0.2"]
    for train, judged in (([second, fourth], [first, third]), ([first, third], [second, fourth])):
        bad = run("split", path, "--eval-ids", ",".join(judged), "--manifest-dir", tmp_path)
        assert following(bad) == words, train
    words = following(followed(words, tmp_path))
    assert words[:4] == ["train", "st_rainnet_cpu", "--store", str(path)]
    assert words[-2:] == ["--set", "task.targets=[tp]"]


@pytest.mark.slow
def test_what_follows_a_split_of_weather_and_rain_can_be_trained(tmp_path):
    words = following(run("verify", weather(tmp_path, 8, 12, 8, 12)))
    planned = run(*following(followed(words, tmp_path)), "--dry-run")
    assert planned.exit_code == 0, planned.output


def test_one_day_of_weather_is_not_judged_on_shorter_ones(tmp_path):
    path = weather(tmp_path, 8, 12, 8)
    result = run("verify", path)
    only = store.open_store(path).ids[1]
    assert f"only track {only} holds 9 sound frames in a row" in result.stderr
    assert following(result) == ["convert", "SOURCE", str(path)]


def test_days_too_short_for_a_forecast_are_said_to_be(tmp_path):
    path = weather(tmp_path, 8, 8)
    for words in ((), ("--eval-last", "0.5", "--manifest-dir", tmp_path)):
        result = run("split" if words else "verify", path, *words)
        assert "no track holds 9 sound frames in a row" in result.stderr
        assert following(result) == ["convert", "SOURCE", str(path)]


def test_windows_are_those_of_the_settings_that_come_with_eddy():
    from pipeline import settings, shipped

    for name, file in shipped.files().items():
        if name == "upstream":
            continue
        ours, _ = settings.load(file, [])
        learnt, judged = onward.windows_of(name)
        assert learnt == ours.training.sequence_length, name
        forecasts = isinstance(ours.task, settings.ForecastSettings)
        assert judged == (learnt if forecasts else 1), name
    assert onward.windows_of("CONFIG") == (3, 1)


def test_a_file_of_the_settings_name_that_is_none_of_eddys_is_not_read(tiny, monkeypatch):
    tiny.track("202101")
    tiny.track("202102")
    path = tiny.store().path
    monkeypatch.chdir(tiny.home)
    Path("tempogan_cpu").write_bytes(b"\x00: [")
    assert following(run("verify", path))[0] == "split"
    words = following(run("split", path, "--eval-ids", "202102", "--manifest-dir", tiny.home))
    assert words[:2] == ["train", "tempogan_cpu"]
    assert words[-2:] == ["--set", "training.patch_size=16"]


def test_a_store_in_a_folder_called_image_keeps_its_name(tiny):
    tiny.track("202101")
    tiny.track("202102")
    target = tiny.home / "image" / "WP.zarr"
    words = ["convert", tiny.root, target, "--workers", 1, "--manifest-dir", target.parent / "m"]
    result = run(*words, "--ids", "202101")
    assert following(result) == [str(word) for word in words]


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
    triplets, frames = (lambda track, n=n: len(track.windows(n)) for n in (3, 1))
    assert proposed(opened, triplets, frames) == []
    assert proposed(opened, frames, frames) == ["--eval-ids", "2022-2022"]


def test_a_command_that_is_led_proposes_nothing(tiny):
    tiny.track("202101")
    tiny.track("202102")
    with screen.led():
        inside = run("split", tiny.store().path, "--eval-ids", "202102", "--dry-run")
    assert inside.exit_code == 0
    assert "Next" not in inside.stdout
    assert "Next" in run("split", tiny.store().path, "--eval-ids", "202102", "--dry-run").stdout


def test_a_split_file_has_no_key_that_older_eddies_refuse(tiny):
    """They know version 1 without `frames`, and no other key; the command says them."""
    tiny.track("202101")
    tiny.track("202102")
    file, opened = tiny.home / "s.json", tiny.store()
    made = split(opened.path, file, eval_ids=["202102"])
    assert made.frames == {"train": 6, "eval": 6, "test": 0}
    plain = json.loads(file.read_text())
    assert "frames" not in plain
    assert manifest.read_split(file, opened) == made.model_copy(update={"frames": {}})
    file.write_text(json.dumps({**plain, "frames": made.frames}))
    assert manifest.read_split(file, opened) == made
    words = ("--eval-ids", "202102", "--dry-run", "--json", "-")
    said = run("split", opened.path, *words)
    assert '"frames"' in said.stdout


# what a shell makes of an unquoted archive


@pytest.mark.parametrize(
    ("typed", "said", "stem"),
    [
        ("WP.tar.00 WP.tar.01", "is a part", "WP.tar*"),
        ("V1.2.tgz-1 V1.2.tgz-2", "is a part", "V1.2.tgz*"),
        ("WP.tar.gz0 WP.tar.gz1 WP.tar.gz.md5", "are the sums", "WP.tar.gz*"),
    ],
)
def test_an_archive_without_a_store_is_shown_with_one(typed, said, stem):
    paths = [Path("dl") / name for name in typed.split()]
    result = run("convert", *paths)
    assert result.exit_code == 2
    assert f"{paths[-1]}: {said} of an archive, not a store to write" in result.stderr
    assert f"cli convert dl/{stem} data/WP.zarr" in result.stderr
