"""Whatever reads Zarr v3 reads a store, and finds the same in it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline import store

TEXTS = {"channel": ["infrared"], "statistic": list(store.STATISTICS)}
# In a process of its own: these libraries keep threads and settings for good.
ZARRS = """
import sys, numpy, zarr, zarrs
zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
group = zarr.open_group(sys.argv[1], mode="r")
numpy.savez(sys.argv[2], **{name: group[name][...] for name in sys.argv[3:]},
            part=group["frames"][1:3, :, 5:200, 100:131])
"""
TENSORSTORE = """
import sys, numpy, tensorstore
def opened(name):
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{sys.argv[1]}/{name}"}}
    return tensorstore.open(spec, read=True).result()
numpy.savez(sys.argv[2], **{name: opened(name).read().result() for name in sys.argv[3:]},
            part=opened("frames")[1:3, :, 5:200, 100:131].read().result())
"""


@pytest.fixture(params=store.CODECS)
def track(tiny, request) -> store.Track:
    for hour in range(4):
        pixels = tiny.pixels(hour, (300, 140))  # 3 by 2 tiles, those at the edges cut
        pixels[:2, : hour * 5] = -19.1
        tiny.write(hour, pixels=pixels)
    tiny.table("202101", tiny.rows([0, 2]))
    return tiny.store(codec=request.param).track("202101")


def names(track: store.Track) -> list[str]:
    """Every array of numbers beside the frames."""
    found = sorted(set(track.group.array_keys()) - {"frames", *TEXTS})
    assert {"time", "flag", "latitude", "central_pressure", "statistics"} < set(found)
    return found


def same(found, track: store.Track) -> None:
    np.testing.assert_array_equal(found["frames"], track.checked(0, 4))
    np.testing.assert_array_equal(found["part"], track.checked(0, 4)[1:3, :, 5:200, 100:131])
    for name in names(track):
        np.testing.assert_array_equal(found[name], track.values(name))
        assert found[name].dtype == track.values(name).dtype


def read_by(code: str, track: store.Track, out) -> dict[str, np.ndarray]:
    words = [str(track.store / track.id), str(out), "frames", *names(track)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(out) as found:
        return dict(found)


def test_zarr_python(track):
    group = zarr.open_group(track.store, mode="r")[track.id]
    found = {name: group[name][...] for name in ("frames", *names(track))}
    same({**found, "part": group["frames"][1:3, :, 5:200, 100:131]}, track)
    assert {name: group[name][...].tolist() for name in TEXTS} == TEXTS
    assert zarr.open_group(track.store, mode="r").metadata.consolidated_metadata is not None


def test_xarray(track):
    opened = xr.open_zarr(track.store, group=track.id, decode_times=False, mask_and_scale=False)
    found = {name: opened[name].values for name in ("frames", *names(track))}
    same({**found, "part": opened.frames[1:3, :, 5:200, 100:131].values}, track)
    assert {name: opened[name].values.tolist() for name in TEXTS} == TEXTS
    assert opened.frames.attrs["units"] == "K"


def test_dask(track):
    array = pytest.importorskip("dask.array", reason="dask is not installed")
    folder = track.store / track.id
    lazy = {name: array.from_zarr(str(folder / name)) for name in ("frames", *names(track))}
    lazy["part"] = lazy["frames"][1:3, :, 5:200, 100:131]
    same({name: each.compute(scheduler="sync") for name, each in lazy.items()}, track)


def test_zarrs(track, tmp_path):
    pytest.importorskip("zarrs", reason="zarrs is not installed")
    same(read_by(ZARRS, track, tmp_path / "found.npz"), track)


def test_tensorstore(track, tmp_path):
    if subprocess.run([sys.executable, "-c", "import tensorstore"], capture_output=True).returncode:
        pytest.skip("tensorstore is not installed")
    same(read_by(TENSORSTORE, track, tmp_path / "found.npz"), track)


def test_the_root_says_what_there_is(track):
    root = json.loads((track.store / "zarr.json").read_text())
    inside = root["consolidated_metadata"]["metadata"]
    assert {"202101", "202101/frames", "202101/time", "triplets", "triplets/track"} <= set(inside)
