"""The store is what zarr-python itself would have written, and damage does not pass unseen."""

import errno
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from pipeline import direct_io, nodes, seal, shard, store, store_writer
from pipeline.errors import UserError
from pipeline.loader import Loader
from pipeline.store import Track
from pipeline.store_writer import Array, TrackWriter

SHAPES = [(1, 16, 16), (1, 37, 53), (2, 200, 130), (3, 128, 257), (1, 1, 1)]


def noise(frames: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Few distinct values, as calibrated counts are, and NaN in the last rows."""
    values = np.random.default_rng(seed).integers(180, 310, (frames, *shape)).astype(np.float32)
    values[..., -max(1, shape[1] // 8) :, :1] = np.nan
    return values


def arrays(frames: np.ndarray) -> dict[str, Array]:
    n = len(frames)
    return {
        "time": Array(("time",), np.arange(n) * 3600, store.TIME_ATTRS),
        "flag": Array(("time",), np.zeros(n, np.uint8), {}),
    }


def write(path: Path, frames: np.ndarray, codec: str = "none", id: str = "202101") -> Track:
    with TrackWriter(path, id, frames.shape[1:], codec) as writer:
        for frame in frames:
            writer.append(frame)
        writer.commit(arrays(frames), {"units": "K"}, {})
    return Track(path, id)


def by_zarr(path: Path, frames: np.ndarray, **options) -> Path:
    """The same frames as another writer would store them; returns the track's folder."""
    group = zarr.create_group(path / "202101", zarr_format=3)
    T, C, H, W = frames.shape
    settings = {
        "chunks": (1, C, H, W),
        "shards": (T, C, H, W),
        "compressors": [Crc32cCodec()],
        "fill_value": float("nan"),
        "dimension_names": ("time", "channel", "y", "x"),
        "config": {"write_empty_chunks": True},
    } | options
    made = group.create_array("frames", shape=frames.shape, dtype="<f4", **settings)
    made[...] = frames
    return path / "202101"


@pytest.mark.parametrize("shape", SHAPES)
def test_an_uncompressed_shard_is_byte_for_byte_zarr_s_own(tmp_path, shape):
    frames = noise(4, shape)
    write(tmp_path / "ours", frames)
    theirs = by_zarr(tmp_path / "theirs", frames)
    ours = tmp_path / "ours/202101"
    assert (ours / store.SHARD_FILE).read_bytes() == (theirs / store.SHARD_FILE).read_bytes()
    a, b = (json.loads((f / "frames/zarr.json").read_text()) for f in (ours, theirs))
    assert {**a, "attributes": {}} == b


@pytest.mark.parametrize("codec", store.CODECS)
@pytest.mark.parametrize("shape", SHAPES)
def test_zarr_reads_what_was_written(tmp_path, shape, codec):
    frames = noise(3, shape)
    track = write(tmp_path, frames, codec)
    array = zarr.open_group(tmp_path / "202101", mode="r")["frames"]
    np.testing.assert_array_equal(array[...], frames)
    np.testing.assert_array_equal(track.frames[...], frames)
    half = shape[1] // 2 + 1
    np.testing.assert_array_equal(track.frames[1:3, :, :half], frames[1:3, :, :half])
    assert track.shape == shape


def test_only_an_uncompressed_shard_is_mapped(tmp_path):
    frames = noise(3, (1, 16, 16))
    mapped = write(tmp_path, frames).frames
    assert isinstance(mapped, np.ndarray)
    assert not mapped.flags.writeable
    assert not mapped.flags.owndata
    assert isinstance(write(tmp_path, frames, "zstd", "202102").frames, zarr.Array)


def test_a_single_frame_is_mapped(tmp_path):
    frames = noise(1, (1, 5, 7))
    np.testing.assert_array_equal(write(tmp_path, frames).frames, frames)


OTHERS = {
    "big-endian": {"serializer": BytesCodec(endian="big")},
    "two frames per chunk": {"chunks": (2, 1, 16, 16)},
    "half frames": {"chunks": (1, 1, 8, 16)},
    "two shards": {"shards": (2, 1, 16, 16)},
    "no shard": {"shards": None},
    "zstd": {"compressors": [ZstdCodec(level=1)]},
    "dots in its name": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    "no checksum": {"compressors": None},
    "transposed": {"filters": [zarr.codecs.TransposeCodec(order=(0, 1, 3, 2))]},
    "empty chunks left out": {"config": {"write_empty_chunks": False}},
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_another_writer_s_layout_is_read_through_zarr(tmp_path, options):
    frames = noise(4, (1, 16, 16))
    frames[2] = np.nan
    by_zarr(tmp_path, frames, **options)
    np.testing.assert_array_equal(Track(tmp_path, "202101").frames[...], frames)


def flip(file: Path, where: int) -> None:
    data = bytearray(file.read_bytes())
    data[where] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("where", [0, 1023, 1024 + 4 + 512, 3 * 1028 - 1])
def test_a_flipped_byte_is_found(tmp_path, where):
    write(tmp_path, noise(3, (1, 16, 16)))
    file = tmp_path / "202101" / store.SHARD_FILE
    assert seal.look_through(file, (3, 1, 16, 16), "none")[0] == []
    flip(file, where)
    found, _ = seal.look_through(file, (3, 1, 16, 16), "none")
    assert found == [where // 1028]  # 16 * 16 * 4 bytes and a checksum


@pytest.mark.parametrize("place", [0, 0.5, 0.999])
@pytest.mark.parametrize("tile", [0, 3, 4, 11])
def test_a_flipped_byte_of_a_tile_is_found(tmp_path, tile, place):
    shape = (3, 2, 200, 130)  # 2 by 2 tiles per frame
    write(tmp_path, noise(3, shape[1:]), "zstd")
    file = tmp_path / "202101" / store.SHARD_FILE
    assert seal.look_through(file, shape, "zstd")[0] == []
    offset, length = shard.read_index(file, 12)[tile].tolist()
    flip(file, offset + int(place * length))
    assert seal.look_through(file, shape, "zstd")[0] == [tile // 4]


def harmed(path: Path, codec: str, frames: np.ndarray, *numbers: int) -> Track:
    """A track with one byte flipped in each of those frames."""
    track = write(path, frames, codec)
    file = path / "202101" / store.SHARD_FILE
    tiles = shard.chunks_per_frame(frames.shape[1:], codec)
    index = shard.read_index(file, len(frames) * tiles)
    for number in numbers:
        offset, length = index[number * tiles + tiles - 1].tolist()
        flip(file, offset + length // 2)
    return track


@pytest.mark.parametrize("codec", store.CODECS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 200, 130)])
def test_checked_frames_are_those_of_the_store(tmp_path, codec, shape):
    frames = noise(5, shape)
    found = write(tmp_path, frames, codec).checked(1, 3)
    np.testing.assert_array_equal(found, frames[1:4])
    assert found.dtype == np.float32


@pytest.mark.parametrize("codec", store.CODECS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 200, 130)])
def test_a_damaged_frame_is_named(tmp_path, codec, shape):
    frames = noise(6, shape)
    track = harmed(tmp_path, codec, frames, 1, 4)
    np.testing.assert_array_equal(track.checked(2, 2), frames[2:4])
    folder = re.escape(str(tmp_path / "202101"))
    with pytest.raises(
        UserError, match=rf"^{folder}: frame 1 is damaged \(.*\); .*convert` again$"
    ):
        track.checked(0, 3)
    with pytest.raises(UserError, match=rf"^{folder}: frames 1, 4 are damaged \(.*\); .*again$"):
        track.checked(0, 6)


def test_a_frame_of_another_writer_s_layout_is_checked_too(tmp_path):
    frames = noise(4, (1, 16, 16))
    by_zarr(tmp_path, frames, serializer=BytesCodec(endian="big"))
    found = Track(tmp_path, "202101").checked(1, 2)
    np.testing.assert_array_equal(found, frames[1:3])
    assert found.dtype == np.dtype("=f4")
    flip(tmp_path / "202101" / store.SHARD_FILE, 1028 + 5)
    with pytest.raises(UserError, match="frame 1 is damaged"):
        Track(tmp_path, "202101").checked(0, 2)


@pytest.mark.parametrize("codec", store.CODECS)
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_what_zarr_would_read_as_nan_is_not_checked_frames(tmp_path, codec, harm):
    track = write(tmp_path, noise(3, (1, 16, 16)), codec)
    file = tmp_path / "202101" / store.SHARD_FILE
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(b"")
    with pytest.raises(UserError, match=f"{file}.*convert"):
        track.checked(0, 3)


def test_a_damaged_tile_in_a_batch_is_a_sentence(tmp_path):
    track = harmed(tmp_path, "zstd", noise(6, (1, 64, 64)), 4)
    crops = Loader([track], window=3, patch=32, batch=4)
    with pytest.raises(UserError, match=r"202101: frame 4 is damaged \(.*\); .*convert` again$"):
        list(crops.epoch(0))


def test_damage_that_is_gone_when_looked_for_is_told_all_the_same(tmp_path):
    track = write(tmp_path, noise(4, (1, 16, 16)))
    said = str(track.damage(1, 2, RuntimeError("no memory. 3 bytes")))
    assert "202101: frame 1-2 is damaged (no memory); remove" in said


@pytest.mark.parametrize("codec", store.CODECS)
@pytest.mark.parametrize("harm", ["index", "cut", "gone", "empty"])
def test_a_broken_shard_is_an_error_that_says_where(tmp_path, codec, harm):
    track = write(tmp_path, noise(3, (1, 16, 16)), codec)
    file = tmp_path / "202101" / store.SHARD_FILE
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes({"index": data, "cut": data[:-30], "empty": b""}[harm])
    with pytest.raises(UserError, match=f"{file}.*convert"):
        track.frames[...]


def test_the_writer_refuses_another_shape_or_dtype(tmp_path):
    with TrackWriter(tmp_path, "202101", (1, 4, 4), "none") as writer:
        for frame in (np.zeros((1, 4, 5), np.float32), np.zeros((1, 4, 4))):
            with pytest.raises(ValueError, match=r"expected \(1, 4, 4\) float32"):
                writer.append(frame)


def test_a_track_not_committed_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), TrackWriter(tmp_path, "202101", (1, 4, 4), "none") as writer:  # noqa: PT012
        writer.append(np.zeros((1, 4, 4), np.float32))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", store.CODECS)
def test_writing_in_blocks_and_pieces_changes_no_byte(tmp_path, monkeypatch, codec):
    frames = noise(6, (2, 200, 130))
    write(tmp_path / "a", frames, codec)
    write_some = os.write
    monkeypatch.setattr(direct_io, "BLOCK", direct_io.ALIGNED)
    monkeypatch.setattr(os, "write", lambda file, data: write_some(file, data[:30_001]))
    write(tmp_path / "b", frames, codec)
    one, other = (tmp_path / name / "202101" / store.SHARD_FILE for name in "ab")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("count", [1, 8])  # asked at the end; and while writing
def test_what_the_disk_refuses_while_others_are_read_is_not_lost(tmp_path, monkeypatch, count):
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(direct_io, "BLOCK", direct_io.ALIGNED)
    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "S", noise(count, (1, 32, 32)))
    assert list((tmp_path / "S").iterdir()) == []


def test_a_frame_made_where_it_will_lie_is_not_copied(tmp_path):
    frames = noise(5, (1, 16, 16))
    write(tmp_path / "a", frames)
    with TrackWriter(tmp_path / "b", "202101", (1, 16, 16), "none") as writer:
        for frame in frames:
            room = writer.room()
            room[...] = frame
            before = room.ctypes.data
            writer.append(room)
            assert writer.room().ctypes.data == before + room.nbytes + 4  # its checksum
        writer.commit(arrays(frames), {"units": "K"}, {})
    one, other = (tmp_path / name / "202101" / store.SHARD_FILE for name in "ab")
    assert one.read_bytes() == other.read_bytes()


def test_a_disk_that_refuses_even_to_close_leaves_nothing(tmp_path, monkeypatch):
    writer = TrackWriter(tmp_path, "202101", (1, 4, 4), "none")

    class Full:
        def close(self) -> None:  # the buffer's last bytes do not fit either
            raise OSError(28, "No space left on device")

    writer.writer.file.close()
    monkeypatch.setattr(writer.writer, "file", Full())
    with pytest.raises(OSError, match="No space"), writer:
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_cannot_be_opened_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard.ShardWriter, "__init__", refuse)
    with pytest.raises(OSError, match="No space"):
        TrackWriter(tmp_path, "202101", (1, 4, 4), "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", store.CODECS)
def test_what_the_disk_lost_is_not_committed(tmp_path, monkeypatch, codec):
    close = shard.ShardWriter.__exit__

    def onto_a_bad_disk(self, *problem):
        close(self, *problem)
        file = next(tmp_path.rglob("c/0/0/0/0"))
        file.write_bytes(file.read_bytes()[:-100])

    monkeypatch.setattr(shard.ShardWriter, "__exit__", onto_a_bad_disk)
    with pytest.raises(ValueError, match="not whole on the disk"):
        write(tmp_path, noise(2, (1, 16, 16)), codec)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", store.CODECS)
def test_a_pickled_track_carries_no_data(tmp_path, codec):
    track = write(tmp_path, noise(20, (1, 16, 16)), codec)
    assert len(track.times) == track.frames.shape[0] == 20  # both opened
    sent = pickle.dumps(track)
    assert len(sent) < 500
    np.testing.assert_array_equal(pickle.loads(sent).frames[...], track.frames[...])


def test_triplets_are_windows_of_three(tmp_path):
    store_writer.begin(tmp_path / "S")
    frames = noise(5, (1, 4, 4))
    ids = ["202101", "202102"]
    for id in ids:
        write(tmp_path / "S", frames, id=id)
    assert (
        store_writer.finish(tmp_path / "S", ids, {"manifest_hash": "x"}) == 6
    )  # 2 tracks of 5 - 2
    opened = store.open_store(tmp_path / "S")
    track, middle = opened.triplets()
    assert track.tolist() == [0, 0, 0, 1, 1, 1]
    assert middle.tolist() == [1, 2, 3, 1, 2, 3]
    for number, one in enumerate(opened):
        np.testing.assert_array_equal(middle[track == number] - 1, one.windows(3))


def test_a_store_without_tracks_or_triplets(tmp_path):
    store_writer.begin(tmp_path / "S")
    write(tmp_path / "S", noise(1, (1, 4, 4)))
    assert store_writer.finish(tmp_path / "S", ["202101"], {"manifest_hash": "x"}) == 0
    assert len(store.open_store(tmp_path / "S").triplets()[0]) == 0


def root(path: Path, attributes: object) -> Path:
    path.mkdir()
    (path / "zarr.json").write_text(json.dumps({"attributes": attributes}))
    return path


def test_what_is_no_store_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(UserError, match=r"absent: no store here; run `cli convert SOURCE "):
        store.open_store(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file; expected the folder of a store"):
        store.open_store(tmp_path / "file")
    with pytest.raises(UserError, match=r"interrupted, run `cli convert SOURCE .* again"):
        store.open_store(root(tmp_path / "unfinished", {}))
    newer = store.FORMAT_VERSION + 1
    with pytest.raises(UserError, match=rf"store format {newer}, .* up to {newer - 1}; update"):
        store.open_store(root(tmp_path / "newer", {"format_version": newer}))
    with pytest.raises(UserError, match="store format '1'"):
        store.open_store(root(tmp_path / "odd", {"format_version": "1"}))
    for number, text in enumerate(["[]", "{", "{}", '{"attributes": 3}', "\ud800"]):
        folder = root(tmp_path / f"bad{number}", {})
        (folder / "zarr.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(UserError, match="not the metadata of a Zarr v3 group"):
            store.open_store(folder)


def test_a_track_that_is_not_there(tmp_path):
    store_writer.begin(tmp_path / "S")
    write(tmp_path / "S", noise(1, (1, 4, 4)))
    store_writer.finish(tmp_path / "S", ["202101"], {"manifest_hash": "x"})
    opened = store.open_store(tmp_path / "S")
    with pytest.raises(UserError, match="no track '202102'; it has 202101"):
        opened.track("202102")
    (tmp_path / "S/202101").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"202101: not there, though the store lists it; .*convert"):
        opened.track("202101").shape  # noqa: B018


def test_more_tracks_than_open_files_are_allowed(tmp_path):
    """The release has 1,116 tracks, the usual limit is 1,024 files, a map holds one."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    write(tmp_path, noise(1, (1, 4, 4)))
    here = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (here + 20, hard))
    try:
        tracks = [Track(tmp_path, "202101") for _ in range(40)]
        store.allow_open_files(len(tracks))
        assert all(isinstance(track.frames, np.ndarray) for track in tracks)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "values",
    [
        *(np.arange(5).astype(kind) for kind in ("i8", "i4", "i2", "i1", "u1", "f4", "f8")),
        np.arange(6.0).reshape(2, 3),
        np.array(["infrared", "", "Taifūn"]),
        np.empty(0, np.int32),
    ],
    ids=str,
)
def test_a_small_array_is_byte_for_byte_zarr_s_own(tmp_path, values):
    dims = ("time", "statistic")[: values.ndim]
    text = values.dtype.kind == "U"
    group = zarr.create_group(tmp_path / "theirs", zarr_format=3, attributes={"a": [1.5, "b"]})
    made = group.create_array(
        "x",
        shape=values.shape,
        dtype=str if text else values.dtype,
        chunks=tuple(max(1, n) for n in values.shape),
        compressors=[Crc32cCodec()],
        fill_value=float("nan") if values.dtype.kind == "f" else "" if text else 0,
        dimension_names=dims,
        attributes={"units": "K"},
        config={"write_empty_chunks": True},
    )
    made[...] = values
    nodes.write(tmp_path / "ours", nodes.group_metadata({"a": [1.5, "b"]}))
    store_writer.put(tmp_path / "ours/x", Array(dims, values, {"units": "K"}))
    for file in ("zarr.json", "x/zarr.json"):
        a, b = (json.loads((tmp_path / f / file).read_text()) for f in ("ours", "theirs"))
        assert a == b
    for a in (p for p in (tmp_path / "theirs/x").rglob("*") if p.name.isdigit() and p.is_file()):
        b = tmp_path / "ours" / a.relative_to(tmp_path / "theirs")
        assert a.read_bytes() == b.read_bytes()
    if not text:
        found = nodes.small(tmp_path / "ours/x", nodes.metadata(tmp_path / "ours/x"))
        assert found is not None
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)
