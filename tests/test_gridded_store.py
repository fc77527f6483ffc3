"""Gridded sources through convert, verify, inputs and a raw tree's place."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import cli
from pipeline import convert as converting
from pipeline import inputs, raw_tree, sources, store, verify
from pipeline.convert import ConvertSettings
from pipeline.errors import UserError
from pipeline.sources import netcdf
from pipeline.sources.options import Options, asked
from pipeline.store import BLANK

LAT, LON = np.arange(50.0, 47.9, -0.25), np.arange(5.0, 8.1, 0.25)  # 9 x 13
BOTH = {"variable": ["tp,sst"]}
ERA5 = {"units": "m", "long_name": "Total precipitation", "GRIB_stepType": "accum"}


def mm_of(count, seed=0):
    random = np.random.default_rng(seed)
    wet = random.random((count, 9, 13)) > 0.8
    return (random.gamma(0.3, 2.0, wet.shape) * wet).astype(np.float32)


def era5(path, count=48, start="2023-06-01", seed=0, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.datetime64(start, "s") + np.arange(count) * np.timedelta64(1, "h")
    dims = ("valid_time", "latitude", "longitude")
    values = (mm_of(count, seed) * 1e-3).astype(np.float32)
    data = xr.Dataset(
        {"tp": (dims, values, ERA5), **{k: (dims, v, a) for k, (v, a) in more.items()}},
        coords={"valid_time": times, "latitude": LAT, "longitude": LON},
        attrs={"GRIB_centre": "ecmf"},
    )
    data.to_netcdf(path, engine="h5netcdf")
    return path


def convert(source, target, *, workers=1, replace=False, words=None, **settings):
    return converting.convert(
        source,
        target,
        ConvertSettings(options=asked(**(words or {})), **settings),
        manifests=target.parent / "manifests",
        workers=workers,
        replace=replace,
    )


def bytes_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source of two files, and its store by day."""
    home = tmp_path_factory.mktemp("gridded")
    era5(home / "era5/a.nc", 48)
    era5(home / "era5/b.nc", 24, "2023-06-03", seed=1)
    done = convert(home / "era5", home / "rain.zarr", words={"track_by": "day"})
    return home, done


def test_a_store_of_rain_has_its_place_its_units_and_no_blank_frame(made):
    _, done = made
    opened = store.open_store(done.store)
    assert opened.ids == ["2023-06-01", "2023-06-02", "2023-06-03"]
    assert opened.attrs["accumulation_hours"] == 1
    assert opened.attrs["grid_degrees"] == 0.25
    assert opened.attrs["settings"]["options"] == {"track_by": "day"}
    assert opened.attrs["settings"]["max_missing"] == 1
    track = opened.track("2023-06-02")
    np.testing.assert_allclose(track.frames[:, 0], mm_of(48)[24:], rtol=1e-6)
    assert not track.flag.any()  # four fifths of each frame are 0 mm
    assert (track.frames[0] == 0).mean() > 0.5
    np.testing.assert_array_equal(track.grid.y, LAT)
    np.testing.assert_array_equal(track.grid.x, LON)
    assert track.grid.sides == (0.25, 0.25)
    assert done.triplets == 3 * 22
    manifest = json.loads(done.manifest.read_text())
    assert manifest["notes"] == ["tp: m x 1000 = mm of 1 h"]
    assert manifest["settings"]["options"] == {"track_by": "day"}
    assert done.notes == manifest["notes"]


def test_xarray_opens_it_with_its_coordinates(made):
    track = xr.open_zarr(made[1].store, group="2023-06-01")
    assert track.frames.dims == ("time", "channel", "y", "x")
    assert (track.latitude.dims, track.longitude.dims) == (("y",), ("x",))
    assert track.latitude.dtype == np.float64
    assert track.latitude.units == "degrees_north"
    assert {"latitude", "longitude"} <= set(track.coords)
    assert track.frames.units == "mm"
    assert track.frames.standard_name == "lwe_thickness_of_precipitation_amount"
    assert str(track.time.values[1])[:16] == "2023-06-01T01:00"


def test_verify_reads_the_source_as_convert_did(made):
    home, done = made
    found = verify.verify(done.store, source=home / "era5", workers=1)
    assert (found.equal, found.faults) == (72, [])


def test_verify_finds_a_changed_value(made, tmp_path):
    home, done = made
    source = tmp_path / "era5"
    shutil.copytree(home / "era5", source)
    (source / "b.nc").unlink()
    era5(source / "b.nc", 24, "2023-06-03", seed=2)
    found = verify.verify(done.store, source=source, workers=1)
    assert found.equal < 72
    assert any("differs from" in fault.what for fault in found.faults)


def test_a_second_conversion_does_nothing_and_other_options_are_refused(made):
    home, done = made
    before = bytes_of(done.store)
    again = convert(home / "era5", done.store, words={"track_by": "day"})
    assert again.reused == list(done.records)
    assert bytes_of(done.store) == before
    words = {"track_by": "day", "region": "5,6,49,50"}
    with pytest.raises(UserError, match=r"was converted with .* was .*, is now "):
        convert(home / "era5", done.store, words=words)
    assert bytes_of(done.store) == before


def test_workers_and_a_killed_conversion_leave_the_same_bytes(made, tmp_path, monkeypatch):
    home, done = made
    words = {"track_by": "day"}
    target = tmp_path / "rain.zarr"
    commit, calls = converting.convert_track, []

    def killed(job, *rest):
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return commit(job, *rest)

    monkeypatch.setattr(converting, "convert_track", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(home / "era5", target, words=words)
    monkeypatch.undo()
    assert len(converting.finished_ids(target)) == 1
    again = convert(home / "era5", target, words=words)
    assert len(again.reused) == 1
    assert bytes_of(target) == bytes_of(done.store)


@pytest.mark.slow
def test_several_workers_write_the_same_bytes(made, tmp_path):
    home, done = made
    convert(home / "era5", tmp_path / "rain.zarr", words={"track_by": "day"}, workers=2)
    assert bytes_of(tmp_path / "rain.zarr") == bytes_of(done.store)


def test_a_new_file_adds_its_track_and_keeps_the_others(tmp_path):
    era5(tmp_path / "era5/a.nc", 24)
    words = {"track_by": "day"}
    convert(tmp_path / "era5", tmp_path / "s.zarr", words=words)
    era5(tmp_path / "era5/b.nc", 24, "2023-06-02")
    done = convert(tmp_path / "era5", tmp_path / "s.zarr", words=words)
    assert done.reused == ["2023-06-01"]
    assert list(done.records) == ["2023-06-01", "2023-06-02"]


def test_a_channel_without_any_value_is_blank_and_a_constant_sea_is_not(tmp_path):
    kelvin = np.full((6, 9, 13), 280, np.float32)
    kelvin[:, :5] = np.nan  # land
    kelvin[4] = np.nan
    era5(tmp_path / "a.nc", 6, sst=(kelvin, {"units": "K"}))
    done = convert(tmp_path / "a.nc", tmp_path / "s.zarr", words=BOTH)
    track = store.open_store(done.store).track("2023")
    assert track.flag.tolist() == [0, 0, 0, 0, BLANK, 0]
    assert np.isnan(track.frames[0, 1]).mean() == pytest.approx(5 / 9)
    assert done.records["2023"]["frames_with_missing_pixels"] == 6
    with pytest.raises(UserError, match="has channels in K, mm; one --valid-min or"):
        convert(tmp_path / "a.nc", tmp_path / "t.zarr", words=BOTH, valid_min=0)
    attrs = track.array("frames").attrs
    assert "units" not in attrs  # mm and K
    assert track.array("channel").attrs["channel_units"] == ["mm", "K"]


def test_negative_rain_beyond_packing_is_missing_and_a_limit_may_be_set(tmp_path):
    path = tmp_path / "a.nc"
    era5(path, 3)
    with xr.open_dataset(path, engine="h5netcdf") as data:
        data = data.load()
    data.tp[1, 0, :2] = [-0.00001e-3, -1e-3]
    path.unlink()
    data.to_netcdf(path, engine="h5netcdf")
    done = convert(path, tmp_path / "s.zarr", max_missing=0.005)
    track = store.open_store(done.store).track("2023")
    assert track.frames[1, 0, 0, 0] == 0
    assert np.isnan(track.frames[1, 0, 0, 1])
    assert track.flag.tolist() == [0, 1, 0]  # 1 of 117 pixels is more than 0.005


def test_infer_s_door_reads_raw_and_stored_fields_alike(made):
    home, done = made
    opened = store.open_store(done.store)
    raw = inputs.opened(home / "era5", None, opened.channels)
    assert len(raw.times) == 72  # one track, whatever the store's are
    stored = inputs.opened(done.store, "2023-06-02", opened.channels)
    np.testing.assert_array_equal(raw.read(24), stored.read(0))
    assert raw.grid.same(stored.grid)
    assert raw.times[24] == stored.times[0]
    assert raw.attrs["accumulation_hours"] == stored.attrs["accumulation_hours"] == 1
    days = inputs.opened(home / "era5", "2023-06-03", opened.channels, Options(track_by="day"))
    assert len(days.times) == 24
    warm = [{**opened.channels[0], "name": "tp", "units": "K"}]
    with pytest.raises(UserError, match=r"has the channels tp \[mm\]; the model was trained on"):
        inputs.opened(home / "era5", None, warm)


def without_units(path):
    with h5py.File(path, "r+") as file:
        del file["valid_time"].attrs["units"]


def test_steps_without_times_are_stored_as_counted_and_what_was_left_out_is_said(tmp_path):
    without_units(era5(tmp_path / "raw/a.nc", 6))
    (tmp_path / "raw/a.grib").write_bytes(b"GRIB")
    target = tmp_path / "S.zarr"
    words = ("convert", tmp_path / "raw", target, "--manifest-dir", tmp_path / "m", "--workers", 1)
    refused = run(*words)
    assert refused.exit_code == 2
    assert "give --start 2023-08-01 --step 1h to count them" in " ".join(refused.output.split())
    done = run(*words, "--start", "2023-08-01", "--step", "3h")
    assert done.exit_code == 0, done.output
    told = " ".join(done.output.split())
    assert "times are counted, every 3 h from 2023-08-01 on" in told
    assert "is read as netcdf; not of that form, left out: 1 .grib" in told
    (track,) = store.open_store(target)
    assert np.diff(track.times).tolist() == [3 * 3600] * 5
    assert track.times[0] == np.datetime64("2023-08-01", "s").astype(np.int64)
    np.testing.assert_allclose(track.frames[:, 0], mm_of(6), rtol=1e-5)
    assert verify.verify(target, source=tmp_path / "raw", workers=1).equal == 6


def test_infer_s_door_counts_steps_without_times(made, tmp_path):
    channels = store.open_store(made[1].store).channels
    era5(tmp_path / "a.nc", 6)
    without_units(tmp_path / "a.nc")
    with pytest.raises(UserError, match=r"give --start .* --step .*; or run `cli convert .* STORE"):
        inputs.opened(tmp_path / "a.nc", None, channels)
    counted = inputs.opened(tmp_path / "a.nc", None, channels, asked(start="2023-08-01", step="6h"))
    assert [str(np.datetime64(int(t), "s"))[:13] for t in counted.times[:2]] == [
        "2023-08-01T00", "2023-08-01T06",
    ]  # fmt: skip


def test_infer_s_door_asks_for_levels_by_the_channels_names():
    channels = [
        {"name": "t_1000", "long_name": "Temperature at 1000 hPa"},
        {"name": "t_850", "long_name": "Temperature at 850 hPa"},
        {"name": "tp", "long_name": "Total precipitation"},
    ]
    asked_for = inputs.asked_for(channels)
    assert asked_for.variables == ("t", "tp")
    assert asked_for.levels == (1000, 850)


def test_files_in_a_stores_place_are_the_same_fields(made):
    home, done = made
    there = raw_tree.opened(home / "era5")
    assert there.ids == ["2023"]
    track = there.track("2023")
    opened = store.open_store(done.store)
    np.testing.assert_array_equal(track.checked(24, 24), opened.track("2023-06-02").frames)
    assert not track.flag.any()
    assert track.grid.same(opened.track("2023-06-02").grid)
    assert there.channels == opened.channels


def test_what_needs_options_says_so_in_a_stores_place(tmp_path):
    kelvin = np.full((3, 9, 13), 280, np.float32)
    era5(tmp_path / "a.nc", 3, t2m=(kelvin, {"units": "K"}))
    with pytest.raises(
        UserError, match=r"choose with --variable.*cli convert .* STORE`: give that"
    ):
        raw_tree.opened(tmp_path)


def test_radar_on_a_projection_has_kilometres(tmp_path):
    y, x = np.arange(3.5, -4, -1), np.arange(-3.5, 4, 1)
    for minute in range(0, 60, 10):
        data = xr.Dataset(
            {"precipitation": (("y", "x"), np.full((8, 8), minute, np.int16))},
            coords={"y": y, "x": x, "valid_time": np.datetime64(f"2020-10-31T05:{minute:02}", "s")},
        )
        data.precipitation.attrs = {"units": "kg m-2", "scale_factor": 0.05, "_FillValue": -1}
        data.y.attrs = {"standard_name": "projection_y_coordinate", "units": "km"}
        data.x.attrs = {"standard_name": "projection_x_coordinate", "units": "km"}
        data.to_netcdf(tmp_path / f"r_{minute:02}.nc", engine="h5netcdf")
    done = convert(tmp_path, tmp_path / "s.zarr")
    track = store.open_store(done.store).track("2020")
    np.testing.assert_allclose(track.frames[:, 0, 0, 0], np.arange(0, 60, 10) * 0.05, rtol=1e-6)
    assert track.grid.projected
    np.testing.assert_array_equal(track.values("x"), x)
    assert track.attrs["pixel_km"] == 1
    assert not track.has("latitude")
    with pytest.raises(UserError, match="lies on a map projection, so no --region"):
        sources.scan(tmp_path, asked(region="0,1,0,1"))


def run(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_the_command_line_converts_plans_and_refuses(made, tmp_path):
    home, _ = made
    plan = run("convert", home / "era5", tmp_path / "s.zarr", "--track-by", "day", "--dry-run")
    assert plan.exit_code == 0
    assert "3 tracks, 2 files, 72 frames" in plan.output
    assert "Note: tp: m x 1000 = mm of 1 h" in plan.output
    assert not (tmp_path / "s.zarr").exists()
    done = run(
        "convert", home / "era5", tmp_path / "s.zarr", "--accumulate", "24h", "--region",
        "5,6,49,50", "--variable", "tp", "--manifest-dir", tmp_path, "--workers", 1,
    )  # fmt: skip
    assert done.exit_code == 3  # the days at both ends are not whole
    assert "2023-05-31 (1 of 24)" in done.output
    track = store.open_store(tmp_path / "s.zarr").track("2023")
    assert track.frames.shape == (2, 1, 5, 5)
    np.testing.assert_allclose(track.frames[0, 0], mm_of(48)[1:25, :5, :5].sum(0), rtol=1e-5)
    bad = run("convert", home / "era5", tmp_path / "t.zarr", "--region", "5,6")
    assert bad.exit_code == 2
    assert "Traceback" not in bad.output
    far = run("convert", home / "era5", tmp_path / "t.zarr", "--region", "50,60,0,10")
    assert far.exit_code == 1
    assert not (tmp_path / "t.zarr").exists()


def test_a_region_that_wraps_is_stored_from_west_to_east(tmp_path):
    lon = np.arange(0, 360, 30.0)
    data = xr.Dataset(
        {"t": (("time", "lat", "lon"), np.broadcast_to(lon, (3, 9, 12)).copy(), {"units": "K"})},
        coords={"time": np.arange("2023-01-01", "2023-01-04", dtype="M8[D]").astype("M8[s]"),
                "lat": LAT, "lon": lon},
    )  # fmt: skip
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    words = {"region": "300,60,48,50"}
    done = convert(tmp_path / "a.nc", tmp_path / "s.zarr", words=words, valid_min=0)
    track = store.open_store(done.store).track("2023")
    assert track.grid.x.tolist() == [-60, -30, 0, 30, 60]
    assert track.frames[0, 0, 0].tolist() == [300, 330, 0, 30, 60]
    found = verify.verify(done.store, source=tmp_path / "a.nc", workers=1)
    assert (found.equal, found.faults) == (3, [])


def test_pictures_become_a_store(tmp_path):
    from PIL import Image

    for number in range(4):
        path = tmp_path / f"in/train/seq/frame_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number * 50, np.uint8)).save(path)
    words = {"value_range": "0,255", "units": "K", "variable": ["bt"]}
    done = convert(tmp_path / "in", tmp_path / "s.zarr", words=words)
    track = store.open_store(done.store).track("train-seq")
    assert track.frames[:, 0, 0, 0].tolist() == [0, 50, 100, 150]
    assert not track.flag.any()
    assert "standard_name" not in track.array("frames").attrs
    found = verify.verify(done.store, source=tmp_path / "in", workers=1)
    assert (found.equal, found.faults) == (4, [])


@pytest.mark.slow
def test_the_real_germany_converts_and_is_what_the_file_says(tmp_path):
    path = Path(__file__).parents[2] / "shared/data/precipitation/era5_germany_6h_2024-2025"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    done = convert(path, tmp_path / "de.zarr", words={"track_by": "month", "region": "6,10,48,52"})
    opened = store.open_store(done.store)
    assert len(opened.ids) == 24
    with xr.open_dataset(next(path.glob("*.nc")), engine="h5netcdf") as data:
        july = data.tp.sel(
            valid_time="2024-07", latitude=slice(52, 48), longitude=slice(6, 10)
        ).values
    track = opened.track("2024-07")
    np.testing.assert_allclose(track.frames[:, 0], july * 1000, rtol=1e-6)
    assert opened.attrs["settings"]["max_missing"] == netcdf.MAX_MISSING
