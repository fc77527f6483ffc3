"""A new file that goes to the disk past the system's page cache, where the system can do that.

A conversion writes more than a machine has memory, and most of it is not read again soon. Through
the page cache every byte would be copied once more, into memory that must be found first and that
others could use. So blocks are filled here, and a thread writes them meanwhile.
"""

from __future__ import annotations

import errno
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

BLOCK = 4 << 20  # bytes that are written together, at least
ALIGNED = 4096  # nearly every disk takes places, lengths and memory that are multiples of it
SETTLED_BY = 32 << 20  # bytes that may wait in the cache, where they go through it
PAST_CACHE = getattr(os, "O_DIRECT", 0)  # Linux alone has it
PRIVATE: dict[str, int] = (  # memory that a forked process does not share
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)


class DirectFile:
    """A new file that grows at its end, for one thread at a time.

    most: bytes that `room` is asked for. Raises OSError where the file cannot be made. What the
    disk refuses is raised by a later call; the last one to raise it is `finish`.
    """

    def __init__(self, path: Path, most: int) -> None:
        self.filling, self.leaving = lend_blocks(BLOCK + most)
        self.filled = 0  # bytes of the former; the latter is being written
        self.unsettled = 0  # bytes in the cache that the disk was not told to keep
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self.number = os.open(path, flags, 0o666)
        self.past_cache = False
        self.go_past_cache(True)
        self.writing: Future[None] | None = None

    def room(self, size: int) -> np.ndarray:
        """(size,) uint8: where the next bytes will lie; to append it copies nothing."""
        return self.filling[self.filled : self.filled + size]

    def append(self, data: bytes | np.ndarray) -> None:
        rest = np.frombuffer(data, np.uint8)
        while len(rest):
            part = rest[: len(self.filling) - self.filled]
            rest = rest[len(part) :]
            room = self.room(len(part))
            if room.ctypes.data != part.ctypes.data:
                room[...] = part
            self.filled += len(part)
            if self.filled >= BLOCK:
                self.send()

    def send(self) -> None:
        """Have the block written, but for its last bytes, with which the next begins."""
        self.await_disk()
        whole = self.filled - self.filled % ALIGNED
        rest = self.filling[whole : self.filled]
        self.leaving[: len(rest)] = rest
        self.writing = writer().submit(self.write, self.filling[:whole])
        self.filling, self.leaving = self.leaving, self.filling
        self.filled = len(rest)

    def finish(self) -> None:
        """Write what is left; when it returns, the system has all, the disk perhaps not yet."""
        self.await_disk()
        whole = self.filled - self.filled % ALIGNED
        self.write(self.filling[:whole])
        if whole < self.filled:
            self.go_past_cache(False)
            self.write(self.filling[whole : self.filled])
        self.filled = 0

    def write(self, data: np.ndarray) -> None:
        rest = data.data
        while rest:
            try:
                rest = rest[os.write(self.number, rest) :]
            except OSError as error:
                if error.errno != errno.EINVAL or not self.past_cache:
                    raise
                self.go_past_cache(False)  # no such disk; or it is full, and took half a page
        self.unsettled += 0 if self.past_cache else len(data)
        if self.unsettled >= SETTLED_BY:  # so that little is left to do at the end
            getattr(os, "fdatasync", os.fsync)(self.number)
            self.unsettled = 0

    def go_past_cache(self, past: bool) -> None:
        """From now on, where the system can; if so, only whole pages can be written."""
        if PAST_CACHE:
            import fcntl  # not on Windows

            flags = fcntl.fcntl(self.number, fcntl.F_GETFL) & ~PAST_CACHE
            try:
                fcntl.fcntl(self.number, fcntl.F_SETFL, flags | PAST_CACHE * past)
                self.past_cache = past
            except OSError:
                self.past_cache = False

    def await_disk(self) -> None:
        """Until nothing is being written; interrupted, it can be called again."""
        if self.writing:
            try:
                self.writing.result()
            finally:
                if self.writing.done():
                    self.writing = None

    def close(self) -> None:
        """Also after an error; what was not written is lost."""
        if self.number < 0:
            return
        try:
            self.await_disk()
        finally:
            number, self.number = self.number, -1
            _free.append((self.filling, self.leaving))
            os.close(number)


_free: list[tuple[np.ndarray, np.ndarray]] = []  # fresh memory costs more than to fill it


def lend_blocks(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Two blocks of so many bytes or more, aligned."""
    while _free:
        blocks = _free.pop()
        if len(blocks[0]) >= size:
            return blocks
    one, other = (np.frombuffer(mmap.mmap(-1, size, **PRIVATE), np.uint8) for _ in range(2))
    return one, other


@cache
def writer() -> ThreadPoolExecutor:
    """The thread in which a process waits for the disk."""
    return ThreadPoolExecutor(1, "disk")
