"""Loops over pixels, compiled to machine code when first called and kept for the next process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine code of a function of numbers and arrays; other threads run beside it."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither this folder nor the user's own can be written to
        return njit(nogil=True)(function)
