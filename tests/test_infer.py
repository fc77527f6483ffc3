import errno
import os
import resource
import shutil
import signal
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from torch import nn

import models
from models import Geometry
from pipeline import checkpoint, inspection, settings, split, store
from pipeline.checkpoint import Checkpoint, Data
from pipeline.convert import ConvertSettings, convert
from pipeline.errors import UsageError, UserError
from pipeline.evaluate import evaluate
from pipeline.infer import infer, picked
from pipeline.metrics import Errors
from pipeline.outputs import netcdf
from pipeline.scaling import Scaling
from pipeline.sources import synthetic
from pipeline.sources.digital_typhoon import ATTRS, INFRARED
from pipeline.sources.synthetic import Storm

torch.set_num_threads(1)

ID = "202101"
CHANNELS = (vars(INFRARED),)
START = datetime(2021, 7, 19, tzinfo=UTC)
SOUND = [0, 2]  # frames of an output of `raw`; 1 is flagged
FLAGGED = "1 of 3 frames are flagged (more than 1 % missing) and not scored"
RIGHTS = f"{ATTRS['attribution']}, CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"
QUICK = {"pictures": "none", "animations": ()}
SMALL = ["model.width=8", "model.n_residual_blocks=1", "model.lambda_adv_s=0"]
SMALL += ["model.lambda_adv_t=0", "training.sequence_length=1"]


def trained_run(folder, *overrides, channels=CHANNELS, **attrs):
    """A run as `train` leaves it, with weights that do something."""
    ours, _ = settings.load(None, [*SMALL, *overrides])
    f = ours.task.factor
    area = ours.task.coarsening == "area"
    C = len(channels)
    geometry = Geometry(x=(1, C, 8, 8), y=(1, C, 8 * f, 8 * f), block_means=area)
    torch.manual_seed(0)
    model = models.build(ours.model_name, geometry, ours.model_settings)
    for p in model.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    made = Checkpoint(
        settings=ours,
        geometry=geometry,
        scaling=Scaling(("range",) * C, (240.0,) * C, (90.0,) * C, (0.3,) * C),
        data=Data(
            "WP.zarr",
            "abc123",
            [dict(c) for c in channels],
            ["198702"],
            [],
            {**ATTRS, **attrs},
            {"min": [150.0] * C, "max": [330.0] * C, "satellites": ["HMW8"]},
        ),
        weights=model.state_dict(),
        averaged=None,
        training={"position": {"epoch": 7, "step": 100}},
    )
    checkpoint.save(folder / "checkpoints" / "best.ckpt", made)
    return folder


@pytest.fixture
def run(tmp_path):
    return trained_run(tmp_path / "run")


@pytest.fixture
def raw(tmp_path):
    """Five hours of 32x32 pixels, of which hour 1 has lost lines, 2 is cut off and 3 is blank."""
    storm = Storm(ID, START, 5, bad_pixels=(1,), truncated=(2,), blank=(3,))
    synthetic.write_tree(tmp_path / "raw", [storm], size=32)
    return tmp_path / "raw"


def opened(path):
    with xr.open_dataset(path) as dataset:
        return dataset.load()


def inside(folder):
    return sorted(p.name for p in folder.iterdir())


def test_enhance_makes_every_frame_finer(run, raw, tmp_path):
    done = infer(run, raw, tmp_path / "out" / "a.nc", **QUICK)
    data = opened(done.file)
    assert (done.id, done.frames, done.shape) == (ID, 3, (128, 128))
    assert data.sizes == {"time": 3, "y": 128, "x": 128}
    hours = np.datetime64("2021-07-19T00", "h") + np.array([0, 1, 4])  # 2 and 3 are left out
    assert (data.time.values == hours).all()
    assert done.scores == {}
    assert (done.pictures, done.animations) == ([], [])
    assert inside(tmp_path / "out") == ["a.nc"]


def test_problems_name_the_frames_left_out(run, raw, tmp_path):
    done = infer(run, raw, tmp_path / "a.nc", **QUICK)
    unreadable, blank = done.problems
    assert f"2021071902-{ID}-HMW8-1.h5: not a readable HDF5 image" in unreadable
    assert f"2021071903-{ID}-HMW8-1.h5: image is blank" in blank


def test_the_file_says_what_it_holds(run, raw, tmp_path):
    data = opened(infer(run, raw, tmp_path / "a.nc", **QUICK).file)
    field = data.brightness_temperature
    assert field.dtype == np.float32
    assert field.dims == ("time", "y", "x")
    assert field.attrs["standard_name"] == "toa_brightness_temperature"
    assert field.attrs["units"] == "K"
    assert np.isnan(field.encoding["_FillValue"])
    assert {"latitude", "longitude"} <= set(field.coords)
    assert data.time.encoding["units"] == "seconds since 1970-01-01 00:00:00"
    for name in ("central_pressure", "max_wind", "grade"):
        assert data[name].dims == ("time",)
        assert data[name].notnull().all()
    assert data.central_pressure.attrs["units"] == "hPa"
    assert data.satellite.attrs["flag_meanings"] == "HMW8"
    assert (data.satellite == 0).all()
    # 5 km pixels in four parts; the centre lies between the middle ones
    assert data.y.attrs["units"] == data.x.attrs["units"] == "km"
    assert data.y.values[0] == pytest.approx(80 - 0.625)  # half of 32 pixels of 5 km; north first
    assert data.x.values[0] == pytest.approx(-80 + 0.625)
    assert np.allclose(np.diff(data.y), -1.25)
    assert np.allclose(np.diff(data.x), 1.25)
    wanted = {
        "Conventions": "CF-1.11",
        "license": "CC BY 4.0",
        "attribution": ATTRS["attribution"],
        "model": settings.RunSettings().model_name,
        "checkpoint": "run/checkpoints/best.ckpt",
        "epoch": 7,
        "training_tracks": "198702",
        "mode": "enhance",
        "factor": 4,
        "track_id": ID,
    }
    assert {name: data.attrs[name] for name in wanted} == wanted
    assert {"title", "source", "history", "references"} <= set(data.attrs)
    assert "Detail finer than 5 km is the model's estimate" in data.attrs["comment"]


def test_all_that_must_be_named_goes_on(raw, tmp_path):
    run = trained_run(
        tmp_path / "run", attribution="Others", references="A paper", acknowledgement="Thanks"
    )
    attrs = opened(infer(run, raw, tmp_path / "a.nc", **QUICK).file).attrs
    both = f"{ATTRS['attribution']}; Others"
    assert attrs["attribution"] == both
    assert attrs["references"] == f"{both}; A paper"
    assert attrs["acknowledgement"] == "Thanks"
    assert attrs["license"] == "CC BY 4.0"


def test_the_same_input_gives_the_same_file(run, raw, tmp_path):
    files = [infer(run, raw, tmp_path / name / "a.nc", **QUICK).file for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_nothing_is_invented_where_nothing_was_seen(run, raw, tmp_path):
    data = opened(infer(run, raw, tmp_path / "a.nc", **QUICK).file)
    frame = dict(synthetic.frames(Storm(ID, START, 5, bad_pixels=(1,)), size=32))[1]
    missing = (frame < 150) | (frame > 330)
    assert 0.1 < missing.mean() < 0.5
    fine = missing.repeat(4, axis=0).repeat(4, axis=1)
    assert np.array_equal(np.isnan(data.brightness_temperature[1]), fine)
    assert data.brightness_temperature[[0, 2]].notnull().all()


def test_a_block_mean_of_the_output_is_the_input(run, raw, tmp_path):
    data = opened(infer(run, raw, tmp_path / "a.nc", **QUICK).file)
    (_, frame), *_ = synthetic.frames(Storm(ID, START, 1), size=32)
    means = data.brightness_temperature[0].values.reshape(32, 4, 32, 4).mean(axis=(1, 3))
    assert np.abs(means - frame).max() < 1e-3  # K; the model is built so


def test_check_scores_the_model_and_the_baseline(run, raw, tmp_path):
    done = infer(run, raw, tmp_path / "a.nc", mode="check", **QUICK)
    data = opened(done.file)
    truth = data.brightness_temperature_truth
    assert data.sizes == {"time": 3, "y": 32, "x": 32}
    assert list(done.scores) == ["model", "bicubic"]
    assert set(done.scores["model"]) == set(done.units) == {"rmse", "mae", "bias", "psnr", "ssim"}
    fields = {"model": data.brightness_temperature, "bicubic": data.brightness_temperature_bicubic}
    for row, field in fields.items():
        error = (field - truth).astype(np.float64)
        rmse = float(np.sqrt((error[SOUND] ** 2).mean()))
        assert done.scores[row]["rmse"] == pytest.approx(rmse, rel=1e-5)
        per_time = np.sqrt((error**2).mean(("y", "x")))
        assert data[f"rmse_{row}"].values == pytest.approx(per_time.values, rel=1e-5)
        assert data[f"rmse_{row}"].attrs["units"] == "K"
    (_, frame), *_ = synthetic.frames(Storm(ID, START, 1), size=32)
    assert np.array_equal(truth[0], frame.astype(np.float32))
    assert np.allclose(np.diff(data.y), -5)


def test_check_scores_as_metrics_do(run, raw, tmp_path):
    done = infer(run, raw, tmp_path / "a.nc", mode="check", **QUICK)
    data = opened(done.file)
    a, b = (
        torch.from_numpy(data[f"brightness_temperature{ending}"].values[SOUND])
        for ending in ("", "_truth")
    )
    scores = Errors.of(a, b, 180.0).scores()
    assert done.scores["model"] == pytest.approx(scores, rel=1e-6, abs=1e-6)


def test_check_scores_as_evaluate_does(run, tmp_path):
    """A frame that has lost lines is in the output of both a tree and a store, and in no score."""
    raw = tmp_path / "both"
    storms = [Storm(ID, START, 3, bad_pixels=(1,)), Storm("202102", START, 3)]
    synthetic.write_tree(raw, storms, size=32)
    target, split_path = tmp_path / "S.zarr", tmp_path / "S.split.json"
    convert(raw, target, ConvertSettings(), manifests=tmp_path / "man", workers=1)
    split.split(target, split_path, eval_ids=[ID])
    scores = evaluate(run, store_path=target, split_path=split_path, device="cpu").scores
    assert scores.frames == 2
    for path in (raw, target):
        out = tmp_path / "out" / f"{path.name}.nc"
        done = infer(run, path, out, mode="check", id=ID, device="cpu", **QUICK)
        assert done.frames == 3
        assert FLAGGED in done.notes
        for row, found in done.scores.items():
            for name, value in found.items():
                assert value == pytest.approx(scores.rows[row][name], rel=1e-5), (row, name)
        missing = opened(out).missing_fraction.values
        assert missing[SOUND].tolist() == [0, 0]
        assert missing[1] == np.isnan(opened(out).brightness_temperature_truth[1]).mean()
    assert FLAGGED not in infer(run, raw, tmp_path / "e.nc", id=ID, **QUICK).notes


def test_a_store_s_own_flags_count(run, raw, tmp_path):
    settings = ConvertSettings(max_missing=1)
    convert(raw, tmp_path / "S.zarr", settings, manifests=tmp_path / "man", workers=1)
    done = infer(run, tmp_path / "S.zarr", tmp_path / "a.nc", mode="check", **QUICK)
    assert done.notes == []
    assert done.scores != infer(run, raw, tmp_path / "b.nc", mode="check", **QUICK).scores


def test_flagged_frames_alone_give_no_score(run, raw, tmp_path):
    lost = raw / "image" / ID / f"2021071901-{ID}-HMW8-1.h5"
    done = infer(run, lost, tmp_path / "a.nc", mode="check", **QUICK)
    assert done.notes[-1].startswith("1 of 1 frames are flagged")
    assert np.isnan(done.scores["model"]["rmse"])


def test_sides_that_the_factor_does_not_divide_are_cut_and_said(tiny, tmp_path, run):
    for hour in range(2):
        tiny.write(hour, pixels=tiny.pixels(hour, (18, 23)))
    done = infer(run, tiny.root, tmp_path / "a.nc", mode="check", **QUICK)
    data = opened(done.file)
    assert data.sizes == {"time": 2, "y": 16, "x": 20}
    assert done.notes == [
        "The last 2 rows and 3 columns were left out: 18x23 pixels are not divisible by 4."
    ]
    assert done.notes[0] in data.attrs["comment"]
    assert data.y.values[0] == pytest.approx((18 / 2 - 0.5) * 5)  # about the frame's own centre
    assert data.x.values[0] == pytest.approx((-23 / 2 + 0.5) * 5)


@pytest.mark.parametrize("shape", [(19, 33), (5, 3), (32, 32)])
@pytest.mark.parametrize("tile", [4, 7, 1000])
def test_any_size_and_any_tile(run, tiny, tmp_path, shape, tile):
    tiny.write(0, pixels=tiny.pixels(0, shape))
    usual, other = (
        opened(infer(run, tiny.root, tmp_path / f"{t}.nc", tile=t, **QUICK).file)
        for t in (256, tile)
    )
    assert usual.brightness_temperature.shape == (1, 4 * shape[0], 4 * shape[1])
    assert np.abs(usual.brightness_temperature - other.brightness_temperature).max() < 1e-4  # K


def test_raw_folder_store_and_track_in_a_store_give_the_same(run, raw, tmp_path):
    # a second storm: not a word of it may matter
    storm = Storm("202102", START, 2)
    synthetic.write_tree(tmp_path / "two", [storm], size=32)
    shutil.copytree(tmp_path / "two", raw, dirs_exist_ok=True)
    target = tmp_path / "S.zarr"
    convert(raw, target, ConvertSettings(), manifests=tmp_path / "man", workers=1)
    inputs = [
        (raw, ID),
        (raw / "image" / ID, None),
        (target, ID),
        (target / ID, None),
    ]
    made = [
        opened(infer(run, path, tmp_path / f"{i}.nc", id=id, mode="check", **QUICK).file)
        for i, (path, id) in enumerate(inputs)
    ]
    for data in made:
        data.attrs.pop("history")  # names the input
        xr.testing.assert_identical(data, made[0])


def test_blank_frames_of_a_store_are_left_out_and_named(run, raw, tmp_path):
    target = tmp_path / "S.zarr"
    convert(raw, target, ConvertSettings(), manifests=tmp_path / "man", workers=1)
    done = infer(run, target, tmp_path / "a.nc", **QUICK)
    assert store.open_store(target).track(ID).flag.tolist() == [0, store.TOO_MANY_MISSING, 2, 0]
    assert done.frames == 3  # too many missing is no reason
    assert done.problems == [f"{target / ID}: frame 2 is blank"]


def test_a_damaged_frame_of_a_store_is_left_out_and_named(run, raw, tmp_path):
    target = tmp_path / "S.zarr"
    convert(raw, target, ConvertSettings(), manifests=tmp_path / "man", workers=1)
    shard = target / ID / store.SHARD_FILE
    data = bytearray(shard.read_bytes())
    data[100] ^= 1  # of frame 0
    shard.write_bytes(data)
    done = infer(run, target, tmp_path / "a.nc", **QUICK)
    assert done.frames == 2
    assert f"{target / ID}: frame 0 is damaged" in done.problems[0]


def test_one_file(run, raw, tmp_path):
    file = raw / "image" / ID / f"2021071904-{ID}-HMW8-1.h5"
    done = infer(run, file, tmp_path / "a.nc", pictures="1", animations=["mp4"])
    whole = opened(infer(run, raw, tmp_path / "b.nc", **QUICK).file)
    data = opened(done.file)
    assert np.array_equal(data.brightness_temperature[0], whole.brightness_temperature[2])
    assert data.latitude.values == whole.latitude.values[2]  # its best track is found
    assert done.problems == []
    assert done.animations == []  # one frame does not move


def test_without_best_track(run, tiny, tmp_path):
    tiny.write(0)
    done = infer(run, tiny.root, tmp_path / "a.nc", pictures="1", animations=())
    data = opened(done.file)
    assert "latitude" not in data
    assert "coordinates" not in data.brightness_temperature.encoding
    assert len(done.pictures) == 1


def test_a_frame_of_another_shape_is_left_out(run, tiny, tmp_path):
    tiny.track(hours=range(4))
    tiny.write(4, pixels=tiny.pixels(4, (8, 8)))
    done = infer(run, tiny.root, tmp_path / "a.nc", **QUICK)
    assert done.frames == 4
    assert "image is (8, 8), expected (16, 16)" in done.problems[0]


def test_the_model_s_valid_range_counts(tmp_path, tiny):
    narrow = {**vars(INFRARED), "valid_max": 250.0}
    run = trained_run(tmp_path / "narrow", channels=[narrow])
    tiny.write(0)
    data = opened(infer(run, tiny.root, tmp_path / "a.nc", **QUICK).file)
    warm = (tiny.pixels(int(ID)).astype(np.float32) > 250).repeat(4, 0).repeat(4, 1)
    assert np.array_equal(np.isnan(data.brightness_temperature[0]), warm)


def test_other_coarsening_scores_what_x_did_not_see(tmp_path, raw):
    overrides = ("task.coarsening=bicubic", "model.consistent=false")
    run = trained_run(tmp_path / "other", *overrides)
    done = infer(run, raw, tmp_path / "a.nc", mode="check", **QUICK)
    assert np.isfinite(done.scores["model"]["rmse"])
    data = opened(done.file)
    assert data.brightness_temperature[1].isnull().mean() > 0.2


def test_pixels_of_unknown_size(run, tiny, tmp_path, monkeypatch):
    run = trained_run(tmp_path / "bare")
    attrs = {k: v for k, v in ATTRS.items() if k != "pixel_km"}
    monkeypatch.setattr("pipeline.sources.digital_typhoon.ATTRS", attrs)
    path = checkpoint.in_run(run, "best")
    made = checkpoint.load(path)
    made.data.attrs.pop("pixel_km")
    checkpoint.save(path, made)
    tiny.write(0)
    data = opened(infer(run, tiny.root, tmp_path / "a.nc", **QUICK).file)
    assert data.y.attrs["units"] == "1"
    assert data.y.values[0] == 8 - 0.125  # of 16 pixels, each in four parts


@pytest.mark.parametrize(
    ("mode", "movies"),
    [
        ("enhance", ["gif"]),
        pytest.param("enhance", ["mp4", "gif"], marks=pytest.mark.slow),
        pytest.param("check", ["mp4", "gif"], marks=pytest.mark.slow),
    ],
)
def test_pictures_and_animation(run, raw, tmp_path, mode, movies):
    out = tmp_path / "a.nc"
    done = infer(run, raw, out, mode=mode, pictures="2", animations=movies)
    hours = ["2021071900", "2021071904"]  # the first and the last
    assert done.pictures == [tmp_path / "a" / f"{ID}-{hour}.png" for hour in hours]
    for path in done.pictures:
        with Image.open(path) as image:
            assert image.width == 2400  # 16 in of 150
            assert 1000 < image.height < 2400
            image.load()
            assert image.text["Title"] == opened(out).attrs["title"]
            assert path.stem[-2:] + ":00 UTC" in image.text["Description"]
            assert image.text["Copyright"] == RIGHTS
    assert done.animations == [tmp_path / f"a.{kind}" for kind in movies]
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3
        assert RIGHTS in image.info["comment"].decode()
    if "mp4" in movies:
        assert b"ftyp" in done.animations[0].read_bytes()[:16]
        assert RIGHTS.encode() in done.animations[0].read_bytes()
    assert inside(tmp_path / "a") == [path.name for path in done.pictures]


def test_which_frames_are_drawn():
    times = np.arange(10) * 3600 + 1626652800  # 2021-07-19 00 UTC
    every, some = list(range(10)), [0, 1, 2, 5, 6]
    assert picked("all", times, some) == some
    assert picked("none", times, some) == []
    assert picked("0", times, some) == []
    assert picked("1", times, every) == [0]
    assert picked("3", times, some) == [0, 2, 6]
    assert picked("99", times, some) == some
    assert picked("2021071905, 2021071900", times, every) == [5, 0]
    assert picked("2021071903", times, some) == []  # its frame was left out


@pytest.mark.parametrize("wish", ["2021072000", "", "-1", "some", "3,4"])
def test_a_wish_for_pictures_that_cannot_be(wish):
    times = np.arange(10) * 3600 + 1626652800
    with pytest.raises(UsageError, match=r"hours between 2021071900 and 2021071909"):
        picked(wish, times, range(10))


def refused(sentence, run, path, out, **options):
    """Refused in one line, with nothing left behind."""
    before = inside(out.parent)
    with pytest.raises(UserError, match=sentence) as caught:
        infer(run, path, out, **{**QUICK, **options})
    assert "\n" not in str(caught.value)
    assert inside(out.parent) == before


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "a.nc"


def test_several_typhoons_need_an_id(run, tiny, out):
    tiny.track("202101", range(1))
    tiny.track("202102", range(1))
    refused(r"holds 202101, 202102; choose one track with --id", run, tiny.root, out)
    refused(r"no track '202103'; it has 202101, 202102", run, tiny.root, out, id="202103")
    assert infer(run, tiny.root, out, id="202102", **QUICK).id == "202102"


def test_bad_input_is_refused(run, raw, out, tmp_path):
    told = "none: no such file or folder; expected a typhoon's raw folder, .* or a store"
    refused(told, run, tmp_path / "none", out)
    (tmp_path / "empty").mkdir()
    refused("no raw frames found", run, tmp_path / "empty", out)
    (tmp_path / "zarr.json").write_text("{}")
    refused("not", run, tmp_path, out)
    damaged = raw / "image" / ID / f"2021071902-{ID}-HMW8-1.h5"
    refused("not one readable frame of 202101; .*not a readable HDF5", run, damaged, out)
    blank = raw / "image" / ID / f"2021071903-{ID}-HMW8-1.h5"
    refused("not one usable frame of 202101; .*image is blank", run, blank, out)


def test_frames_smaller_than_a_coarse_pixel_are_refused(run, tiny, out):
    tiny.write(0, pixels=tiny.pixels(0, (3, 9)))
    refused("3x9 pixels cannot be coarsened 4 times", run, tiny.root, out, mode="check")


def test_bad_options_are_refused(run, raw, out, tmp_path):
    refused("no such run folder", tmp_path / "none", raw, out)
    refused("no checkpoint 'last'; it has best", run, raw, out, which="last")
    refused(r"ends in \.nc \(NetCDF\), \.zarr or \.tif", run, raw, out.with_suffix(""))
    refused("expected 2 or more", run, raw, out, members=1)
    refused("tile is 0 pixels", run, raw, out, tile=0)
    refused("pictures x: expected", run, raw, out, pictures="x")
    refused("device 'abacus'", run, raw, out, device="abacus")
    (out.parent / "b.nc").mkdir()
    refused("is a folder", run, raw, out.parent / "b.nc")
    (out.parent / "c").touch()
    refused("the pictures need a folder", run, raw, out.parent / "c.nc")
    (out.parent / "d.mp4").mkdir()
    refused(
        "d.mp4: is a folder, and the animation", run, raw, out.parent / "d.nc", animations=("mp4",)
    )
    for name in (".", "/", ".."):
        with pytest.raises(UsageError, match="is no name that could be written"):
            infer(run, raw, Path(name), format="geotiff", **QUICK)


def test_a_place_that_cannot_be_written_is_refused_at_once(run, raw, out, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    refused("cannot be written to; choose another place for a.nc", run, raw, out)


def test_a_file_in_the_way_of_the_folder(run, raw, out):
    (out.parent / "file").touch()
    with pytest.raises(UserError, match="file: cannot be written to"):
        infer(run, raw, out.parent / "file" / "a.nc", **QUICK)


def test_only_an_earlier_netcdf_is_replaced(run, raw, out):
    out.write_text("mine")
    refused("holds something else than an earlier output", run, raw, out)
    assert out.read_text() == "mine"
    out.write_bytes(b"")
    for _ in range(2):
        assert infer(run, raw, out, **QUICK).frames == 3
    with xr.open_dataset(out) as data:
        data.drop_attrs(deep=False).to_netcdf(out.parent / "b.nc")
    refused("holds something else", run, raw, out.parent / "b.nc")


def test_pictures_go_into_no_folder_of_others(run, raw, out):
    folder = out.with_suffix("")
    folder.mkdir()
    (folder / "2021071900-202101-HMW8-1.h5").touch()
    told = r"a: the pictures would go there, .* \(2021071900-202101-HMW8-1.h5\); .*--pictures none"
    refused(told, run, raw, out, pictures="1")
    infer(run, raw, out, **QUICK)
    (folder / ".DS_Store").touch()
    (folder / "2021071900-202101-HMW8-1.h5").rename(folder / f"{ID}-2021071904.png")
    done = infer(run, raw, out, pictures="1", animations=())
    names = [".DS_Store", done.pictures[0].name, f"{ID}-2021071904.png"]
    assert inside(folder) == sorted(names)


def test_what_a_kill_left_while_drawing_goes(run, raw, tmp_path):
    out = tmp_path / "out" / "a[1].nc"
    folder = out.with_suffix("")
    folder.mkdir(parents=True)
    (folder / f".{ID}-2021071904.png.12.tmp").touch()
    (out.parent / ".a[1].mp4.12.tmp").touch()
    (out.parent / ".a1.mp4.12.tmp").touch()
    done = infer(run, raw, out, pictures="1", animations=("mp4",))
    assert inside(out.parent) == [".a1.mp4.12.tmp", "a[1]", "a[1].mp4", "a[1].nc"]
    assert inside(folder) == [done.pictures[0].name]


def test_an_output_is_no_input(run, raw, tmp_path, out):
    for ending in ("nc", "zarr"):
        made = infer(run, raw, tmp_path / f"made.{ending}", **QUICK).file
        refused("is an output of `cli infer`; expected", run, made, out)
        with pytest.raises(UserError, match="is an output of `cli infer`"):
            inspection.inspect(made)


def test_within_a_track_s_own_folder(run, raw, tmp_path, monkeypatch):
    convert(raw, tmp_path / "S.zarr", ConvertSettings(), manifests=tmp_path / "man", workers=1)
    for folder in (tmp_path / "S.zarr" / ID, raw / "image" / ID):
        monkeypatch.chdir(folder)
        assert infer(run, Path("."), tmp_path / f"{folder.parent.name}.nc", **QUICK).id == ID


def test_other_channels_are_refused(tmp_path, raw, out):
    other = {**vars(INFRARED), "name": "rain", "units": "mm"}
    sentence = r"has the channels infrared \[K\]; the model was trained on "
    run = trained_run(tmp_path / "mm", channels=[other])
    refused(sentence + r"rain \[mm\]", run, raw, out)
    run = trained_run(tmp_path / "two", channels=[vars(INFRARED), other])
    refused(sentence + r"infrared \[K\], rain \[mm\]", run, raw, out)


def test_a_failed_rerun_leaves_the_good_file(run, raw, out, monkeypatch):
    infer(run, raw, out, **QUICK)
    before = out.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(netcdf.Writer, "append", full)
    with pytest.raises(OSError, match="No space left") as caught:
        infer(run, raw, out, **QUICK)
    assert caught.value.filename == str(out)
    assert out.read_bytes() == before
    assert inside(out.parent) == [".a.nc.unfinished", "a.nc"]
    monkeypatch.undo()
    infer(run, raw, out, **QUICK)
    assert out.read_bytes() == before
    assert inside(out.parent) == ["a.nc"]


@pytest.mark.parametrize(("size", "left"), [(20_000, []), (100_000, [".a.nc.unfinished"])])
def test_a_full_disk_is_an_error_and_not_a_crash(run, raw, out, size, left):
    """In the first frame, and in the file of all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores the signal
    try:
        with pytest.raises(OSError, match="too large") as caught:
            infer(run, raw, out, **QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(out)
    assert inside(out.parent) == left
    assert infer(run, raw, out, **QUICK).frames == 3
    assert inside(out.parent) == ["a.nc"]
    assert Path(out).stat().st_size > 100_000


def test_an_interrupt_in_the_first_frame_leaves_nothing(run, raw, out, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.answers.Answers.of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        infer(run, raw, out, **QUICK)
    assert inside(out.parent) == []


def test_scores_of_a_typhoon_trained_on_are_marked_as_such(run, raw, tmp_path):
    old = checkpoint.load(run / "checkpoints" / "best.ckpt")
    known = replace(old, data=replace(old.data, train=[ID]))
    checkpoint.save(tmp_path / "known" / "checkpoints" / "best.ckpt", known)
    notes = infer(tmp_path / "known", raw, tmp_path / "a.nc", mode="check", **QUICK).notes
    known = f"{ID} was trained on: its scores say nothing about a new typhoon"
    assert notes == [known, FLAGGED]
    assert infer(run, raw, tmp_path / "b.nc", mode="check", **QUICK).notes == [FLAGGED]


def test_an_interrupt_is_noticed_between_two_frames(run, raw, tmp_path, monkeypatch):
    """Within HDF5's own writing Python's exception would be lost, and a frame with it."""
    append = netcdf.Writer.append

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGINT)
        append(*args)

    monkeypatch.setattr(netcdf.Writer, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        infer(run, raw, tmp_path / "a.nc", **QUICK)
    assert inside(tmp_path / ".a.nc.unfinished")  # for the next time
    assert not list(tmp_path.glob("a.nc*"))
