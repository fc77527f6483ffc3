"""Rain on a grid from NetCDF to scores; and what went wrong in the specification's own project.

MODELS: its truth was interpolated from its input, its output 70 % interpolation, its days shuffled,
its maps transposed, its forecasts in other units and its grid of 0.00802 degrees.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

import cli
from pipeline import checkpoint, evaluate, infer, manifest, settings, split, store, train
from pipeline.answers import MODEL, Answers
from pipeline.convert import ConvertSettings, convert
from pipeline.errors import UserError
from pipeline.loader import fixed_crops
from pipeline.sources.options import Options

H, W, DAYS, HOURS = 17, 23, 5, 8  # neither side divisible by 4
SMALL = [
    "model.name=srgan",
    "model.width=8",
    "model.fine_width=4",
    "model.n_residual_blocks=1",
    "model.discriminator_width=4",
    "model.discriminator_hidden=8",
    "model.pretrain_steps=4",
    "training.sequence_length=1",
    "training.patch_size=16",
    "training.batch_size=4",
    "training.epochs=1",
    "training.sample_every_epochs=0",
    "training.validation_crops=4",
    "training.ema=0",
]


def showers(seed: int = 0) -> np.ndarray:
    """(DAYS * HOURS, H, W) mm: blobs that come and go over dry land, no two days alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:H, :W]
    frames = np.zeros((DAYS * HOURS, H, W))
    for frame in frames:
        for _ in range(rng.integers(1, 4)):
            r, c, width = rng.uniform(0, H), rng.uniform(0, W), rng.uniform(1, 4)
            frame += rng.gamma(1.0, 3.0) * np.exp(-((y - r) ** 2 + (x - c) ** 2) / width**2)
    return np.where(frames > 0.05, frames, 0)


def write(
    path: Path,
    mm: np.ndarray,
    *,
    units: str = "m",
    dims: tuple[str, ...] = ("valid_time", "latitude", "longitude"),
    north_first: bool = True,
) -> Path:
    """As ERA5's: hourly from 2023-06-01 01 UTC, HOURS a day, 0.25 degrees from 55 N and 5 E."""
    hours = [np.datetime64("2023-06-01T01") + 24 * (i // HOURS) + i % HOURS for i in range(len(mm))]
    latitude = 55 - 0.25 * np.arange(H)
    array = xr.DataArray(
        (mm / {"m": 1000, "mm": 1}[units]).astype(np.float32),
        dims=("valid_time", "latitude", "longitude"),
        coords={
            "valid_time": np.array(hours, "datetime64[ns]"),
            "latitude": ("latitude", latitude, {"units": "degrees_north"}),
            "longitude": ("longitude", 5 + 0.25 * np.arange(W), {"units": "degrees_east"}),
        },
        attrs={"units": units, "long_name": "Total precipitation"},
    )
    if not north_first:
        array = array.isel(latitude=slice(None, None, -1))
    path.parent.mkdir(parents=True, exist_ok=True)
    array.transpose(*dims).to_dataset(name="tp").to_netcdf(path, engine="h5netcdf")
    return path


def stored(source: Path, target: Path) -> store.Store:
    made = ConvertSettings(options=Options(variables=("tp",), track_by="day"))
    convert(source, target, made, manifests=target.parent, workers=1)
    return store.open_store(target)


def trained(home: Path, run: str, *more: str, where: str = "R") -> Path:
    made, _ = settings.load(None, [*SMALL, *more])
    located = settings.located(made, home / f"{where}.zarr", home / f"{where}.split.json")
    train.train(located, home / run)
    return home / run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """R.zarr of five days, split, and a run."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("rain")
    stored(write(home / "nc" / "tp.nc", showers()), home / "R.zarr")
    split.split(home / "R.zarr", home / "R.split.json", eval_last=0.4)
    trained(home, "run", "task.conserve_mass=multiplicative")
    return home


@pytest.fixture(scope="module")
def done(home: Path) -> evaluate.Evaluation:
    return evaluate.evaluate(home / "run", resamples=100)


def test_the_latest_whole_tracks_are_set_aside(home: Path):
    made = manifest.read_split(home / "R.split.json", store.open_store(home / "R.zarr"))
    assert made.eval == ["2023-06-04", "2023-06-05"]
    assert made.train == ["2023-06-01", "2023-06-02", "2023-06-03"]
    assert made.selected_by == "eval: the latest tracks with 0.4 of the frames"


def test_scaling_is_fitted_on_the_training_days_alone(home: Path):
    truth = showers()
    found = checkpoint.load(home / "run" / "checkpoints" / "last.ckpt")
    assert found.scaling.kinds == ("log1p",)
    assert found.scaling.scale[0] == pytest.approx(np.log1p(truth[: 3 * HOURS].max()), rel=1e-5)
    assert found.data.channels[0]["observed_max"] == pytest.approx(truth[: 3 * HOURS].max())
    assert found.geometry.floor == 0
    assert not found.geometry.block_means


def test_scores_are_those_of_rain(home: Path, done: evaluate.Evaluation):
    told = json.loads(done.file.read_text())
    assert told["rows"][:4] == ["model", "bicubic", "bicubic_means", "bilinear"]
    assert told["thresholds"] == {"light": 0.1, "moderate": 1.0, "heavy": 5.0, "units": "mm"}
    assert told["accumulation_hours"] == 1
    assert (told["pixel"], told["pixel_units"]) == (0.25, "deg")
    assert told["psnr_range"]["peak"] == pytest.approx(showers()[: 3 * HOURS].max())
    assert told["units"]["wet_area_error"] == "%"
    assert told["units"]["quantile_error_0.99"] == "mm"
    assert told["units"]["effective_resolution"] == "deg"
    assert told["truth"] == "native"
    assert told["notes"] == []
    assert told["frames"] == 2 * HOURS


def test_the_baselines_interpolate_millimetres(done: evaluate.Evaluation):
    """Not their logarithm; and never below zero. Worked out here again, in float64."""
    y = torch.from_numpy(showers()[3 * HOURS :, None, :16, :20].astype(np.float32)).double()
    x = y.reshape(-1, 1, 4, 4, 5, 4).mean((3, 5))
    for how in ("bicubic", "bilinear"):
        guess = torch.nn.functional.interpolate(x, scale_factor=4, mode=how, align_corners=False)
        rmse = float((guess.clamp(min=0) - y).square().mean().sqrt())
        assert done.scores.rows[how]["rmse"] == pytest.approx(rmse, rel=1e-4)


def test_mass_is_conserved_in_what_is_scored(home: Path, done: evaluate.Evaluation):
    assert done.scores.rows["model"]["bias"] == pytest.approx(0, abs=1e-6)
    assert done.scores.rows["bicubic_means"]["bias"] == pytest.approx(0, abs=1e-6)
    answers = Answers(checkpoint.load(home / "run" / "checkpoints" / "best.ckpt"), "cpu")
    posed = answers.posed(showers()[:3, None].astype(np.float32), split=True)
    made = answers.of(MODEL, posed)
    assert float(made.min()) >= 0
    means = made.reshape(1, 3, 1, 4, 4, 5, 4).mean((4, 6))
    torch.testing.assert_close(means, posed.x, rtol=1e-5, atol=1e-6)


def test_validation_judges_as_evaluate_does(home: Path):
    """The best checkpoint is chosen by the same answers that are scored."""
    told = [json.loads(line) for line in (home / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = next(line for line in reversed(told) if "validation/rmse_model" in line)
    opened = store.open_store(home / "R.zarr")
    eval_tracks = [opened.track(id) for id in ("2023-06-04", "2023-06-05")]
    crops = fixed_crops(eval_tracks, window=1, patch=16, count=4).numpy()
    answers = Answers(checkpoint.load(home / "run" / "checkpoints" / "last.ckpt"), "cpu")
    posed = answers.posed(crops, split=True)
    for row in answers.rows:
        rmse = float((answers.of(row, posed) - posed.truth).square().mean().sqrt())
        assert logged[f"validation/rmse_{row}"] == pytest.approx(rmse, rel=1e-5), row


# What the specification's project did, one by one


def test_interpolated_truth_is_said_wherever_scores_are(home: Path, capsys):
    """Its truth was its input, interpolated: bilinear is then perfect, and nothing to learn."""
    run = trained(home, "interpolated", "task.truth=interpolated", "task.factor=4")
    result = CliRunner().invoke(cli.app, ["evaluate", str(run), "--resamples", "100"])
    assert result.exit_code == 0, result.output
    assert "interpolated truth: nothing in it is finer" in " ".join(result.output.split())
    told = json.loads((run / "scores.json").read_text())
    assert told["truth"] == "interpolated"
    assert "interpolated truth" in told["notes"][0]
    assert told["bilinear"]["rmse"] == 0
    assert "bicubic_means" not in told["rows"]
    assert told["pixel"] == 0.25 / 4


def test_a_store_that_was_regridded_finer_is_interpolated_truth_too(home: Path):
    made = ConvertSettings(options=Options(variables=("tp",), track_by="day", resolution=0.125))
    convert(home / "nc", home / "F.zarr", made, manifests=home, workers=1)
    split.split(home / "F.zarr", home / "F.split.json", eval_last=0.2)
    told = evaluate.evaluate(trained(home, "regridded", where="F"), resamples=100)
    assert json.loads(told.file.read_text())["truth"] == "interpolated"
    assert told.notes


def test_an_answer_is_the_network_s_own_neither_blended_nor_smoothed(home: Path):
    """Its output was 0.3 of the network's and 0.7 of bilinear, after a Gaussian of sigma 20."""
    run = trained(home, "plain", "training.lr=0.05")
    found = checkpoint.load(run / "checkpoints" / "last.ckpt")
    answers = Answers(found, "cpu")
    posed = answers.posed(showers()[:4, None].astype(np.float32), split=True)
    with torch.no_grad():
        alone = found.scaling.restore(found.model()(found.scaling.model_input(posed.x)))
    assert torch.equal(answers.of(MODEL, posed), alone)
    away = (alone - answers.of("bilinear", posed)).abs().max()
    assert away > 0.1  # so the test could tell


def test_frame_i_is_day_i(home: Path, done: evaluate.Evaluation):
    """Its loader shuffled the days that it wrote, and a quantile plot did not show it."""
    told = json.loads(done.file.read_text())
    for id in ("2023-06-04", "2023-06-05"):
        times = [f"{id}T{hour:02}:00Z" for hour in range(1, 1 + HOURS)]
        assert told["by_frame"][id]["time"] == times
        assert told["by_frame"][id]["frame"] == list(range(HOURS))
    sites = pd.read_csv(home / "run" / "scores.sites.csv")
    wettest = sites[sites["site"] == "wettest"]
    row = round((55 - wettest["latitude"].iloc[0]) / 0.25)
    column = round((wettest["longitude"].iloc[0] - 5) / 0.25)
    np.testing.assert_allclose(
        wettest["truth"], showers()[3 * HOURS :, row, column], rtol=1e-5, atol=1e-6
    )
    assert told["sites"][0]["correlation"]["model"] > 0.5
    coarse = showers()[3 * HOURS :, :16, :20].reshape(-1, 4, 4, 5, 4).mean((2, 4))
    answers = Answers(checkpoint.load(home / "run" / "checkpoints" / "best.ckpt"), "cpu")
    frames = showers()[3 * HOURS :, None].astype(np.float32)
    made = answers.of(MODEL, answers.posed(frames, split=True))[0, :, 0].numpy()
    away = np.square(made[:, None] - np.repeat(np.repeat(coarse, 4, 1), 4, 2)[None]).mean((2, 3))
    assert (away.argmin(1) == np.arange(2 * HOURS)).all()  # each is nearest to its own hour


def test_neither_the_order_of_dimensions_nor_of_latitudes_turns_a_map(home: Path, tmp_path: Path):
    """It learnt on (lon, lat), and wrote that as (lat, lon)."""
    mm = showers()[: 2 * HOURS]
    turned = write(
        tmp_path / "t" / "tp.nc",
        mm,
        dims=("longitude", "latitude", "valid_time"),
        north_first=False,
    )
    found = stored(turned.parent, tmp_path / "t.zarr").track("2023-06-01")
    usual = store.open_store(home / "R.zarr").track("2023-06-01")
    np.testing.assert_array_equal(np.asarray(found.frames), np.asarray(usual.frames))
    np.testing.assert_array_equal(found.values("latitude"), usual.values("latitude"))
    np.testing.assert_allclose(np.asarray(usual.frames)[:, 0], mm[:HOURS], rtol=1e-5, atol=1e-5)


def test_metres_and_millimetres_become_the_same_store(home: Path, tmp_path: Path):
    """It gave metres to what had learnt on millimetres."""
    mm = write(tmp_path / "mm" / "tp.nc", showers()[: 2 * HOURS], units="mm")
    found = stored(mm.parent, tmp_path / "mm.zarr").track("2023-06-02")
    usual = store.open_store(home / "R.zarr").track("2023-06-02")
    np.testing.assert_allclose(np.asarray(found.frames), np.asarray(usual.frames), rtol=1e-5)


def test_a_model_of_rain_is_not_scored_on_another_quantity(home: Path, tmp_path: Path):
    made = xr.open_dataset(home / "nc" / "tp.nc", engine="h5netcdf").rename(tp="t2m").load()
    made["t2m"].attrs = {"units": "K", "long_name": "temperature"}
    made["t2m"] = made["t2m"] * 1000 + 280
    (tmp_path / "nc").mkdir()
    made.to_netcdf(tmp_path / "nc" / "t2m.nc", engine="h5netcdf")
    other = ConvertSettings(options=Options(variables=("t2m",), track_by="day"))
    convert(tmp_path / "nc", tmp_path / "K.zarr", other, manifests=tmp_path, workers=1)
    split.split(tmp_path / "K.zarr", tmp_path / "K.split.json", eval_last=0.2)
    with pytest.raises(UserError, match=r"the model was trained on tp \[mm\]"):
        evaluate.evaluate(
            home / "run", store_path=tmp_path / "K.zarr", split_path=tmp_path / "K.split.json"
        )


# Forecasts of another resolution


def forecast(folder: Path, hours: int, *, units: str | None, seed: int) -> np.ndarray:
    """One file, tp(lat, lon) of 0.4 degrees without a time, as the specification's; returns mm."""
    rng = np.random.default_rng(seed)
    mm = rng.gamma(0.4, 5.0, (6, 9)) + 5 * np.eye(6, 9)  # and its diagonal tells it from its mirror
    array = xr.DataArray(
        (mm / 1000).astype(np.float32),
        dims=("lat", "lon"),
        coords={"lat": 30 - 0.4 * np.arange(6), "lon": 106 + 0.4 * np.arange(9)},
        attrs={} if units is None else {"units": units},
    )
    folder.mkdir(exist_ok=True)
    array.to_dataset(name="tp").to_netcdf(folder / f"obj_{hours}.nc", engine="h5netcdf")
    return mm.astype(np.float32)


@pytest.mark.parametrize("ending", ["nc", "zarr"])
def test_a_forecast_of_another_resolution_keeps_place_day_and_unit(
    home: Path, tmp_path: Path, ending: str
):
    """Metres, 0.4 degrees, no times, rows from north: what went wrong in all four ways there."""
    days = (1, 2, 10)  # in this order, not 1, 10, 2
    given = [forecast(tmp_path / "obj", day, units=None, seed=day) for day in days]
    words = [str(home / "run"), str(tmp_path / "obj"), "--out", str(tmp_path / f"o.{ending}")]
    words += ["--units", "m", "--step", "24h", "--start", "2023-08-01", "--pictures", "none"]
    result = CliRunner().invoke(cli.app, ["infer", *words, "--no-animation", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    engine = {"nc": "h5netcdf", "zarr": "zarr"}[ending]
    with xr.open_dataset(tmp_path / f"o.{ending}", engine=engine) as made:
        rain = made["lwe_thickness_of_precipitation_amount"]
        assert rain.dims == ("time", "latitude", "longitude")
        assert rain.attrs["units"] == "mm"
        assert [str(t)[:10] for t in made["time"].values] == [f"2023-08-0{i}" for i in (1, 2, 3)]
        np.testing.assert_allclose(np.diff(made["latitude"]), -0.1, atol=1e-9)
        np.testing.assert_allclose(made["latitude"][[0, -1]], [30.15, 27.85])
        np.testing.assert_allclose(made["longitude"][[0, -1]], [105.85, 109.35])
        assert made["latitude"].attrs["units"] == "degrees_north"
        blocks = rain.values.reshape(3, 6, 4, 9, 4).mean((2, 4))
        np.testing.assert_allclose(blocks, given, rtol=1e-4)  # file i is day i; nothing is turned
        assert rain.values.min() >= 0
        assert "cells of 0.4°, the model learnt from cells of 1°" in made.warning


def test_a_forecast_that_states_wrong_units_is_found_out(home: Path, tmp_path: Path):
    forecast(tmp_path / "obj", 1, units="mm", seed=1)  # but its values are metres
    done = infer.infer(
        home / "run",
        tmp_path / "obj",
        tmp_path / "o.nc",
        options=Options(step=86400, start="2023-08-01"),
        pictures="none",
        device="cpu",
    )
    assert any("more than 100 times smaller; if its file states wrong" in n for n in done.notes)


def test_a_forecast_without_units_is_refused(home: Path, tmp_path: Path):
    forecast(tmp_path / "obj", 1, units=None, seed=1)
    words = [str(home / "run"), str(tmp_path / "obj"), "--out", str(tmp_path / "o.nc")]
    result = CliRunner().invoke(
        cli.app, ["infer", *words, "--step", "24h", "--start", "2023-08-01"]
    )
    assert result.exit_code == 1
    assert "say with --units what its values are" in " ".join(result.output.split())
    assert not (tmp_path / "o.nc").exists()


def test_a_forecast_by_another_name_is_asked_for_by_it(home: Path, tmp_path: Path):
    forecast(tmp_path / "obj", 1, units="m", seed=1)
    with xr.open_dataset(tmp_path / "obj" / "obj_1.nc", engine="h5netcdf") as file:
        renamed = file.rename(tp="precip").load()
    renamed.to_netcdf(tmp_path / "precip_20230801.nc", engine="h5netcdf")
    done = infer.infer(
        home / "run",
        tmp_path / "precip_20230801.nc",
        tmp_path / "o.nc",
        options=Options(variables=("precip",)),
        pictures="1",
        device="cpu",
    )
    assert (done.frames, done.shape) == (1, (24, 36))
    assert done.pictures[0].stat().st_size > 10_000


def test_check_mode_compares_with_the_fields_themselves(home: Path, tmp_path: Path, done):
    made = infer.infer(
        home / "run",
        home / "R.zarr" / "2023-06-05",
        tmp_path / "c.nc",
        mode="check",
        pictures="1",
        animations=(),
        device="cpu",
    )
    scores = done.scores.tracks["2023-06-05"]
    for row in ("model", "bicubic"):
        assert made.scores[row]["rmse"] == pytest.approx(scores[row]["rmse"], rel=1e-5)
        assert made.scores[row]["psnr"] == pytest.approx(scores[row]["psnr"], rel=1e-5)
    with xr.open_dataset(tmp_path / "c.nc", engine="h5netcdf") as file:
        truth = file["lwe_thickness_of_precipitation_amount_truth"].values
        np.testing.assert_allclose(truth, showers()[4 * HOURS :, :16, :20], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(file["latitude"], 55 - 0.25 * np.arange(16))


def test_geotiffs_of_a_map_lie_on_its_latitudes(home: Path, tmp_path: Path):
    rasterio = pytest.importorskip("rasterio")
    infer.infer(
        home / "run",
        home / "R.zarr" / "2023-06-05",
        tmp_path / "t.tif",
        pictures="none",
        animations=(),
        device="cpu",
    )
    (first, *others) = sorted((tmp_path / "t.tif").glob("*.tif"))
    assert len(others) == HOURS - 1
    with rasterio.open(first) as file:
        assert file.crs.to_epsg() == 4326
        assert tuple(file.bounds) == pytest.approx((4.875, 50.875, 10.625, 55.125))
        assert file.shape == (H * 4, W * 4)


def test_interpolated_truth_cannot_be_checked(home: Path, tmp_path: Path):
    run = trained(home, "unreal", "task.truth=interpolated")
    with pytest.raises(UserError, match="learnt from interpolated truth"):
        infer.infer(run, home / "R.zarr" / "2023-06-05", tmp_path / "c.nc", mode="check")


# Small grids


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (32, r"patch_size 32 is larger than the 17x23 frames .* choose at most 17"),
        (17, r"17x17 pixels cannot be coarsened 4 times; 4 must divide both, as it does 16x16"),
    ],
)
def test_a_patch_that_does_not_fit_is_one_sentence(home: Path, patch: int, said: str):
    with pytest.raises(UserError, match=said):
        trained(home, "never", f"training.patch_size={patch}")
    assert not (home / "never").exists()


def test_frames_too_small_for_the_factor_are_refused(home: Path, tmp_path: Path):
    run = trained(home, "x16", "task.factor=16", "training.patch_size=16", "model.factors=[4,4]")
    small = xr.open_dataset(home / "nc" / "tp.nc", engine="h5netcdf").isel(latitude=slice(0, 9))
    (tmp_path / "nc").mkdir()
    small.load().to_netcdf(tmp_path / "nc" / "tp.nc", engine="h5netcdf")
    stored(tmp_path / "nc", tmp_path / "S.zarr")
    split.split(tmp_path / "S.zarr", tmp_path / "S.split.json", eval_ids=["2023-06-05"])
    with pytest.raises(UserError, match="9x23 pixels cannot be coarsened 16 times"):
        evaluate.evaluate(run, store_path=tmp_path / "S.zarr", split_path=tmp_path / "S.split.json")
