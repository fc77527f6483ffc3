"""What the system should keep in memory of a file: asked ahead, so that nobody waits.

Reading a map that is not in memory stops at every page. MADV_RANDOM ends the system's guessing at
what comes next, which is wrong for crops at random places; alone it makes reading six times as
slow, so it goes together with MADV_WILLNEED for what will in fact be read.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
from numba import types

from pipeline.compiled import compiled

ReadAhead = Literal["auto", "on", "off"]
CAN_ADVISE = sys.platform == "linux"
PAGE = mmap.PAGESIZE
FIRST_BYTES = 4 << 20  # bytes of a file

_madvise = types.ExternalFunction("madvise", types.intc(types.intp, types.uintp, types.intc))


@compiled
def advise(starts, lengths, advice, page):  # type: ignore[no-untyped-def]
    """Tell the system about so many stretches of memory; it may refuse, and nothing breaks."""
    for i in range(len(starts)):
        first = starts[i] // page * page
        _madvise(first, np.uintp(starts[i] + lengths[i] - first), advice)


def will_need(starts: np.ndarray, lengths: np.ndarray) -> None:
    """Begin to read these stretches, without waiting; each (n,) int64, addresses and bytes."""
    advise(starts, lengths, mmap.MADV_WILLNEED, PAGE)


def will_read(path: Path) -> None:
    """Begin to read a file, its first FIRST_BYTES bytes, without waiting, where the system can."""
    if not CAN_ADVISE:
        return
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        os.posix_fadvise(number, 0, FIRST_BYTES, os.POSIX_FADV_WILLNEED)
    except OSError:
        pass  # a pipe
    finally:
        os.close(number)


def at_random(array: np.ndarray, yes: bool) -> None:
    """Say whether a mapped array will be read in no order, or one piece after the other."""
    starts, lengths = np.array([address(array)]), np.array([array.nbytes])
    advise(starts, lengths, mmap.MADV_RANDOM if yes else mmap.MADV_NORMAL, PAGE)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def share_in_memory(stretches: Iterable[tuple[int, int]]) -> float:
    """What part of the pages of these stretches (address, bytes) is in memory: 0 to 1.

    Of a file that is not ours and that we may not write to, Linux says that all of it is.
    """
    libc = ctypes.CDLL(None)
    there = pages = 0
    for start, length in stretches:
        first = start // PAGE * PAGE
        size = start + length - first
        seen = np.zeros(-(-size // PAGE), np.uint8)
        if libc.mincore(
            ctypes.c_void_p(first), ctypes.c_size_t(size), ctypes.c_void_p(address(seen))
        ):
            return 0.0
        there += int((seen & 1).sum())
        pages += len(seen)
    return there / pages if pages else 1.0
