"""Batches made ahead: in order, no more than wanted, never written over while somebody looks."""

import gc
import threading
import time

import numpy as np
import pytest
import torch

from pipeline.ahead import made_ahead
from pipeline.prefetch import Memory, on_device


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_order_is_kept_whoever_is_first(threads):
    def make(x):
        time.sleep(0.001 * (x % 3))
        return x * x

    assert list(made_ahead(make, range(30), threads)) == [x * x for x in range(30)]
    assert list(made_ahead(make, [], threads)) == []


def test_the_next_are_made_while_one_is_used_but_not_all():
    made = []
    stream = made_ahead(lambda x: made.append(x) or x, range(1000), 2)
    assert next(stream) == 0
    deadline = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert sorted(made) == [0, 1, 2, 3]
    stream.close()
    assert len(made) == 4


def test_what_goes_wrong_is_raised_in_its_turn():
    def make(x):
        if x == 3:
            raise ValueError("three")
        return x

    stream = made_ahead(make, range(9), 2)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(stream)


def test_threads_end_with_the_stream():
    before = threading.active_count()
    stream = made_ahead(lambda x: x, range(99), 3)
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


def address(tensor):
    return tensor.untyped_storage().data_ptr()


def test_memory_is_used_again_when_its_tensor_is_gone():
    memory = Memory((4, 3), pinned=False)
    first = torch.from_numpy(memory.lend(4))
    where = address(first)
    del first
    gc.collect()
    assert address(torch.from_numpy(memory.lend(2))) == where


def test_memory_is_not_used_again_while_any_view_is_left():
    memory = Memory((4, 3), pinned=False)
    lent = torch.from_numpy(memory.lend(4))
    view = lent.split(2)[1][0]
    where = address(lent)
    del lent
    gc.collect()
    others = [torch.from_numpy(memory.lend(4)) for _ in range(3)]
    assert where not in map(address, others)
    assert len(set(map(address, others))) == 3
    del view
    gc.collect()
    assert address(torch.from_numpy(memory.lend(4))) == where


def test_more_than_it_has_room_for_is_fresh():
    memory = Memory((2, 3), pinned=False)
    assert memory.lend(5).shape == (5, 3)
    assert not memory.free


def test_on_a_cpu_batches_are_passed_on():
    batches = [torch.full((2,), float(x)) for x in range(3)]
    assert all(
        a is b for a, b in zip(on_device(batches, torch.device("cpu")), batches, strict=True)
    )


@pytest.mark.gpu
def test_a_gpu_gets_each_batch_whole_though_its_memory_is_used_again():
    device = torch.device("cuda")
    memory = Memory((64, 3, 1, 128, 128), pinned=True)

    def batches():
        for x in range(50):
            room = memory.lend(64)
            room[...] = x
            yield torch.from_numpy(room)

    seen = []
    for x, batch in enumerate(on_device(batches(), device)):
        assert batch.device.type == "cuda"
        seen.append((batch == x).all())
    assert len(seen) == 50
    assert all(bool(ok) for ok in seen)
    assert len(memory.free) < 6
    assert torch.from_numpy(memory.lend(1)).is_pinned()


def test_lent_memory_is_float32_and_whole():
    room = Memory((4, 3), pinned=False).lend(3)
    assert room.dtype == np.float32
    assert room.flags.c_contiguous
