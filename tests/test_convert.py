"""Converting: nothing guessed silently, nothing half written, the same bytes however often."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline import atomic, manifest, shard, sources, store, store_writer
from pipeline import convert as converting
from pipeline.errors import UserError
from pipeline.sources import digital_typhoon
from pipeline.sources.synthetic import Storm, demo_storms, write_tree
from pipeline.store import BLANK, TOO_MANY_MISSING


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def times_of_change(path: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in path.rglob("*") if p.is_file()}


def lose(pixels: np.ndarray, count: int, value: float = -19.1) -> np.ndarray:
    pixels.flat[:count] = value
    return pixels


# what a store holds


def test_a_store_holds_the_source_s_values(tiny):
    tiny.track("202101", [1, 0, 2])
    tiny.write(0, "197805", satellite="GMS1")
    opened = tiny.store()
    assert opened.ids == ["197805", "202101"]  # strings, in order; old storms too
    for track in opened:
        for raw, frame in zip(
            digital_typhoon.scan(tiny.root).tracks[opened.ids.index(track.id)].frames,
            track.frames,
            strict=True,
        ):
            with h5py.File(raw.paths[0]) as file:
                np.testing.assert_array_equal(frame[0], file["Infrared"][:].astype(np.float32))
    assert opened.track("202101").times.tolist() == [1626652800 + 3600 * h for h in range(3)]
    assert opened.track("202101").satellites == ["HMW8"] * 3
    assert opened.track("197805").satellites == ["GMS1"]
    assert opened.channels == [
        {
            "name": "infrared",
            "units": "K",
            "long_name": "brightness temperature of the infrared window channel",
            "standard_name": "toa_brightness_temperature",
            "valid_min": 150.0,
            "valid_max": 330.0,
        }
    ]


def test_xarray_opens_a_track_as_it_should(tiny):
    tiny.track(hours=range(3))
    tiny.table("202101", tiny.rows([0, 2]))
    path = tiny.conversion().store
    track = xr.open_zarr(path, group="202101")  # pytest turns a warning into an error
    assert track.frames.dims == ("time", "channel", "y", "x")
    assert track.frames.units == "K"
    assert track.frames.dtype == np.float32
    assert str(track.time.values[2]) == "2021-07-19T02:00:00.000000000"
    np.testing.assert_array_equal(track.latitude, np.float32([20.5, np.nan, 20.5]))
    assert track.central_pressure.units == "hPa"
    assert track.max_wind.units == "kt"
    assert track.flag.dtype == np.uint8
    assert track.flag.values.tolist() == [0, 0, 0]
    assert track.channel.values.tolist() == ["infrared"]
    assert "Digital Typhoon" in track.attrs["attribution"]
    track.drop_encoding().to_netcdf(tiny.home / "x.nc", engine="h5netcdf")
    xr.testing.assert_equal(xr.load_dataset(tiny.home / "x.nc", engine="h5netcdf"), track.load())
    root = zarr.open_group(path, mode="r").attrs
    assert root["tracks"] == ["202101"]
    assert root["license"] == "CC BY 4.0"


def test_without_a_best_track_there_are_no_such_variables(tiny):
    tiny.write(0)
    track = xr.open_zarr(tiny.conversion().store, group="202101")
    assert "latitude" not in track
    assert "coordinates" not in track.frames.encoding


@pytest.mark.parametrize("size", [(16, 16), (37, 53), (130, 200)])
def test_both_codecs_hold_the_same(tiny, size):
    for hour in range(3):
        tiny.write(hour, pixels=lose(tiny.pixels(hour, size), 3))
    plain, packed = tiny.store("a.zarr"), tiny.store("b.zarr", codec="zstd")
    assert plain.manifest_hash != packed.manifest_hash
    np.testing.assert_array_equal(
        plain.track("202101").frames[...], packed.track("202101").frames[...]
    )
    for name in ("time", "flag", "missing_fraction", "statistics"):
        np.testing.assert_array_equal(
            plain.track("202101").values(name), packed.track("202101").values(name)
        )


# quality


def test_pixels_out_of_range_are_nan_and_counted(tiny):
    bad = {0: 0, 1: 2, 2: 3, 3: 256}  # of 256; 1 % of them is 2.56
    for hour, count in bad.items():
        tiny.write(hour, pixels=lose(tiny.pixels(hour), count, 330.5 if hour == 1 else -19.1))
    done = tiny.conversion()
    track = store.open_store(done.store).track("202101")
    assert np.isnan(track.frames[...]).sum(axis=(1, 2, 3)).tolist() == list(bad.values())
    np.testing.assert_allclose(track.values("missing_fraction"), [n / 256 for n in bad.values()])
    assert track.flag.tolist() == [0, 0, TOO_MANY_MISSING, TOO_MANY_MISSING | BLANK]
    record = done.records["202101"]
    assert (record["frames_with_missing_pixels"], record["too_many_missing"]) == (3, 2)
    assert track.windows(2).tolist() == [0]
    assert done.triplets == record["triplets"] == 0


def test_the_ends_of_the_valid_range_are_valid(tiny):
    pixels = tiny.pixels()
    pixels[0, :6] = [150, 330, 149.999, 330.001, np.nan, np.inf]
    tiny.write(0, pixels=pixels)
    frame = tiny.store().track("202101").frames[0, 0]
    assert np.isnan(frame[0, :6]).tolist() == [False, False, True, True, True, True]
    assert np.isnan(frame).sum() == 4


def test_the_valid_range_and_what_is_too_much_can_be_set(tiny):
    tiny.track(hours=range(3))
    track = tiny.store(valid_min=250, valid_max=300, max_missing=1).track("202101")
    assert track.flag.tolist() == [0, 0, 0]
    assert np.nanmin(track.frames) >= 250
    assert track.array("frames").attrs["valid_range"] == [250, 300]
    with pytest.raises(UserError, match=r"valid range 400.0..330.0 K: the first must be smaller"):
        tiny.conversion("b.zarr", valid_min=400)
    assert not (tiny.home / "b.zarr").exists()


def half_cold(pixels):
    return np.where(np.arange(256).reshape(16, 16) < 130, 170.0, pixels)


BLANKS = {
    "one value": (lambda p: np.full_like(p, 170.0), True),
    "two values": (lambda p: np.where(p > 250, 170.0, 171.0), True),
    "mostly the minimum": (half_cold, True),
    "one value and lost lines": (lambda p: lose(np.full_like(p, 170.0), 100), True),
    "two values, lost lines and a fringe": (
        lambda p: lose(lose(np.where(p > 250, 170.0, 171.0), 60), 9, 336),
        True,
    ),
    "one value and NaN": (lambda p: lose(np.full_like(p, 170.0), 1, np.nan), True),
    "nothing valid": (lambda p: p * 0, True),
    "nothing at all": (lambda p: p * np.nan, True),
    "mostly lost, the rest sound": (lambda p: lose(p, 200), False),
    "sound": (lambda p: p, False),
}


@pytest.mark.parametrize(("change", "blank"), BLANKS.values(), ids=BLANKS)
def test_blank_frames_stay_in_the_store_but_in_no_window(tiny, change, blank):
    for hour in range(5):
        tiny.write(hour, pixels=change(tiny.pixels(hour)) if hour == 4 else None)
    done = tiny.conversion(max_missing=1)
    track = store.open_store(done.store).track("202101")
    assert track.frames.shape[0] == 5
    assert track.flag.tolist() == [0, 0, 0, 0, BLANK if blank else 0]
    assert done.records["202101"]["blank"] == int(blank)
    assert done.triplets == (2 if blank else 3)
    assert max(store.open_store(done.store).triplets()[1]) == (2 if blank else 3)


def test_gaps_and_the_best_track_s_counts_are_in_the_record(tiny):
    tiny.track(hours=[0, 1, 2, 5, 6])
    tiny.table("202101", tiny.rows([1, 2, 3, 9]))
    record = tiny.conversion().records["202101"]
    assert record["gaps"] == [["2021-07-19T02:00:00", "2021-07-19T05:00:00"]]
    assert record["frames_without_best_track"] == 3  # 0, 5, 6
    assert record["best_track_rows_without_frame"] == 2  # 3, 9
    assert record["triplets"] == 1
    assert record["step_minutes"] == 60


def test_a_three_hourly_track_has_triplets_at_three_hours(tiny):
    tiny.track(hours=range(0, 15, 3))
    done = tiny.conversion()
    assert done.triplets == 3  # 5 frames
    assert done.records["202101"]["step_minutes"] == 180


def test_statistics_are_those_of_the_usable_pixels(tiny):
    for hour in range(4):
        tiny.write(hour, pixels=lose(tiny.pixels(hour), [0, 2, 50, 0][hour]))
    track = tiny.store().track("202101")
    usable = track.frames[track.flag == 0].astype(np.float64)
    assert len(usable) == 3
    values = usable[~np.isnan(usable)]
    found = {name: value.item() for name, value in track.statistics.items()}
    assert found["count"] == len(values) == 3 * 256 - 2
    np.testing.assert_allclose(found["sum"], values.sum(), rtol=1e-13)
    np.testing.assert_allclose(found["sum_of_squares"], np.square(values).sum(), rtol=1e-13)
    assert (found["min"], found["max"]) == (values.min(), values.max())


# unreadable frames


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def test_unreadable_frames_are_left_out_and_listed(tiny):
    files = tiny.track(hours=range(10))
    truncate(files[3])
    tiny.write(6, pixels=tiny.pixels(6, (8, 16)))
    files[8].unlink()
    files[8].symlink_to("nowhere")
    done = tiny.conversion()
    track = store.open_store(done.store).track("202101")
    assert track.frames.shape[0] == 7
    assert done.triplets == 1  # 0 1 2 | 4 5 | 7 | 9
    assert [p.split(": ", 1)[0] for p in done.problems] == [str(files[i]) for i in (3, 6, 8)]
    assert "image is (8, 16), expected (16, 16) as in the rest of its typhoon" in done.problems[1]
    written = json.loads((tiny.home / "manifests/S.json").read_text())
    assert written["problems"] == done.problems
    assert len(written["tracks"]["202101"]["gaps"]) == 3


@pytest.mark.parametrize("harmed", [(0, 5, 9), (0, 1, 2, 3, 4, 5, 6, 7, 9)])
def test_sound_frames_are_kept_wherever_the_damage_is(tiny, harmed):
    """First, middle and last tell the shape: all three may be damaged."""
    files = tiny.track(hours=range(10))
    for number in harmed:
        truncate(files[number])
    assert tiny.store().track("202101").frames.shape[0] == 10 - len(harmed)


def test_the_usual_shape_wins(tiny):
    for hour in range(12):
        small = hour in (0, 11)
        tiny.write(hour, pixels=tiny.pixels(hour, (8, 8)) if small else None)
    assert tiny.store().track("202101").shape == (1, 16, 16)


def test_tracks_may_differ_in_size(tiny):
    tiny.write(0, "202101")
    tiny.write(0, "202102", pixels=tiny.pixels(0, (8, 24)))
    assert [track.shape for track in tiny.store()] == [(1, 16, 16), (1, 8, 24)]


def test_strict_makes_them_fatal(tiny):
    tiny.track("202101", range(3))
    truncate(tiny.track("202102", range(2))[1])
    with pytest.raises(UserError, match=r"202102.*not a readable HDF5 image"):
        tiny.conversion(strict=True)
    with pytest.raises(UserError, match="interrupted, run"):
        store.open_store(tiny.home / "S.zarr")
    assert store.Track(tiny.home / "S.zarr", "202101").frames.shape[0] == 3  # finished, and kept


def test_strict_also_for_what_the_scan_left_out(tiny):
    tiny.write(0).with_name("odd.h5").write_bytes(b"")
    with pytest.raises(UserError, match=r"odd.h5: name not understood.*--strict"):
        tiny.conversion(strict=True)
    assert not (tiny.home / "S.zarr").exists()


def test_a_track_without_a_readable_frame_is_left_out(tiny):
    tiny.track("202101", range(3))
    truncate(tiny.write(0, "202102"))
    done = tiny.conversion()
    assert store.open_store(done.store).ids == ["202101"]
    assert len(done.problems) == 1


def test_nothing_readable_leaves_nothing(tiny):
    for file in tiny.track():
        truncate(file)
    with pytest.raises(UserError, match=r"raw: not one readable frame; .*not a readable HDF5"):
        tiny.conversion()
    assert sorted(p.name for p in tiny.home.iterdir()) == ["raw"]


def test_two_files_of_one_hour_write_nothing(tiny):
    tiny.write(0)
    tiny.write(0, satellite="GOE9")
    with pytest.raises(UserError, match="two files for one hour"):
        tiny.conversion()
    assert sorted(p.name for p in tiny.home.iterdir()) == ["raw"]


# again, and again after a fault


@pytest.fixture
def release(tiny):
    """Three tracks of different lengths; one file of each of two is damaged."""
    tiny.track("202101", range(6))
    truncate(tiny.track("202102", range(4))[1])
    truncate(tiny.track("198703", range(5))[2])
    tiny.table("202101", tiny.rows(range(6)))
    return tiny


def test_a_second_run_redoes_nothing_and_changes_no_byte(tiny):
    tiny.track("202101")
    tiny.track("202102", range(3))
    first = tiny.conversion()
    before, changed = contents(tiny.home), times_of_change(first.store)
    second = tiny.conversion()
    assert sorted(second.reused) == ["202101", "202102"]
    assert contents(tiny.home) == before
    assert times_of_change(first.store) == changed
    assert (second.triplets, second.records) == (first.triplets, first.records)


def test_the_same_bytes_in_another_place_and_order(release):
    assert contents(release.conversion("a/S.zarr").store) == contents(
        release.conversion("b/S.zarr").store
    )


@pytest.mark.parametrize("order", [("202102", "202101", "198703"), ("198703", "202102", "202101")])
def test_the_order_of_the_work_does_not_show(release, order, monkeypatch):
    """Processes finish as they like."""
    undisturbed = contents(release.conversion("a/S.zarr").store)
    plan = converting.plan

    def shuffled(*args):
        jobs, reused = plan(*args)
        return sorted(jobs, key=lambda job: order.index(job.raw.id)), reused

    monkeypatch.setattr(converting, "plan", shuffled)
    assert contents(release.conversion("b/S.zarr").store) == undisturbed


def test_only_what_changed_is_redone(tiny):
    tiny.track("202101")
    tiny.track("202102")
    tiny.table("202101", tiny.rows(range(6)))
    tiny.conversion()
    os.utime(tiny.path(0, "202102"), ns=(0, 1))
    assert tiny.conversion().reused == ["202101"]
    tiny.table("202101", tiny.rows(range(5)))
    assert tiny.conversion().reused == ["202102"]
    tiny.table("202101", tiny.rows(range(5)) + tiny.rows([9]))
    done = tiny.conversion()
    assert done.records["202101"]["best_track_rows_without_frame"] == 1
    tiny.write(6, "202102")
    assert tiny.conversion().records["202102"]["frames"] == 7
    with pytest.raises(UserError, match=r"was 0\.01, is now 0\.5; .*add --replace"):
        tiny.conversion(max_missing=0.5)
    assert tiny.conversion(max_missing=0.5, replace=True).reused == []


def test_a_wrong_source_does_not_undo_a_good_conversion(tiny, tmp_path):
    """The folder above the tree has no best track; one file is not a whole typhoon."""
    tiny.track("202101")
    tiny.table("202101", tiny.rows(range(6)))
    target = tiny.conversion().store
    before = contents(target)

    def again(source, **more):
        settings = converting.ConvertSettings()
        return converting.convert(
            source, target, settings, manifests=tmp_path / "m", workers=1, **more
        )

    with pytest.raises(UserError, match=r"202101 has 6 frames, .* has 1; .*--replace"):
        again(tiny.path(0))
    (tiny.root / "metadata").rename(tiny.root / "elsewhere")
    with pytest.raises(UserError, match=r"202101 has best-track values, .* has none"):
        again(tiny.root)
    assert contents(target) == before
    assert again(tiny.path(0), replace=True).records["202101"]["frames"] == 1


def fail_at(monkeypatch, number: int, error: BaseException):
    """The n-th frame written anywhere raises."""
    append, count = shard.ShardWriter.append, iter(range(10**6))

    def failing(self, frame):
        if next(count) == number:
            raise error
        append(self, frame)

    monkeypatch.setattr(shard.ShardWriter, "append", failing)


@pytest.mark.parametrize("number", [0, 3, 6, 9, 12])
def test_interrupted_and_run_again_gives_the_undisturbed_bytes(release, monkeypatch, number):
    undisturbed = contents(release.conversion("a/S.zarr").store)
    with monkeypatch.context() as patch:
        fail_at(patch, number, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            release.conversion("b/S.zarr")
    path = release.home / "b/S.zarr"
    if path.exists():
        with pytest.raises(UserError, match="interrupted, run"):
            store.open_store(path)
        assert not list(path.glob(".*"))
    again = release.conversion("b/S.zarr")
    assert len(again.reused) == sum(number >= n for n in (6, 10))  # the longest first: 6, 4, 3
    assert contents(path) == undisturbed


@pytest.mark.parametrize("door", ["finish", "put", "zarr.consolidate_metadata"])
def test_interrupted_between_the_tracks_and_the_root(release, monkeypatch, door):
    undisturbed = contents(release.conversion("a/S.zarr").store)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if door == "put":  # only when the triplet index is written
            finish = store_writer.finish
            patch.setattr(
                store_writer,
                "finish",
                lambda *a: (patch.setattr(store_writer, door, stop), finish(*a)),
            )
        else:
            patch.setattr(f"pipeline.store_writer.{door}", stop)
        with pytest.raises(KeyboardInterrupt):
            release.conversion("b/S.zarr")
    with pytest.raises(UserError, match="interrupted"):
        store.open_store(release.home / "b/S.zarr")
    again = release.conversion("b/S.zarr")
    assert len(again.reused) == 3
    assert contents(again.store) == undisturbed


def test_what_a_killed_process_left_is_swept_away(release):
    undisturbed = contents(release.conversion("a/S.zarr").store)
    path = release.home / "b/S.zarr"
    stale = path / ".202101.99999.tmp"
    shutil.copytree(release.home / "a/S.zarr/202101", stale)  # all but renamed
    store_writer.begin(path)
    (path / ".zarr.json.99999.tmp").write_text("half")
    (path / "zarr.12ab.partial").write_text("half")  # Zarr's own
    assert contents(release.conversion("b/S.zarr").store) == undisturbed


def test_a_kill_before_the_first_track_is_no_obstacle(release):
    undisturbed = contents(release.conversion("a/S.zarr").store)
    path = release.home / "b/S.zarr"
    path.mkdir(parents=True)
    (path / ".zarr.json.99999.tmp").write_text("half")
    assert contents(release.conversion("b/S.zarr").store) == undisturbed


def test_a_change_interrupted_does_not_pass_for_finished(release, monkeypatch):
    release.conversion()
    release.write(9, "202101")
    with monkeypatch.context() as patch:
        fail_at(patch, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            release.conversion()
    with pytest.raises(UserError, match="interrupted"):
        store.open_store(release.home / "S.zarr")
    assert release.store().track("202101").frames.shape[0] == 7


@pytest.mark.parametrize("number", [0, 2, 8])
def test_a_full_disk_leaves_no_half_track(release, monkeypatch, number):
    fail_at(monkeypatch, number, OSError(errno.ENOSPC, "No space left on device"))
    path = release.home / "S.zarr"
    with pytest.raises(OSError, match="No space left on device") as caught:
        release.conversion()
    assert caught.value.filename == str(path)
    assert not path.exists() or not list(path.glob(".*"))
    for id in ("202101", "202102", "198703"):
        done = path / id
        assert not done.exists() or store.Track(path, id).frames.shape[0]
    assert path.exists() == (number > 6)


def test_a_place_that_cannot_be_written(tiny):
    tiny.write(0)
    (tiny.home / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match=r"file/S.zarr"):
        tiny.conversion("file/S.zarr")


@pytest.mark.slow
def test_several_processes_give_the_bytes_of_one(release):
    assert contents(release.conversion("a/S.zarr").store) == contents(
        release.conversion("b/S.zarr", workers=2).store
    )


@pytest.mark.slow
def test_a_fault_in_a_process_is_a_sentence_here(release):
    with pytest.raises(UserError, match="not a readable HDF5 image"):
        release.conversion(strict=True, workers=2)
    assert not list((release.home / "S.zarr").glob(".*"))


def still_alive(group: int) -> list[str]:
    """The commands of a process group, without what has ended and waits to be noticed."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            command, rest = file.read_text().rsplit(") ", 1)
        except OSError:
            continue  # ended meanwhile
        state, _, its_group = rest.split()[:3]
        if int(its_group) == group and state != "Z":
            found.append(command)
    return found


@pytest.mark.slow
def test_a_worker_killed_by_the_kernel_is_a_sentence_and_the_rest_is_kept(tmp_path):
    root = tmp_path / "raw"
    write_tree(root, [Storm(f"20210{n}", hours=300) for n in range(1, 7)], size=16)
    cli = str(Path(converting.__file__).parents[1] / "cli.py")
    target = tmp_path / "S.zarr"
    words = [sys.executable, cli, "convert", str(root), str(target), "--workers", "2"]
    words += ["--manifest-dir", str(tmp_path)]
    running = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(lambda: list(target.glob("20*")) and list(target.glob(".*.tmp")), 60)
    pid = int(next(target.glob(".*.tmp")).name.split(".")[-3])  # who writes it
    os.kill(pid, signal.SIGKILL)
    told = running.communicate()[1].splitlines()[-1]
    assert running.returncode == 1
    assert re.search(
        r"a worker process died at one of .* \(out of memory\?\); run the same command again, "
        "with fewer --workers: finished tracks are kept",
        told,
    )
    assert len(list(target.glob("20*"))) > 0
    again = converting.convert(
        root, target, converting.ConvertSettings(), manifests=tmp_path, workers=1
    )
    assert again.reused
    assert not list(target.glob(".*"))


# one track, two writers


def written(path: Path, pixels: np.ndarray, made_from: str = "x") -> store_writer.TrackWriter:
    """A writer of track 202101 that is about to put it in its place."""
    writer = store_writer.TrackWriter(path, "202101", pixels.shape, "none")
    writer.append(pixels)
    put_in_place = writer.put_in_place
    writer.put_in_place = lambda: None
    writer.commit({}, {}, {"source_fingerprint": made_from})
    writer.put_in_place = put_in_place
    return writer


PIXELS = np.zeros((1, 4, 4), np.float32)


def test_the_first_of_two_writers_of_one_track_is_kept(tmp_path):
    store_writer.begin(tmp_path)
    first, second = written(tmp_path, PIXELS), written(tmp_path, PIXELS)
    assert first.folder != second.folder
    first.put_in_place()
    inode = first.target.stat().st_ino
    second.put_in_place()
    for writer in (first, second):
        writer.__exit__()
    assert first.target.stat().st_ino == inode
    assert {p.name for p in tmp_path.iterdir()} == {"202101", "zarr.json"}


@pytest.mark.parametrize("there_before", [False, True])
def test_a_writer_that_is_second_by_a_hair_is_no_error(tmp_path, monkeypatch, there_before):
    store_writer.begin(tmp_path)
    if there_before:
        with written(tmp_path, PIXELS, "before") as old:
            old.put_in_place()
    writers = iter([written(tmp_path, PIXELS), written(tmp_path, PIXELS)])
    mine, other = next(writers), next(writers)
    rename = Path.rename

    def too_late(self, target):
        if self == mine.folder:
            rename(other.folder, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", too_late)
    mine.put_in_place()
    for writer in (mine, other):
        writer.__exit__()
    assert store.Track(tmp_path, "202101").attrs["source_fingerprint"] == "x"
    assert {p.name for p in tmp_path.iterdir()} == {"202101", "zarr.json"}


def test_a_track_that_cannot_be_put_in_its_place_is_an_error(tmp_path, monkeypatch):
    store_writer.begin(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with written(tmp_path, PIXELS) as writer, monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(OSError, match="Input/output"):
            writer.put_in_place()


def test_who_began_before_another_conversion_writes_nothing_more(tmp_path):
    store_writer.begin(tmp_path)
    with written(tmp_path, PIXELS) as writer:
        store_writer.begin(tmp_path)
        with pytest.raises(UserError, match="another conversion has begun, or this one was"):
            writer.put_in_place()
    assert [p.name for p in tmp_path.iterdir()] == ["zarr.json"]


# killed, again and again


def kill_at_random(words: list[str], target: Path, draw: random.Random) -> bool:
    """Start a conversion and kill it with its workers; False if it came to its end before."""
    running = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    until(lambda: list(target.glob("*")) or running.poll() is not None, 60)
    time.sleep(draw.uniform(0, 1))
    if running.poll() is not None:
        assert running.returncode == 0
        return False
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    return True


@pytest.mark.slow
@pytest.mark.parametrize("codec", store.CODECS)
def test_killed_at_random_moments_the_bytes_are_those_of_an_undisturbed_run(tmp_path, codec):
    root, target = tmp_path / "raw", tmp_path / "b/S.zarr"
    write_tree(root, [Storm(f"2021{n:02}", hours=300) for n in range(1, 11)], size=32)
    settings = converting.ConvertSettings(codec=codec)
    converting.convert(root, tmp_path / "a/S.zarr", settings, manifests=tmp_path, workers=1)
    cli = str(Path(converting.__file__).parents[1] / "cli.py")
    words = [sys.executable, cli, "convert", str(root), str(target), "--codec", codec]
    words += ["--workers", "2", "--manifest-dir", str(tmp_path)]
    draw, kills, finished = random.Random(7), 0, {}
    while kills < 12 and kill_at_random(words, target, draw):
        kills += 1
        for folder in target.glob("20*"):
            finished.setdefault(folder.name, folder.stat().st_ino)
    done = converting.convert(root, target, settings, manifests=tmp_path, workers=2)
    assert kills >= 3
    assert set(finished) <= set(done.reused)
    assert {id: (target / id).stat().st_ino for id in finished} == finished  # and not redone
    assert contents(target) == contents(tmp_path / "a/S.zarr")
    assert not list(target.glob(".*"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux tells what runs")
@pytest.mark.parametrize("sign", ["SIGKILL", "SIGTERM"])
def test_a_killed_conversion_leaves_no_process_at_work(tmp_path, sign):
    root = tmp_path / "raw"
    storms = [Storm(f"20210{n}", hours=150) for n in range(1, 5)]
    write_tree(root, storms, size=16)
    words = ["--workers", "2", "--manifest-dir", str(tmp_path)]
    cli = str(Path(converting.__file__).parents[1] / "cli.py")
    target = tmp_path / "b/S.zarr"
    running = subprocess.Popen(
        [sys.executable, cli, "convert", str(root), str(target), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: list(target.glob(".*.tmp/frames")), 60)
        running.send_signal(getattr(signal, sign))
        running.wait()
        until(lambda: not still_alive(running.pid), 5)
    finally:
        if still_alive(running.pid):
            os.killpg(running.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="interrupted, run"):
        store.open_store(target)
    for place in ("a", "b"):
        converting.convert(
            root,
            tmp_path / place / "S.zarr",
            converting.ConvertSettings(),
            manifests=tmp_path,
            workers=1,
        )
    assert contents(target) == contents(tmp_path / "a/S.zarr")


@pytest.mark.slow
def test_sigterm_to_all_processes_at_once_leaves_nothing_hidden(tmp_path):
    """As a batch system ends a job: the workers die first, and cannot tidy up."""
    root, target = tmp_path / "raw", tmp_path / "S.zarr"
    write_tree(root, [Storm(f"20210{n}", hours=400) for n in (1, 2)], size=16)
    cli = str(Path(converting.__file__).parents[1] / "cli.py")
    words = [sys.executable, cli, "convert", str(root), str(target), "--workers", "2"]
    running = subprocess.Popen(
        [*words, "--manifest-dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        until(lambda: list(target.glob(".*.tmp/frames")) or running.poll() is not None, 60)
        os.killpg(running.pid, signal.SIGTERM)
        _, said = running.communicate(timeout=60)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 143, said
    assert b"Stopped: no track is finished yet" in said
    assert not target.exists()


def until(true: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


# two at once


def test_a_second_conversion_into_a_store_is_refused(release):
    path = release.home / "S.zarr"
    live = path / ".202101.1.tmp"
    with atomic.claimed(path, "another conversion is writing into it; wait for it to end"):
        live.mkdir()
        with pytest.raises(UserError, match=r"S.zarr: another conversion is writing into it; wait"):
            release.conversion()
        assert live.exists()
    assert release.store().ids == ["198703", "202101", "202102"]
    assert not live.exists()


def test_a_conversion_holds_its_store_until_its_end(release, monkeypatch):
    refused = []

    def second(*_: object) -> None:
        with pytest.raises(UserError, match="another conversion"):
            release.conversion()
        refused.append(1)

    with monkeypatch.context() as patch:
        stages = ((store_writer, "begin"), (store_writer, "finish"), (manifest, "manifest_file"))
        for module, name in stages:
            undisturbed = getattr(module, name)
            patch.setattr(module, name, lambda *a, f=undisturbed, **k: (second(), f(*a, **k))[1])
        release.conversion()
    assert len(refused) == 3
    assert len(release.conversion().reused) == 3


def test_a_disk_that_knows_no_locks_is_no_obstacle(release, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")  # NFS locks no folders

    monkeypatch.setattr("fcntl.flock", refuse)
    assert len(release.store().ids) == 3


# some tracks only


def test_only_the_ids_asked_for(release):
    assert release.store(ids=["202101"]).ids == ["202101"]
    done = release.conversion(ids=["198703"])
    assert done.kept == ["202101"]
    assert store.open_store(done.store).ids == ["198703", "202101"]
    by_parts = contents(release.conversion().store)
    assert by_parts == contents(release.conversion("b/S.zarr").store)


def test_an_id_that_the_source_has_not(release):
    with pytest.raises(UserError, match="raw: no track 202199; it has 198703, 202101, 202102"):
        release.conversion(ids=["202199"])
    assert not (release.home / "S.zarr").exists()


def test_a_store_has_one_set_of_settings(release):
    before = contents(release.conversion(ids=["202101"]).store)
    with pytest.raises(UserError, match=r"converted with .* was none, is now zstd.*another store"):
        release.conversion(ids=["198703"], codec="zstd")
    assert contents(release.home / "S.zarr") == before
    with pytest.raises(UserError, match=r"--codec was none, is now zstd.*add --replace"):
        release.conversion(ids=["202101"], codec="zstd")
    assert release.store(codec="zstd", ids=["202101"], replace=True).ids == ["202101"]


def test_nor_does_an_unfinished_store_mix_settings(release, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at(patch, 8, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            release.conversion()
    with pytest.raises(UserError, match=r"converted with .* was none, is now zstd.*another store"):
        release.conversion(ids=["198703"], codec="zstd")


def test_a_track_that_left_the_source_stays_and_is_named(release):
    release.conversion()
    shutil.rmtree(release.root / "image/198703")
    done = release.conversion()
    assert done.kept == ["198703"]
    assert store.open_store(done.store).ids == ["198703", "202101", "202102"]


@pytest.mark.parametrize("root", [None, "", "{", '{"attributes": {}}'])
def test_a_store_whose_root_was_lost_is_still_ours(release, root):
    undisturbed = contents(release.conversion().store)
    file = release.home / "S.zarr/zarr.json"
    file.unlink()
    if root is not None:
        file.write_text(root)
    assert len(release.conversion().reused) == 3
    assert contents(release.home / "S.zarr") == undisturbed


def test_triplets_that_were_lost_are_written_again(release):
    undisturbed = contents(release.conversion().store)
    shutil.rmtree(release.home / "S.zarr/triplets")
    assert len(release.conversion().reused) == 3
    assert contents(release.home / "S.zarr") == undisturbed


@pytest.mark.parametrize("text", ["{", "[]", '{"attributes": {"record": "{"}}'])
def test_a_track_whose_attributes_are_damaged_is_a_sentence(release, text):
    release.conversion()
    file = release.home / "S.zarr/202101/zarr.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"202101/zarr.json: .*remove .*/202101 and run `cli"):
        release.conversion()


# targets that must not be touched


def foreign_zarr(path: Path) -> None:
    zarr.create_group(path, attributes={"mine": 1})["x"] = np.arange(3)


def foreign_zarr_without_attributes(path: Path) -> None:
    zarr.create_group(path)["x"] = np.arange(3)


def foreign_array(path: Path) -> None:
    zarr.create_array(path, shape=(3,), dtype="i4")[...] = 1


def folder_of_files(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("x")


def a_file(path: Path) -> None:
    path.write_text("x")


@pytest.mark.parametrize(
    "make",
    [foreign_zarr, foreign_zarr_without_attributes, foreign_array, folder_of_files, a_file],
)
def test_what_is_no_store_of_ours_is_left_alone(tiny, make):
    tiny.write(0)
    target = tiny.home / "S.zarr"
    make(target)
    before = contents(tiny.home)
    with pytest.raises(UserError, match=r"S.zarr: exists and is not a store; choose another name"):
        tiny.conversion()
    assert contents(tiny.home) == before


def test_a_newer_format_is_left_alone(tiny):
    tiny.write(0)
    tiny.conversion()
    file = tiny.home / "S.zarr/zarr.json"
    root = json.loads(file.read_text())
    root["attributes"]["format_version"] = store.FORMAT_VERSION + 1
    file.write_text(json.dumps(root))
    before = contents(tiny.home)
    tiny.write(1)
    with pytest.raises(UserError, match="store format 3, this eddy reads up to 2"):
        tiny.conversion()
    tiny.path(1).unlink()
    assert contents(tiny.home) == before


def test_an_empty_folder_is_a_place_for_a_store(tiny):
    tiny.write(0)
    (tiny.home / "S.zarr").mkdir()
    assert tiny.store().ids == ["202101"]


# whole trees


def test_a_synthetic_release(tmp_path):
    root = tmp_path / "raw"
    storms = [*demo_storms(6), Storm("202299", hours=6, truncated=(1,), step_hours=1)]
    write_tree(root, storms, size=32)
    done = converting.convert(
        root,
        tmp_path / "S.zarr",
        converting.ConvertSettings(),
        manifests=tmp_path,
        workers=1,
    )
    found = {id: (r["frames"], r["blank"], r["too_many_missing"]) for id, r in done.records.items()}
    assert found == {
        "198701": (6, 0, 2),
        "200701": (6, 0, 0),
        "202101": (5, 0, 0),
        "202102": (6, 1, 0),
        "202299": (5, 0, 0),
    }
    assert done.triplets == 2 + 4 + 1 + 3 + 2
    assert len(done.problems) == 1
    assert all(r["frames_without_best_track"] == 0 for r in done.records.values())


def test_months_or_ids_give_the_same_store(tmp_path):
    storms = demo_storms(4)
    found = []
    for folders in ("id", "month"):
        root = tmp_path / folders / "raw"
        write_tree(root, storms, size=16, image_folders=folders)
        for file in root.rglob("*.h5"):
            os.utime(file, (0, 0))
        target = tmp_path / folders / "S.zarr"
        settings = converting.ConvertSettings()
        converting.convert(root, target, settings, manifests=tmp_path, workers=1)
        found.append(contents(target))
    assert found[0] == found[1]


def test_a_source_that_is_none(tiny):
    with pytest.raises(UserError, match="no raw frames found"):
        tiny.conversion()
    with pytest.raises(UserError, match="no such file or folder"):
        sources.scan(tiny.home / "absent")
    assert sorted(p.name for p in tiny.home.iterdir()) == ["raw"]


def test_a_track_whose_files_became_unreadable_stays_as_it_was(release):
    before = release.store().track("198703").frames[...]
    for file in release.root.glob("image/198703/*.h5"):
        file.unlink()
        file.symlink_to("a disk that is not mounted")
    done = release.conversion()
    assert done.kept == ["198703"]
    assert len(done.problems) == 5 + 1  # all of it, and one file of 202102
    opened = store.open_store(done.store)
    assert opened.ids == ["198703", "202101", "202102"]
    np.testing.assert_array_equal(opened.track("198703").frames[...], before)


def test_one_store_holds_the_data_of_one_owner(tiny):
    """Else what is kept would be told under the licence of what came later."""

    def convert() -> Path:
        target, settings = tiny.home / "S.zarr", converting.ConvertSettings()
        converting.convert(tiny.root, target, settings, manifests=tiny.home, workers=1)
        return target

    tiny.track("202101", range(3))
    target = convert()
    before = contents(target)
    shutil.rmtree(tiny.root / "image/202101")
    tiny.track("202102", range(3))
    (tiny.root / digital_typhoon.INVENTED).touch()
    told = r"holds tracks of other data \(CC BY 4.0; Digital Typhoon.*\) than .* \(no license; no"
    with pytest.raises(UserError, match=told):
        convert()
    assert contents(target) == before
