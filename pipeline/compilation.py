"""torch.compile of a model's networks, after a trial of whether it works and changes nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

MODES = {"on": "default", "graphs": "reduce-overhead"}  # ours -> torch's
TOLERANCE = 0.02  # relative, of losses and gradient norms over some steps: bf16 rounds otherwise


def tried(
    model: nn.Module, how: Literal["on", "graphs"], trial: Callable[[Any], list[float]]
) -> str:
    """Why a copy of the model cannot be compiled, or comes to something else; or "".

    trial: some steps of a copy of the model, and what they came to; from equal copies the same.
    """
    from torch._inductor import config

    config.fallback_random = True  # the random numbers of who trains without
    try:
        expected = trial(copy.deepcopy(model))
        other = copy.deepcopy(model)
        compile_networks(other, how)
        found = trial(other)
    except Exception as error:  # whatever a compiler may stumble over: training works without
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    for one, two in zip(expected, found, strict=True):
        if not math.isclose(one, two, rel_tol=TOLERANCE, abs_tol=1e-6):
            return f"its results differ: {two:.6g} instead of {one:.6g}"
    return ""


def compile_networks(model: nn.Module, how: Literal["on", "graphs"]) -> None:
    """Compile, in place, every network that has an optimizer; weights and names stay."""
    for network in networks(model):
        network.compile(mode=MODES[how], dynamic=False)


def networks(model: Any) -> Iterator[nn.Module]:
    """Those that are called: each player, or the members of a player that is several."""
    for player in model.players().values():
        yield from player.values() if isinstance(player, nn.ModuleDict) else [player]


def without() -> AbstractContextManager[Any]:
    """Inside, compiled networks run as they were written: what has other shapes is not compiled."""
    stance = getattr(torch.compiler, "set_stance", None)  # torch 2.6
    return stance("force_eager") if stance else nullcontext()
