"""What is in memory of a file, and asking for it: against the system itself."""

import os
import time

import numpy as np
import pytest

from pipeline import paging

pytestmark = pytest.mark.skipif(not paging.CAN_ADVISE, reason="only Linux tells")
SIZE = 64 * paging.PAGE


@pytest.fixture
def file(tmp_path):
    """A file of 64 pages that is not in memory, if this disk lets go of it."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
    return path


def share(array, first=0, count=SIZE):
    return paging.share_in_memory([(paging.address(array) + first, count)])


def test_memory_of_ones_own_is_there():
    assert share(np.ones(SIZE, np.uint8)) == 1
    assert paging.share_in_memory([]) == 1


def test_what_is_asked_for_comes(file):
    array = np.asarray(np.memmap(file, np.uint8, "r"))
    if share(array):
        pytest.skip("this disk is memory")
    start = paging.address(array) + 8 * paging.PAGE + 5
    paging.will_need(np.array([start]), np.array([4 * paging.PAGE]))
    deadline = time.monotonic() + 10
    while share(array, 8 * paging.PAGE, 4 * paging.PAGE) < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert share(array, 8 * paging.PAGE, 4 * paging.PAGE) == 1


def test_at_random_only_what_is_touched_is_read(file):
    array = np.asarray(np.memmap(file, np.uint8, "r"))
    if share(array):
        pytest.skip("this disk is memory")
    paging.at_random(array, True)
    int(array[20 * paging.PAGE])
    assert share(array) == pytest.approx(1 / 64)


def test_advice_on_nothing_of_ours_breaks_nothing():
    paging.will_need(np.array([paging.PAGE * 3]), np.array([99]))
