"""Arrays of what was scored: whole, or not there."""

import numpy as np
import pytest
import torch

from pipeline.arrays import Arrays
from pipeline.errors import UserError


def put(arrays, values, start):
    batch = torch.full((2, 1, 1, 2, 2), float(values))
    arrays.put(inputs=batch, truth=batch + start, predictions=batch)


def test_batches_become_one_array_that_appears_at_the_end(tmp_path):
    arrays = Arrays(tmp_path / "a" / "202101", 4)
    put(arrays, 1, 10)
    put(arrays, 2, 10)
    assert not (tmp_path / "a" / "202101").exists()
    arrays.finish(np.arange(4)[:, None])
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["202101"]
    truth = np.load(tmp_path / "a" / "202101" / "truth.npy")
    assert truth[:, 0, 0, 0, 0].tolist() == [11, 11, 12, 12]
    assert np.load(tmp_path / "a" / "202101" / "times.npy").shape == (4, 1)


def test_one_that_was_left_behind_is_begun_anew_and_an_old_one_replaced(tmp_path):
    for value in (1, 2, 3):
        arrays = Arrays(tmp_path / "202101", 2)
        put(arrays, value, 0)
        if value != 2:  # the second one was killed
            arrays.finish(np.zeros((2, 1)))
    assert np.load(tmp_path / "202101" / "inputs.npy").max() == 3
    assert [p.name for p in tmp_path.iterdir()] == ["202101"]


def test_other_files_are_never_touched(tmp_path):
    (tmp_path / "202101").mkdir()
    (tmp_path / "202101" / "2021071900-202101-HMW8-1.h5").write_text("raw")
    with pytest.raises(
        UserError, match=r"holds 2021071900-202101-HMW8-1\.h5; choose another --arrays"
    ):
        Arrays(tmp_path / "202101", 2)
    assert (tmp_path / "202101" / "2021071900-202101-HMW8-1.h5").read_text() == "raw"
