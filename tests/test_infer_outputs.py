"""What `infer` adds to a plain run: formats, going on, ensembles, and is the input familiar."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from PIL import Image
from rasterio.warp import transform
from torch import nn
from typer.testing import CliRunner

import cli
import models
from models import Geometry
from pipeline import checkpoint, familiarity, pictures, raw_tree, settings
from pipeline.answers import Answers
from pipeline.checkpoint import Checkpoint, Data
from pipeline.convert import ConvertSettings, convert
from pipeline.errors import UsageError, UserError
from pipeline.infer import infer, picked, wanted
from pipeline.manifest import Statistics
from pipeline.outputs import geotiff, netcdf
from pipeline.outputs.layout import stamp
from pipeline.scaling import Scaling
from pipeline.sources import synthetic
from pipeline.sources.digital_typhoon import ATTRS, INFRARED
from pipeline.sources.synthetic import Storm

torch.set_num_threads(1)

ID = "202101"
START = datetime(2021, 7, 19, tzinfo=UTC)
QUICK = {"pictures": "none", "animations": ()}
SMALL = ["model.width=8", "model.n_residual_blocks=1", "model.lambda_adv_s=0"]
SMALL += ["model.lambda_adv_t=0", "training.sequence_length=1"]
SEEN = {"min": [150.0], "max": [330.0], "satellites": ["HMW8"]}
ENDINGS = ("nc", "zarr", "tif")


def weights(ours, geometry, seed):
    torch.manual_seed(seed)
    model = models.build(ours.model_name, geometry, ours.model_settings)
    for p in model.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    return model.state_dict()


def save(run, name, seed, averaged=None, **data):
    """A checkpoint as `train` leaves it; the same seed gives the same weights."""
    ours, _ = settings.load(None, SMALL)
    geometry = Geometry(x=(1, 1, 8, 8), y=(1, 1, 32, 32), block_means=True)
    about = Data("WP.zarr", "abc123", [dict(vars(INFRARED))], ["198702"], [], dict(ATTRS), SEEN)
    made = Checkpoint(
        settings=ours,
        geometry=geometry,
        scaling=Scaling("range", (240.0,), (90.0,), (0.3,)),
        data=replace(about, **data),
        weights=weights(ours, geometry, seed),
        averaged=None if averaged is None else weights(ours, geometry, averaged),
        training={"position": {"epoch": 7}},
    )
    checkpoint.save(run / "checkpoints" / f"{name}.ckpt", made)
    return run


@pytest.fixture
def run(tmp_path):
    return save(tmp_path / "run", "best", 0)


@pytest.fixture
def raw(tmp_path):
    """Four hours of 16x16 pixels, of which hour 1 has lost lines and 2 is cut off."""
    storm = Storm(ID, START, 4, bad_pixels=(1,), truncated=(2,))
    synthetic.write_tree(tmp_path / "invented", [storm], size=16)
    return tmp_path / "invented"


def opened(path):
    if path.suffix == ".zarr":
        with xr.open_zarr(path, consolidated=True) as dataset:
            return dataset.load()
    with xr.open_dataset(path) as dataset:
        return dataset.load()


def tree(path):
    """Every file of an output, by place."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def inside(folder):
    return sorted(p.name for p in folder.iterdir())


# Formats


@pytest.fixture
def outputs(run, raw, tmp_path):
    return {
        ending: infer(run, raw, tmp_path / "o" / f"a.{ending}", mode="check", **QUICK)
        for ending in ENDINGS
    }


def test_every_format_holds_the_same(outputs, tmp_path):
    assert inside(tmp_path / "o") == ["a.nc", "a.tif", "a.zarr"]
    assert {d.format for d in outputs.values()} == {"NetCDF", "Zarr", "GeoTIFF"}
    data = opened(outputs["nc"].file)
    xr.testing.assert_identical(opened(outputs["zarr"].file), data)
    files = sorted(outputs["tif"].file.iterdir())
    assert [f.name for f in files] == [f"{ID}-20210719{hour}.tif" for hour in ("00", "01", "03")]
    fields = [name for name in data if data[name].dims == ("time", "y", "x")]
    assert len(fields) == 3
    for number, path in enumerate(files):
        moment = data.isel(time=number)
        with rasterio.open(path) as file:
            tags = file.tags()
            assert file.descriptions == tuple(fields)
            for band, name in enumerate(fields, 1):
                assert np.array_equal(file.read(band), moment[name], equal_nan=True)
                attrs = {**moment[name].attrs, "coordinates": "latitude longitude"}
                assert file.tags(band) == attrs
                assert file.units[band - 1] == "K"
        for name, value in data.attrs.items():
            assert tags[name] == str(value)
        assert np.datetime64(tags["time"].removesuffix("Z")) == moment.time.values
        for name in ("latitude", "longitude", "central_pressure", "max_wind", "rmse_model"):
            assert np.float32(tags[name]) == moment[name].values
        assert tags["central_pressure_units"] == "hPa"
        assert tags["satellite"] == data.satellite.attrs["flag_meanings"] == "HMW8"


def test_a_geotiff_lies_about_its_storm_centre(outputs):
    data = opened(outputs["nc"].file)
    for number, path in enumerate(sorted(outputs["tif"].file.iterdir())):
        with rasterio.open(path) as file:
            assert file.dtypes[0] == "float32"
            assert np.isnan(file.nodata)
            assert file.compression.name == "deflate"
            assert file.profile["tiled"]
            assert file.res == (5000, 5000)
            assert file.transform.e < 0  # north up
            assert file.bounds == (-40_000, -40_000, 40_000, 40_000)
            centre = transform(file.crs, "EPSG:4326", [0], [0])
            north = transform(file.crs, "EPSG:4326", [0], [40_000])
            assert file.crs.to_dict()["proj"] == "laea"
        place = [float(data[name][number]) for name in ("longitude", "latitude")]
        assert np.ravel(centre) == pytest.approx(place, abs=1e-4)
        assert north[0][0] == pytest.approx(place[0], abs=1e-4)
        assert north[1][0] - place[1] == pytest.approx(40 / 110.7, rel=0.01)  # degrees


def test_enhanced_pixels_are_smaller_in_every_format(run, raw, tmp_path):
    data = opened(infer(run, raw, tmp_path / "a.zarr", **QUICK).file)
    assert data.x.attrs["units"] == "km"
    assert np.allclose(np.diff(data.x), 1.25)
    done = infer(run, raw, tmp_path / "a", format="geotiff", **QUICK)
    with rasterio.open(done.file / f"{ID}-2021071901.tif") as file:
        assert (file.count, file.shape, file.res) == (1, (64, 64), (1250, 1250))
        assert np.array_equal(file.read(1), data.brightness_temperature[1], equal_nan=True)
        assert 0 < np.isnan(file.read(1)).sum() < 64 * 64


def test_a_zarr_output_has_a_chunk_per_frame_and_is_consolidated(outputs):
    path = outputs["zarr"].file
    with xr.open_zarr(path, consolidated=True) as data:
        assert data.brightness_temperature.encoding["chunks"] == (1, 16, 16)
    found = sorted((path / "brightness_temperature").rglob("c/*/0/0"))
    assert len(found) == 3


def test_the_projection_that_the_source_names():
    place = {"latitude": 20.5, "longitude": 190.25}
    assert "+proj=aeqd +lat_0=20.5" in geotiff.projection("azimuthal Equidistant", place)
    assert "+proj=laea" in geotiff.projection("azimuthal, centred on the storm", place)
    assert "+lon_0=-169.75" in geotiff.projection("", place)
    for lost in ({"latitude": np.nan}, {"latitude": 999.0}, {"longitude": np.nan}):
        assert geotiff.projection("", {**place, **lost}) is None


def test_a_name_says_the_hour_and_what_more_there_is():
    assert stamp(1626652800) == "2021071900"
    assert stamp(1626652800 + 1800) == "202107190030"
    assert stamp(1626652800 + 5) == "20210719000005"
    half_hours = 1626652800 + 1800 * np.arange(3)
    assert picked("2021071900,202107190030", half_hours, range(3)) == [0, 1]


def test_a_frame_without_best_track_lies_nowhere_and_that_is_said(run, tiny, tmp_path):
    tiny.track(hours=range(2))
    tiny.table(ID, tiny.rows([1]))
    done = infer(run, tiny.root, tmp_path / "a.tif", **QUICK)
    assert done.notes == ["Frames without best track: 1; their GeoTIFFs lie nowhere (no CRS)"]
    placed = []
    for path in sorted(done.file.iterdir()):
        with rasterio.open(path) as file:
            placed.append(file.crs is not None)
            assert file.res == (1250, 1250)
    assert placed == [False, True]


def test_what_geotiff_cannot_hold_is_refused(run, raw, tiny, tmp_path, monkeypatch):
    tiny.write(0)
    with pytest.raises(UserError, match=r"no best track says where 202101 was.*--format netcdf"):
        infer(run, tiny.root, tmp_path / "a.tif", **QUICK)
    attrs = {k: v for k, v in ATTRS.items() if k != "pixel_km"}
    save(tmp_path / "bare", "best", 0, attrs=attrs)
    monkeypatch.setattr("pipeline.sources.digital_typhoon.ATTRS", attrs)
    with pytest.raises(UserError, match="size of its pixels is not known"):
        infer(tmp_path / "bare", raw, tmp_path / "a.tif", **QUICK)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(UserError, match=r"pip install 'eddy\[geotiff\]'"):
        infer(run, raw, tmp_path / "a.tif", **QUICK)
    assert not list(tmp_path.glob("*a.tif*"))


@pytest.mark.parametrize(
    ("name", "format", "told"),
    [
        ("a.h5", None, r"ends in \.nc"),
        ("a", None, "or say --format"),
        ("a", "netcdf", r"with --format netcdf the name of the NetCDF output ends in \.nc"),
        ("a.nc", "zarr", r"the Zarr output ends in \.zarr"),
        ("a.zarr", "geotiff", r"the folder of GeoTIFFs ends in \.tif or has no ending"),
        ("a.png", "png", "the formats are netcdf, zarr, geotiff"),
    ],
)
def test_names_that_do_not_fit_a_format(run, raw, tmp_path, name, format, told):
    with pytest.raises(UsageError, match=told):
        infer(run, raw, tmp_path / name, format=format, **QUICK)


def test_only_an_earlier_output_is_replaced(run, raw, tmp_path):
    store = tmp_path / "S.zarr"
    convert(raw, store, ConvertSettings(), manifests=tmp_path / "man", workers=1)
    before = tree(store)
    with pytest.raises(UserError, match="something else than an earlier output"):
        infer(run, raw, store, **QUICK)
    assert tree(store) == before
    folder = tmp_path / "fine"
    folder.mkdir()
    (folder / "202102-2021071900.tif").touch()
    with pytest.raises(UserError, match=r"more than GeoTIFFs of 202101 \(202102-2021071900"):
        infer(run, raw, folder, format="geotiff", **QUICK)
    (folder / "202102-2021071900.tif").rename(folder / f"{ID}-1999010100.tif")
    for out in (folder, folder, tmp_path / "a.zarr", tmp_path / "a.zarr"):
        format = None if out.suffix else "geotiff"
        infer(run, raw, out, format=format, **QUICK)
    assert len(inside(folder)) == 3
    (tmp_path / "b.zarr").touch()
    with pytest.raises(UserError, match="is a file; expected the name of a folder"):
        infer(run, raw, tmp_path / "b.zarr", **QUICK)


def test_pictures_are_the_same_in_every_format(run, raw, tmp_path):
    drawn = []
    for out in (tmp_path / "1" / "a.nc", tmp_path / "2" / "a.zarr", tmp_path / "3" / "a"):
        format = None if out.suffix else "geotiff"
        (path,) = infer(run, raw, out, format=format, pictures="1", animations=()).pictures
        with Image.open(path) as image:
            drawn.append(np.asarray(image))
        assert path.parent.name == ("a" if out.suffix else "a-pictures")
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0], drawn[2])


def test_which_animations():
    assert wanted(mp4=False, gif=False, none=False) == ("mp4",)
    assert wanted(mp4=False, gif=True, none=False) == ("gif",)
    assert wanted(mp4=True, gif=True, none=False) == ("mp4", "gif")
    assert wanted(mp4=False, gif=False, none=True) == ()
    with pytest.raises(UsageError, match="goes with neither"):
        wanted(mp4=True, gif=False, none=True)


# Going on

KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline import infer
from pipeline.outputs import unfinished
run, raw, out, call = sys.argv[1:]
class Told:
    count = 0
def counted(method):
    def wrapped(*args, **kwargs):
        if Told.count == int(call):
            os.kill(os.getpid(), signal.SIGKILL)
        Told.count += 1
        return method(*args, **kwargs)
    return wrapped
from pipeline.outputs import geotiff, netcdf, zarr_store
for kind in (geotiff, netcdf, zarr_store):
    kind.Writer.append = counted(kind.Writer.append)
unfinished.Unfinished.keep = counted(unfinished.Unfinished.keep)
infer.infer(Path(run), Path(raw), Path(out), mode="check", pictures="none", animations=())
"""


def killed(run, raw, out, call):
    command = [sys.executable, "-c", KILLED, *map(str, (run, raw, out, call))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def counting(monkeypatch):
    """Counts the frames that go through a model."""
    calls = []
    posed = Answers.posed
    monkeypatch.setattr(
        Answers, "posed", lambda *args, **kwargs: calls.append(1) or posed(*args, **kwargs)
    )
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_killed_and_run_again_gives_the_same_bytes(run, raw, tmp_path, ending, monkeypatch):
    whole = infer(run, raw, tmp_path / "whole" / f"a.{ending}", mode="check", **QUICK)
    out = tmp_path / "o" / f"a.{ending}"
    killed(run, raw, out, 2)  # before the third frame is kept
    assert inside(out.parent) == [f".{out.name}.unfinished"]
    killed(run, raw, out, 2)  # before the second frame is written
    assert inside(out.parent) == [f".{out.name}.unfinished"]
    calls = counting(monkeypatch)
    done = infer(run, raw, out, mode="check", **QUICK)
    assert not calls
    assert tree(out) == tree(whole.file)
    assert done.scores == whole.scores
    assert done.problems == whole.problems
    assert inside(out.parent) == [out.name]


KILLED_DRAWING = """
import os, signal, sys
from pathlib import Path
from pipeline import atomic, infer
run, raw, out, ending = sys.argv[1:]
sync = atomic.sync
def killed(path):
    if f".{ending}." in path.name:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)
atomic.sync = killed
infer.infer(Path(run), Path(raw), Path(out), pictures="1")
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["png", "mp4"])
def test_killed_while_drawing_leaves_nothing_after_the_next_time(run, raw, tmp_path, ending):
    out = tmp_path / "o" / "a[1].nc"
    command = [sys.executable, "-c", KILLED_DRAWING, *map(str, (run, raw, out, ending))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [path.name for path in out.parent.rglob("*.tmp")]
    assert any(f".{ending}." in name for name in left)
    made = infer(run, raw, out, pictures="1")
    assert inside(out.parent) == ["a[1]", "a[1].mp4", "a[1].nc"]
    assert inside(out.with_suffix("")) == [made.pictures[0].name]


def stop(run, raw, out, monkeypatch):
    """Stopped by Ctrl-C when two of three frames are done."""
    savez, count = np.savez, []

    def interrupted(*args, **kwargs):
        count.append(1)
        if len(count) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        savez(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupted)
        with pytest.raises(KeyboardInterrupt):
            infer(run, raw, out, **QUICK)
    return out


@pytest.fixture
def stopped(run, raw, tmp_path, monkeypatch):
    return stop(run, raw, tmp_path / "o" / "a.nc", monkeypatch)


def test_stopped_it_says_how_to_go_on_and_goes_on(run, raw, tmp_path, monkeypatch, capsys):
    stopped = stop(run, raw, tmp_path / "o" / "a.nc", monkeypatch)
    assert "2 of 4 frames are done; the same command goes on" in capsys.readouterr().err
    whole = infer(run, raw, tmp_path / "whole" / "a.nc", **QUICK)
    calls = counting(monkeypatch)
    done = infer(run, raw, stopped, **QUICK)
    assert len(calls) == 1
    assert "2 of 4 frames were done before" in capsys.readouterr().err
    assert done.frames == 3
    assert stopped.read_bytes() == whole.file.read_bytes()
    assert inside(stopped.parent) == ["a.nc"]


@pytest.mark.parametrize(
    ("change", "told", "again"),
    [
        ("nothing", None, 1),
        ("weights", "checkpoint", 3),
        ("mode", "mode", 3),
        ("tile", "tile", 3),
        ("frame", None, 2),
        ("part", None, 2),
    ],
)
def test_what_has_changed_is_made_anew(
    stopped, run, raw, tmp_path, monkeypatch, capsys, change, told, again
):
    options = {"mode": {"mode": "check"}, "tile": {"tile": 8}}.get(change, {})
    if change == "weights":
        save(run, "best", 1)
    if change == "frame":
        name = f"2021071900-{ID}-HMW8-1.h5"
        synthetic.write_tree(tmp_path / "new", [Storm(ID, START, 1)], size=16, seed=5)
        shutil.copy(tmp_path / "new" / "image" / ID / name, raw / "image" / ID / name)
    if change == "part":
        part = min((stopped.parent / ".a.nc.unfinished").glob("*.npz"))
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 1
        part.write_bytes(data)
    whole = infer(run, raw, tmp_path / "whole" / "a.nc", **QUICK, **options)
    capsys.readouterr()
    calls = counting(monkeypatch)
    infer(run, raw, stopped, **QUICK, **options)
    assert len(calls) == again
    assert stopped.read_bytes() == whole.file.read_bytes()
    said = capsys.readouterr().err
    assert (f"begun anew, since {told} changed" in said) if told else ("begun anew" not in said)


def test_the_folder_that_was_there_is_back_after_a_kill_between_two_renames(
    run, raw, tmp_path, monkeypatch
):
    out = tmp_path / "o" / "a.zarr"
    infer(run, raw, out, **QUICK)
    before = tree(out)
    rename = Path.replace

    class Killed(BaseException):
        pass

    def fails(path, target):
        if path.name == "result":
            raise Killed
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails)
        with pytest.raises(Killed):
            infer(run, raw, out, **QUICK)
    assert not out.exists()

    def read_fails(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(netcdf.Writer, "append", read_fails)
        patch.setattr("pipeline.outputs.zarr_store.Writer.append", read_fails)
        with pytest.raises(KeyboardInterrupt):
            infer(run, raw, out, **QUICK)
    assert tree(out) == before


def test_two_at_one_output_are_one_too_many(run, raw, tmp_path, monkeypatch):
    out = tmp_path / "a.nc"
    told = []

    def another(*args, **kwargs):
        with monkeypatch.context() as patch:
            patch.undo()
        with pytest.raises(UserError, match="another process is writing this output") as caught:
            infer(run, raw, out, **QUICK)
        told.append(str(caught.value))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", another)
        with pytest.raises(KeyboardInterrupt):
            infer(run, raw, out, **QUICK)
    assert len(told) == 1


# Ensembles


@pytest.fixture
def several(tmp_path):
    """best and last are one; of two epochs with averages, one is the best."""
    run = tmp_path / "several"
    save(run, "best", 1, 2)
    save(run, "last", 1, 2)
    save(run, "epoch-0001", 3, 4)
    return save(run, "epoch-0002", 1, 2)


def test_an_ensemble_is_its_members_mean_and_spread(several, raw, tmp_path):
    single = {
        name: opened(infer(run, raw, tmp_path / f"{i}.nc", which=which, **QUICK).file)
        for i, (name, run, which) in enumerate(
            [
                ("best", several, "best"),
                ("epoch-0001", several, "epoch-0001"),
                ("best raw", save(tmp_path / "raw1", "best", 1), "best"),
                ("epoch-0001 raw", save(tmp_path / "raw3", "best", 3), "best"),
            ]
        )
    }
    data = opened(infer(several, raw, tmp_path / "a.nc", members=4, **QUICK).file)
    assert data.attrs["ensemble_members"] == "best, epoch-0001, best raw, epoch-0001 raw"
    assert data.attrs["history"].endswith("--mode enhance --ensemble 4")
    members = np.stack([one.brightness_temperature.values for one in single.values()])
    mean, spread = (data[f"brightness_temperature_ensemble_{n}"] for n in ("mean", "spread"))
    assert np.array_equal(data.brightness_temperature, members[0], equal_nan=True)
    assert np.allclose(mean, members.mean(0), atol=1e-4, equal_nan=True)
    assert np.allclose(spread, members.std(0, ddof=1), atol=1e-4, equal_nan=True)
    assert spread.mean() > 0.01
    assert mean.attrs["units"] == spread.attrs["units"] == "K"
    assert "standard_name" not in spread.attrs


def test_an_ensemble_is_scored(several, raw, tmp_path):
    done = infer(several, raw, tmp_path / "a.nc", members=2, mode="check", **QUICK)
    data = opened(done.file)
    assert list(done.scores) == ["model", "ensemble", "bicubic"]
    assert list(done.units) == ["rmse", "mae", "bias", "psnr", "ssim", "crps"]
    assert set(done.scores["ensemble"]) == set(done.units)
    truth = data.brightness_temperature_truth
    mean, spread = (data[f"brightness_temperature_ensemble_{n}"] for n in ("mean", "spread"))
    truth = truth.where(data.missing_fraction <= 0.01)  # flagged frames are in no score
    rmse = float(np.sqrt(((mean - truth) ** 2).mean()))
    assert done.scores["ensemble"]["rmse"] == pytest.approx(rmse, rel=1e-5)
    # of two members: mean absolute error of both, less a quarter of their mean distance
    half = spread / np.sqrt(2)
    errors = (abs(mean + half - truth) + abs(mean - half - truth)) / 2
    crps = float((errors - half / 2).mean())
    assert done.scores["ensemble"]["crps"] == pytest.approx(crps, rel=1e-4)
    assert done.scores["model"]["crps"] == done.scores["model"]["mae"]
    assert data.crps_ensemble[[0, 2]].mean() == pytest.approx(crps, rel=1e-3)
    assert data.rmse_ensemble.attrs["units"] == "K"
    assert re.search(r"The 2 members \(best, epoch-0001\) differ by", done.notes[-1])


def test_an_ensemble_goes_on(several, raw, tmp_path, monkeypatch):
    options = {"members": 3, "mode": "check", **QUICK}
    whole = infer(several, raw, tmp_path / "a.nc", **options)
    out = tmp_path / "o" / "a.nc"

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(netcdf.Writer, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            infer(several, raw, out, **options)
    calls = counting(monkeypatch)
    done = infer(several, raw, out, **options)
    assert not calls
    assert done.scores == whole.scores
    assert out.read_bytes() == whole.file.read_bytes()


def test_spread_is_drawn(several, raw, tmp_path, monkeypatch):
    scenes = []
    drawn = pictures.panels
    monkeypatch.setattr(
        pictures, "panels", lambda path, scene: scenes.append(scene) or drawn(path, scene)
    )
    done = infer(several, raw, tmp_path / "a.zarr", members=2, pictures="1", animations=())
    assert len(done.pictures) == 1
    (scene,) = scenes
    panel = scene.panels[-1]
    assert (panel.title, panel.error) == ("Spread of 2 sets of weights", True)
    assert scene.errors.label == "standard deviation [K]"
    spread = opened(done.file).brightness_temperature_ensemble_spread
    assert np.array_equal(panel.field, spread[0], equal_nan=True)
    assert np.nanmax(panel.field) > 0


def test_too_many_members_are_refused(several, run, raw, tmp_path):
    told = (
        r"an ensemble of 5 needs that many different weights, and the run holds 4 \(best, "
        r"epoch-0001, best raw, epoch-0001 raw\); ask for --ensemble 4, or train with --set "
        r"training\.checkpoint_every_epochs=1"
    )
    with pytest.raises(UserError, match=told):
        infer(several, raw, tmp_path / "a.nc", members=5, **QUICK)
    with pytest.raises(UserError, match=r"holds 1 \(best\); train with"):
        infer(run, raw, tmp_path / "a.nc", members=2, **QUICK)
    assert not list(tmp_path.glob("*a.nc*"))


# Familiar or not


def warned(run, raw, out, **options):
    done = infer(run, raw, out, **QUICK, **options)
    data = opened(done.file)
    assert data.attrs.get("warning", "") == " ".join(done.notes)
    return done.notes


def test_input_as_in_training_is_not_warned_of(run, raw, tmp_path):
    assert warned(run, raw, tmp_path / "a.nc") == []


def test_values_satellite_and_pixels_unlike_training_are_named(tiny, tmp_path):
    seen = {"min": [205.0], "max": [290.0], "satellites": ["GMS3", "MTS1"]}
    run = save(tmp_path / "run", "best", 0, seen=seen, attrs={**ATTRS, "pixel_km": 2.0})
    pixels = np.full((16, 16), 250.0)
    pixels[0, :3] = 201.5, 190.25, 204.0
    pixels[1, 0] = np.nan  # counts as no pixel
    pixels[2, 0] = 299.0
    tiny.write(0, pixels=pixels)
    tiny.write(1, pixels=np.full((16, 16), 250.0) + np.arange(16))
    training = "the training track 198702"
    assert warned(run, tiny.root, tmp_path / "a.nc") == [
        f"The input's pixels are 5 km, those of {training} 2 km.",
        f"0.2 % of the pixels lie above 290.0 K, the highest value of {training}; "
        "the highest here is 299.0 K.",
        f"0.59 % of the pixels lie below 205.0 K, the lowest value of {training}; "
        "the lowest here is 190.2 K.",
        f"No frame of the satellite HMW8 is in {training}, only of GMS3, MTS1.",
    ]


def test_input_as_coarse_as_the_model_s_own_is_familiar(tiny, tmp_path):
    run = save(tmp_path / "run", "best", 0, attrs={**ATTRS, "pixel_km": 1.25})
    tiny.write(0)
    assert warned(run, tiny.root, tmp_path / "a.nc") == []
    comment = opened(tmp_path / "a.nc").attrs["comment"]
    assert comment.endswith("it learnt to make 5 km into 1.25.")
    (note,) = warned(run, tiny.root, tmp_path / "b.nc", mode="check")
    assert note.startswith("The input's pixels are 5 km")


@pytest.mark.parametrize(
    ("theirs", "sizes", "told"),
    [
        ({"pixel_km": 5.0}, (1,), "about 2.2 km high, those of all 5 km: its detail"),
        ({"pixel_km": 2.0}, (1,), ""),  # 2 km and 0.02 degrees: no fifth apart
        ({"pixel_km": 0.56}, (1,), "about 2.2 km high, those of all 0.56 km"),
        ({"pixel_km": 0.56}, (1, 4), ""),  # as coarse as what the model saw
        ({"grid_degrees_latitude": 0.05, "grid_degrees_longitude": 0.1}, (1,), "those of all 5.6"),
        ({"grid_degrees": 0.25}, (1,), ""),  # forecasts.py tells that
        ({}, (1,), ""),
    ],
)
def test_pixels_of_another_scale_are_named_whatever_their_unit(theirs, sizes, told):
    ours = {"grid_degrees": 0.02}
    found = " ".join(familiarity.resolution(ours, theirs, sizes, "all"))
    assert told in found
    assert bool(told) == bool(found)
    backwards = familiarity.resolution(theirs, ours, [1 / size for size in sizes], "all")
    assert bool(backwards) == bool(told)


@pytest.mark.parametrize("mode", ["enhance", "check"])
def test_a_dry_run_already_tells_of_pixels_and_satellites_unlike_training(tiny, tmp_path, mode):
    seen = {"min": [205.0], "max": [290.0], "satellites": ["GMS3", "MTS1"]}
    run = save(tmp_path / "run", "best", 0, seen=seen, attrs={**ATTRS, "pixel_km": 2.0})
    tiny.write(0)
    done = infer(run, tiny.root, tmp_path / "a.nc", mode=mode, dry_run=True, **QUICK)
    assert [note.split(" of ")[0] for note in done.notes] == [
        "The input's pixels are 5 km, those",
        "No frame",
    ]
    assert not (tmp_path / "a.nc").exists()


def test_an_old_checkpoint_is_said_to_be_one(raw, tmp_path):
    run = save(tmp_path / "old", "best", 0)
    path = run / "checkpoints" / "best.ckpt"
    plain = torch.load(path, weights_only=True)
    del plain["data"]["seen"]
    torch.save(plain, path)
    (note,) = warned(run, raw, tmp_path / "a.nc")
    assert "older version" in note


def test_what_training_saw(tmp_path):
    storms = [Storm("202101", START, 3), Storm("202102", START, 3)]
    synthetic.write_tree(tmp_path / "raw", storms, size=16)
    for path in (tmp_path / "raw" / "image" / "202102").iterdir():
        path.rename(path.with_name(path.name.replace("HMW8", "GMS3")))
    target = tmp_path / "S.zarr"
    convert(tmp_path / "raw", target, ConvertSettings(), manifests=tmp_path, workers=1)
    statistics = Statistics(count=[1], mean=[250.0], std=[1.0], min=[180.0], max=[300.0])
    for opened_tree in (raw_tree.opened(target), raw_tree.opened(tmp_path / "raw")):
        tracks = [opened_tree.track(id) for id in opened_tree.ids]
        assert familiarity.seen(tracks, statistics) == {
            "min": [180.0],
            "max": [300.0],
            "satellites": ["GMS3", "HMW8"],
        }


# The command line


def test_the_options_reach_the_stage(several, raw, tmp_path):
    out = tmp_path / "o[b]" / "fine"
    words = ["infer", several, raw, "--out", out, "--format", "geotiff", "--ensemble", 2]
    words += ["--mode", "check", "--pictures", "none", "--gif"]
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 3, done.output  # one frame is cut off
    assert f"GeoTIFF   {out}" in done.output
    assert "Note: 1 of 3 frames are flagged (more than 1 % missing) and not scored" in done.output
    assert "crps [K]" in done.output
    assert inside(out.parent) == ["fine", "fine.gif"]
    done = CliRunner().invoke(cli.app, [*map(str, words), "--no-animation"])
    assert done.exit_code == 2
    assert "goes with neither" in done.output


def test_the_title_says_how_it_was_made(outputs, run, raw, tmp_path):
    title = opened(outputs["nc"].file).attrs["title"]
    assert "coarsened 4 times and restored by" in title
    title = opened(infer(run, raw, tmp_path / "b.nc", **QUICK).file).attrs["title"]
    assert "made finer 4 times by" in title
