"""Gridded fields in NetCDF: whatever form they come in, the same frames."""

import json
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from pipeline import sources
from pipeline.errors import UsageError, UserError
from pipeline.sources import FrameError, amounts, grids, netcdf, netcdf_file, stretches
from pipeline.sources.options import Options, asked

REAL = Path(__file__).parents[2] / "shared/data"
LAT = np.array([50.0, 49.75, 49.5, 49.25])
LON = np.array([5.0, 5.25, 5.5, 5.75, 6.0])
ERA5 = {"units": "m", "long_name": "Total precipitation", "GRIB_stepType": "accum"}


def hours(count, start="2023-06-01T00", step=1):
    return np.datetime64(start, "s") + np.arange(count) * np.timedelta64(step, "h")


def rain(count, shape=(4, 5), seed=0):
    """(count, H, W) float32, mm; mostly dry."""
    random = np.random.default_rng(seed)
    return (
        random.gamma(0.3, 2.0, (count, *shape)) * (random.random((count, *shape)) > 0.6)
    ).astype(np.float32)


def dataset(mm, times, *, name="tp", attrs=ERA5, scale=1e-3, lat=LAT, lon=LON, time="valid_time"):
    """As CDS writes ERA5: metres, latitudes falling, valid_time."""
    values = (mm * scale).astype(np.float32)
    data = xr.Dataset(
        {name: ((time, "latitude", "longitude"), values, attrs)},
        coords={time: times, "latitude": lat, "longitude": lon},
        attrs={"GRIB_centre": "ecmf"},
    )
    data["latitude"].attrs = {"units": "degrees_north"}
    data["longitude"].attrs = {"units": "degrees_east"}
    data[time].encoding = {"units": "seconds since 1970-01-01", "dtype": "int64"}
    return data


def written(folder, data, name="a.nc", **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data.to_netcdf(path, **{"engine": "h5netcdf", **options})
    return path


def frames(release, **options):
    """(T, C, H, W) of all tracks, as both ways of reading them agree."""
    source = sources.find(release.format)
    every = [frame for raw in release.tracks for frame in raw.frames]
    read = np.stack([source.read_frame(frame) for frame in every])
    alone = np.stack([source.read_frame(frame, direct=False) for frame in every])
    np.testing.assert_array_equal(read, alone)
    assert all(source.frame_shape(frame) == read.shape[1:] for frame in every)
    return read


def times_of(release):
    return [str(frame.time)[:13] for raw in release.tracks for frame in raw.frames]


def scan(path, **words):
    return sources.scan(path, asked(**words))


def test_metres_become_millimetres_and_it_is_said(tmp_path):
    mm = rain(6)
    release = scan(written(tmp_path, dataset(mm, hours(6))))
    np.testing.assert_allclose(frames(release)[:, 0], mm, rtol=1e-6)
    (channel,) = release.channels
    assert (channel.name, channel.units, channel.valid_min) == ("tp", "mm", 0.0)
    assert channel.standard_name == "lwe_thickness_of_precipitation_amount"
    assert release.notes == ("tp: m x 1000 = mm of 1 h",)
    assert release.attrs["accumulation_hours"] == 1.0
    assert release.attrs["grid_degrees"] == 0.25
    assert release.attrs["time_label"].endswith("the end of its interval")
    assert release.max_missing == 1.0
    assert [raw.id for raw in release.tracks] == ["2023"]
    np.testing.assert_array_equal(release.tracks[0].grid.y, LAT)
    np.testing.assert_array_equal(release.tracks[0].grid.x, LON)
    assert times_of(release)[-1] == "2023-06-01T05"


def transposed(data):
    return data.transpose("longitude", "latitude", "valid_time")


def southward_up(data):
    return data.isel(latitude=slice(None, None, -1))


def westward(data):
    return data.isel(longitude=slice(None, None, -1))


def other_turn(data):
    return data.assign_coords(longitude=data.longitude - 360).assign_attrs(data.attrs)


def shuffled(data):
    return data.isel(valid_time=[3, 0, 5, 1, 2, 4])


def named_otherwise(data):
    return data.rename({"latitude": "lat", "longitude": "lon", "valid_time": "time"})


def spelt_otherwise(data):
    data = data.rename(latitude="G0_LAT", longitude="G0_LON")
    data["G0_LAT"].attrs, data["G0_LON"].attrs = {"units": "degree_north"}, {"units": "degreesE"}
    return data


def with_scalars(data):
    return data.assign_coords(number=0, expver=("valid_time", ["0001"] * 6), surface=0.0)


def with_a_single_member(data):
    return data.expand_dims(number=[0], axis=1)


FORMS = [
    transposed, southward_up, westward, other_turn, shuffled, named_otherwise,
    spelt_otherwise, with_scalars, with_a_single_member,
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_however_a_file_lies_the_frames_are_the_same(tmp_path, form):
    data = dataset(rain(6), hours(6))
    plain = scan(written(tmp_path, data))
    other = scan(written(tmp_path, form(data), "b.nc"))
    np.testing.assert_array_equal(frames(plain), frames(other))
    assert times_of(plain) == times_of(other)
    assert plain.tracks[0].grid.same(other.tracks[0].grid)


def test_netcdf_3_reads_as_netcdf_4(tmp_path):
    data = dataset(rain(6), hours(6))
    data.valid_time.encoding["dtype"] = "int32"
    old = written(tmp_path, data, "old.nc", engine="scipy", format="NETCDF3_CLASSIC")
    assert old.read_bytes().startswith(b"CDF")
    np.testing.assert_array_equal(frames(scan(old)), frames(scan(written(tmp_path, data))))


def test_packed_values_fills_and_nan_are_unpacked_or_missing(tmp_path):
    mm = rain(3) + 1
    mm[1, 2, 3] = np.nan
    data = dataset(mm, hours(3), scale=1)
    data.tp.attrs["units"] = "mm"
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 50.0, "_FillValue": -32767}
    read = frames(scan(written(tmp_path, data, encoding={"tp": packing})))[:, 0]
    np.testing.assert_allclose(read, mm, atol=0.006)
    assert np.isnan(read).sum() == 1
    data = data.fillna(-9.96921e36)
    data.tp.attrs["missing_value"] = np.float32(-9.96921e36)  # as GPCC does
    read = frames(scan(written(tmp_path, data, "b.nc", encoding={"tp": {"_FillValue": None}})))[
        :, 0
    ]
    np.testing.assert_array_equal(np.isnan(read), np.isnan(mm))


def test_what_packing_left_below_zero_is_no_rain_and_more_is_kept_to_be_found(tmp_path):
    mm = rain(2)
    mm[0, 0, :2] = [-0.01, -3]
    read = frames(scan(written(tmp_path, dataset(mm, hours(2)))))[0, 0, 0]
    assert read[0] == 0
    assert read[1] == pytest.approx(-3)  # below valid_min: quality.examine makes it NaN


def test_preliminary_data_fill_the_holes_of_final_data(tmp_path):
    mm = rain(4)
    both = np.full((4, 2, 4, 5), np.nan, np.float32)
    both[:2, 0], both[2:, 1] = mm[:2], mm[2:]
    data = dataset(mm, hours(4))
    data["tp"] = (("valid_time", "expver", "latitude", "longitude"), both * 1e-3, ERA5)
    data = data.assign_coords(expver=[1, 5])
    np.testing.assert_allclose(frames(scan(written(tmp_path, data)))[:, 0], mm, rtol=1e-6)


# boxes and grids


def globe(mm, lon):
    lat = np.arange(80, -81, -20.0)
    return dataset(mm, hours(len(mm)), lat=lat, lon=lon)


@pytest.mark.parametrize("west", [0, -180], ids=["0..360", "-180..180"])
@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ("-40,40,-20,20", [-40, -20, 0, 20, 40]),
        ("320,40,-20,20", [-40, -20, 0, 20, 40]),
        ("160,-160,-20,20", [160, 180, 200]),
        ("160,200,-20,20", [160, 180, 200]),
        ("-180,180,-90,90", list(range(-180, 180, 20))),
    ],
)
def test_a_box_may_lie_across_any_seam(tmp_path, west, region, expected):
    lon = west + np.arange(0, 360, 20.0)
    lat = np.arange(80, -81, -20.0)
    place = np.broadcast_to((lon % 360)[None, None, :] + lat[None, :, None] / 1000, (1, 9, 18))
    release = scan(written(tmp_path, globe(place, lon)), region=region)
    grid = release.tracks[0].grid
    assert grid.x.tolist() == expected
    read = frames(release)[0, 0]
    np.testing.assert_allclose(
        read, (grid.x % 360)[None, :] + grid.y[:, None] / 1000, atol=0.06
    )  # each value says where it is from


def test_a_grid_across_the_seam_is_put_in_order(tmp_path):
    lon = np.array([350.0, 355.0, 0.0, 5.0])  # GPCC's Africa
    mm = np.broadcast_to(lon, (1, 4, 4))
    release = scan(written(tmp_path, dataset(mm, hours(1), lon=lon)))
    assert release.tracks[0].grid.x.tolist() == [-10, -5, 0, 5]
    np.testing.assert_allclose(frames(release)[0, 0, 0], [350, 355, 0, 5], rtol=1e-6)


@pytest.mark.parametrize("region", ["0,6,49,50", "5,6,40,50", "5,7,49.25,50"])
def test_a_box_that_the_file_does_not_cover_is_refused(tmp_path, region):
    path = written(tmp_path, dataset(rain(1), hours(1)))
    with pytest.raises(UserError, match=r"a.nc: it reaches from 5 to 6 east and from 49.25 to 50"):
        scan(path, region=region)


def test_finer_cells_tile_the_old_ones(tmp_path):
    mm = rain(2) + np.arange(5)
    release = scan(
        written(tmp_path, dataset(mm, hours(2))), region="5.25,5.75,49.5,49.75", resolution=0.05
    )
    grid = release.tracks[0].grid
    assert grid.shape == (10, 15)  # 2 x 3 cells of 0.25 degrees, each of 5 x 5
    assert (grid.y[0], grid.x[0]) == (49.85, 5.15)
    np.testing.assert_allclose(grid.x[2::5], [5.25, 5.5, 5.75])
    read = frames(release)[:, 0]
    np.testing.assert_allclose(read[:, 2::5, 2::5], mm[:, 1:3, 1:4], rtol=1e-5)
    west = 0.4 * mm[:, 1, 0] + 0.6 * mm[:, 1, 1]  # from the cell outside of the box
    np.testing.assert_allclose(read[:, 2, 0], west, rtol=1e-5)
    assert release.attrs["native_grid_degrees"] == 0.25
    assert "bilinear from 2x3 cells of 0.25 degrees" in release.attrs["regridding"]
    assert "no detail is finer" in release.notes[-1]


def test_the_specifications_box_becomes_exactly_500_cells(tmp_path):
    lat, lon = np.arange(55, 14, -1.0), np.arange(70, 141, 1.0)
    data = dataset(rain(1, (41, 71)), hours(1), lat=lat, lon=lon)
    release = scan(written(tmp_path, data), region="106,110,26,30", resolution=0.01)
    assert netcdf.frame_shape(release.tracks[0].frames[0]) == (1, 500, 500)
    assert release.attrs["grid_degrees"] == 0.01


def test_nearest_copies_and_coarser_cells_keep_the_mean(tmp_path):
    mm = rain(3, (8, 12))
    lat = np.arange(1.75, -0.1, -0.25)  # at the equator a mean needs no weights
    lon = np.arange(0, 3, 0.25)
    path = written(tmp_path, dataset(mm, hours(3), lat=lat, lon=lon))
    near = frames(scan(path, resolution=0.05, regrid="nearest"))[:, 0]
    np.testing.assert_allclose(near[:, 2::5, 2::5], mm, rtol=1e-6)
    assert set(np.unique(near)) <= set(np.unique(frames(scan(path))))
    release = scan(path, resolution=0.5)
    assert release.attrs["regridding"].startswith("conservative")
    means = mm.reshape(3, 4, 2, 6, 2).mean((2, 4))
    np.testing.assert_allclose(frames(release)[:, 0], means, rtol=1e-3, atol=1e-6)


def test_a_regridded_cell_is_missing_where_most_of_it_is(tmp_path):
    mm = np.ones((1, 4, 5), np.float32)
    mm[0, :, :2] = np.nan
    read = frames(scan(written(tmp_path, dataset(mm, hours(1))), resolution=0.05))[0, 0]
    assert np.isnan(read[:, :10]).all()
    np.testing.assert_allclose(read[:, 13:], 1, rtol=1e-6)


def test_conservative_weights_add_up_to_each_cell():
    old, new = np.arange(0.5, 10), np.array([1.25, 3.75, 6.25, 8.75])
    taps = grids.taps(old, new, "conservative")
    np.testing.assert_allclose(taps.along(old**0, 0), 1)
    np.testing.assert_allclose(taps.along(np.arange(10.0), 0), [0.8, 3.2, 5.8, 8.2])
    # 0..2.5 covers cells 0, 1 and half of 2: (0 + 1 + 2 / 2) / 2.5 = 0.8


# steps and units


def daily(values, units, *, name="pr", step=24, **attrs):
    times = hours(len(values), "2023-01-01T00", step)
    return dataset(values, times, name=name, attrs={"units": units, **attrs}, scale=1).assign_attrs(
        GRIB_centre=""
    )


UNITS = {
    "m": 1000, "mm": 1, "cm": 10, "kg m-2": 1, "kg m**-2": 1, "mm/day": 1, "mm d-1": 1,
    "mm day-1": 1, "mm/hr": 24, "mm hour-1": 24, "mm/h": 24, "kg m-2 s-1": 86400,
    "kg m**-2 s**-1": 86400, "m s-1": 86400e3, "mm/s": 86400, "inch": 25.4, "m/day": 1000,
}  # fmt: skip


@pytest.mark.parametrize(("units", "factor"), UNITS.items(), ids=UNITS)
def test_every_unit_of_rain_becomes_mm_of_the_day(tmp_path, units, factor):
    mm = rain(3) + 0.5
    release = scan(written(tmp_path, daily(mm / factor, units)))
    np.testing.assert_allclose(frames(release)[:, 0], mm, rtol=1e-5)
    assert release.channels[0].units == "mm"
    assert units in release.notes[0]


def test_rain_in_other_units_is_refused_and_can_be_said(tmp_path):
    path = written(tmp_path, daily(rain(2), "dBZ"))
    with pytest.raises(UserError, match=r"pr has units 'dBZ'; expected m, cm, mm.*--units"):
        scan(path)
    np.testing.assert_allclose(frames(scan(path, units="mm/hr"))[:, 0], rain(2) * 24, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "attrs"),
    [
        ("z", {"units": "m", "standard_name": "geopotential_height"}),
        ("tcwv", {"units": "kg m-2", "long_name": "precipitable water"}),
        ("ptype", {"units": "m", "long_name": "precipitation type"}),
    ],
)
def test_what_is_no_rain_keeps_its_units(tmp_path, name, attrs):
    release = scan(written(tmp_path, daily(rain(2), name=name, **attrs)))
    assert release.channels[0].units == attrs["units"]
    np.testing.assert_array_equal(frames(release)[:, 0], rain(2))


def test_monthly_rates_go_by_the_calendar(tmp_path):
    times = np.array(["2023-01-01", "2023-02-01", "2024-02-01", "2024-04-01"], "datetime64[s]")
    ones = np.ones((4, 4, 5), np.float32)
    data = dataset(ones, times, name="pr", attrs={"units": "mm/day"}, scale=1)
    release = scan(written(tmp_path, data))
    assert frames(release)[:, 0, 0, 0].tolist() == [31, 28, 29, 30]
    assert "accumulation_hours" not in release.attrs
    assert "calendar month" in release.notes[0]
    means = dataset(ones, times, attrs={"units": "m", "GRIB_stepType": "avgad"}, scale=1e-3)
    read = frames(scan(written(tmp_path, means, "b.nc")))[:, 0, 0, 0]  # ERA5: m of a mean day
    np.testing.assert_allclose(read, [31, 28, 29, 30])


def test_a_rate_at_one_time_needs_a_step(tmp_path):
    path = written(tmp_path, daily(rain(1), "mm/day"))
    with pytest.raises(UserError, match="length of its step is unknown; say it with --step"):
        scan(path)
    np.testing.assert_allclose(frames(scan(path, step="12h"))[:, 0], rain(1) / 2, rtol=1e-6)


def test_hours_that_end_at_their_time_add_up_to_their_day(tmp_path):
    mm = rain(72)
    release = scan(written(tmp_path, dataset(mm, hours(72))), accumulate="24h")
    assert times_of(release) == ["2023-06-01T00", "2023-06-02T00"]
    np.testing.assert_allclose(frames(release)[0, 0], mm[1:25].sum(0), rtol=1e-5)  # 01..24 UTC
    np.testing.assert_allclose(frames(release)[1, 0], mm[25:49].sum(0), rtol=1e-5)
    assert release.attrs["accumulation_hours"] == 24
    assert release.attrs["time_label"].startswith("start of the interval")
    (told,) = release.problems
    assert told.endswith("left out: 2023-05-31 (1 of 24), 2023-06-03 (23 of 24)")


def test_states_are_means_beside_sums_of_rain(tmp_path):
    mm, kelvin = rain(48), 280 + rain(48, seed=1)
    data = dataset(mm, hours(48))
    data["t2m"] = (data.tp.dims, kelvin, {"units": "K"})
    release = scan(written(tmp_path, data), variable=["tp,t2m"], accumulate="12h")
    read = frames(release)
    # rain of (00, 12], temperature of 00..11
    np.testing.assert_allclose(read[0, 0], mm[1:13].sum(0), rtol=1e-5)
    np.testing.assert_allclose(read[0, 1], kelvin[:12].mean(0), rtol=1e-6)
    assert [c.units for c in release.channels] == ["mm", "K"]


def test_daily_values_bear_their_day_and_a_missing_one_loses_its_interval(tmp_path):
    mm = rain(6)
    data = daily(mm, "mm/day").isel(valid_time=[0, 1, 2, 4, 5])
    release = scan(written(tmp_path, data), accumulate="2d")
    assert times_of(release) == ["2023-01-01T00", "2023-01-05T00"]
    np.testing.assert_allclose(frames(release)[0, 0], mm[:2].sum(0), rtol=1e-6)
    assert "2023-01-03 (1 of 2)" in release.problems[0]


def test_a_missing_pixel_is_missing_in_the_sum(tmp_path):
    mm = rain(26)
    mm[5, 0, 0] = np.nan
    read = frames(scan(written(tmp_path, dataset(mm, hours(26))), accumulate="24h"))
    assert np.isnan(read).sum() == 1


def test_samples_are_not_added_up(tmp_path):
    path = written(tmp_path, dataset(rain(8), hours(8, step=6)))
    assert scan(path).attrs["accumulation_hours"] == 1  # ERA5's, however rarely it was taken
    with pytest.raises(UserError, match=r"tp is the rain of 1 h given every 6 h.*--covers 6h"):
        scan(path, accumulate="24h")
    release = scan(path, accumulate="24h", covers="6h")
    np.testing.assert_allclose(frames(release)[0, 0], rain(8)[1:5].sum(0), rtol=1e-5)
    with pytest.raises(UserError, match="does not divide --accumulate 9 h"):
        scan(path, accumulate="9h", covers="6h")


def test_era5_lands_running_sums_are_refused(tmp_path):
    attrs = {**ERA5, "GRIB_iDirectionIncrementInDegrees": 0.1}
    path = written(tmp_path, dataset(rain(3), hours(3), attrs=attrs))
    with pytest.raises(UserError, match="adds up from 00 UTC through the day"):
        scan(path)
    assert scan(path, covers="1h").attrs["accumulation_hours"] == 1


# many files


def test_files_are_one_source_and_a_gap_is_no_matter(tmp_path):
    mm = rain(10)
    for number, part in enumerate([slice(0, 3), slice(3, 5), slice(7, 10)]):
        written(tmp_path, dataset(mm[part], hours(10)[part]), f"f_{number}.nc")
    release = scan(tmp_path)
    np.testing.assert_allclose(frames(release)[:, 0], np.delete(mm, [5, 6], 0), rtol=1e-6)
    assert len(release.tracks) == 1
    first = release.tracks[0].frames[0]
    assert [path.name for path in first.paths] == ["f_0.nc"]


def test_a_json_list_names_the_files(tmp_path):
    for number in range(3):
        data = dataset(rain(1, seed=number), hours(1, f"2023-06-0{number + 1}"))
        written(tmp_path, data, f"days/{number}.nc")
    names = tmp_path / "train.json"
    names.write_text(json.dumps(["days/0.nc", "days/2.nc"]))
    release = scan(names)
    assert times_of(release) == ["2023-06-01T00", "2023-06-03T00"]
    np.testing.assert_allclose(frames(release)[1, 0], rain(1, seed=2)[0], rtol=1e-6)


def test_files_without_a_time_go_by_their_names_or_are_counted(tmp_path):
    """The specification's: tp(lon, lat) and no more, one file per day."""
    for number in (1, 2, 10):
        values = np.full((5, 4), number, np.float32)
        bare = xr.Dataset(
            {"tp": (("lon", "lat"), values, {"units": "mm/day"})}, coords={"lon": LON, "lat": LAT}
        )
        written(tmp_path, bare, f"dated/tp_1950-08-{number:02}.nc")
        written(tmp_path, bare, f"bare/obj_{number}.nc")
    release = scan(tmp_path / "dated")
    assert times_of(release) == ["1950-08-01T00", "1950-08-02T00", "1950-08-10T00"]
    assert frames(release)[:, 0, 0, 0].tolist() == [1, 2, 10]
    with pytest.raises(UserError, match=r"obj_1.nc: tp bears no time;.*--step 24h --start"):
        scan(tmp_path / "bare")
    release = scan(tmp_path / "bare", step="24h", start="2023-08-01")
    assert times_of(release) == ["2023-08-01T00", "2023-08-02T00", "2023-08-03T00"]
    assert frames(release)[:, 0, 0, 0].tolist() == [1, 2, 10]  # obj_2 before obj_10


def bare(times=None, attrs=None, count=6):
    """Hourly steps; their time axis as it is given, or none at all."""
    data = dataset(rain(count), np.arange(count), time="time").drop_vars("time")
    if times is not None:
        data["time"] = ("time", times, attrs or {})
    return data


def axis(units, **more):
    return np.arange(6), {"units": units, **more}


UNSAID = "since the files do not say them"
UNTOLD = {  # what a file's time axis is, what is said of it, and of times that are counted then
    "nothing": (bare(), "tp has 6 steps, and nothing in the file says of which times", UNSAID),
    "numbers": (
        bare(np.arange(6)),
        "tp has 6 steps whose 'time' is without units, not such as",
        UNSAID,
    ),
    "dates as numbers": (bare(20230601 + np.arange(6)), "whose 'time' is without units", UNSAID),
    "no date in units": (
        bare(*axis("hours")),
        "whose 'time' is in units 'hours', not such as",
        UNSAID,
    ),
    "text": (
        bare([f"2023-06-0{n}" for n in range(1, 7)]),
        "whose 'time' is not of numbers",
        "in place of the files' own ('time' is not of numbers)",
    ),
    "months": (
        bare(*axis("months since 2000-01-01")),
        "its time has units 'months since",
        "in place of the files' own (units 'months since 2000-01-01')",
    ),
    "no leap days": (
        bare(*axis("days since 2000-01-01", calendar="noleap")),
        "its calendar is 'noleap'; expected the standard one",
        "in place of the files' own (calendar 'noleap')",
    ),
    "short months": (
        bare(*axis("days since 2000-01-01", calendar="360_day")),
        "its calendar is '360_day'",
        "in place of the files' own (calendar '360_day')",
    ),
    "another name": (bare().rename(time="Time"), "6 steps, and nothing", UNSAID),
    "a name of no meaning": (
        bare(np.arange(6), {"axis": "T"}).rename(time="n"),
        "whose 'n' is without units",
        UNSAID,
    ),
}


@pytest.mark.parametrize(("data", "told", "instead"), UNTOLD.values(), ids=UNTOLD)
def test_steps_without_times_are_counted_where_the_user_says(tmp_path, data, told, instead):
    path = written(tmp_path, data)
    with pytest.raises(UsageError, match=f"{told}.*; give --start 2023-08-01 --step 1h to count"):
        scan(path)
    with pytest.raises(UsageError, match=told):
        scan(path, start="2023-08-01")
    release = scan(path, start="2023-08-01T06:00", step="3h")
    assert times_of(release)[:3] == ["2023-08-01T06", "2023-08-01T09", "2023-08-01T12"]
    np.testing.assert_allclose(frames(release)[:, 0], rain(6), rtol=1e-6)
    counted = f"counted, every 3 h from 2023-08-01T06:00 on, {instead}"
    assert release.notes[-1] == f"times are {counted}"
    assert release.attrs["time_label"] == f"{counted}: for rain the end of its interval"


def test_what_is_counted_goes_on_in_the_next_file_of_the_same_variable(tmp_path):
    for number in (1, 2):
        written(tmp_path, bare(), f"tp_{number}.nc")
        states = bare().rename(tp="t2m")
        states["t2m"].attrs = {"units": "K"}
        written(tmp_path, states, f"t2m_{number}.nc")
    release = scan(tmp_path, variable=["tp,t2m"], start="2023-08-01", step="1h")
    assert times_of(release) == [f"2023-08-01T{hour:02}" for hour in range(12)]
    assert not release.problems
    added = scan(tmp_path, variable=["tp"], start="2023-08-01", step="1h", accumulate="6h")
    assert added.attrs["time_label"].startswith("start of the interval: sums over 6 h")
    assert added.attrs["time_label"].endswith("2023-08-01 on, since the files do not say them")


def test_steps_without_times_count_from_the_date_in_a_files_name(tmp_path):
    written(tmp_path, bare(), "tp_2023-06-02.nc")
    written(tmp_path, bare(), "tp_2023-06-05.nc")
    with pytest.raises(UsageError, match=r"give --step 1h to count them from .* 2023-06-02$"):
        scan(tmp_path)
    found = times_of(scan(tmp_path, step="1h"))
    assert (found[5], found[6]) == ("2023-06-02T05", "2023-06-05T00")


def test_one_field_needs_no_step_and_a_start_that_is_not_needed_is_said(tmp_path):
    one = written(tmp_path, bare(count=1).isel(time=0), "one.nc")
    assert times_of(scan(one, start="2023-08-01")) == ["2023-08-01T00"]
    dated = scan(written(tmp_path, dataset(rain(2), hours(2))), start="2023-08-01")
    assert times_of(dated)[0] == "2023-06-01T00"
    assert dated.notes[-1] == "--start 2023-08-01 did not matter: the files bear times of their own"


UNUSABLE = {  # what the one file's time axis is, beside two that are as they should be
    "nothing": (bare(count=2), r"b.nc: tp has 2 steps, and nothing .*; 2 other files bear times"),
    "no leap days": (
        bare(np.arange(2), {"units": "days since 2000-01-01", "calendar": "noleap"}, count=2),
        r"b.nc: its calendar is 'noleap'.*; 2 other files bear times of their own: mend this one",
    ),
    "one is missing": (
        bare([0.0, np.nan], {"units": "hours since 2023-06-05"}, count=2),
        r"b.nc: a time is missing or absurd; mend this file or leave it out",
    ),
}


@pytest.mark.parametrize(("data", "told"), UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("words", [{}, {"start": "2020-02-01", "step": "1h"}], ids=["", "asked"])
def test_no_steps_are_counted_beside_files_with_times_of_their_own(tmp_path, data, told, words):
    for number, name in enumerate("ac"):
        written(tmp_path, dataset(rain(2), hours(2, f"2023-06-0{number + 1}")), f"{name}.nc")
    written(tmp_path, data.rename(time="valid_time"), "b.nc")
    with pytest.raises(UserError, match=told.replace("'time'", "'valid_time'")):
        scan(tmp_path, **words)


def test_a_file_dated_by_its_name_may_lie_beside_files_with_times_of_their_own(tmp_path):
    written(tmp_path, dataset(rain(1), hours(1)), "a.nc")
    written(tmp_path, bare(count=1).isel(time=0), "tp_2023-06-02.nc")
    assert times_of(scan(tmp_path)) == ["2023-06-01T00", "2023-06-02T00"]
    with pytest.raises(UserError, match="bears no time; 1 other file bears times of its own"):
        scan(tmp_path, start="2023-08-01")


def test_the_times_of_rows_beside_a_field_are_no_forecasts_leads(tmp_path):
    """As satellites' swaths on a grid have them: scan_time(time, latitude)."""
    data = dataset(rain(1), hours(1), time="time")
    for name, dims in {"scan": data.tp.dims[:2], "pixel": data.tp.dims}.items():
        shape = tuple(data.sizes[dim] for dim in dims)
        data[f"{name}_time"] = (dims, np.zeros(shape), {"units": "seconds since 2023-06-01"})
    release = scan(written(tmp_path, data), variable=["tp"])
    assert times_of(release) == ["2023-06-01T00"]
    np.testing.assert_allclose(frames(release)[:, 0], rain(1), rtol=1e-6)


def test_a_scalar_time_tells_of_the_one_step_beside_it(tmp_path):
    data = bare(count=1).rename(time="nt")
    data["time"] = ((), 6.0, {"units": "hours since 2023-06-01"})
    assert times_of(scan(written(tmp_path, data))) == ["2023-06-01T06"]
    with pytest.raises(UsageError, match="tp has 1 step, and nothing"):
        scan(written(tmp_path, data.drop_vars("time"), "b.nc"))
    several = bare(count=3).rename(time="nt").assign(time=data.time)
    with pytest.raises(UsageError, match="tp has 3 steps, and nothing"):
        scan(written(tmp_path, several, "c.nc"))


def forecasts(starts, leads):
    """As the CDS has forecasts: valid_time(start, lead)."""
    count = starts * leads
    begins = hours(starts, step=12)
    values = rain(count).reshape(starts, leads, 4, 5) * 1e-3
    dims = ("forecast_reference_time", "forecast_period")
    data = xr.Dataset(
        {"tp": ((*dims, "latitude", "longitude"), values, ERA5)},
        coords={"latitude": LAT, "longitude": LON, dims[0]: begins},
    )
    data[dims[1]] = (dims[1], np.arange(leads) + 1, {"units": "hours"})
    valid = begins[:, None] + (np.arange(leads) + 1) * np.timedelta64(1, "h")
    data["valid_time"] = (dims, valid.astype("datetime64[ns]"))
    return data


@pytest.mark.parametrize(
    ("starts", "leads", "expected"),
    [
        (1, 3, ["2023-06-01T01", "2023-06-01T02", "2023-06-01T03"]),
        (2, 1, ["2023-06-01T01", "2023-06-01T13"]),
        (1, 1, ["2023-06-01T01"]),
    ],
)
def test_a_forecasts_steps_are_of_the_times_they_are_valid_at(tmp_path, starts, leads, expected):
    release = scan(written(tmp_path, forecasts(starts, leads)))
    assert times_of(release) == expected
    np.testing.assert_allclose(frames(release)[:, 0], rain(starts * leads), rtol=1e-5)


def test_of_many_forecasts_one_must_be_chosen(tmp_path):
    told = r"'forecast_period' of 3, .* choose one of the 3, .* isel\(forecast_period=0\)"
    with pytest.raises(UserError, match=told):
        scan(written(tmp_path, forecasts(2, 3)))


def test_cdos_absolute_times_are_read(tmp_path):
    units = {"units": "day as %Y%m%d.%f"}
    data = bare(20230630.75 + np.array([0, 0.125]), units, count=2)
    assert times_of(scan(written(tmp_path, data))) == ["2023-06-30T18", "2023-06-30T21"]
    with pytest.raises(UserError, match="is missing, or no date; mend this file or leave it out"):
        scan(written(tmp_path, bare([20230630.0, 20230631.0], units, count=2), "b.nc"))


def test_rain_is_known_by_its_number_in_grib(tmp_path):
    """`cdo -f nc copy` of a GRIB file whose table it has not: no name and no units."""
    mm = rain(3)
    for number, attrs in enumerate(({"code": 228, "table": 128}, {"param": "228.128"})):
        data = dataset(mm, hours(3), name="var228", attrs=attrs)
        path = written(tmp_path, data, f"{number}.nc")
        with pytest.raises(UserError, match="var228 has units ''; expected m, cm"):
            scan(path)
        np.testing.assert_allclose(frames(scan(path, units="m"))[:, 0], mm, rtol=1e-6)
    state = dataset(mm, hours(3), name="var167", attrs={"code": 167, "table": 128, "units": "K"})
    assert scan(written(tmp_path, state, "t.nc")).channels[0].units == "K"


def test_one_time_twice_in_one_file_is_refused_with_another_way_out(tmp_path):
    twice = dataset(rain(3), hours(3)).isel(valid_time=[0, 1, 1, 2])
    told = r"a.nc holds twice tp of 2023-06-01T01:00; .* as with xarray's drop_duplicates"
    with pytest.raises(UserError, match=told):
        scan(written(tmp_path, twice))


def test_variables_may_lie_in_files_of_their_own(tmp_path):
    mm, kelvin = rain(4), 280 + rain(4, seed=1)
    written(tmp_path, dataset(mm, hours(4)), "accum.nc")
    late = hours(3, "2023-06-01T01")
    states = dataset(kelvin[1:], late, name="t2m", attrs={"units": "K"}, scale=1)
    written(tmp_path, states, "instant.nc")
    release = scan(tmp_path, variable=["t2m", "tp"])
    read = frames(release)
    np.testing.assert_allclose(read[:, 0], kelvin[1:], rtol=1e-6)
    np.testing.assert_allclose(read[:, 1], mm[1:], rtol=1e-6)
    assert release.problems == (f"{tmp_path}: 2023-06-01: no t2m; left out",)
    assert len(release.tracks[0].frames[0].paths) == 2


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda: dataset(rain(2), hours(2, "2023-06-01T01")), "both hold tp of 2023-06-01T01:00"),
        (lambda: dataset(rain(2), hours(2, "2024-06-01"), lon=LON + 1), "expected one grid"),
        (
            lambda: dataset(rain(2, (4, 4)), hours(2, "2024-06-01"), lon=LON[1:]),
            "its grid is 4x4 cells of 0.25 degrees",
        ),
        (
            lambda: dataset(rain(2), hours(2, "2024-06-01"), attrs={**ERA5, "units": "mm"}),
            "tp is amount in 'mm', in .* amount in 'm'",
        ),
    ],
    ids=["twice", "shifted", "smaller", "units"],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path, other, told):
    written(tmp_path, dataset(rain(2), hours(2)), "a.nc")
    written(tmp_path, other(), "b.nc")
    with pytest.raises(UserError, match=told):
        scan(tmp_path)


def test_a_common_box_makes_files_of_two_grids_one(tmp_path):
    mm = rain(1)
    written(tmp_path, dataset(mm, hours(1)), "a.nc")
    written(tmp_path, dataset(mm[..., 1:], hours(1, "2024-06-01"), lon=LON[1:]), "b.nc")
    read = frames(scan(tmp_path, region="5.5,6,49.25,50"))
    np.testing.assert_array_equal(read[0], read[1])


def test_damaged_and_foreign_files_are_named_and_left_out(tmp_path):
    good = written(tmp_path, dataset(rain(2), hours(2)), "good.nc")
    (tmp_path / "cut.nc").write_bytes(good.read_bytes()[:3000])
    (tmp_path / "text.nc").write_text("no NetCDF")
    (tmp_path / "x.grib").write_bytes(b"GRIB" + bytes(100))
    (tmp_path / "new.nc").write_bytes(b"CDF\x05" + bytes(100))
    other = dataset(rain(2), hours(2, "2024-01-01"), name="q", attrs={"units": "kg kg-1"}, scale=1)
    written(tmp_path, other, "other.nc")
    release = scan(tmp_path, variable=["tp"])
    assert len(frames(release)) == 2
    told = "\n".join(release.problems)
    for name in ("cut", "text", "new", "other"):
        assert f"{name}." in told
    assert "CDF-5" in told
    assert "other.nc: no tp; it has q" in told
    assert "is cut off: download it again" in told
    assert release.notes[-1].endswith("is read as netcdf; not of that form, left out: 1 .grib")
    with pytest.raises(UserError, match="is GRIB, which is not read: convert it with `cdo -f nc4"):
        scan(tmp_path / "x.grib")
    good.unlink()
    (tmp_path / "x.grib").rename(tmp_path / "good.nc")  # under another name it is a fault
    with pytest.raises(UserError, match=r"good.nc: is GRIB|no usable file"):
        scan(tmp_path / "good.nc")


BROKEN = {
    b"": "is empty; download it again",
    b"\x1f\x8b\x08": "is packed; unpack it first, as with gunzip",
    b"BZh91AY": "as with bunzip2",
    b"\n<!DOCTYPE html>": "is a web page or XML, not NetCDF, as a download without a login",
    b"no NetCDF at all": "not a NetCDF file",
}


@pytest.mark.parametrize(("data", "told"), BROKEN.items(), ids=range(len(BROKEN)))
def test_what_a_download_may_have_left_is_told_with_the_way_out(tmp_path, data, told):
    path = tmp_path / "a.nc"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"a.nc: .*{told}"):
        scan(path)


def test_a_choice_of_variables_is_asked_for(tmp_path):
    data = dataset(rain(2), hours(2))
    data["cp"] = data.tp
    path = written(tmp_path, data)
    with pytest.raises(UsageError, match=r"holds (tp, cp|cp, tp); choose with --variable"):
        scan(path)
    with pytest.raises(UserError, match="no usable file holds lsp"):
        scan(path, variable=["lsp"])
    with pytest.raises(UsageError, match="names one of them twice"):
        scan(path, variable=["tp,tp"])


# levels


def leveled(levels, units, names=("t", "r")):
    data = xr.Dataset(
        coords={"time": hours(2), "level": levels, "lat": LAT, "lon": LON},
    )
    data.level.attrs["units"] = units
    for number, name in enumerate(names):
        base = np.asarray(levels, float)[None, :, None, None] + number
        values = np.broadcast_to(base, (2, len(levels), 4, 5)).astype(np.float32)
        data[name] = (("time", "level", "lat", "lon"), values, {"units": "K"})
    return data


@pytest.mark.parametrize("order", [1, -1], ids=["rising", "falling"])
@pytest.mark.parametrize("units", ["hPa", "millibars", "Pa"])
def test_levels_become_channels_in_the_order_asked_for(tmp_path, order, units):
    factor = 100 if units == "Pa" else 1
    levels = np.array([500.0, 850.0, 925.0, 1000.0])[::order] * factor
    path = written(tmp_path, leveled(levels, units))
    release = scan(path, variable=["t,r"], levels="1000,500")
    assert [c.name for c in release.channels] == ["t_1000", "t_500", "r_1000", "r_500"]
    assert release.channels[1].long_name == "t at 500 hPa"
    read = frames(release)[0, :, 0, 0]
    np.testing.assert_array_equal(
        read, [1000 * factor, 500 * factor, 1000 * factor + 1, 500 * factor + 1]
    )
    assert len(scan(path, variable=["t"]).channels) == 4


def test_a_level_that_one_variable_lacks_is_named(tmp_path):
    data = leveled([500.0, 850.0, 1000.0], "hPa", ["t"])
    humid = leveled([850.0, 1000.0], "hPa", ["r"]).rename(level="isobaric5")
    path = written(tmp_path, data.merge(humid))
    with pytest.raises(UserError, match=r"r has no level of 500 hPa; it has 1000, 850: choose"):
        scan(path, variable=["t,r"], levels="1000,500")
    assert len(scan(path, variable=["t,r"], levels="850").channels) == 2


# times and tracks


@pytest.mark.parametrize(
    ("by", "ids"),
    [
        ("year", ["2023", "2024"]),
        ("season", ["2023-JJA", "2024-DJF"]),
        ("month", ["2023-06", "2023-12", "2024-01"]),
        ("week", ["2023-W22", "2023-W48", "2024-W01"]),
        ("day", ["2023-06-01", "2023-12-01", "2024-01-02"]),
        ("10d", ["2023-05-31", "2023-11-27", "2024-01-01"]),
        ("file", ["a"]),
        ("none", ["a"]),
    ],
)
def test_tracks_by_their_times(tmp_path, by, ids):
    times = np.array(["2023-06-01", "2023-12-01", "2024-01-02"], "datetime64[s]")
    data = dataset(rain(3), times, name="t2m", attrs={"units": "K"})
    release = scan(written(tmp_path, data), track_by=by)
    assert [raw.id for raw in release.tracks] == ids


def test_files_of_one_name_are_tracks_of_their_folders_names(tmp_path):
    for year in (2022, 2023):
        written(tmp_path, dataset(rain(1), hours(1, f"{year}-01-01")), f"{year}/data_accum.nc")
    ids = [raw.id for raw in scan(tmp_path, track_by="file").tracks]
    assert ids == ["2022-data_accum", "2023-data_accum"]


TIMES = {
    "hours since 1900-01-01 00:00:00.0": ([1061768], "2021-02-15T08:00:00"),
    "days since 1800-1-1 00:00:00": ([53325.0], "1946-01-01T00:00:00"),
    "Hour since 2010-10-26T12:00:00+00:00": ([0.0], "2010-10-26T12:00:00"),
    "seconds since 1970-01-01 00:00:00 UTC": ([1604120400], "2020-10-31T05:00:00"),
    "days since 2000-01-01": ([1 / 24], "2000-01-01T01:00:00"),
    "minutes since 2000-01-01T00:30Z": ([90], "2000-01-01T02:00:00"),
}


@pytest.mark.parametrize(("units", "case"), TIMES.items(), ids=TIMES)
def test_times_as_files_have_them(units, case):
    values, expected = case
    (second,) = stretches.times(np.array(values), {"units": units})
    assert str(np.datetime64(int(second), "s")) == expected


@pytest.mark.parametrize(
    ("attrs", "values", "told"),
    [
        ({"units": "days since 2000-01-01", "calendar": "noleap"}, [1], "calendar is 'noleap'"),
        ({"units": "days since 2000-01-01", "calendar": "360_day"}, [1], "calendar is '360_day'"),
        ({"units": "months since 2000-01-01"}, [1], "units 'months since"),
        ({"units": "days since 2000-01-01"}, [np.nan], "missing or absurd"),
        ({"units": "days since 2000-13-01"}, [1], "which is no date"),
        ({"units": "hours since 1-1-1"}, [1], "before the Gregorian calendar"),
    ],
)
def test_times_that_are_not_ours_are_refused(tmp_path, attrs, values, told):
    with pytest.raises(ValueError, match=told):
        stretches.times(np.array(values), attrs)


def test_another_calendar_is_refused_in_a_sentence_that_names_the_file(tmp_path):
    data = dataset(rain(2), hours(2)).drop_vars("valid_time")
    data["valid_time"] = (
        "valid_time",
        [0, 1],
        {"units": "days since 2000-01-01", "calendar": "noleap"},
    )
    with pytest.raises(UserError, match=r"a.nc: its calendar is 'noleap'; expected the standard"):
        scan(written(tmp_path, data))


def test_a_grid_without_names_says_how_axes_are_known(tmp_path):
    data = dataset(rain(2), hours(2)).rename(latitude="y", longitude="x")
    data["y"].attrs, data["x"].attrs = {}, {}
    with pytest.raises(UserError, match=r"it holds .*; expected 1-D coordinates called latitude"):
        scan(written(tmp_path, data))


# what cannot be a field


def two_dimensional(tmp_path):
    lat, lon = np.meshgrid(LAT, LON, indexing="ij")
    data = xr.Dataset({"RAINNC": (("Time", "y", "x"), rain(2), {"units": "mm"})})
    data["XLAT"] = (("y", "x"), lat, {"units": "degree_north"})
    data["XLONG"] = (("y", "x"), lon, {"units": "degree_east"})
    return written(tmp_path, data)


def members_of_an_ensemble(tmp_path):
    data = dataset(rain(2), hours(2)).expand_dims(number=[0, 1, 2], axis=1)
    return written(tmp_path, data)


def out_of_order(tmp_path):
    return written(tmp_path, dataset(rain(2), hours(2), lat=LAT[[0, 2, 1, 3]]))


REFUSED = {
    two_dimensional: r"RAINNC .*latitudes \(XLAT\) are 2-D; expected 1-D ones",
    members_of_an_ensemble: "has the dimension 'number' of 3, which is neither time, level",
    out_of_order: "its latitudes neither rise nor fall throughout",
}


@pytest.mark.parametrize(
    ("make", "told"), REFUSED.items(), ids=lambda v: getattr(v, "__name__", "")
)
def test_what_is_no_field_on_a_regular_grid_is_refused(tmp_path, make, told):
    with pytest.raises(UserError, match=told):
        scan(make(tmp_path), variable=["RAINNC"] if make is two_dimensional else ["tp"])


# ZIPs


def zipped(path, members, **infos):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_zip_under_a_netcdfs_name_is_read_and_leaves_nothing(tmp_path, monkeypatch):
    spare = tmp_path / "tmp"
    spare.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    a = written(tmp_path, dataset(rain(4), hours(4)), "accum.nc")
    states = dataset(280 + rain(4), hours(4), name="t2m", attrs={"units": "K"}, scale=1)
    b = written(tmp_path, states, "instant.nc")
    packed = zipped(tmp_path / "download.nc", {"data/i.nc": b.read_bytes(), "a.nc": a.read_bytes()})
    a.unlink()
    b.unlink()
    release = scan(packed, variable=["tp,t2m"])
    read = frames(release)
    np.testing.assert_allclose(read[:, 0], rain(4), rtol=1e-6)
    np.testing.assert_allclose(read[:, 1], 280 + rain(4), rtol=1e-6)
    assert release.tracks[0].frames[0].paths == (packed,)
    assert not list(spare.iterdir())


@pytest.mark.parametrize(
    "name", ["../out.nc", "/tmp/out.nc", "a/../../out.nc", "C:/out.nc", "a\\b.nc"]
)
def test_a_zip_that_points_out_of_itself_is_refused(tmp_path, name):
    good = written(tmp_path, dataset(rain(1), hours(1)), "x.nc").read_bytes()
    path = zipped(tmp_path / "evil.nc", {"good.nc": good, name: good})
    with pytest.raises(UserError, match=r"evil.nc: a ZIP with a member .* that points out of it"):
        scan(path)
    assert not (tmp_path.parent / "out.nc").exists()


def test_what_macos_packs_beside_a_file_is_no_matter(tmp_path):
    good = written(tmp_path, dataset(rain(2), hours(2)), "x.nc").read_bytes()
    litter = {"__MACOSX/a/._a.nc": b"\0\5\x16\7", "a/.hidden.nc": b"x"}
    release = scan(zipped(tmp_path / "mac.zip", {"a/a.nc": good, **litter}))
    assert len(frames(release)) == 2
    assert not release.problems


def test_other_zips_are_refused_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"a ZIP without a NetCDF file in it; it holds 1 .txt; unp"):
        scan(zipped(tmp_path / "empty.nc", {"readme.txt": "hello"}))
    with pytest.raises(UserError, match="a ZIP without a NetCDF file in it; it holds GRIB, which"):
        scan(zipped(tmp_path / "download.zip", {"data.grib": b"GRIB"}))
    with pytest.raises(UserError, match=r"a ZIP without a NetCDF file|not a NetCDF file|readable"):
        scan(zipped(tmp_path / "text.nc", {"a.nc": "no NetCDF"}))
    good = zipped(tmp_path / "cut.nc", {"a.nc": os.urandom(3000)})
    good.write_bytes(good.read_bytes()[:2000])
    with pytest.raises(UserError, match="not a readable ZIP"):
        scan(good)
    monkeypatch.setattr(netcdf_file, "MOST_UNPACKED", 1000)
    with pytest.raises(UserError, match="claims to unpack to 3000 bytes"):
        scan(zipped(tmp_path / "bomb.nc", {"a.nc": bytes(3000)}))


# hostile files


def huge_shape(file):
    data = file.create_dataset("tp", (1 << 40, 4, 5), "f4", chunks=(1, 4, 5))
    data[0] = 1


def huge_side(file):
    file.create_dataset("tp", (2, 4, 1 << 30), "f4", chunks=(1, 4, 1024))


def huge_coordinate(file):
    del file["latitude"]
    file.create_dataset("latitude", (1 << 36,), "f8", chunks=(1024,))


def link_out(file):
    file["tp"] = h5py.ExternalLink("/etc/hostname", "/")


def virtual(file):
    layout = h5py.VirtualLayout((2, 4, 5), "f4")
    layout[:] = h5py.VirtualSource("other.nc", "tp", (2, 4, 5))
    file.create_virtual_dataset("tp", layout)


def of_text(file):
    file.create_dataset("tp", data=np.full((2, 4, 5), b"x"))


HOSTILE = {
    huge_shape: r"tp declares \(1099511627776, 4, 5\)",
    huge_side: "tp declares|too large|has no field|not a readable",
    huge_coordinate: "latitude|no field",
    link_out: "'tp' is a link to elsewhere; refused",
    virtual: "tp lies in other files",
    of_text: "tp is not of numbers|no usable",
}


@pytest.mark.parametrize(
    ("harm", "told"), HOSTILE.items(), ids=lambda v: getattr(v, "__name__", "")
)
def test_hostile_files_are_refused_in_one_sentence(tmp_path, harm, told):
    path = written(tmp_path, dataset(rain(2), hours(2)))
    with h5py.File(path, "a") as file:
        old = file["tp"].attrs["units"]
        del file["tp"]
        harm(file)
        if harm in (huge_shape, huge_side, virtual, of_text):
            file["tp"].attrs["units"] = old
            for axis, name in enumerate(("valid_time", "latitude", "longitude")):
                file["tp"].dims[axis].attach_scale(file[name])
    with pytest.raises(UserError, match=told) as caught:
        scan(path, variable=["tp"])
    assert "\n" not in str(caught.value)


def test_a_chunk_that_was_damaged_costs_its_frames_only(tmp_path):
    data = dataset(rain(4), hours(4))
    path = written(tmp_path, data, encoding={"tp": {"chunksizes": (1, 4, 5), "zlib": True}})
    with h5py.File(path) as file:
        at = file["tp"].id.get_chunk_info(2)
    with path.open("r+b") as file:
        file.seek(at.byte_offset)
        file.write(b"\xff" * at.size)
    release = scan(path)
    every = release.tracks[0].frames
    for direct in (True, False):
        with pytest.raises(FrameError, match="tp cannot be read"):
            netcdf.read_frame(every[2], direct=direct)
        read = [netcdf.read_frame(every[i], direct=direct)[0] for i in (0, 1, 3)]
        np.testing.assert_allclose(read, rain(4)[[0, 1, 3]], rtol=1e-6)


def test_a_file_that_changes_after_the_scan_is_a_sentence(tmp_path):
    path = written(tmp_path, dataset(rain(4), hours(4)))
    (track,) = scan(path).tracks
    path.unlink()  # HDF5 does not write over a file that is open
    written(tmp_path, dataset(rain(2), hours(2), name="q"))
    with pytest.raises(FrameError, match="tp has changed since it was looked at"):
        netcdf.read_frame(track.frames[3])
    path.unlink()
    with pytest.raises(FrameError, match="no such file"):
        netcdf.read_frame(track.frames[3])


def test_reading_frame_by_frame_opens_and_reads_once(tmp_path, monkeypatch):
    path = written(tmp_path, dataset(rain(200), hours(200)))
    (track,) = scan(path).tracks
    netcdf_file.forget(netcdf_file.Where(path.absolute()))
    opened, read = [], []
    open_now, gathered = netcdf_file.open_now, netcdf.Window.read
    monkeypatch.setattr(netcdf_file, "open_now", lambda *of: opened.append(of) or open_now(*of))
    monkeypatch.setattr(netcdf.Window, "read", lambda *of: read.append(of) or gathered(*of))
    for frame in track.frames:
        netcdf.read_frame(frame)
    assert (len(opened), len(read)) == (1, 1)


def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    for number in range(6):
        written(tmp_path, dataset(rain(2), hours(2, f"20{10 + number}-01-01")), f"{number}.nc")
    monkeypatch.setattr(netcdf_file, "OPEN_FILES", 2)
    monkeypatch.setattr("pipeline.sources.netcdf_window.BLOCKS", 400)  # bytes; a block has 160
    assert len(frames(scan(tmp_path))) == 12
    assert len(netcdf_file.KEPT.files) <= 2
    assert sum(block.nbytes for block in netcdf_file.KEPT.blocks.values()) <= 400


# the real ones


def real(name):
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def test_real_telangana_is_a_monsoon():
    release = scan(real("precipitation/era5_telangana_2023JJA"), track_by="month")
    assert [len(raw.frames) for raw in release.tracks] == [720, 744, 744]
    source = sources.find("netcdf")
    total = sum(source.read_frame(f) for raw in release.tracks for f in raw.frames)
    assert 500 < total.mean() < 900  # mm in June to August


def test_real_germany_is_hours_taken_every_six():
    release = scan(real("precipitation/era5_germany_6h_2024-2025"))
    assert release.notes == ("tp: m x 1000 = mm of 1 h, given every 6 h",)
    source = sources.find("netcdf")
    mean = np.mean([source.read_frame(f).mean() for f in release.tracks[0].frames])
    assert 700 < mean * 24 * 366 < 1100  # mm in 2024
    with pytest.raises(UserError, match="given every 6 h"):
        scan(release.path, accumulate="24h")


def test_real_gpcc_crosses_the_seam_and_lacks_the_sea():
    release = scan(real("precipitation/gpcc_africa_monthly/precipitation.nc"))
    grid = release.tracks[0].grid
    assert (grid.x[0], grid.x[-1], grid.y[0], grid.y[-1]) == (-23.75, 58.75, 38.75, -38.75)
    year = next(raw for raw in release.tracks if raw.id == "1990")
    read = np.stack([netcdf.read_frame(frame) for frame in year.frames])
    assert np.isnan(read).mean() == pytest.approx(0.416, abs=0.001)
    assert 500 < np.nanmean(read.sum(0)) < 900  # mm a year over Africa's land


def test_real_power_is_mm_a_day():
    release = scan(real("precipitation/power_india_daily_2024"))
    assert release.notes == ("PRECTOTCORR: mm/day x 1 = mm of 24 h",)
    source = sources.find("netcdf")
    total = sum(source.read_frame(f) for f in release.tracks[0].frames)
    assert 900 < total.mean() < 1800


def test_real_zip_holds_the_same_as_its_members():
    folder = real("precipitation/era5_telangana_2023Sep_week")
    packed = scan(folder / "telangana_test_data.nc", variable=["tp"])
    plain = scan(folder / "data_stream-oper_stepType-accum.nc")
    for one, other in list(zip(packed.tracks[0].frames, plain.tracks[0].frames, strict=True))[::20]:
        np.testing.assert_array_equal(netcdf.read_frame(one), netcdf.read_frame(other))
    with pytest.raises(UserError, match="both hold tp of 2023-09-01"):
        scan(folder, variable=["tp"])


def test_real_levels_of_era5_and_gfs():
    era5 = scan(real("levels/pressure_levels.nc"), variable=["t,r"], levels="1000,850,700")
    assert [c.name for c in era5.channels][:3] == ["t_1000", "t_850", "t_700"]
    warm, _, cold = frames(era5)[0, :3].mean((1, 2))
    assert 310 > warm > cold > 240
    path = real("levels/GFS_test.nc")
    with pytest.raises(UserError, match=r"Relative_humidity_isobaric has no level of 20 hPa"):
        scan(path, variable=["Temperature_isobaric,Relative_humidity_isobaric"], levels="1000,20")


def test_real_wrf_is_refused_and_radar_rain_is_read():
    with pytest.raises(UserError, match="2-D"):
        scan(real("levels/wrf_d01_allvars_cropped.nc"), variable=["RAINNC"])
    release = scan(real("radar/bom_prcp-c10"), track_by="day")
    assert [len(raw.frames) for raw in release.tracks] == [24]
    assert release.attrs["pixel_km"] == 0.5
    read = netcdf.read_frame(release.tracks[0].frames[0])
    assert read.shape == (1, 512, 512)
    assert 0 < np.nanmean(read) < 5


def test_options_of_amounts_are_said_as_they_are():
    """A duration, a unit and a range that are used in the sentences above."""
    assert amounts.valid_range(amounts.Meaning("amount", "m"), 3600)[1] == 2000
    assert amounts.valid_range(amounts.Meaning("amount", "m"), None)[1] == 20_000
    assert Options().given() == {}
