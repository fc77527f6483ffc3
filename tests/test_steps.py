"""A step of a training: what it does to the device that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import models
from models import Geometry
from pipeline import engine, scaling, steps, tasks
from pipeline.engine import Average
from pipeline.manifest import Statistics
from pipeline.problem import Problem
from pipeline.settings import TrainSettings

torch.set_num_threads(1)

SMALL = {
    "tempogan": {"n_residual_blocks": 1, "width": 8},
    "srgan": {"n_residual_blocks": 1, "width": 8, "discriminator_width": 4},
    "simvp": {"hid_s": 8, "hid_t": 16, "n_s": 2, "n_t": 2},
    "pastnet": {"width": 16, "codes": 32, "code_width": 8, "hid_t": 16, "n_t": 2, "embed": 16},
}
GEOMETRY = {
    "superres": Geometry(x=(3, 1, 8, 8), y=(3, 1, 32, 32), unit_range=True, block_means=True),
    "forecast": Geometry(x=(4, 1, 32, 32), y=(4, 1, 32, 32)),
}
# Operations of which a GPU's answer is waited for: a number for Python, or a shape that depends on
# values. (A mask as an index is `nonzero` there.)
WAITING = {
    "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2",
    "unique_dim", "unique_consecutive", "bincount", "repeat_interleave",
}  # fmt: skip
EVERY_MODEL = pytest.mark.parametrize("name", models.names())


class Waits(TorchDispatchMode):
    """Counts the operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]
        )
        if masks or (name in WAITING and not (name == "repeat_interleave" and len(args) > 1)):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def nothing_waits() -> Iterator[None]:
    with Waits() as waits:
        yield
    assert not waits.found


def step_of(name: str, **t: Any) -> Callable[[], None]:
    """One step of that model on two windows, with all that the loop does to it."""
    torch.manual_seed(0)
    geometry = GEOMETRY[models.find(name).TASK]
    model = models.build(name, geometry, SMALL.get(name, {}))
    training = TrainSettings(device="cpu", **t)
    fabric = engine.make_fabric(training)
    optimizers = steps.optimizers_of(fabric, training, model.players())
    averaged = Average(model, 0.99)
    x, y = torch.rand(2, *geometry.x) - 0.5, torch.rand(2, *geometry.y) - 0.5
    y[0, 0, 0, :4] = torch.nan

    def step() -> None:
        made = steps.update(fabric, model, optimizers, [(x, y)], steps.LATE, 1.0)
        assert made.losses.keys() == made.norms.keys() == optimizers.keys()
        averaged.update(model)

    return step


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@EVERY_MODEL
def test_a_step_never_waits_for_the_device(name: str, precision: str) -> None:
    step = step_of(name, precision=precision)
    step()  # optimizers make their state
    with nothing_waits():
        step()


def test_what_waits_is_noticed() -> None:
    one = torch.ones(3)
    for waiting in (
        lambda: one.sum().item(),
        lambda: bool(one[0] > 0),
        lambda: one[one > 0],
        lambda: one.nonzero(),
    ):
        with pytest.raises(AssertionError), nothing_waits():
            waiting()


TYPHOON = {"name": "ir", "units": "K", "valid_min": 150.0, "valid_max": 330.0}


@pytest.mark.parametrize("coarsening", ["area", "bilinear", "bicubic"])
def test_making_x_and_y_never_waits(coarsening: str) -> None:
    settings = tasks.SuperResolutionSettings(coarsening=coarsening)  # type: ignore[arg-type]
    task = tasks.build("superres", settings, 3, [TYPHOON])
    statistics = Statistics(count=[9], mean=[270.0], std=[20.0], min=[180.0], max=[310.0])
    problem = Problem.of(task, scaling.fit("range", [TYPHOON], statistics))
    frames = torch.rand(2, 3, 1, 32, 32) * 100 + 200
    frames[0, 1, 0, :3] = torch.nan
    with nothing_waits():
        x, y = problem.pair(frames)
    assert x.isfinite().all()
    assert y.isnan().sum() == 3 * 32


@pytest.mark.gpu
@EVERY_MODEL
def test_a_step_on_a_gpu_never_waits_for_it(name: str) -> None:
    geometry = GEOMETRY[models.find(name).TASK]
    training = TrainSettings(device="cuda", precision="bf16")
    fabric = engine.make_fabric(training)
    model = engine.of_all(fabric, models.build(name, geometry, SMALL.get(name, {})))
    optimizers = steps.optimizers_of(fabric, training, model.players())
    averaged = Average(model, 0.99)
    x = torch.rand(2, *geometry.x, device="cuda") - 0.5
    y = torch.rand(2, *geometry.y, device="cuda") - 0.5
    for step in range(4):
        if step == 2:  # from now on
            torch.cuda.set_sync_debug_mode("error")
        try:
            steps.update(fabric, model, optimizers, [(x, y)], steps.LATE, 1.0)
            averaged.update(model)
        finally:
            torch.cuda.set_sync_debug_mode("default")
