"""Digits that drift and bounce: how they are drawn, how they lie in a store, what is refused."""

import gzip
import json
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import cli
from pipeline import convert as converting
from pipeline import raw_tree, sources, store, verify
from pipeline.convert import ConvertSettings
from pipeline.errors import UsageError, UserError
from pipeline.sources import FrameError, moving_mnist
from pipeline.sources.options import asked

NAME = "t10k-images-idx3-ubyte"
FEW = {"clips": 6, "clip_frames": 5, "image_size": 20}
REAL = Path(__file__).parents[2] / "shared/data/mnist"


def idx(images, magic=0x803):
    return struct.pack(f">{1 + images.ndim}I", magic, *images.shape) + images.tobytes()


def blobs(count=40, rows=8, columns=6, seed=0):
    """Images, each of greys that no other has, without black."""
    greys = np.random.default_rng(seed).integers(1, 6, (count, rows, columns))
    return (greys + 6 * np.arange(count)[:, None, None]).astype(np.uint8)


def digits(path, images=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = idx(blobs() if images is None else images)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def clips_of(raw, length):
    """(clips, T, H, W): the frames of a track, read."""
    frames = np.stack([moving_mnist.read_frame(frame)[0] for frame in raw.frames])
    return frames.reshape(-1, length, *frames.shape[1:])


def numbers_in(frames):
    """Which of the blobs are seen."""
    grey = np.unique(np.rint(frames * 255).astype(int))
    return {(g - 1) // 6 for g in grey.tolist() if g}


NAMES = [NAME, NAME + ".gz", "t10k-images.idx3-ubyte", "T10k-images.idx3-ubyte.gz"]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_and_packing_gives_the_same_clips(tmp_path, name):
    digits(tmp_path / "plain" / NAME)
    (expected, *_) = sources.scan(tmp_path / "plain", asked(**FEW)).tracks
    file = digits(tmp_path / "x/y" / name)
    for path in (tmp_path / "x", file):
        release = sources.scan(path, asked(**FEW))
        assert release.format == "moving_mnist"
        assert release.tracks[0].id.lower() == "t10k-01"
        np.testing.assert_array_equal(clips_of(release.tracks[0], 5), clips_of(expected, 5))


def test_a_clip_is_what_its_description_says(tmp_path):
    """Told once more, one digit and one frame at a time."""
    digits(tmp_path / NAME)
    words = {"clips": 45, "clip_frames": 30, "digits": 3, "image_size": 24, "seed": 7}
    raw = sources.scan(tmp_path, asked(**words)).tracks[4]
    reel, of, clip = 4, 20, 2
    origin = zlib.crc32(b"t10k")

    def random(*key):
        seed = np.random.SeedSequence(7, spawn_key=(origin, *key))
        return np.random.Generator(np.random.PCG64(seed))

    own = np.argsort(random(0).random(40))[reel::of]
    draw = random(1 + reel, clip)
    expected = np.zeros((30, 24, 24))
    bounces = 0
    for _ in range(3):
        image = blobs()[own[int(draw.random() * len(own))]]
        y, x, angle = draw.random(), draw.random(), 2 * math.pi * draw.random()
        up, along = 0.1 * math.sin(angle), 0.1 * math.cos(angle)
        for t in range(30):
            y, x = y + up, x + along
            if not 0 < y < 1:
                y, up, bounces = min(max(y, 0), 1), -up, bounces + 1
            if not 0 < x < 1:
                x, along, bounces = min(max(x, 0), 1), -along, bounces + 1
            top, left = int((24 - 8) * y), int((24 - 6) * x)
            for i in range(8):
                for j in range(6):
                    at = t, top + i, left + j
                    expected[at] = max(expected[at], image[i, j])
    assert bounces > 3
    found = clips_of(raw, 30)[clip]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (expected / 255).astype(np.float32))


def test_defaults_are_the_literature_s(tmp_path):
    digits(tmp_path / NAME, blobs(40, 28, 28))
    release = sources.scan(tmp_path)
    frames = [frame for raw in release.tracks for frame in raw.frames]
    assert (len(release.tracks), len(frames)) == (20, 20_000)
    assert moving_mnist.frame_shape(frames[0]) == (1, 64, 64)
    assert (frames[0].part.reel.digits, frames[0].part.reel.clip_frames) == (2, 20)
    (channel,) = release.channels
    assert (channel.units, channel.valid_min, channel.valid_max) == ("1", 0, 1)
    assert "328 MB" in release.notes[0]


def test_the_draws_stay_the_same_in_all_versions(tmp_path):
    digits(tmp_path / NAME, (np.arange(40 * 8 * 6) % 251).astype(np.uint8).reshape(40, 8, 6))
    found = [clips_of(raw, 5) for raw in sources.scan(tmp_path, asked(**FEW)).tracks]
    assert zlib.crc32(np.rint(255 * np.concatenate(found)).astype(np.uint8).tobytes()) == 1532724798


def test_reels_share_no_digit_and_use_them_all(tmp_path):
    digits(tmp_path / NAME)
    tracks = sources.scan(tmp_path, asked(clips=800, clip_frames=2, image_size=20, seed=3)).tracks
    shown = [numbers_in(clips_of(raw, 2)) for raw in tracks]
    assert len(shown) == 20
    assert sum(map(len, shown)) == 40  # each in one reel
    assert set().union(*shown) == set(range(40))


def test_a_seed_decides_and_more_clips_leave_the_first_as_they_were(tmp_path):
    digits(tmp_path / NAME)
    made = {}
    for seed, clips in ((0, 40), (0, 80), (1, 40)):
        (first, *_) = sources.scan(tmp_path, asked(**{**FEW, "clips": clips, "seed": seed})).tracks
        made[seed, clips] = clips_of(first, 5)
    assert len(made[0, 80]) == 2 * len(made[0, 40]) == 4
    np.testing.assert_array_equal(made[0, 80][:2], made[0, 40])
    assert (made[0, 40] != made[1, 40]).any()
    assert (made[0, 40][0] != made[0, 40][1]).any()


def test_uneven_numbers_of_clips_and_few_digits(tmp_path):
    digits(tmp_path / NAME, blobs(3))
    tracks = sources.scan(tmp_path, asked(**{**FEW, "clips": 7})).tracks
    assert [len(raw.frames) for raw in tracks] == [15, 10, 10]  # reels of 3, 2 and 2 clips
    assert [raw.attrs["clips"] for raw in tracks] == [3, 2, 2]


def test_memory_that_is_given_is_used(tmp_path):
    digits(tmp_path / NAME)
    frame = sources.scan(tmp_path, asked(**FEW)).tracks[0].frames[3]
    into = np.full((1, 20, 20), np.nan, np.float32)
    assert moving_mnist.read_frame(frame, into=into) is into
    np.testing.assert_array_equal(into, moving_mnist.read_frame(frame, direct=False))
    other = np.empty((1, 4, 4), np.float32)
    assert moving_mnist.read_frame(frame, into=other).shape == (1, 20, 20)


def test_both_files_of_the_release_are_two_sets_of_reels(tmp_path):
    digits(tmp_path / NAME)
    digits(tmp_path / "train-images-idx3-ubyte.gz", blobs(seed=0))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(40, np.uint8), 0x801))
    tracks = {raw.id: raw for raw in sources.scan(tmp_path, asked(**FEW)).tracks}
    assert list(tracks) == [f"{name}-0{n}" for name in ("t10k", "train") for n in range(1, 7)]
    same = [clips_of(tracks[f"{name}-01"], 5) for name in ("t10k", "train")]
    assert (same[0] != same[1]).any()  # of the same pictures, but other draws


def test_a_packed_copy_is_left_alone_and_two_of_one_name_are_refused(tmp_path):
    digits(tmp_path / f"a/{NAME}.gz", blobs(4))
    digits(tmp_path / "a" / NAME)
    release = sources.scan(tmp_path, asked(**FEW))
    assert {frame.paths[0].name for raw in release.tracks for frame in raw.frames} == {NAME}
    digits(tmp_path / "b" / NAME)
    with pytest.raises(UserError, match=r"a/t10k.* and .*b/t10k.* are both called t10k"):
        sources.scan(tmp_path, asked(**FEW))
    names = tmp_path / "some.json"
    names.write_text(json.dumps([f"b/{NAME}"]))
    assert len(sources.scan(names, asked(**FEW)).tracks) == 6


SOUND = idx(blobs())
HARM = {
    "cut": (SOUND[:-1], "holds 1919 bytes of pixels, its header says 1920"),
    "longer": (SOUND + b"x", "holds more bytes of pixels, its header says 1920"),
    "header cut": (SOUND[:10], "begins with 00000803, expected 00000803 and three sizes"),
    "empty": (b"", "begins with nothing, expected 00000803"),
    "text": (b"once upon a time there was", "begins with 6f6e6365, expected 00000803"),
    "labels": (idx(np.zeros(40, np.uint8), 0x801), "holds labels; expected images"),
    "none": (idx(blobs(0)), "its header says 0 images of 8x6; expected 1 to"),
    "a bomb": (struct.pack(">4I", 0x803, 2**31, 2**16, 2**16), "expected 1 to 1073741824 pixels"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("data", "told"), HARM.values(), ids=HARM)
def test_what_is_no_whole_file_of_digits_is_a_sentence(tmp_path, data, told, packed):
    path = tmp_path / (NAME + ".gz" * packed)
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(UserError, match=told) as caught:
        sources.scan(tmp_path, asked(**FEW))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_a_damaged_gzip_is_a_sentence(tmp_path, damage):
    path = digits(tmp_path / f"{NAME}.gz")
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    path.write_bytes({"cut": data[:-20], "flipped": data, "not gzip": SOUND}[damage])
    with pytest.raises(UserError, match=r"damaged|crc|not a gzipped file") as caught:
        sources.scan(path, asked(**FEW))
    assert str(caught.value).startswith(str(path))


def test_labels_alone_are_refused(tmp_path):
    file = tmp_path / "t10k-labels-idx1-ubyte"
    file.write_bytes(idx(np.zeros(40, np.uint8), 0x801))
    for path in (tmp_path, file):
        with pytest.raises(UserError, match="holds labels; expected the images"):
            sources.scan(path, asked(**FEW))


def test_a_file_that_changes_or_goes_after_the_scan_is_told(tmp_path):
    path = digits(tmp_path / NAME)
    frame = sources.scan(tmp_path, asked(**FEW)).tracks[0].frames[0]
    digits(path, blobs(30))
    with pytest.raises(FrameError, match=r"is \(30, 8, 6\) now, was \(40, 8, 6\)"):
        moving_mnist.read_frame(frame)
    path.unlink()
    with pytest.raises(FrameError, match="not a file"):
        moving_mnist.read_frame(frame)
    os.mkfifo(path)
    with pytest.raises(FrameError, match="not a file"):
        moving_mnist.read_frame(frame)


BAD = [
    ({"clips": 0}, "--clips 0: expected 1 to"),
    ({"clip_frames": 1}, "--clip-frames 1: expected 2 to"),
    ({"digits": 0}, "--digits 0: expected 1 to"),
    ({"seed": -1}, "--seed -1: expected 0 to"),
    ({"image_size": 8}, "--image-size 8: digits of .* are 8x6, expected 9 to 4096"),
    ({"image_size": 5000}, "--image-size 5000: expected 1 to 4096"),
    ({"clips": 1_000_000}, "20000000 frames, expected 2000000 at most"),
    ({"region": "0,1,0,1"}, "is read as moving_mnist, which has no --region"),
]


@pytest.mark.parametrize(("words", "told"), BAD, ids=range(len(BAD)))
def test_options_that_mean_nothing_are_refused(tmp_path, words, told):
    digits(tmp_path / NAME)
    with pytest.raises(UsageError, match=told):
        sources.scan(tmp_path, asked(**words))


def convert(source, target, workers=1, **words):
    return converting.convert(
        source,
        target,
        ConvertSettings(options=asked(**{**FEW, **words})),
        manifests=target.parent / "manifests",
        workers=workers,
    )


def bytes_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file of 4 digits, and a store of 4 reels of 3 clips of 5 frames."""
    home = tmp_path_factory.mktemp("digits")
    digits(home / "raw" / NAME, blobs(4))
    return home, convert(home / "raw", home / "m.zarr", clips=12)


def test_a_window_as_long_as_a_clip_is_a_clip_and_none_is_longer(made):
    home, done = made
    raws = sources.scan(home / "raw", asked(**{**FEW, "clips": 12})).tracks
    for raw, track in zip(raws, store.open_store(done.store), strict=True):
        assert track.id == raw.id
        starts = track.windows(5)
        assert starts.tolist() == [0, 5, 10]
        assert len(track.windows(6)) == 0
        assert len(track.windows(2)) == 12  # 4 in each clip
        np.testing.assert_array_equal(
            np.stack([track.checked(int(s), 5)[:, 0] for s in starts]), clips_of(raw, 5)
        )
    assert not sum(record["flagged"] for record in done.records.values())


def test_a_gap_is_a_step_whatever_the_step(made, tmp_path):
    home, _ = made
    words = {"clips": 12, "step": "10min", "start": "2020-01-01", "clip_frames": 2}
    done = convert(home / "raw", tmp_path / "m.zarr", **words)
    track = store.open_store(done.store).track("t10k-01")
    assert np.diff(track.times).tolist() == [600, 1200, 600, 1200, 600]
    assert done.records["t10k-01"]["start"] == "2020-01-01T00:00:00"
    assert track.windows(2).tolist() == [0, 2, 4]


def test_a_killed_conversion_goes_on_to_the_same_bytes(made, tmp_path, monkeypatch):
    home, done = made
    target, calls, work = tmp_path / "m.zarr", [], converting.convert_track

    def killed(job, *rest):
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return work(job, *rest)

    monkeypatch.setattr(converting, "convert_track", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(home / "raw", target, clips=12)
    monkeypatch.undo()
    again = convert(home / "raw", target, clips=12)
    assert len(again.reused) == 2
    assert bytes_of(target) == bytes_of(done.store)


@pytest.mark.slow
def test_several_workers_write_the_same_bytes(made, tmp_path):
    home, done = made
    convert(home / "raw", tmp_path / "m.zarr", workers=2, clips=12)
    assert bytes_of(tmp_path / "m.zarr") == bytes_of(done.store)


def test_other_options_are_refused_in_the_same_store(made):
    home, done = made
    with pytest.raises(UserError, match=r"converted with .*--seed was .*, is now 1; .*--replace"):
        convert(home / "raw", done.store, clips=12, seed=1)


def test_verify_draws_every_frame_again(made, tmp_path):
    home, done = made
    found = verify.verify(done.store, source=home / "raw", workers=1)
    assert (found.equal, found.faults) == (60, [])
    other = digits(tmp_path / NAME, blobs(4, seed=1))
    assert verify.verify(done.store, source=other, workers=1).equal < 60


def test_files_in_a_stores_place_are_the_same_clips(tmp_path, monkeypatch):
    digits(tmp_path / NAME, blobs(2))
    monkeypatch.setattr(moving_mnist, "CLIPS", 4)
    raws = sources.scan(tmp_path).tracks
    for raw, track in zip(raws, raw_tree.opened(tmp_path), strict=True):
        assert track.windows(20).tolist() == [0, 20]
        np.testing.assert_array_equal(track.checked(20, 20)[:, 0], clips_of(raw, 20)[1])


def test_the_command_line_plans_and_inspects(made, tmp_path):
    home, done = made
    planned = CliRunner().invoke(cli.app, ["convert", str(home / "raw"), "x.zarr", "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert "4 tracks, 1 files, 20000 frames; uncompressed about 328 MB" in planned.output
    quick = CliRunner().invoke(cli.app, ["inspect", str(home / "raw"), "--quick"])
    assert quick.exit_code == 0, quick.output
    seen = CliRunner().invoke(cli.app, ["inspect", str(done.store)])
    assert seen.exit_code == 0, seen.output


@pytest.mark.skipif(not REAL.is_dir(), reason="the real digits are not here")
def test_real_digits_fill_a_twentieth_of_the_square():
    (first, *_) = sources.scan(REAL, asked(clips=40)).tracks
    clips = clips_of(first, 20)
    assert clips.shape == (2, 20, 64, 64)
    assert 0.02 < clips.mean() < 0.1  # two of 0.13 x 28² of 64²: 0.05
    assert (clips[:, 1:] != clips[:, :-1]).any(axis=(2, 3)).all()
