"""The facts of the released files, where they lie beside the repository (or in EDDY_DATA)."""

import os
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from pipeline import convert as converting
from pipeline import store
from pipeline.convert import ConvertSettings
from pipeline.sources import hdf5_image
from pipeline.verify import verify

DATA = Path(os.environ.get("EDDY_DATA", Path(__file__).parents[2] / "shared/data/WP"))
pytestmark = pytest.mark.skipif(
    not (DATA / "image").is_dir(),
    reason=f"no Digital Typhoon files in {DATA}; point EDDY_DATA at a folder that holds image/",
)


def convert(source: Path, target: Path, **settings) -> converting.Conversion:
    return converting.convert(
        source, target, ConvertSettings(**settings), manifests=target.parent, workers=1
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def done(home):
    return convert(DATA, home / "WP.zarr")


@pytest.fixture(scope="module")
def packed(home):
    return convert(DATA, home / "zstd.zarr", codec="zstd")


@pytest.fixture(scope="module")
def months(home):
    """The same files in folders by calendar month, as links."""
    root = home / "months"
    for file in (DATA / "image").rglob("*.h5"):
        folder = root / "image" / file.name[:6]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.name).symlink_to(file.resolve())
    (root / "metadata").symlink_to((DATA / "metadata").resolve())
    return root


def test_three_tracks_and_their_triplets(done):
    assert {id: r["frames"] for id, r in done.records.items()} == {
        "198702": 42,
        "200717": 40,
        "202224": 1,
    }
    assert done.triplets == 38  # of 200717; 198702 alternates between good and bad
    assert done.problems == []
    assert len(done.records["198702"]["gaps"]) == 3


def test_every_pixel_is_the_file_s_or_nan_where_out_of_range(done):
    opened, seen = store.open_store(done.store), 0
    for file in (DATA / "image").rglob("*.h5"):
        hour, id, satellite, _ = file.stem.split("-")
        track = opened.track(id)
        moment = int(datetime.strptime(hour + "+0000", "%Y%m%d%H%z").timestamp())
        number = int(np.flatnonzero(track.times == moment).item())
        with h5py.File(file) as raw:
            (name,) = raw
            pixels = raw[name][:].astype(np.float32)
        expected = np.where((pixels >= 150) & (pixels <= 330), pixels, np.float32(np.nan))
        np.testing.assert_array_equal(track.frames[number, 0], expected)
        assert track.satellites[number] == satellite
        assert track.values("missing_fraction")[number] == np.float32(np.isnan(expected).mean())
        seen += 1
    assert seen == 83


def test_xarray_shows_a_track_as_it_is(done):
    track = xr.open_zarr(done.store, group="200717")  # a warning would be an error
    assert [track.sizes[n] for n in ("time", "channel", "y", "x")] == [40, 1, 512, 512]
    assert track.frames.dims == ("time", "channel", "y", "x")
    assert track.frames.units == "K"
    assert str(track.time.values[0])[:16] == "2007-10-03T00:00"
    assert (np.diff(track.time) == np.timedelta64(1, "h")).all()
    assert 900 < float(track.central_pressure.min()) < 1013
    assert (track.central_pressure.units, track.max_wind.units) == ("hPa", "kt")
    assert 0 < float(track.latitude.min()) < float(track.latitude.max()) < 60
    assert 100 < float(track.longitude.min()) < float(track.longitude.max()) < 180
    assert set(track.grade.values[~np.isnan(track.grade)]) <= {2, 3, 4, 5, 6, 7, 9}
    assert 0.5 < float(track.interpolated.mean()) < 0.9  # 79 % over the whole release


def test_months_or_ids_give_the_same_store(done, months, home):
    other = convert(months, home / "months.zarr", max_missing=1)
    assert other.triplets == 72
    one, two = store.open_store(done.store), store.open_store(other.store)
    for a, b in zip(one, two, strict=True):
        assert a.id == b.id
        assert set(a.group) == set(b.group)
        for name in set(a.group) - {"frames", "flag", "statistics"}:  # these follow max_missing
            np.testing.assert_array_equal(a.values(name), b.values(name))
        np.testing.assert_array_equal(a.frames, b.frames)


def test_zstd_holds_the_same(done, packed):
    one, two = store.open_store(done.store), store.open_store(packed.store)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames[...])
    for a, b in zip(one.triplets(), two.triplets(), strict=True):
        np.testing.assert_array_equal(a, b)
    sizes = [sum(p.stat().st_size for p in x.path.rglob("*") if p.is_file()) for x in (one, two)]
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize("codec", store.CODECS)
def test_a_store_is_the_same_whoever_inflates_its_source(done, packed, home, monkeypatch, codec):
    """libdeflate into one buffer, and HDF5 by itself: byte for byte the same store."""
    read, by_hdf5 = hdf5_image.read, []

    def alone(*given, **how):
        by_hdf5.append(given)
        return read(*given, **how | {"direct": False})

    ours = {"none": done, "zstd": packed}[codec].store
    target = home / "by-hdf5" / ours.name  # the name is part of what a store says of itself
    monkeypatch.setattr(hdf5_image, "read", alone)
    convert(DATA, target, codec=codec)
    assert len(by_hdf5) == 83
    one, other = (
        {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}
        for root in (ours, target)
    )
    assert len(one) > 40
    assert one == other


def test_a_store_of_it_is_sound_and_equals_its_source(done):
    looked = verify(done.store, source=DATA, workers=1)
    assert [str(fault) for fault in looked.faults] == []
    assert looked.equal == 83
