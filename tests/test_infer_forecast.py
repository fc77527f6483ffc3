"""infer with a model that forecasts: from where, what it writes, and what that is worth."""

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from torch import nn
from typer.testing import CliRunner

import cli
import models
from pipeline import (
    checkpoint,
    forecasts,
    inputs,
    lead_scenes,
    settings,
    sources,
    split,
    start,
    tasks,
)
from pipeline import pictures as drawing
from pipeline.checkpoint import Checkpoint, Data
from pipeline.convert import ConvertSettings, convert
from pipeline.errors import UsageError, UserError
from pipeline.evaluate import evaluate
from pipeline.familiarity import Outside
from pipeline.infer import infer
from pipeline.outputs import netcdf
from pipeline.problem import Problem
from pipeline.scaling import Scaling
from pipeline.sources import synthetic
from pipeline.sources.digital_typhoon import ATTRS, INFRARED
from pipeline.sources.grids import Grid
from pipeline.sources.options import Options
from pipeline.sources.synthetic import Storm
from pipeline.start import Frames

torch.set_num_threads(1)

ID = "202101"
START = datetime(2021, 7, 19, tzinfo=UTC)
HOUR = np.timedelta64(1, "h")
MIDNIGHT = np.datetime64("2021-07-19T00", "ns")
INFRARED_ALONE = (vars(INFRARED),)
QUICK: dict[str, Any] = {"pictures": "none", "animations": ()}
SMALL = ["model.name=simvp", "model.hid_s=8", "model.hid_t=16", "model.n_s=2", "model.n_t=2"]
SMALL += ["model.residual=true", "task.past=3", "task.future=2"]
BASELINES = ["persistence", "optical_flow", "past_mean"]


def save(
    run: Path, *more: str, seed: int = 0, name: str = "best", channels=INFRARED_ALONE, **data: Any
) -> Path:
    """A run as `train` leaves it, of frames of 32x32 pixels, with weights that do something."""
    ours, _ = settings.load(None, [*SMALL, *more])
    grid = data.pop("grid", None)
    shape = grid.shape if grid is not None else (32, 32)
    C = len(channels)
    scaling = Scaling(("range",) * C, (240.0,) * C, (90.0,) * C, (0.0,) * C)
    kept = Data(
        store="WP.zarr",
        manifest_hash="abc123",
        channels=[dict(channel) for channel in channels],
        train=data.pop("train", ["198702"]),
        eval=[],
        attrs=data.pop("attrs", ATTRS),
        seen={"min": [-1e3] * C, "max": [1e4] * C, "satellites": ["HMW8"]},
        grid=tasks.plain(grid),
        step=data.pop("step", 3600),
    )
    task = tasks.build("forecast", ours.task, 1, kept.channels, grid)
    geometry = Problem.of(task, scaling).geometry((C, *shape))
    torch.manual_seed(seed)
    model = models.build(ours.model_name, geometry, ours.model_settings)
    for p in model.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    made = Checkpoint(
        settings=ours,
        geometry=geometry,
        scaling=scaling,
        data=kept,
        weights=model.state_dict(),
        averaged=None,
        training={"position": {"epoch": 7, "step": 100}},
    )
    checkpoint.save(run / "checkpoints" / f"{name}.ckpt", made)
    return run


def write(folder: Path, **more: Any) -> Path:
    """A raw tree of one storm, 32x32 pixels, hourly from 2021-07-19 00 UTC."""
    storm = Storm(**{"id": ID, "start": START, "hours": 8, **more})
    synthetic.write_tree(folder, [storm], size=32)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save(tmp_path / "run", "task.coarsen=2")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hours 0 to 7."""
    return write(tmp_path_factory.mktemp("raw") / "WP")


def opened(path: Path) -> xr.Dataset:
    if path.suffix == ".zarr":
        with xr.open_zarr(path, consolidated=True) as dataset:
            return dataset.load()
    with xr.open_dataset(path) as dataset:
        return dataset.load()


def inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def frames(raw: Path, hours: range) -> np.ndarray:
    """(T, 16, 16) kelvin, means of 2x2 pixels, straight from the files."""
    release = sources.scan(raw, Options())
    read = sources.find(release.format).read_frame
    found = np.stack([read(release.tracks[0].frames[hour])[0] for hour in hours])
    return found.reshape(-1, 16, 2, 16, 2).mean((2, 4), np.float64).astype(np.float32)


def said_by(run: Path, past: np.ndarray) -> np.ndarray:
    """What the network makes of (3, 16, 16) kelvin, once more by hand: (2, 16, 16) kelvin."""
    network = checkpoint.load(run / "checkpoints" / "best.ckpt").model()
    with torch.inference_mode():
        y = network((torch.from_numpy(past)[None, :, None] - 240) / 90)
    return (y * 90 + 240)[0, :, 0].numpy()


# What is written


def test_what_comes_after_the_last_frame(run, raw, tmp_path):
    done = infer(run, raw, tmp_path / "o" / "a.nc", **QUICK)
    data = opened(done.file)
    assert (done.frames, done.shape, done.scores, done.leads) == (2, (16, 16), {}, ())
    assert (done.notes, done.problems, done.since) == ([], [], "2021-07-19 07:00 UTC")
    assert list(data.data_vars) == ["brightness_temperature"]
    assert set(data.coords) == {"time", "y", "x", "forecast_reference_time", "forecast_period"}
    assert (data.time.values == MIDNIGHT + np.array([8, 9]) * HOUR).all()
    assert data.forecast_reference_time.values == MIDNIGHT + 7 * HOUR
    assert data.forecast_period.values.tolist() == [1.0, 2.0]
    assert data.forecast_period.attrs["units"] == "h"
    for name in ("forecast_reference_time", "forecast_period"):
        assert data[name].attrs["standard_name"] == name
    expected = said_by(run, frames(raw, range(5, 8)))
    np.testing.assert_allclose(data.brightness_temperature, expected, atol=1e-3)
    assert abs(expected - frames(raw, range(7, 8))).max() > 1  # not what was seen last
    assert np.allclose(np.diff(data.y), -10)  # km: two pixels of 5
    assert data.y.values[0] == 16 * 5 - 5
    assert inside(tmp_path / "o") == ["a.nc"]


def test_the_attributes_say_what_it_is(run, raw, tmp_path):
    data = opened(infer(run, raw, tmp_path / "a.nc", **QUICK).file)
    field = data.brightness_temperature.attrs
    assert field["standard_name"] == "toa_brightness_temperature"
    assert (field["units"], field["long_name"].endswith("forecast by simvp")) == ("K", True)
    wanted = {
        "mode": "forecast",
        "track_id": ID,
        "license": "CC BY 4.0",
        "attribution": ATTRS["attribution"],
        "training_tracks": "198702",
        "forecast_input_times": "2021-07-19T05:00:00Z 2021-07-19T06:00:00Z 2021-07-19T07:00:00Z",
        "checkpoint": "run/checkpoints/best.ckpt",
    }
    assert {name: data.attrs[name] for name in wanted} == wanted
    assert "forecast from 2021-07-19 07:00 UTC by simvp" in data.attrs["title"]
    assert data.attrs["history"].endswith("WP --mode forecast --at 2021071907")
    comment = data.attrs["comment"]
    assert comment.startswith("A forecast of 2 frames, one every 1 h, from the 3 frames up to 2021")
    assert "a mean of 2x2 pixels" in comment
    assert "where that will be is not forecast" in comment
    assert "missing" not in comment
    assert "own forecast" not in comment
    assert 17 < data.attrs["reference_latitude"] < 20
    assert "warning" not in data.attrs


def test_check_holds_it_against_what_came(run, raw, tmp_path):
    done = infer(run, raw, tmp_path / "a.nc", mode="check", **QUICK)
    data = opened(done.file)
    assert data.forecast_reference_time.values == MIDNIGHT + 5 * HOUR  # 6 and 7 came
    truth, past = frames(raw, range(6, 8)), frames(raw, range(3, 6))
    fields = {
        row: data[f"brightness_temperature{ending}"].values
        for row, ending in {"model": "", **{row: f"_{row}" for row in BASELINES}}.items()
    }
    np.testing.assert_allclose(data.brightness_temperature_truth, truth, atol=1e-4)
    np.testing.assert_allclose(fields["model"], said_by(run, past), atol=1e-3)
    np.testing.assert_allclose(fields["persistence"], [past[-1]] * 2, atol=1e-4)
    np.testing.assert_allclose(fields["past_mean"], [past.mean(0)] * 2, atol=1e-4)
    for row, field in fields.items():
        by_lead = np.sqrt(np.square(field - truth, dtype=np.float64).mean((1, 2)))
        np.testing.assert_allclose(data[f"rmse_{row}"], by_lead, rtol=1e-5)
        assert [lead[row]["rmse"] for lead in done.leads] == pytest.approx(by_lead, rel=1e-5)
        assert done.scores[row]["rmse"] == pytest.approx(np.sqrt((by_lead**2).mean()), rel=1e-5)
    assert list(done.scores) == ["model", *BASELINES]
    assert done.step == 3600
    flow = fields["optical_flow"]
    assert not np.array_equal(flow, fields["persistence"])


def test_check_says_what_evaluate_says(tmp_path):
    storms = [Storm(id, START, hours=8) for id in (ID, "202102")]
    synthetic.write_tree(tmp_path / "WP", storms, size=32)
    convert(tmp_path / "WP", tmp_path / "WP.zarr", ConvertSettings(), manifests=tmp_path, workers=1)
    run = save(tmp_path / "run", "task.coarsen=2")
    splits = tmp_path / "s.json"
    split.split(tmp_path / "WP.zarr", splits, eval_ids=[ID])
    judged = evaluate(run, store_path=tmp_path / "WP.zarr", split_path=splits)
    told = json.loads(judged.file.read_text())["by_frame"][ID]
    at, given = "2021071904", tmp_path / "WP.zarr"
    done = infer(run, given, tmp_path / "a.nc", id=ID, mode="check", at=at, **QUICK)
    pairs = list(zip(told["frame"], told["lead"], strict=True))
    places = [pairs.index((5, 0)), pairs.index((6, 1))]
    for row in ("model", *BASELINES):
        expected = [told["rmse"][row][i] for i in places]
        assert [lead[row]["rmse"] for lead in done.leads] == pytest.approx(expected, rel=1e-6)


def test_further_than_trained_is_from_its_own_forecast(run, raw, tmp_path):
    done = infer(run, raw, tmp_path / "a.nc", steps=3, **QUICK)
    data = opened(done.file)
    assert data.forecast_period.values.tolist() == [1.0, 2.0, 3.0]
    past = frames(raw, range(5, 8))
    first = said_by(run, past)
    third = said_by(run, np.concatenate([past, first])[-3:])[0]
    np.testing.assert_allclose(data.brightness_temperature, [*first, third], atol=1e-3)
    assert "what lies beyond +2 h is made from its own forecast" in data.attrs["comment"]
    assert data.attrs["history"].endswith("--steps 3")
    fewer = opened(infer(run, raw, tmp_path / "b.nc", steps=1, **QUICK).file)
    np.testing.assert_array_equal(fewer.brightness_temperature[0], data.brightness_temperature[0])
    assert len(fewer.time) == 1


def test_every_format_holds_the_same(run, raw, tmp_path):
    made = [
        opened(infer(run, raw, tmp_path / name, mode="check", **QUICK).file)
        for name in ("a.nc", "a.zarr")
    ]
    xr.testing.assert_identical(*made)


def test_a_storm_s_geotiff_is_refused(run, raw, tmp_path):
    with pytest.raises(UserError, match="where 202101 will be is not forecast"):
        infer(run, raw, tmp_path / "a.tif", **QUICK)
    assert not (tmp_path / "a.tif").exists()


# From where


@pytest.mark.parametrize(
    ("fault", "last"), [("truncated", 4), ("blank", 4), ("bad_pixels", 4), ("gaps", 3)]
)
def test_a_faulty_frame_is_not_forecast_from(run, tmp_path, fault, last):
    """With hour 5 gone the frames before it are the last three in a row; without 4, too."""
    hours = {"gaps": (4, 5, 7)}.get(fault, (5,))
    done = infer(run, write(tmp_path / "WP", **{fault: hours}), tmp_path / "a.nc", **QUICK)
    data = opened(done.file)
    assert data.forecast_reference_time.values == MIDNIGHT + last * HOUR
    expected = said_by(run, frames(write(tmp_path / "whole"), range(last - 2, last + 1)))
    np.testing.assert_allclose(data.brightness_temperature, expected, atol=1e-3)
    (note,) = [note for note in done.notes if "starts from" in note]
    assert f"from 2021-07-19 0{last}:00 UTC: the input's last frame is of 2021-07-19 0" in note
    assert len(done.problems) == (fault in ("truncated", "blank"))


def test_the_wanted_time(run, raw, tmp_path):
    data = opened(infer(run, raw, tmp_path / "a.nc", at="2021071903", **QUICK).file)
    assert data.forecast_reference_time.values == MIDNIGHT + 3 * HOUR
    np.testing.assert_allclose(
        data.brightness_temperature, said_by(run, frames(raw, range(1, 4))), atol=1e-3
    )


def test_a_flagged_frame_is_used_where_its_time_is_asked_for(run, tmp_path):
    raw = write(tmp_path / "WP", bad_pixels=(6,))
    done = infer(run, raw, tmp_path / "a.nc", at="2021071907", **QUICK)
    assert done.notes == ["1 of 3 frames are flagged (more than 1 % missing)"]
    data = opened(done.file)
    assert data.brightness_temperature.notnull().all()  # filled for the model, nothing hidden
    assert "% of the values that the model was given were missing" in data.attrs["comment"]
    assert data.forecast_reference_time.values == MIDNIGHT + 7 * HOUR


@pytest.mark.parametrize(
    ("at", "mode", "error", "words"),
    [
        ("2021071923", None, UsageError, "between 2021071900 and 2021071907"),
        ("yesterday", None, UsageError, "expected an hour between"),
        ("2021071901", None, UserError, "--at 2021071901 needs 3 frames up to it, one every 1 h"),
        ("2021071906", "check", UserError, "needs 3 frames up to it and 2 frames after it"),
    ],
)
def test_times_that_cannot_be_forecast_from(run, raw, tmp_path, at, mode, error, words):
    with pytest.raises(error, match=words):
        infer(run, raw, tmp_path / "o" / "a.nc", at=at, mode=mode, **QUICK)
    assert not list(tmp_path.glob("o/*"))


def test_too_few_frames_in_a_row(run, tmp_path):
    raw = write(tmp_path / "WP", gaps=(2,), truncated=(5,))
    with pytest.raises(
        UserError, match=r"202101 has no time with 3 frames up to it.*05-202101-HMW8-1.h5: not a r"
    ):
        infer(run, raw, tmp_path / "a.nc", **QUICK)


def test_another_time_step_is_refused(run, tmp_path):
    raw = write(tmp_path / "WP", hours=24, step_hours=3)
    with pytest.raises(UserError, match=r"a frame every 3 h; the model forecasts steps of 1 h"):
        infer(run, raw, tmp_path / "a.nc", **QUICK)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"mode": "enhance"}, "this model forecasts, and makes nothing finer"),
        ({"steps": 0}, "0 steps ahead: expected 1 or more"),
        ({"pictures": "2021071907"}, "hours between 2021071908 and 2021071909"),
    ],
)
def test_wishes_that_a_forecast_cannot_fulfil(run, raw, tmp_path, more, words):
    with pytest.raises(UsageError, match=words):
        infer(run, raw, tmp_path / "o" / "a.nc", **{**QUICK, **more})
    assert not list(tmp_path.glob("o/*"))


@pytest.mark.parametrize(
    ("more", "option"),
    [
        ({"mode": "forecast"}, "--mode forecast"),
        ({"at": "2021071907"}, "--at"),
        ({"steps": 2}, "--steps"),
    ],
)
def test_a_model_that_makes_finer_does_not_forecast(tmp_path, raw, more, option):
    ours, _ = settings.load(None, ["model.width=8"])
    path = save(tmp_path / "run") / "checkpoints" / "best.ckpt"
    plain = torch.load(path, weights_only=True)
    plain["settings"] = ours.model_dump(mode="json")
    torch.save(plain, path)
    with pytest.raises(UsageError, match=f"^{option} is for forecasts"):
        infer(tmp_path / "run", raw, tmp_path / "a.nc", **QUICK, **more)


# Of several channels, on a map

GRID = Grid(55 - 0.25 * np.arange(32), 5 + 0.25 * np.arange(32))
INNER = "[7.9, 11.1, 48.9, 52.1]"  # west, east, south, north: 13x13 cells


STATES = (
    ("t2m", "K", "air_temperature", (250, 300)),
    ("u10", "m s-1", "eastward_wind", (-20, 20)),
)
RAIN = (("tp", "mm", "lwe_thickness_of_precipitation_amount", (0, 5)),)


def write_fields(path: Path, hours: Any, variables: Any = STATES) -> Path:
    """So many hours after 2023-06-01 00 UTC, 32x32 cells of 0.25 degrees."""
    rng = np.random.default_rng(0)
    places = {"latitude": GRID.y, "longitude": GRID.x}
    times = np.datetime64("2023-06-01T00", "ns") + np.array(hours) * HOUR
    dataset = xr.Dataset(
        {
            name: (
                ("time", *places),
                rng.uniform(*span, (len(times), 32, 32)).astype(np.float32),
                {"units": units, "long_name": name, "standard_name": standard},
            )
            for name, units, standard, span in variables
        },
        {"time": times, **places},
    )
    for axis, units in (("latitude", "degrees_north"), ("longitude", "degrees_east")):
        dataset[axis].attrs["units"] = units
    dataset.to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hours of temperature and wind."""
    return write_fields(tmp_path_factory.mktemp("weather") / "weather.nc", range(6))


def both(weather: Path) -> tuple[dict[str, Any], ...]:
    release = sources.scan(weather, Options(variables=("t2m", "u10"), track_by="none"))
    return tuple(vars(channel) for channel in release.channels)


def test_all_targets_in_their_place(weather, tmp_path):
    run = save(tmp_path / "run", channels=both(weather), grid=GRID, attrs={})
    done = infer(run, weather, tmp_path / "a.nc", **QUICK)
    data = opened(done.file)
    assert {name: field.attrs["units"] for name, field in data.data_vars.items()} == {
        "air_temperature_t2m": "K",
        "eastward_wind_u10": "m s-1",
    }
    assert data.air_temperature_t2m.dims == ("time", "latitude", "longitude")
    np.testing.assert_allclose(data.latitude, GRID.y)
    assert data.attrs["comment"].count("centre") == 0
    with pytest.raises(UserError, match="one score"):
        infer(run, weather, tmp_path / "b.nc", mode="check", **QUICK)


def test_a_region_lies_where_it_is(weather, tmp_path):
    more = ["task.targets=[u10]", f"task.region={INNER}"]
    run = save(tmp_path / "run", *more, channels=both(weather), grid=GRID, attrs={})
    data = opened(infer(run, weather, tmp_path / "a.nc", mode="check", **QUICK).file)
    rows, columns = slice(12, 25), slice(12, 25)
    np.testing.assert_allclose(data.latitude, GRID.y[rows])
    np.testing.assert_allclose(data.longitude, GRID.x[columns])
    with xr.open_dataset(weather) as given:
        wind = given.u10.values[:, rows, columns]
    np.testing.assert_array_equal(data.eastward_wind_truth, wind[4:])
    np.testing.assert_array_equal(data.eastward_wind_persistence, wind[[3, 3]])
    folder = infer(run, weather, tmp_path / "a.tif", mode="check", **QUICK).file
    id = data.attrs["track_id"]
    assert inside(folder) == [f"{id}-2023060104.tif", f"{id}-2023060105.tif"]
    with rasterio.open(folder / f"{id}-2023060105.tif") as file:
        assert file.crs.to_epsg() == 4326
        assert file.transform @ (0.5, 0.5) == pytest.approx((GRID.x[12], GRID.y[12]))
        assert np.array_equal(file.read(1), data.eastward_wind[1])
        tags = file.tags()
        assert tags["forecast_reference_time"] == "2023-06-01T03:00:00Z"
        assert (tags["forecast_period"], tags["time"]) == ("2.0", "2023-06-01T05:00:00Z")


@pytest.mark.parametrize("outside", ["seen", "mean", "other_date"])
def test_outside_the_region_the_model_sees_what_it_was_trained_to(weather, tmp_path, outside):
    """Only of `seen` does what is there now matter; of another date what was there then does."""
    more = ["task.targets=[u10]", f"task.region={INNER}", f"task.outside={outside}"]
    run = save(tmp_path / "run", *more, channels=both(weather), grid=GRID, attrs={})
    first = opened(infer(run, weather, tmp_path / "a.nc", **QUICK).file)

    def changed(times: list[int]) -> bool:
        with xr.open_dataset(weather) as given:
            other = given.load()
        for name in ("t2m", "u10"):
            field = other[name].values
            before = field[:, 12:25, 12:25].copy()
            field[times] = np.where(field[times] > 0, field[times] - 7, field[times] + 7)
            field[:, 12:25, 12:25] = before
        path = tmp_path / f"other{times[0]}.nc"
        other.to_netcdf(path, engine="h5netcdf")
        second = opened(infer(run, path, tmp_path / "b.nc", **QUICK).file)
        return not np.array_equal(first.eastward_wind, second.eastward_wind)

    assert changed([3, 4, 5]) == (outside == "seen")
    assert changed([0, 1, 2]) == (outside == "other_date")


def test_another_date_is_as_far_away_as_there_is_one(tmp_path):
    footage = inputs.opened(write(tmp_path / "WP", truncated=(0,)), None, INFRARED_ALONE)
    frames = Frames(footage, 3600, INFRARED_ALONE)
    assert frames.donors([5, 6, 7], 3) == [1, 2, 3]
    assert frames.donors([1, 2, 3], 3) == [5, 6, 7]
    with pytest.raises(UserError, match="no other 3 frames in a row"):
        frames.donors([1, 2, 3, 4, 5], 3)  # 5 to 7 would give away what is to be forecast


def test_without_another_date_there_is_none_to_take_from(weather, tmp_path):
    more = ["task.targets=[u10]", f"task.region={INNER}", "task.outside=other_date"]
    run = save(tmp_path / "run", *more, channels=both(weather), grid=GRID, attrs={})
    with pytest.raises(UserError, match="has no other 3 frames in a row"):
        infer(run, weather, tmp_path / "a.nc", at="2023060103", **QUICK)


def test_scores_with_other_dates_need_other_dates(tmp_path):
    """Windows of five hours: of six in a row both share frames, of ten in a row none does."""
    given = write_fields(tmp_path / "f.nc", [*range(6), *range(24, 38), *range(48, 61)])
    options = Options(variables=("t2m", "u10"), track_by="day")
    store = tmp_path / "f.zarr"
    convert(given, store, ConvertSettings(options=options), manifests=tmp_path, workers=1)
    more = ["task.targets=[u10]", f"task.region={INNER}", "task.outside=other_date"]
    run = save(tmp_path / "run", *more, channels=both(given), grid=GRID, attrs={})
    for day, windows, shared in (("01", 2, 2), ("02", 10, 0), ("03", 9, 5)):
        splits = tmp_path / f"{day}.json"
        split.split(store, splits, eval_ids=[f"2023-06-{day}"])
        if not shared:
            evaluate(run, store_path=store, split_path=splits, resamples=50)
            continue
        told = f"2023-06-{day}: its {windows} windows of 5 frames are too few.*{shared} would share"
        with pytest.raises(UserError, match=told):
            evaluate(run, store_path=store, split_path=splits)


def test_only_what_the_model_is_given_must_be_like_its_training(tmp_path):
    given = write_fields(tmp_path / "f.nc", range(6))
    with xr.open_dataset(given) as file:
        data = file.load()
    data.u10[:, 0, 0] = 90.0
    data.u10[:, 12, 12] = 30.0
    data.to_netcdf(tmp_path / "g.nc", engine="h5netcdf")
    run, told = tmp_path / "run", {}
    for name, more in {
        "all": [],
        "wind": ["task.inputs=[u10]"],
        "area": ["task.inputs=[u10]", f"task.area={INNER}"],
    }.items():
        channels = both(given)
        save(run, *more, channels=channels, grid=GRID, attrs={})
        path = run / "checkpoints" / "best.ckpt"
        plain = torch.load(path, weights_only=True)
        plain["data"]["seen"] = {"min": [260.0, -20.0], "max": [300.0, 20.0], "satellites": []}
        torch.save(plain, path)
        told[name] = infer(run, tmp_path / "g.nc", tmp_path / "a.nc", **QUICK).notes
    temperature, wind = told["all"]
    assert "lie below 260.0 K" in temperature
    assert told["wind"] == [wind]
    assert "the highest here is 90.0 m s-1" in wind
    assert f"{100 * 2 / 32**2:.2g} % of the pixels lie above 20.0 m s-1" in wind
    (inner,) = told["area"]
    assert "the highest here is 30.0 m s-1" in inner


def test_an_area_of_which_nothing_was_seen_is_not_looked_at(tmp_path):
    given = write_fields(tmp_path / "f.nc", range(6))
    with xr.open_dataset(given) as file:
        data = file.load()
    data.u10[:, 12:25, 12:25] = np.nan
    data.to_netcdf(tmp_path / "g.nc", engine="h5netcdf")
    more = ["task.inputs=[u10]", f"task.area={INNER}"]
    run = save(tmp_path / "run", *more, channels=both(given), grid=GRID, attrs={})
    done = infer(run, tmp_path / "g.nc", tmp_path / "a.nc", at="2023060105", **QUICK)
    assert not [note for note in done.notes if "largest value" in note]


def test_limits_are_told_in_as_many_digits_as_they_need():
    data = SimpleNamespace(
        seen={"min": [0.0], "max": [0.0123], "satellites": []},
        train=["a"],
        attrs={},
        channels=[{"name": "q", "units": "kg kg-1"}],
    )
    outside = Outside(data)
    outside.look(np.array([[[0.0149, 0.01]]], np.float32))
    assert outside.sentences(SimpleNamespace(attrs={}), [], (1,)) == [
        "50 % of the pixels lie above 0.0123 kg kg-1, the highest value of the training track a; "
        "the highest here is 0.0149 kg kg-1."
    ]


# Of rain that is known later than its time says


def test_rain_labelled_by_its_beginning_is_known_at_its_end(tmp_path, drawn):
    given = write_fields(tmp_path / "f.nc", range(1, 13), RAIN)
    options = Options(variables=("tp",), covers=3600, accumulate=7200, track_by="none")
    store = tmp_path / "f.zarr"
    convert(given, store, ConvertSettings(options=options), manifests=tmp_path, workers=1)
    channels = tuple(inputs.store.open_store(store).channels)
    run = save(tmp_path / "run", channels=channels, attrs={}, step=7200)
    done = infer(run, store, tmp_path / "a.nc", pictures="all", animations=())
    data = opened(done.file)
    begin = np.datetime64("2023-06-01T00", "ns")
    assert (data.time.values == begin + np.array([12, 14]) * HOUR).all()
    assert data.forecast_reference_time.values == begin + 12 * HOUR  # 10 to 12 was the last
    assert data.forecast_period.values.tolist() == [0.0, 2.0]
    assert "forecast from 2023-06-01 12:00 UTC by simvp" in data.attrs["title"]
    assert data.attrs["forecast_input_times"].endswith("2023-06-01T10:00:00Z")
    assert "the beginning of the 2 h that its frame is of" in data.attrs["comment"]
    assert "complete at 2023-06-01 12:00 UTC" in data.attrs["comment"]
    subtitle = drawn["png"][0].subtitle
    assert subtitle.startswith("forecast from 2023-06-01 12:00 UTC    each time is the beginning o")
    again = infer(run, store, tmp_path / "b.nc", at="2023060110", **QUICK)  # as its history says
    xr.testing.assert_identical(opened(again.file), data)


@pytest.mark.parametrize(
    ("label", "hours", "expected"),
    [
        ("as in the files", 24.0, 0),
        ("as in the files: for rain the end of its interval", 24.0, 0),
        ("as in the files: for rain the start of its interval", 24.0, 86400),
        ("as in the files: for rain the end or start of its interval", 1.0, 3600),
        ("start of the interval: sums over 1 day from each time on", 24.0, 86400),
        ("start of the interval: sums of rain, means of all else, over 6 h", None, 21600),
        ("", 24.0, 0),
    ],
)
def test_what_a_time_label_says(label, hours, expected):
    attrs = {"time_label": label, "accumulation_hours": hours}
    channels = [{"units": "K"}, {"units": "mm"}]
    trained = SimpleNamespace(data=SimpleNamespace(attrs={}, channels=channels))
    footage, task = SimpleNamespace(attrs=attrs), SimpleNamespace(inputs=(0, 1))
    assert start.interval(footage, trained, task, 21600) == expected
    of_states = start.interval(footage, trained, SimpleNamespace(inputs=(0,)), 21600)
    assert of_states == (expected if label.startswith("start") else 0)


def test_cells_of_one_row_are_as_high_as_wide():
    y, x = np.array([50.0]), 5 + 0.25 * np.arange(4)
    made = forecasts.place(Grid(y, x), 1, (1, 4))
    assert made.pixel == 0.25
    assert made.extent == pytest.approx((4.875, 5.875, 49.875, 50.125))
    column = forecasts.place(Grid(55 - 0.5 * np.arange(4), x), 1, (4, 1))
    assert column.extent == pytest.approx((4.75, 5.25, 53.25, 55.25))
    assert forecasts.place(Grid(y, x), 1, (1, 1)).pixel == 1.0  # nothing tells


def test_another_grid_is_refused_where_the_place_matters(weather, tmp_path):
    elsewhere = Grid(GRID.y + 5, GRID.x)
    more = ["task.region=[7.9, 11.1, 53.9, 57.1]"]
    run = save(tmp_path / "run", *more, channels=both(weather), grid=elsewhere, attrs={})
    with pytest.raises(UserError, match=r"its grid is .* the model was trained on"):
        infer(run, weather, tmp_path / "a.nc", **QUICK)


# Several sets of weights


def test_an_ensemble_of_forecasts(raw, tmp_path):
    run = save(tmp_path / "run", "task.coarsen=2")
    save(run, "task.coarsen=2", name="last", seed=1)
    one, other = (
        opened(infer(run, raw, tmp_path / f"{which}.nc", which=which, steps=3, **QUICK).file)
        for which in ("best", "last")
    )
    data = opened(infer(run, raw, tmp_path / "a.nc", members=2, steps=3, **QUICK).file)
    pair = np.stack([each.brightness_temperature.values for each in (one, other)])
    np.testing.assert_allclose(data.brightness_temperature_ensemble_mean, pair.mean(0), atol=1e-3)
    np.testing.assert_allclose(
        data.brightness_temperature_ensemble_spread, pair.std(0, ddof=1), atol=1e-3
    )
    done = infer(run, raw, tmp_path / "b.nc", members=2, mode="check", **QUICK)
    data = opened(done.file)
    assert list(done.scores) == ["model", "ensemble", *BASELINES]
    mean = data.brightness_temperature_ensemble_mean - data.brightness_temperature_truth
    np.testing.assert_allclose(
        data.rmse_ensemble, np.sqrt((mean.astype(float) ** 2).mean(("y", "x"))), rtol=1e-5
    )
    assert [lead["ensemble"]["crps"] for lead in done.leads] == pytest.approx(
        data.crps_ensemble.values, rel=1e-5
    )
    assert done.scores["ensemble"]["crps"] == pytest.approx(
        float(data.crps_ensemble.mean()), rel=1e-5
    )


# Pictures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[drawing.Scene]]:
    """Every scene that is drawn, as a PNG or into an animation."""
    scenes: dict[str, list[drawing.Scene]] = {"png": [], "film": []}

    def panels(path: Path, scene: drawing.Scene) -> Path:
        scenes["png"].append(scene)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    def image(scene: drawing.Scene, most: tuple[int, int]) -> np.ndarray:
        scenes["film"].append(scene)
        return np.zeros((16, 16, 3), np.uint8)

    monkeypatch.setattr(lead_scenes.drawing, "panels", panels)
    monkeypatch.setattr(lead_scenes.drawing, "image", image)
    return scenes


def test_pictures_show_it_beside_what_was_seen_last(run, raw, tmp_path, drawn):
    done = infer(run, raw, tmp_path / "a.nc", pictures="2021071909", animations=())
    assert [path.name for path in done.pictures] == [f"{ID}-2021071909.png"]
    (scene,) = drawn["png"]
    assert scene.title == "202101    2021-07-19 09:00 UTC    forecast +2 h"
    assert scene.subtitle.startswith("forecast from 2021-07-19 07:00 UTC    then: centre ")
    seen, forecast, change = scene.panels
    data = opened(done.file).brightness_temperature.values
    assert seen.title == "Last observed, 2021-07-19 07:00 UTC"
    np.testing.assert_allclose(seen.field, frames(raw, range(7, 8))[0], atol=1e-4)
    np.testing.assert_array_equal(forecast.field, data[1])
    np.testing.assert_allclose(change.field, forecast.field - seen.field)
    assert change.error
    assert scene.extent == (-80, 80, -80, 80)


def test_pictures_of_a_check_say_what_each_is_worth(run, raw, tmp_path, drawn):
    done = infer(run, raw, tmp_path / "a.nc", mode="check", pictures="all", animations=())
    data = opened(done.file)
    for lead, scene in enumerate(drawn["png"]):
        told = {
            row: f"RMSE {data[f'rmse_{row}'].values[lead]:.2f} K"
            for row in ("persistence", "optical_flow", "model")
        }
        assert [panel.title for panel in scene.panels] == [
            f"Last observed, {told['persistence']}",
            f"Optical flow, {told['optical_flow']}",
            f"simvp, {told['model']}",
            "Truth",
            "simvp minus truth",
        ]
        truth = data.brightness_temperature_truth.values[lead]
        np.testing.assert_array_equal(scene.panels[3].field, truth)
        assert scene.look.high == drawn["png"][0].look.high
    assert len(drawn["png"]) == 2


def test_the_animation_is_the_past_and_then_the_forecast(run, raw, tmp_path, drawn):
    for mode, left in (("forecast", "Last observed"), ("check", "Observed")):
        drawn["film"].clear()
        out = tmp_path / f"{mode}.nc"
        done = infer(run, raw, out, mode=mode, pictures="none", animations=("gif",))
        assert [path.name for path in done.animations] == [f"{mode}.gif"]
        last = 7 if mode == "forecast" else 5
        assert [scene.title.split("    ")[1:] for scene in drawn["film"]] == [
            *([f"2021-07-19 0{last - 2 + n}:00 UTC", "observed"] for n in range(3)),
            *([f"2021-07-19 0{last + n}:00 UTC", f"forecast +{n} h"] for n in (1, 2)),
        ]
        data = opened(done.file)
        for lead, scene in enumerate(drawn["film"][3:]):
            assert scene.panels[0].title.startswith(left)
            assert scene.panels[1].title == f"simvp, forecast +{lead + 1} h"
            np.testing.assert_array_equal(
                scene.panels[1].field, data.brightness_temperature.values[lead]
            )
            if mode == "check":
                truth = data.brightness_temperature_truth.values[lead]
                np.testing.assert_array_equal(scene.panels[0].field, truth)
        np.testing.assert_allclose(
            drawn["film"][0].panels[0].field, frames(raw, range(last - 2, last))[0], atol=1e-4
        )


def test_pictures_and_animation_are_files(run, raw, tmp_path):
    done = infer(run, raw, tmp_path / "a.nc", mode="check", pictures="1", animations=("gif",))
    (picture,) = done.pictures
    assert picture.stat().st_size > 10_000
    assert inside(tmp_path / "a") == [picture.name]
    assert (tmp_path / "a.gif").stat().st_size > 10_000


# Stopped


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_stopped_it_leaves_what_was_there_before(run, raw, tmp_path, monkeypatch, error):
    out = tmp_path / "o" / "a.nc"
    before = infer(run, raw, out, **QUICK).file.read_bytes()

    def stops(self: netcdf.Writer, *args: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(netcdf.Writer, "append", stops)
        with pytest.raises(type(error)):
            infer(run, raw, out, at="2021071904", **QUICK)
    assert out.read_bytes() == before
    assert inside(tmp_path / "o") == ["a.nc"]
    infer(run, raw, out, **QUICK)
    assert out.read_bytes() == before


# The command


def test_the_command_says_what_each_lead_is_worth(run, raw, tmp_path):
    words = f"infer {run} {raw} --out {tmp_path}/a.nc --mode check --steps 3 --no-animation"
    said = CliRunner().invoke(cli.app, [*words.split(), "--pictures", "none"])
    assert said.exit_code == 0, said.output
    assert f"{ID}: 3 frames of 16x16, one every 1 h from 2021-07-19 04:00 UTC on" in said.output
    lines = [line.split() for line in said.output.splitlines()]
    data = opened(tmp_path / "a.nc")
    for lead in range(3):
        told = [f"{data[f'rmse_{row}'].values[lead]:.3f}" for row in ("model", *BASELINES)]
        assert [str(lead + 1), "h", *told] in lines
    words = f"infer {run} {raw} --out {tmp_path}/b.nc --at 2021071903 --no-animation"
    said = CliRunner().invoke(cli.app, [*words.split(), "--pictures", "none"])
    assert said.exit_code == 0, said.output
    assert opened(tmp_path / "b.nc").forecast_reference_time.values == MIDNIGHT + 3 * HOUR


def test_a_typhoon_that_was_trained_on_is_said_to_be(raw, tmp_path):
    run = save(tmp_path / "run", train=[ID])
    done = infer(run, raw, tmp_path / "a.nc", mode="check", **QUICK)
    assert f"{ID} was trained on: its scores say nothing about a new typhoon" in done.notes
    assert not infer(run, raw, tmp_path / "b.nc", **QUICK).notes


def last_line(*words: object) -> list[str]:
    said = CliRunner().invoke(cli.app, [*map(str, words), "--no-animation"])
    assert said.exit_code == 0, said.output
    return said.stdout.splitlines()[-1].split()


def test_the_check_that_is_proposed_has_what_it_needs(run, raw, tmp_path):
    words = "infer", run, raw, "--out", tmp_path / "a.nc", "--at", "2021071903"
    proposed = last_line(*words, "--pictures", "2021071904")
    assert proposed[:3] == ["Next", "cli", "infer"]
    assert proposed[-2:] == ["--mode", "check"]
    assert "--at" not in proposed
    assert "--pictures" not in proposed
    assert last_line(*proposed[2:], "--pictures", "none") == ["Next", "cli", "export", str(run)]


def test_no_check_is_proposed_of_what_has_no_frames_after_the_first(run, tmp_path):
    short = write(tmp_path / "WP", hours=3)
    words = "infer", run, short, "--out", tmp_path / "a.nc", "--pictures", "none"
    assert last_line(*words) == ["Next", "cli", "export", str(run)]


def test_what_was_exported_is_not_exported_once_more(run, raw, tmp_path):
    ex = tmp_path / "ex"
    made = CliRunner().invoke(cli.app, ["export", str(run), "--out", str(ex)])
    assert made.exit_code == 0, made.output
    words = "infer", ex, raw, "--out", tmp_path / "a.nc", "--mode", "check", "--pictures", "none"
    assert "Next" not in last_line(*words)
