"""Training straight from a raw tree: the same samples as from its store, only slower."""

import json
import pickle

import numpy as np
import pytest
import torch

from pipeline import manifest, raw_tree
from pipeline.errors import UserError
from pipeline.loader import Loader
from pipeline.split import split
from pipeline.store import Store


@pytest.fixture
def tree(tiny):
    tiny.track("202101", [0, 1, 2, 3])
    tiny.track("202102", [0, 1, 3, 4, 5])
    pixels = tiny.pixels(6)
    pixels[:2] = -19.1  # an eighth of it is missing
    tiny.write(6, "202102", pixels=pixels)
    return tiny


def test_a_raw_tree_has_the_face_of_its_store(tree):
    converted, raw = tree.store(), raw_tree.opened(tree.root)
    assert isinstance(raw, Store)
    assert raw.ids == converted.ids
    assert raw.channels == converted.channels
    for a, b in zip(raw, converted, strict=True):
        assert a.shape == b.shape
        np.testing.assert_array_equal(a.times, b.times)
        np.testing.assert_array_equal(a.flag, b.flag)
        np.testing.assert_array_equal(a.checked(0, len(a.times)), b.frames)
        for name, values in b.statistics.items():
            np.testing.assert_array_equal(a.statistics[name], values)
    for mine, theirs in zip(raw.triplets(), converted.triplets(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(UserError, match="no track '1'; it has 202101, 202102"):
        raw.track("1")


def test_it_gives_the_batches_of_its_store(tree):
    options = {"window": 3, "patch": 8, "batch": 2, "crops_per_window": 5}
    of_store = Loader(list(tree.store()), **options)
    of_raw = pickle.loads(pickle.dumps(Loader(list(raw_tree.opened(tree.root)), **options)))
    assert len(of_store) == len(of_raw)
    for mine, theirs in zip(of_raw.epoch(1), of_store.epoch(1), strict=True):
        assert torch.equal(mine, theirs)


def test_it_says_what_converting_would_gain(tree, capsys):
    raw_tree.opened(tree.root)
    said = capsys.readouterr().err
    assert "is a raw tree: for every crop whole files are inflated" in said
    assert f"cli convert {tree.root} {tree.root}.zarr" in said


def test_what_cannot_be_read_is_named_and_left_out(tree, capsys):
    bad = tree.write(9, "202101")
    bad.write_bytes(bad.read_bytes()[:700])
    tree.write(0, "202103").write_bytes(b"")
    opened = raw_tree.opened(tree.root)
    assert opened.ids == ["202101", "202102"]
    assert len(opened.track("202101").times) == 4
    said = capsys.readouterr().err
    assert f"Left out: {bad}" in said
    assert "-202103-" in said


def test_a_file_that_changes_meanwhile_is_an_error(tree):
    track = raw_tree.opened(tree.root).track("202101")
    track.raw.frames[1].paths[0].write_bytes(b"no image")
    with pytest.raises(UserError, match="not a readable HDF5 image"):
        track.cut(0, 3, 0, 0, 8, 8)


def test_a_split_of_it_serves_only_the_same_files(tree):
    made = split(tree.root, tree.home / "s.json", eval_ids=["202102"])
    assert made.triplets == {"train": 2, "eval": 1, "test": 0}
    opened = raw_tree.opened(tree.root)
    assert manifest.read_split(tree.home / "s.json", opened).train == ["202101"]
    tree.write(9, "202101")
    with pytest.raises(UserError, match="run `cli split"):
        manifest.read_split(tree.home / "s.json", raw_tree.opened(tree.root))
    assert json.loads((tree.home / "s.json").read_text())["store"] == tree.root.name


def test_not_one_readable_frame(tiny):
    tiny.write(0).write_bytes(b"")
    with pytest.raises(UserError, match="not one readable frame"):
        raw_tree.opened(tiny.root)


def test_neither_a_store_nor_raw(tmp_path):
    with pytest.raises(UserError, match="no store here"):
        raw_tree.opened(tmp_path)
    with pytest.raises(UserError, match="no store here"):
        raw_tree.opened(tmp_path / "absent")
