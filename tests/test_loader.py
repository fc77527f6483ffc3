"""The loader: which crop comes when follows from (seed, epoch, rank) alone."""

import multiprocessing
import pickle
import threading

import numpy as np
import pytest
import torch

from pipeline import loader as loading
from pipeline import store
from pipeline.errors import UserError
from pipeline.loader import Loader, fixed_crops
from pipeline.prefetch import Memory
from pipeline.store import BLANK, TOO_MANY_MISSING, Track
from pipeline.store_writer import Array, TrackWriter

SIZE = 12


def coded(t: int, number: int, shape: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """A frame whose pixels say where they are from: track, time, row, column; two digits each."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (((number * 100.0 + t) * 100 + y) * 100 + x).astype(np.float32)[None]


def make(path, codec="none", sizes=(5, 4), shape=(SIZE, SIZE), gap=None) -> list[Track]:
    path.mkdir(exist_ok=True)
    tracks = []
    for number, frames in enumerate(sizes):
        id = f"2021{number + 1:02}"
        times = np.arange(frames) * 3600
        if gap is not None:
            times[gap:] += 3600
        with TrackWriter(path, id, (1, *shape), codec) as writer:
            for t in range(frames):
                writer.append(coded(t, number, shape))
            arrays = {
                "time": Array(("time",), times, store.TIME_ATTRS),
                "flag": Array(("time",), np.zeros(frames, np.uint8), {}),
            }
            writer.commit(arrays, {}, {})
        tracks.append(Track(path, id))
    return tracks


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def tracks(home):
    """Two tracks of 5 and 4 frames: 3 + 2 triplets."""
    return make(home / "plain")


def batches(tracks, epoch=0, start=0, **options):
    options = {"window": 3, "patch": 4, "batch": 2} | options
    return list(Loader(tracks, **options).epoch(epoch, start))


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def origin(sample: torch.Tensor) -> tuple[int, int]:
    """Track and first frame of one coded sample (T, C, h, w)."""
    code = int(sample[0, 0, 0, 0])
    return code // 10**6, code // 10**4 % 100


def test_batches_have_their_shape(tracks):
    found = batches(tracks)
    assert len(found) == len(Loader(tracks, window=3, patch=4, batch=2)) == 2  # 5 // 2
    assert {tuple(b.shape) for b in found} == {(2, 3, 1, 4, 4)}
    assert {b.dtype for b in found} == {torch.float32}
    assert batches(tracks, batch=9)[0].shape == (5, 3, 1, 4, 4)  # the only one may be smaller
    assert batches(tracks, patch=SIZE)[0].shape[-2:] == (SIZE, SIZE)


def test_the_same_position_gives_the_same_batch(tracks):
    for options in ({}, {"crops_per_window": 3, "rank": 1, "ranks": 2}, {"augment": False}):
        whole = batches(tracks, 5, **options)
        assert same(whole, batches(tracks, 5, **options))
        for start in range(len(whole) + 2):
            assert same(whole[start:], batches(tracks, 5, start, **options))


def test_seed_epoch_and_rank_each_change_the_batches(tracks):
    first = batches(tracks, crops_per_window=4)
    assert not same(first, batches(tracks, 1, crops_per_window=4))
    assert not same(first, batches(tracks, seed=1, crops_per_window=4))
    two = [batches(tracks, crops_per_window=4, rank=rank, ranks=2) for rank in (0, 1)]
    assert not same(*two)
    assert not same(batches(tracks, 1, seed=2), batches(tracks, 2, seed=1))


@pytest.mark.parametrize("crops", [1, 3])
def test_an_epoch_shows_every_window_as_often(tracks, crops):
    samples = [s for b in batches(tracks, 2, batch=1, crops_per_window=crops) for s in b]
    found = sorted(origin(sample) for sample in samples)
    assert found == sorted([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)] * crops)


def test_crops_of_one_window_differ(tracks):
    samples = [s for b in batches(tracks[1:], batch=1, crops_per_window=20) for s in b]
    assert len({tuple(s.flatten().tolist()) for s in samples}) > 30  # of 2 x 20


def test_all_frames_of_a_window_get_one_crop_and_one_orientation(tracks):
    for batch in batches(tracks, crops_per_window=20):
        for sample in batch:
            place = sample % 10**4  # row and column: the same in every frame
            assert torch.equal(place[0], place[1])
            assert torch.equal(place[0], place[2])
            times = (sample // 10**4 % 100).flatten(1)
            assert (times == times[:, :1]).all()
            assert times[:, 0].diff().tolist() == [1, 1]


def test_a_crop_is_a_square_of_neighbours_in_all_8_orientations(tracks):
    seen = set()
    for batch in batches(tracks, crops_per_window=40):
        for sample in batch:
            place = sample[0, 0].numpy() % 10**4
            y, x = place // 100, place % 100
            down = (y[1, 0] - y[0, 0], x[1, 0] - x[0, 0])
            right = (y[0, 1] - y[0, 0], x[0, 1] - x[0, 0])
            assert sorted(map(abs, (*down, *right))) == [0, 0, 1, 1]
            seen.add((down, right))
            assert len(np.unique(place)) == 16
    assert len(seen) == 8


def test_rotations_never_mirror(tracks):
    seen = set()
    for batch in batches(tracks, augment="rotations", crops_per_window=40):
        for sample in batch:
            place = sample[0, 0].numpy() % 10**4
            y, x = place // 100, place % 100
            down = (y[1, 0] - y[0, 0], x[1, 0] - x[0, 0])
            right = (y[0, 1] - y[0, 0], x[0, 1] - x[0, 0])
            assert down[0] * right[1] - down[1] * right[0] == 1  # -1 in a mirror
            seen.add((down, right))
    assert len(seen) == 4


def test_a_half_turn_is_the_only_rotation_that_fits_what_is_not_square(tiny):
    for hour in range(3):
        tiny.write(hour, pixels=np.arange(200.0, 296).reshape(8, 12))
    loader = Loader([*tiny.store()], window=3, patch=None, batch=1, augment="rotations")
    assert loader.ways.tolist() == [0, 3]
    assert Loader([*tiny.store()], window=3, patch=None, batch=1).ways.tolist() == [0, 1, 2, 3]


def test_without_augmentation_north_stays_up(tracks):
    for batch in batches(tracks, augment=False, crops_per_window=5):
        assert (batch.diff(dim=-1) == 1).all()
        assert (batch.diff(dim=-2) == 100).all()


def test_every_place_of_a_frame_is_reached(tracks):
    seen = np.zeros((SIZE, SIZE), int)
    for batch in batches(tracks, crops_per_window=150):
        place = batch[:, 0, 0].long().numpy() % 10**4
        seen[place // 100, place % 100] += 1
    assert seen.all()


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_ranks_share_an_epoch_without_overlap(tracks, ranks):
    crops = 2 * ranks  # 5 windows: a multiple, nothing is left over
    found = []
    for rank in range(ranks):
        loader = Loader(
            tracks, window=3, patch=4, batch=1, crops_per_window=crops, rank=rank, ranks=ranks
        )
        assert len(loader) == 10
        found += [origin(b[0]) for b in loader.epoch(3)]
    assert sorted(found) == sorted([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)] * crops)


def test_what_is_left_over_among_ranks_differs_from_epoch_to_epoch(tracks):
    """5 windows among 2 ranks: one stays out each time, but never the same for good."""
    loaders = [Loader(tracks, window=3, patch=4, batch=1, rank=r, ranks=2) for r in (0, 1)]
    seen = {epoch: [origin(b[0]) for x in loaders for b in x.epoch(epoch)] for epoch in range(30)}
    assert all(len(set(found)) == 4 for found in seen.values())
    assert len({place for found in seen.values() for place in found}) == 5


def test_no_window_spans_a_gap(tmp_path):
    tracks = make(tmp_path, sizes=(6,), gap=2)
    found = {origin(s) for b in batches(tracks, batch=1) for s in b}
    assert found == {(0, 2), (0, 3)}  # 0 1 | 2 3 4 5


def test_both_codecs_give_the_same_batches(tmp_path):
    plain = make(tmp_path / "plain", sizes=(4,), shape=(150, 200))
    packed = make(tmp_path / "zstd", "zstd", sizes=(4,), shape=(150, 200))
    options = {"patch": 100, "crops_per_window": 6}
    assert same(batches(plain, **options), batches(packed, **options))


def test_tracks_of_different_size_are_cut_within_their_own_frame(tmp_path, tracks):
    wide = make(tmp_path, sizes=(3,), shape=(5, 40))
    samples = [s for b in batches([*tracks, *wide], crops_per_window=30) for s in b]
    place = torch.stack(samples).long() % 10**4
    assert int((place % 100).max()) > SIZE  # columns that only the wide one has


def test_a_patch_larger_than_a_frame(tracks):
    said = r"training.patch_size 13 is larger than the 12x12 frames of track 202101; .* at most 12"
    with pytest.raises(UserError, match=said):
        Loader(tracks, window=3, patch=13, batch=1)


def test_no_window_is_an_error_with_a_way_out(tracks):
    said = (
        "tracks 202101, 202102: no window of 7 usable frames at equal steps, the longest run is 5; "
        "make {} smaller, or take other tracks with `cli split`"
    )
    for options, setting in (
        ({}, "training.sequence_length"),
        ({"window_setting": "task.past + task.future"}, "task.past + task.future"),
    ):
        with pytest.raises(UserError) as error:
            Loader(tracks, window=7, patch=4, batch=1, **options)
        assert str(error.value) == said.format(setting)
    with pytest.raises(UserError, match="5 windows cannot be shared among 6 ranks"):
        Loader(tracks, window=3, patch=4, batch=1, ranks=6)


def test_flagged_frames_are_named_where_they_leave_no_window(tmp_path):
    (track,) = make(tmp_path, sizes=(6,), gap=4)  # 0 1 2 3 | 4 5
    track.flag = np.array([0, 0, 1, 0, 0, 0], np.uint8)
    said = r"the longest run is 2; make .* smaller, or convert with a larger --max-missing, or take"
    with pytest.raises(UserError, match=said):
        Loader([track], window=3, patch=4, batch=1)
    for hopeless in (BLANK, BLANK | TOO_MANY_MISSING):  # a larger limit would not help
        track.flag = np.array([0, 0, hopeless, 0, 0, 0], np.uint8)
        with pytest.raises(UserError, match=r"the longest run is 2; make .* smaller, or take"):
            Loader([track], window=3, patch=4, batch=1)
    track.flag = np.array([0, 0, 1, 0, 0, 0], np.uint8)
    with pytest.raises(UserError, match=r"make .* smaller, or take"):  # nor over the gap
        Loader([track], window=5, patch=4, batch=1)
    track.flag = np.ones(6, np.uint8)
    with pytest.raises(UserError, match="the longest run is 0; convert with a larger"):
        fixed_crops([track], window=1, patch=4, count=1)


def test_tracks_of_different_channels(tmp_path, tracks):
    with TrackWriter(tmp_path, "202109", (2, SIZE, SIZE), "none") as writer:
        for _ in range(3):
            writer.append(np.zeros((2, SIZE, SIZE), np.float32))
        writer.commit({}, {}, {})
    with pytest.raises(UserError, match="track 202109 has 2 channels, 202101 has 1"):
        Loader([*tracks, Track(tmp_path, "202109")], window=3, patch=4, batch=1)


def test_many_tracks_ask_for_more_open_files(tracks, monkeypatch):
    asked = []
    monkeypatch.setattr(loading, "allow_open_files", asked.append)
    Loader(tracks, window=3, patch=4, batch=1)
    assert asked == [2]


def test_fixed_crops_are_the_same_at_every_call(tracks):
    first = fixed_crops(tracks, window=3, patch=4, count=3)
    assert first.shape == (3, 3, 1, 4, 4)
    assert torch.equal(first, fixed_crops(tracks, window=3, patch=4, count=3))
    assert [origin(s) for s in first] == [(0, 0), (0, 2), (1, 1)]  # evenly over 5 windows
    assert (first.diff(dim=-1) == 1).all()  # north up
    everything = fixed_crops(tracks, window=3, patch=4, count=99)
    assert [origin(s) for s in everything] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert len(fixed_crops(tracks, window=3, patch=4, count=1)) == 1


def test_a_loader_in_use_can_be_sent(tracks):
    loader = Loader(tracks, window=3, patch=4, batch=2)
    expected = list(loader.epoch(0))
    assert same(expected, list(pickle.loads(pickle.dumps(loader)).epoch(0)))


def sums_in_a_child(loader, queue):
    queue.put([float(batch.double().sum()) for batch in loader.epoch(0)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_loader_works_in_another_process(tracks, method):
    loader = Loader(tracks, window=3, patch=4, batch=2)
    expected = [float(batch.double().sum()) for batch in loader.epoch(0)]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=sums_in_a_child, args=(loader, queue))
    child.start()
    assert queue.get(timeout=120) == expected
    child.join()


@pytest.mark.parametrize("options", [{"threads": 0}, {"threads": 3}, {"read_ahead": "on"}])
@pytest.mark.parametrize("codec", store.CODECS)
def test_how_batches_are_fetched_does_not_show(tmp_path, codec, options, monkeypatch):
    found = make(tmp_path, codec, sizes=(9, 5, 7))
    usual = batches(found, crops_per_window=20)
    assert same(usual, batches(found, crops_per_window=20, **options))
    monkeypatch.setattr(loading, "TOGETHER", 1)  # one batch at a time
    assert same(usual, batches(found, crops_per_window=20, **options))
    assert same(usual[7:], batches(found, 0, 7, crops_per_window=20, **options))


def test_a_batch_that_is_kept_is_not_written_over(tracks):
    loader = Loader(tracks, window=3, patch=4, batch=1, crops_per_window=40)
    kept, copies = [], []
    for batch in loader.epoch(0):
        kept.append(batch[0, 1])
        copies.append(batch[0, 1].clone())
    assert len(kept) == 200
    assert same(kept, copies)


def test_memory_does_not_grow_over_an_epoch(tracks):
    loader = Loader(tracks, window=3, patch=4, batch=2, crops_per_window=2000)
    loader.together = 1
    loader.memory = Memory((2, 3, 1, 4, 4), pinned=False)
    rooms = {batch.untyped_storage().data_ptr() for batch in loader.epoch(0)}
    assert len(loader) == 5000
    assert len(rooms) < 10


def test_an_epoch_left_early_leaves_no_thread(tracks):
    before = threading.active_count()
    stream = Loader(tracks, window=3, patch=4, batch=1, crops_per_window=99).epoch(0)
    next(stream)
    del stream
    assert threading.active_count() == before


def test_damage_found_by_a_thread_is_told(tmp_path):
    tracks = make(tmp_path, "zstd", sizes=(5,), shape=(130, 130))
    file = tmp_path / "202101" / store.SHARD_FILE
    data = bytearray(file.read_bytes())
    data[3] ^= 255
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"202101: frame 0 is damaged .*; remove this folder"):
        batches(tracks, patch=64, crops_per_window=20)


def test_files_that_are_not_in_memory_are_read_ahead(tracks, monkeypatch):
    asked = []
    monkeypatch.setattr(loading.paging, "will_need", lambda *a: asked.append(a))
    monkeypatch.setattr(loading.paging, "share_in_memory", lambda stretches: 0.5)
    loader = Loader(tracks, window=3, patch=4, batch=2, crops_per_window=20, threads=0)
    loader.together = 1
    assert len(list(loader.epoch(0))) == len(asked) == 50  # each batch once
    starts, lengths = asked[0]
    assert len(starts) == 2 * 3  # each frame of each sample
    assert set(lengths.tolist()) == {3 * SIZE * 4 + 4 * 4}  # from its first pixel to its last
    monkeypatch.setattr(loading.paging, "share_in_memory", lambda stretches: 1.0)
    list(loader.epoch(1))
    assert len(asked) == 50
    loader.read_ahead = "on"
    list(loader.epoch(1))
    assert len(asked) == 100
    loader.read_ahead = "off"
    monkeypatch.setattr(loading.paging, "share_in_memory", lambda stretches: 0.0)
    list(loader.epoch(1))
    assert len(asked) == 100
