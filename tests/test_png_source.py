"""Folders of grey pictures, with the values that were told for black and white."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline import sources
from pipeline.errors import UsageError, UserError
from pipeline.sources import FrameError, png
from pipeline.sources.options import asked

KELVIN = {"value_range": "150,330", "units": "K"}


def picture(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).save(path)
    return path


def grey(bits, seed=0, shape=(6, 9)):
    random = np.random.default_rng(seed).integers(0, 2**bits, shape)
    random[0, :2] = [0, 2**bits - 1]
    return random.astype(np.uint8 if bits == 8 else np.uint16)


def tree(root, bits=8):
    """As the specification's README lays it out."""
    for split in ("train", "test"):
        for sequence in ("seq_01", "seq_02"):
            for number in (1, 2, 3, 5):
                name = f"{split}/{sequence}/frame_{number:03}.png"
                picture(root / name, grey(bits, number))
    return root


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_becomes_the_values_that_were_told(tmp_path, bits):
    release = sources.scan(tree(tmp_path / "x", bits), asked(**KELVIN))
    ids = ["test-seq_01", "test-seq_02", "train-seq_01", "train-seq_02"]
    assert [raw.id for raw in release.tracks] == ids
    track = release.tracks[2]
    assert (track.attrs["split"], track.attrs["sequence"]) == ("train", "seq_01")
    for number, frame in zip((1, 2, 3, 5), track.frames, strict=True):
        expected = 150 + grey(bits, number) * (180 / (2**bits - 1))
        read = png.read_frame(frame)
        np.testing.assert_array_equal(read[0], expected.astype(np.float32))
        np.testing.assert_array_equal(read, png.read_frame(frame, direct=False))
        into = np.empty((1, 6, 9), np.float32)
        assert png.read_frame(frame, into=into) is into
        np.testing.assert_array_equal(read, into)
        assert png.frame_shape(frame) == (1, 6, 9)
    assert read[0, 0, :2].tolist() == [150, 330]
    (channel,) = release.channels
    assert (channel.name, channel.units) == ("image", "K")
    assert (channel.valid_min, channel.valid_max) == (150, 330)


def test_black_may_be_the_larger_value(tmp_path):
    path = picture(tmp_path / "a/f1.png", np.array([[0, 255]], np.uint8))
    release = sources.scan(tmp_path, asked(value_range="330,150", units="K"))
    assert png.read_frame(release.tracks[0].frames[0]).tolist() == [[[330, 150]]]
    assert (release.channels[0].valid_min, release.channels[0].valid_max) == (150, 330)
    assert path.exists()


def test_times_are_counted_by_the_numbers_and_a_missing_one_is_a_gap(tmp_path):
    tree(tmp_path)
    (first, *_) = sources.scan(tmp_path, asked(**KELVIN)).tracks
    assert [str(f.time) for f in first.frames][2:] == ["1970-01-01T03:00:00", "1970-01-01T05:00:00"]
    options = asked(**KELVIN, step="10min", start="2020-01-01T06:00")
    (first, *_) = sources.scan(tmp_path, options).tracks
    assert str(first.frames[0].time) == "2020-01-01T06:10:00"


def test_a_folder_of_pictures_alone_is_one_track(tmp_path):
    tree(tmp_path)
    release = sources.scan(tmp_path / "train/seq_02", asked(**KELVIN))
    assert [raw.id for raw in release.tracks] == ["seq_02"]


def test_a_json_list_names_pictures_too(tmp_path):
    tree(tmp_path)
    names = tmp_path / "train.json"
    names.write_text('["train/seq_01/frame_002.png", "train/seq_01/frame_003.png"]')
    (track,) = sources.scan(names, asked(**KELVIN)).tracks
    assert (track.id, len(track.frames)) == ("train-seq_01", 2)


def test_what_grey_means_must_be_told(tmp_path):
    with pytest.raises(UsageError, match=r"tell with --range BLACK,WHITE --units K"):
        sources.scan(tree(tmp_path))
    with pytest.raises(UsageError, match="is read as png, which has no --region"):
        sources.scan(tmp_path, asked(**KELVIN, region="0,1,0,1"))


def test_two_files_of_one_number_are_refused_and_strange_names_left_out(tmp_path):
    tree(tmp_path)
    picture(tmp_path / "train/seq_01/cover.png", grey(8))
    release = sources.scan(tmp_path, asked(**KELVIN))
    assert release.problems[0].endswith("cover.png: name not understood; expected frame_001.png")
    picture(tmp_path / "train/seq_01/frame_1.png", grey(8))
    with pytest.raises(UserError, match="both claim number 1; move one away"):
        sources.scan(tmp_path, asked(**KELVIN))


def coloured(path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)


def cut(path):
    picture(path, grey(8, shape=(64, 64)))
    path.write_bytes(path.read_bytes()[:500])


def flipped(path):
    picture(path, grey(8, shape=(64, 64)))
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)


def a_bomb(path):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(png.SIGNATURE + data)


def text(path):
    path.write_text("no picture at all, but long enough to be one")


def nothing(path):
    path.write_bytes(b"")


def a_folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


HARM = {
    coloured: "is colour of 8 bits; expected grey of 8 or 16 bits",
    cut: "damaged",
    flipped: "damaged",
    a_bomb: "is 60000x60000; expected sides of 1 to",
    text: "not a PNG picture",
    nothing: "not a PNG picture",
    a_folder: "not a file",
}


@pytest.mark.parametrize(("harm", "told"), HARM.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_what_is_no_sound_grey_picture_is_a_sentence(tmp_path, harm, told):
    path = picture(tmp_path / "frame_1.png", grey(8))
    (track,) = sources.scan(tmp_path, asked(**KELVIN)).tracks
    path.unlink()
    harm(path)
    with pytest.raises(FrameError, match=told) as caught:
        png.read_frame(track.frames[0])
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
