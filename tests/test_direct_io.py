"""Files written past the page cache hold the same bytes, and no refusal of the disk is lost."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline import direct_io, paging
from pipeline.direct_io import ALIGNED, DirectFile

fcntl = pytest.importorskip("fcntl")  # on Windows all goes through the cache


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_io, "BLOCK", 2 * ALIGNED)
    monkeypatch.setattr(direct_io, "_free", [])


def noise(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def write(path: Path, pieces: list[bytes], most: int = 0) -> bytes:
    """Every second one in place; what stands in the file."""
    file = DirectFile(path, most)
    try:
        for number, piece in enumerate(pieces):
            if number % 2 and len(piece) <= most:
                room = file.room(len(piece))
                room[...] = np.frombuffer(piece, np.uint8)
                file.append(room)
            else:
                file.append(piece)
        file.finish()
    finally:
        file.close()
    return path.read_bytes()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_length(tmp_path, seed):
    rng = random.Random(seed)
    longest = rng.choice([5, 1000, 3 * ALIGNED, 9 * ALIGNED])
    pieces = [noise(rng.randrange(longest)) for _ in range(rng.randrange(40))]
    assert write(tmp_path / "x", pieces, longest) == b"".join(pieces)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("length", [0, 1, ALIGNED, 2 * ALIGNED - 1, 2 * ALIGNED, 5 * ALIGNED])
def test_lengths_at_the_edge_of_a_page_or_a_block(tmp_path, length):
    assert write(tmp_path / "x", [noise(length)]) == noise(length)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.skipif(not direct_io.PAST_CACHE, reason="this system writes nothing past the cache")
def test_a_file_system_that_cannot_do_it(tmp_path, monkeypatch):
    asked, settled, real = [], [], fcntl.fcntl

    def without(file: int, what: int, flags: int = 0) -> int:
        if what == fcntl.F_SETFL and flags & direct_io.PAST_CACHE:
            asked.append(flags)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(file, what, flags)

    monkeypatch.setattr(fcntl, "fcntl", without)
    monkeypatch.setattr(os, "fdatasync", settled.append)
    monkeypatch.setattr(direct_io, "SETTLED_BY", 20_000)
    assert write(tmp_path / "x", [noise(50_000)]) == noise(50_000)
    assert len(asked) == 1
    assert len(settled) == 2  # the disk begins before the end


@pytest.mark.usefixtures("small_blocks")
def test_who_is_interrupted_while_the_disk_writes_still_waits_for_it(tmp_path, monkeypatch):
    """Else the block would be another file's while it is being written."""
    let_go, real = threading.Event(), os.write

    def slow(file: int, data: memoryview) -> int:
        let_go.wait(10)
        return real(file, data)

    monkeypatch.setattr(os, "write", slow)
    file = DirectFile(tmp_path / "x", 0)
    file.append(noise(2 * ALIGNED))
    with monkeypatch.context() as patch:
        patch.setattr(file.writing, "result", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            file.append(noise(2 * ALIGNED))
    threading.Timer(0.2, let_go.set).start()
    file.close()
    assert let_go.is_set()
    assert (tmp_path / "x").read_bytes() == noise(2 * ALIGNED)


def test_a_forked_process_has_blocks_of_its_own(tmp_path):
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    file = DirectFile(tmp_path / "x", 100)
    file.room(100)[...] = 1
    child = os.fork()
    if not child:
        file.room(100)[...] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (file.room(100) == 1).all()
    file.close()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.skipif(not direct_io.PAST_CACHE, reason="this system writes nothing past the cache")
def test_a_file_system_that_says_so_only_when_written_to(tmp_path, monkeypatch):
    refused, real = [], os.write

    def refuse_once(file: int, data: memoryview) -> int:
        if not refused:
            refused.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(file, data)

    monkeypatch.setattr(os, "write", refuse_once)
    assert write(tmp_path / "x", [noise(50_000)]) == noise(50_000)
    assert refused


@pytest.mark.usefixtures("small_blocks")
def test_a_disk_that_takes_a_little_at_a_time(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:777]))
    assert write(tmp_path / "x", [noise(50_000)]) == noise(50_000)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("length", [100, 3 * ALIGNED, 30 * ALIGNED])
def test_what_the_disk_refuses_meanwhile_is_raised(tmp_path, monkeypatch, length):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = DirectFile(tmp_path / "x", 0)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012
        for start in range(0, length, 100):
            file.append(noise(100)[: length - start])
        file.finish()
    file.close()


@pytest.mark.usefixtures("small_blocks")
def test_what_was_refused_is_raised_by_close_at_the_latest(tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    file = DirectFile(tmp_path / "x", 0)
    file.append(noise(2 * ALIGNED))
    with pytest.raises(OSError, match="No space left"):
        file.close()
    file.close()  # does nothing more


def test_an_existing_file_is_not_written_over(tmp_path):
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        DirectFile(tmp_path / "x", 0)
    assert (tmp_path / "x").read_bytes() == b"mine"


@pytest.mark.usefixtures("small_blocks")
def test_open_files_share_no_memory_and_later_ones_use_it_again(tmp_path):
    one, other = (DirectFile(tmp_path / name, 100) for name in "ab")
    rooms = [file.room(100) for file in (one, other)]
    assert not np.shares_memory(*rooms)
    one.close()
    again = DirectFile(tmp_path / "c", 100)
    assert np.shares_memory(again.filling, rooms[0]) or np.shares_memory(again.leaving, rooms[0])
    again.close()
    larger = DirectFile(tmp_path / "d", 10**6)
    assert len(larger.room(10**6)) == 10**6
    larger.close()
    other.close()


@pytest.mark.skipif(not paging.CAN_ADVISE, reason="the system does not tell what is in memory")
def test_what_is_written_does_not_fill_the_memory(tmp_path):
    file = DirectFile(tmp_path / "x", 0)
    if not file.past_cache:
        file.close()
        pytest.skip(f"the file system of {tmp_path} writes through the cache alone")
    file.append(noise(32 << 20))
    file.finish()
    file.close()
    mapped = np.memmap(tmp_path / "x", np.uint8, "r")
    assert paging.share_in_memory([(paging.address(mapped), len(mapped))]) < 0.5
