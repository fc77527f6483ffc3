"""Nothing that changed since a store was written passes unseen, and each fault has a way out."""

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import google_crc32c
import h5py
import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

import cli
from pipeline import (
    atomic,
    beside_source,
    faults,
    provenance,
    seal,
    shard,
    sources,
    store,
    store_writer,
)
from pipeline.errors import UserError
from pipeline.store_writer import Array
from pipeline.verify import Verification, verify

START = "2021-07-19T"  # of Tiny's hours


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def told(done: Verification) -> list[str]:
    return [f"{fault.where}: {fault.what}" for fault in done.faults]


def mend(path: Path) -> str:
    return f"run `cli convert SOURCE {path}` again"


def flip(file: Path, where: int, bits: int = 1) -> None:
    data = bytearray(file.read_bytes())
    data[where] ^= bits
    file.write_bytes(data)


def small(tiny, hour: int) -> np.ndarray:
    return tiny.pixels(hour, (8, 8))


@pytest.fixture
def path(tiny) -> Path:
    return two_tracks(tiny, "none")


@pytest.fixture(params=store.CODECS)
def either(tiny, request) -> Path:
    """With each codec."""
    return two_tracks(tiny, request.param)


def two_tracks(tiny, codec: str) -> Path:
    """A store of frames of 8x8 pixels; one of its tracks has a best track."""
    for id in ("202101", "202102"):
        for hour in range(4):
            tiny.write(hour, id, pixels=small(tiny, hour))
    tiny.table("202101", tiny.rows(range(4)))
    return tiny.conversion(codec=codec).store


def test_a_sound_store_has_no_faults(tiny, either):
    done = verify(either, workers=1)
    assert (done.tracks, done.frames, done.faults, done.equal) == (2, 8, [], None)
    assert done.bytes == sum(len(data) for data in contents(either).values())
    done = verify(either, source=tiny.root, workers=1)
    assert (done.equal, done.faults) == (8, [])


def test_several_processes_find_the_same(tiny, either):
    flip(either / "202101" / store.SHARD_FILE, 300)
    (either / "202102/flag/c/0").unlink()
    alone, pool = (verify(either, source=tiny.root, workers=n) for n in (1, 2))
    assert told(alone) == told(pool)
    assert len(alone.faults) == 2


# every byte


@pytest.mark.parametrize("places", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_flip_anywhere_is_found_and_its_file_is_named(either, places):
    """At so many of three places of every file; the next tests look at every byte."""
    files = sorted(p for p in either.rglob("*") if p.is_file())
    assert len(files) == 52
    for number, file in enumerate(files):
        data = file.read_bytes()
        three = 0, len(data) // 2, len(data) - 1
        for place in range(number, number + places):
            where = three[place % 3]
            flip(file, where, 0x10)
            name = str(file.relative_to(either))
            lines = told(verify(either, workers=1))
            if name.endswith(str(store.SHARD_FILE)):
                name = name.split("/")[0]  # a frame of a track, or its shard
            assert lines, (name, where)
            assert all(line.startswith(name) for line in lines), (name, where, lines)
            file.write_bytes(data)


def each_flip(data: bytes, places: Sequence[int] | None = None) -> Iterator[bytes]:
    """The file with each of its bytes changed, or of these, in two ways."""
    for where, bits in itertools.product(places or range(len(data)), (0x01, 0x10)):
        changed = bytearray(data)
        changed[where] ^= bits
        yield bytes(changed)


def test_every_byte_of_the_small_files_counts(path):
    for file in sorted((path / "202101").rglob("*")):
        if not file.is_file() or file == path / "202101" / store.SHARD_FILE:
            continue
        data = file.read_bytes()
        if file.name != "zarr.json":
            assert seal.is_sound_chunk(data)
            assert not any(map(seal.is_sound_chunk, each_flip(data))), file
            assert not any(seal.is_sound_chunk(data[:n]) for n in range(len(data))), file
            continue
        whole = seal.parsed(data)
        for changed in each_flip(data):
            with suppress(ValueError):  # not JSON, or not in our form
                assert seal.parsed(changed) != whole, file


@pytest.mark.parametrize("step", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_every_byte_of_the_root_counts(tiny, step):
    """Its two ends byte by byte; between them so many bytes apart, in the slow test one."""
    tiny.write(0, pixels=small(tiny, 0))
    data = (tiny.conversion().store / "zarr.json").read_bytes()
    assert seal.is_sound_root(data)
    places = sorted({*range(50), *range(0, len(data), step), *range(len(data) - 50, len(data))})
    assert not any(map(seal.is_sound_root, each_flip(data, places=places)))


def test_every_byte_of_a_shard_counts(either):
    file = either / "202101" / store.SHARD_FILE
    codec = provenance.settings_of(either, "202101")["codec"]
    data = file.read_bytes()
    whole = seal.look_through(file, (4, 1, 8, 8), codec)
    assert whole[0] == []
    for changed in each_flip(data):
        file.write_bytes(changed)
        with suppress(ValueError):  # its index
            assert seal.look_through(file, (4, 1, 8, 8), codec) != whole
    for end in range(0, len(data), 5):
        file.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"bytes, too short|checksum|follow"):
            seal.look_through(file, (4, 1, 8, 8), codec)


@pytest.mark.parametrize("space", [b"\t", b"\n", b"  "])
def test_json_that_says_the_same_in_another_way_is_found(path, space):
    for name in ("zarr.json", "202101/zarr.json", "202102/time/zarr.json"):
        data = (path / name).read_bytes()
        (path / name).write_bytes(data.replace(b" ", space, 1))
        assert [line.split(":")[0] for line in told(verify(path, workers=1))] == [name]
        (path / name).write_bytes(data)


def test_our_json_is_that_of_atomic_files(tmp_path):
    value = {"a": [1, 2.5, None, "é\n"], "b": {}}
    atomic.write_json(tmp_path / "x.json", value)
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == atomic.json_text(value)


def test_other_readers_notice_a_damaged_small_array_too(path):
    flip(path / "202101/latitude/c/0", 2)
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_group(path / "202101", mode="r")["latitude"][...]


# what is found, how it is told, and that the way out is one


def test_a_damaged_frame_is_named_with_its_time(tiny, either):
    file = either / "202102" / store.SHARD_FILE
    codec = provenance.settings_of(either, "202102")["codec"]
    offset, length = shard.read_index(file, 4)[2].tolist()
    flip(file, offset + length // 2, 0xFF)
    check = {"none": "crc32c", "zstd": "zstd"}[codec]
    done = verify(either, source=tiny.root, workers=1)
    assert told(done) == [f"202102: frame 2 ({START}02) is damaged ({check})"]
    assert done.faults[0].way_out == f"remove {either}/202102 and {mend(either)}"
    assert done.equal == 7  # the damaged one is not compared


def remove(file: Path) -> None:
    shutil.rmtree(file) if file.is_dir() else file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def stale(folder: Path) -> None:
    """An index as it was before a track changed; sound in itself."""
    found = store.Store(folder.parent, {}).triplets()
    for name, values in zip(("track", "frame"), found, strict=True):
        remove(folder / name)
        store_writer.put(folder / name, Array(("n",), values[:-1], group_attrs(name)))
    store_writer.settle(folder)


def group_attrs(name: str) -> dict[str, str]:
    return {
        "long_name": {
            "track": "position in the store's attribute `tracks`",
            "frame": "index of the middle frame",
        }[name]
    }


def wrong_index(folder: Path) -> None:
    """The right number of triplets, but others."""
    file = folder / "frame/c/0"
    values = np.frombuffer(file.read_bytes()[:-4], "<i4")[::-1].copy()
    file.write_bytes(values.tobytes() + google_crc32c.value(values).to_bytes(4, "little"))


def nothing_in_json(file: Path) -> None:
    file.write_text("{}\n")


DAMAGE = {
    "shard missing": ("202101/frames/c/0/0/0/0", remove, "202101/frames/c/0/0/0/0: is missing"),
    "shard cut": ("202101/frames/c/0/0/0/0", cut, r"202101/frames/c/0/0/0/0: is damaged \(.*\)"),
    "shard empty": ("202101/frames/c/0/0/0/0", empty, r"202101/fr.*: is damaged \(0 bytes, too.*"),
    "time missing": ("202101/time/c/0", remove, "202101/time/c/0: is missing"),
    "flag cut": ("202101/flag/c/0", cut, r"202101/flag/c/0: is damaged \(crc32c\)"),
    "text missing": ("202102/channel/c/0", remove, "202102/channel/c/0: is missing"),
    "metadata missing": ("202101/time/zarr.json", remove, "202101/time/zarr.json: is missing"),
    "metadata of a track missing": ("202101/zarr.json", remove, "202101/zarr.json: is missing"),
    "metadata empty": ("202101/flag/zarr.json", empty, "202101/flag/zarr.json: is damaged"),
    "metadata of nothing": (
        "202101/flag/zarr.json",
        nothing_in_json,
        "202101/flag/zarr.json: is not as the root's copy of it",
    ),
    "array missing": ("202101/latitude", remove, "202101/latitude/zarr.json: is missing"),
    "track missing": ("202102", remove, "202102: is not there, though the store lists it"),
    "triplets missing": ("triplets", remove, "triplets: is not there, though the store lists it"),
    "triplets wrong": ("triplets", wrong_index, "triplets: is stale: 4 triplets, the tracks .* 4"),
    "root damaged": ("zarr.json", cut, "zarr.json: is damaged, or an older eddy wrote it"),
    "root missing": ("zarr.json", remove, "zarr.json: is missing"),
    "root empty": ("zarr.json", empty, "zarr.json: is damaged, or an older eddy wrote it"),
}


@pytest.mark.parametrize(("where", "harm", "expected"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named_and_its_way_out_mends_it(tiny, path, where, harm, expected):
    before = contents(path)
    harm(path / where)
    done = verify(path, workers=1)
    assert re.fullmatch(expected, told(done)[0]), told(done)
    for way_out in dict.fromkeys(fault.way_out for fault in done.faults):
        match = re.fullmatch(
            rf"(?:remove (\S+) and )?{mend(path)}(; it keeps the tracks)?", way_out
        )
        assert match, way_out
        if match[1] and Path(match[1]).exists():
            remove(Path(match[1]))
    tiny.conversion()
    assert contents(path) == before
    assert verify(path, source=tiny.root, workers=1).faults == []


def test_a_stale_index_is_told(path):
    stale(path / "triplets")
    found = told(verify(path, workers=1))
    assert "triplets/track/zarr.json: is not as the root's copy of it" in found


def test_what_lies_in_the_way_is_named(path):
    (path / ".202101.host.1.ab.tmp").mkdir()
    (path / "zarr.12ab.partial").touch()
    (path / "notes.txt").touch()
    (path / "202102/time/old").touch()
    shutil.copytree(path / "202101", path / "202109")
    (path / "empty").mkdir()
    done = verify(path, workers=1)
    assert told(done) == [
        ".202101.host.1.ab.tmp: was left by a killed conversion",
        "202109: does not belong to the store",  # another track's copy
        "empty: does not belong to the store",
        "notes.txt: does not belong to the store",
        "zarr.12ab.partial: was left by a killed conversion",
        "202102/time/old: does not belong to the store",
    ]
    assert done.faults[0].way_out == f"remove {path}/.202101.host.1.ab.tmp"


def test_a_track_that_is_not_listed_is_named_and_can_be_listed(tiny, path):
    before = contents(path)
    away = tiny.home / "202102"
    shutil.move(path / "202102", away)
    shutil.move(tiny.root / "image/202102", tiny.home / "raw-202102")
    (path / "zarr.json").unlink()
    tiny.conversion()
    shutil.move(away, path / "202102")
    done = verify(path, workers=1)
    assert told(done) == ["202102: is a track that the store does not list"]
    (path / "zarr.json").unlink()  # the way out
    tiny.conversion()
    assert contents(path) == before


def test_a_track_of_another_store_is_named(tiny, path):
    """Sound in itself, but not what the root was written for."""
    shutil.rmtree(path / "202101")
    tiny.write(0, "202101", pixels=small(tiny, 9))
    other = tiny.conversion("other.zarr").store
    shutil.copytree(other / "202101", path / "202101")
    found = told(verify(path, workers=1))
    assert "202101/zarr.json: is not as the root's copy of it" in found


def test_a_file_that_cannot_be_read_is_a_fault(path, monkeypatch):
    read = Path.read_bytes

    def failing(self):
        if self.name == "0" and self.parent.parent.name == "flag":
            raise OSError(5, "Input/output error", str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", failing)
    monkeypatch.setattr(seal, "look_through", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O")))
    assert told(verify(path, workers=1)) == [
        "202101/flag/c/0: cannot be read (input/output error)",
        "202101/frames/c/0/0/0/0: cannot be read (i/o)",
        "202102/flag/c/0: cannot be read (input/output error)",
        "202102/frames/c/0/0/0/0: cannot be read (i/o)",
    ]


def test_metadata_that_make_no_sense_are_a_fault(path):
    """With the root damaged too, nothing says what they were."""
    (path / "zarr.json").unlink()
    file = path / "202101/frames/zarr.json"
    node = json.loads(file.read_bytes())
    node["shape"] = [4]
    file.write_text(atomic.json_text(node))
    found = told(verify(path, workers=1))
    assert found[0] == "zarr.json: is missing"
    assert found[1].startswith("202101: has metadata that make no sense (ValueError(")
    assert len(found) == 2


def test_a_root_and_a_track_may_be_damaged_at_once(tiny, path):
    before = contents(path)
    empty(path / "zarr.json")
    empty(path / "202101/zarr.json")
    (path / "202102/flag/c/0").unlink()
    done = verify(path, source=tiny.root, workers=1)
    assert done.notes == [f"not compared with {tiny.root}: mend the store's root first"]
    found = told(done)
    assert found[0] == "zarr.json: is damaged, or an older eddy wrote it"
    assert "202101/zarr.json: is damaged" in found
    assert "202102/flag/c/0: is missing" in found
    for name in ("zarr.json", "202101", "202102"):
        remove(path / name)
    tiny.conversion()
    assert contents(path) == before


def test_an_older_store_without_checksums_is_told(tiny):
    """Its arrays held none, nor did its tracks, nor its root."""
    path = two_tracks(tiny, "zstd")
    file = path / "202101/zarr.json"
    node = json.loads(file.read_bytes())
    del node["attributes"][seal.SHARD_CRC]
    file.write_text(atomic.json_text(node))
    root = json.loads((path / "zarr.json").read_bytes())
    del root["attributes"][seal.DIGEST]
    (path / "zarr.json").write_text(atomic.json_text(root))
    flag = path / "202101/flag"
    node = json.loads((flag / "zarr.json").read_bytes())
    node["codecs"].pop()
    (flag / "zarr.json").write_text(atomic.json_text(node))
    assert [line for line in told(verify(path, workers=1)) if "older eddy" in line] == [
        "zarr.json: is damaged, or an older eddy wrote it",
        "202101/flag: has no checksum: an older eddy wrote it",
        "202101/frames/c/0/0/0/0: has no checksum as a whole: an older eddy wrote it",
    ]


# what is no finished store


def test_an_unfinished_store_is_one_sentence(path):
    store_writer.begin(path)
    with pytest.raises(UserError, match=r"not a finished store of eddy .* run `cli convert SOURCE"):
        verify(path)


def test_what_is_no_store_is_one_sentence(tiny, tmp_path):
    with pytest.raises(UserError, match="no store here"):
        verify(tmp_path / "absent")
    with pytest.raises(UserError, match="no store here"):
        verify(tmp_path)
    zarr.create_group(tmp_path / "foreign.zarr")["x"] = np.arange(3)
    with pytest.raises(UserError, match="not a finished store of eddy"):
        verify(tmp_path / "foreign.zarr")


def test_a_newer_store_is_one_sentence(path):
    root = json.loads((path / "zarr.json").read_bytes())
    root["attributes"]["format_version"] = store.FORMAT_VERSION + 1
    (path / "zarr.json").write_text(atomic.json_text(seal.sealed(root)))
    with pytest.raises(UserError, match=r"store format .*, this eddy reads up to"):
        verify(path)


def test_a_source_that_is_none_is_one_sentence(tiny, path):
    with pytest.raises(UserError, match="no such file or folder"):
        verify(path, source=tiny.home / "absent")


# beside the source


def changed(tiny, path: Path) -> list[str]:
    done = verify(path, source=tiny.root, workers=1)
    return [line.replace(str(tiny.root), "raw") for line in told(done)]


def test_a_file_that_came_is_named(tiny, path):
    file = tiny.write(4, "202102", pixels=small(tiny, 4))
    name = str(file).replace(str(tiny.root), "raw")
    assert changed(tiny, path) == [f"202102: {name} is in the source, but not in the store"]


def test_a_file_that_went_is_named(tiny, path):
    tiny.path(2).unlink()
    assert changed(tiny, path) == [
        f"202101: frame 2 ({START}02): its file is gone from the source",
    ]


def test_a_file_that_changed_is_named_by_its_frame(tiny, path):
    pixels = small(tiny, 1)
    pixels[3, 3] += 1
    tiny.write(1, "202102", pixels=pixels)
    name = str(tiny.path(1, "202102")).replace(str(tiny.root), "raw")
    assert changed(tiny, path) == [
        "202102: a file's size or time, or rows of its best track, have changed "
        "since it was converted",
        f"202102: frame 1 ({START}01) differs from {name} in 1 of 64 pixels",
    ]


def test_a_pixel_that_was_converted_wrongly_is_found(tiny, path):
    """The file is as it was: size and time."""
    file = tiny.path(1, "202102")
    times = file.stat()
    with h5py.File(file, "r+") as h5:
        h5["Infrared"][0, 0] = np.nextafter(np.float32(h5["Infrared"][0, 0]), np.float32(400))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = verify(path, source=tiny.root, workers=1)
    assert [line.replace(str(tiny.root), "raw") for line in told(done)] == [
        f"202102: frame 1 ({START}01) differs from raw/image/202102/{file.name} in 1 of 64 pixels"
    ]
    assert done.faults[0].way_out == f"remove {path}/202102 and {mend(path)}"
    assert done.equal == 7


def test_a_best_track_that_changed_is_named(tiny, path):
    tiny.table("202101", tiny.rows(range(4), "5,21.5,135.25,965,75,0,0"))
    assert changed(tiny, path) == [
        "202101: its best track (latitude) has changed since it was converted"
    ]
    tiny.table("202102", tiny.rows(range(4)))
    assert "202102: its best track (latitude) has changed since it was converted" in changed(
        tiny, path
    )


def test_a_store_of_several_sources_is_compared_with_each(tiny, path):
    """Its other tracks are no fault, and neither are those that nobody asked to convert."""
    for id in ("202105", "202106"):
        tiny.write(0, id)
    away = tiny.home / "away/image/202101"
    away.parent.mkdir(parents=True)
    shutil.move(tiny.root / "image/202101", away)
    done = verify(path, source=tiny.root, workers=1)
    assert done.faults == []
    assert done.notes == [
        f"1 track of the store is not in {tiny.root}: 202101; its frames were not compared",
        f"2 tracks of {tiny.root} are not in the store: 202105, 202106; "
        f"`cli convert {tiny.root} {path}`, with the options that the store was made with, "
        "adds those that have readable frames",
    ]
    assert (done.frames, done.compared, done.equal) == (8, 4, 4)

    flip(path / "202101" / store.SHARD_FILE, 0)  # what is not compared is looked through
    done = verify(path, source=tiny.root, workers=1)
    assert [line.split(":")[0] for line in told(done)] == ["202101"]


def test_of_one_source_all_is_compared(tiny, path):
    done = verify(path, source=tiny.root, workers=1)
    assert (done.notes, done.frames, done.compared, done.equal) == ([], 8, 8, 8)
    done = verify(path, workers=1)
    assert (done.notes, done.compared, done.equal) == ([], None, None)


def test_a_source_of_other_tracks_alone_is_refused(tiny, path):
    shutil.rmtree(tiny.root / "image")
    tiny.write(0, "202105")
    said = (
        f"{tiny.root}: has none of the tracks of {path}: it has 202105, the store 202101, 202102; "
        "give the source that the store was converted from"
    )
    with pytest.raises(UserError) as caught:
        verify(path, source=tiny.root, workers=1)
    assert str(caught.value) == said


def test_a_file_that_cannot_be_read_any_more_is_named(tiny, path):
    tiny.path(1).write_bytes(b"not HDF5")
    found = changed(tiny, path)
    assert re.fullmatch(
        rf"202101: frame 1 \({START}01\) cannot be compared: .*: not a readable HDF5.*", found[1]
    )


def test_an_image_of_another_shape_is_named(tiny, path):
    tiny.write(1, pixels=tiny.pixels(1, (8, 9)))
    assert changed(tiny, path)[1].startswith(f"202101: frame 1 ({START}01) is (1, 8, 8), but raw/")


def test_frames_that_could_not_be_read_then_are_no_fault(tiny):
    files = tiny.track(hours=range(5))
    files[2].write_bytes(b"not HDF5")
    path = tiny.conversion().store
    done = verify(path, source=tiny.root, workers=1)
    assert (done.frames, done.equal, done.faults) == (4, 4, [])


def test_missing_pixels_are_the_same_on_both_sides(tiny):
    for hour in range(3):
        pixels = tiny.pixels(hour)
        pixels[:4] = -19.1
        pixels[5, 5] = np.nan
        tiny.write(hour, pixels=pixels)
    path = tiny.conversion(max_missing=1, valid_min=210).store
    assert verify(path, source=tiny.root, workers=1).faults == []


def test_settings_of_another_eddy_make_a_track_stale(tiny, path, monkeypatch):
    monkeypatch.setattr(beside_source, "settings_of", lambda *_: {"codec": "of tomorrow"})
    assert [line.split(":")[0] for line in changed(tiny, path)] == ["202101", "202102"]


def test_the_source_is_read_by_its_own_library_alone(tiny, path, monkeypatch):
    ways = []
    read = sources.find("digital_typhoon").read_frame

    def noted(frame, *, direct=True):
        ways.append(direct)
        return read(frame, direct=direct)

    monkeypatch.setattr(sources.find("digital_typhoon"), "read_frame", noted)
    verify(path, source=tiny.root, workers=1)
    assert ways == [False] * 8


# as a user sees it


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_tells_all_and_how_to_go_on(tiny, path):
    code, out, _ = run("verify", path, "--source", tiny.root, "--workers", 1)
    assert code == 0
    assert re.search(r"2 tracks, 8 frames, [\d.]+ kB read in .* \(.* [kMG]B/s\)", out)
    assert "8 of 8 frames equal their files, bit for bit" in out
    assert "Every byte is as it was written" in out
    (path / "202101/flag/c/0").unlink()
    (path / "202102" / store.SHARD_FILE).unlink()
    code, out, err = run("verify", path, "--workers", 1)
    assert code == 1
    assert "Fault: 202101/flag/c/0: is missing" in out
    assert "Fault: 202102/frames/c/0/0/0/0: is missing" in out
    assert f"Way out: remove {path}/202102 and {mend(path)}" in out
    assert err.splitlines()[-1] == f"Error: {path}: 2 faults, listed above"


def test_frames_are_named_by_the_hour_or_the_second():
    assert faults.frame_name(3, 1626652800) == f"frame 3 ({START}00)"
    assert faults.frame_name(3, 1626652800 + 60) == f"frame 3 ({START}00:01:00)"
    assert faults.frame_name(3, None) == "frame 3"


# what a shell makes of an unquoted WP.tar.gz*


PARTS = [f"dl/WP.tar.gz{n}" for n in (0, 1, 2)]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", ("data/WP.zarr", None)),
        ("S.zarr", ("S.zarr", None)),
        ("S.zarr --source raw", ("S.zarr", "raw")),
        ("--source raw", ("data/WP.zarr", "raw")),
        (f"S.zarr --source {' '.join(PARTS)}", ("S.zarr", PARTS[0])),
        (f"--source {' '.join(PARTS)} S.zarr", ("S.zarr", PARTS[0])),
        (f"--source {' '.join(PARTS)}", ("data/WP.zarr", PARTS[0])),
        (" ".join(f"--source {part}" for part in reversed(PARTS)), ("data/WP.zarr", PARTS[0])),
        (f"S.zarr --source {' '.join(PARTS)} dl/WP.tar.gz.md5", ("S.zarr", PARTS[0])),
        (f"--source {' '.join(PARTS)} dl/SHA256SUMS.txt", ("data/WP.zarr", PARTS[0])),
        ("S.zarr --source dl/WP.tar dl/WP.tar.md5", ("S.zarr", "dl/WP.tar")),
        ("S.zarr T.zarr", "2 stores, S.zarr, T.zarr; give one of them"),
        (f"S.zarr {' '.join(PARTS)}", "4 stores, S.zarr, .* and raw files with --source"),
        ("S.zarr --source raw --source other", "2 sources, but raw is no part of an archive"),
        (f"S.zarr --source raw {' '.join(PARTS)}", "4 sources, but raw is no part"),
    ],
)
def test_all_parts_of_an_archive_may_be_the_source(monkeypatch, typed, expected):
    asked = {}

    def see(path, *, source, workers):
        asked.update(path=path, source=source)
        raise UserError("seen")

    monkeypatch.setattr("pipeline.verify.verify", see)
    result = CliRunner().invoke(cli.app, ["verify", *typed.split()])
    if isinstance(expected, str):
        assert result.exit_code == 2
        assert re.search(expected, result.stderr)
        assert not asked
    else:
        path, source = expected
        assert asked == {"path": Path(path), "source": source and Path(source)}
