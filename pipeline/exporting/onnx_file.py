"""The network as ONNX: frames in physical units go in, its answer in physical units comes out.

What is exported is all that `pipeline.answers` does with frames: what the task takes of them, the
scaling, missing pixels, the network, and what is physically possible.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import scaling
from pipeline.checkpoint import Checkpoint
from pipeline.errors import UserError
from pipeline.problem import Problem
from pipeline.tasks import Task

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

NEEDED = ("onnxruntime", "onnxscript")  # an extra; onnx itself comes with the second
TOLERANCE = 1e-4  # of the range of a channel's values; float32 rounds to about 1e-6 of it
OLDEST_OPSET = 18  # of which torch translates its operators
X, Y = "x", "y"
AXES = ("batch", "frames", "channels", "height", "width")


@dataclass(frozen=True)
class Exported:
    """model.onnx, and how it compares with torch."""

    opset: int
    x: list[str | int]  # shape of the input: a number, or the name of an axis that may be any
    y: list[str | int]
    sizes: list[list[int]]  # of the inputs that were compared
    differences: dict[str, float]  # by channel of y, the largest, in its unit
    relative: float  # the largest, of the range of its channel's values


class Physical(nn.Module):
    """Frames (B, T, C, H, W) float32, physical units, NaN where missing -> the answer, likewise."""

    def __init__(self, network: nn.Module, problem: Problem) -> None:
        super().__init__()
        self.network, self.problem = network, problem

    def forward(self, frames: Tensor) -> Tensor:
        problem, task = self.problem, self.problem.task
        x = task.given(frames)
        return task.judged(problem.of_model(self.network(problem.x.model_input(x)), x))


def refuse_missing() -> None:
    """Raises UserError where what it takes is not installed."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f"--onnx needs {', '.join(missing)}: pip install 'eddy[onnx]'")


def write(
    file: Path, trained: Checkpoint, about: Mapping[str, Any], opset: int | None = None
) -> Exported:
    """Write the file, and compare it with torch on frames of two sizes.

    about: for the file's metadata. Raises UserError for a network or a task that ONNX cannot say,
    and for one that says something else there.
    """
    if trained.task.borrows:
        raise UserError(
            "not made: this model takes what lies outside its region from another date, of which "
            "a file of one network knows nothing"
        )
    network = Physical(trained.model(), trained.problem).eval()
    shapes = Shapes.of(trained)
    with torch.inference_mode(), quiet():
        try:
            program = traced(network, shapes, opset)
        except (RuntimeError, ValueError, TypeError) as error:  # of torch.onnx; its root is last
            raise UserError(f"this network cannot be exported ({reason(error)})") from None
        finally:
            scaling.kept.cache_clear()  # of what has no values while a network is traced
    made = program.model.opset_imports[""]
    if opset is not None and made != opset:
        raise UserError(f"opset {opset}: could only be written as opset {made}; take that")
    told = shapes.names(network)
    renamed(program, told[1])
    program.model.metadata_props.update(metadata(about))
    program.model.producer_name = str(about["software"])
    program.save(file)
    optimised(program, file)
    return compared(file, trained, network, shapes, told, made)


@dataclass(frozen=True)
class Shapes:
    """Sizes of the frames that a model takes; (T, C, H, W)."""

    usual: tuple[int, int, int, int]  # as trained
    task: Task
    block: int  # frames' pixels to a side of one of the network's

    @classmethod
    def of(cls, trained: Checkpoint) -> Shapes:
        task, C = trained.task, len(trained.data.channels)
        T, _, h, w = trained.geometry.x
        grid = trained.data.grid
        if task.located and grid is not None:
            return cls((T, C, len(grid["y"]), len(grid["x"])), task, 1)
        block = 1 if task.kind == "superres" else round(task.side())
        return cls((T, C, block * h, block * w), task, block)

    @property
    def free(self) -> dict[int, str]:
        """Axes of frames (B, T, C, H, W) that may be of any length."""
        axes = [0]
        if self.task.scored_window == 1:  # each frame for itself
            axes.append(1)
        if not self.task.located:
            axes += [3, 4]
        return {axis: AXES[axis] for axis in axes}

    def other(self, batch: int, larger: int) -> tuple[int, ...]:
        """A shape (B, T, C, H, W) unlike the usual one in all that may be of any length.

        H and W differ, fill no whole blocks, and are odd numbers of them: what a network does only
        where a size does not divide is then part of what is traced.
        """
        (T, C, H, W), b = self.usual, self.block
        if 1 in self.free:
            T += 2
        if 3 in self.free:
            rest = b > 1
            H, W = (b * (larger * (n // b) // 2 * 2 + odd) + rest for n, odd in ((H, 3), (W, 5)))
        return batch, T, C, H, W

    def names(self, network: nn.Module) -> tuple[list[str | int], list[str | int]]:
        """Of x and y: lengths that are fixed, and names of those that are not."""
        with torch.inference_mode():
            y = network(torch.zeros(1, *self.usual))
        free = self.free
        inward = [free.get(axis, n) for axis, n in enumerate((1, *self.usual))]
        sides = {3: f"y_{AXES[3]}", 4: f"y_{AXES[4]}"}
        return inward, [
            (sides.get(axis, free[axis]) if axis in free else n) for axis, n in enumerate(y.shape)
        ]


def traced(network: nn.Module, shapes: Shapes, opset: int | None) -> ONNXProgram:
    program = torch.onnx.export(
        network,
        (torch.zeros(shapes.other(batch=2, larger=2)),),
        dynamo=True,
        optimize=False,  # see optimised
        verbose=False,
        opset_version=opset,
        input_names=[X],
        output_names=[Y],
        dynamic_shapes=(shapes.free,),
    )
    assert program is not None  # it is where dynamo is asked for
    return program


def renamed(program: ONNXProgram, y: Sequence[str | int]) -> None:
    """The answer's shape, in which torch writes lengths that may be any as formulas."""
    import onnx_ir

    program.model.graph.outputs[0].shape = onnx_ir.Shape(y)


def optimised(program: ONNXProgram, file: Path) -> None:
    """Written again with less in it, where onnxscript can do that; what it cannot stays as it was.

    It fails at splits into parts of a length that depends on the batch.
    """
    try:
        program.optimize()
    except RuntimeError:
        return
    program.save(file)


def compared(
    file: Path,
    trained: Checkpoint,
    network: nn.Module,
    shapes: Shapes,
    told: tuple[list[str | int], list[str | int]],
    opset: int,
) -> Exported:
    """Raises UserError where onnxruntime cannot run the file, or says something else than torch."""
    import onnxruntime  # an extra

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    low, high = ranges(trained)
    sizes = [(1, *shapes.usual), shapes.other(batch=3, larger=1)]
    span = (high - low)[list(trained.task.targets)]
    most = np.zeros(len(span))
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        for size in sizes:
            frames = invented(size, low, high, 2 * shapes.block)
            (ours,) = session.run(None, {X: frames})
            with torch.inference_mode():
                theirs = network(torch.from_numpy(frames)).numpy()
            if ours.shape != theirs.shape or not np.isfinite(ours).all():
                raise UserError(
                    f"onnxruntime answers {list(ours.shape)} to frames of {list(size)}, or not "
                    f"with numbers; torch answers {list(theirs.shape)}"
                )
            most = np.maximum(most, np.abs(ours - theirs).max((0, 1, 3, 4)))
    except UserError:
        raise
    except Exception as error:  # onnxruntime's own have no class in common
        raise UserError(f"onnxruntime cannot run this network ({reason(error)})") from None
    relative = float((most / span).max())
    units = {c["name"]: c["units"] for c in trained.targets}
    found = dict(zip(units, most.tolist(), strict=True))
    if relative > TOLERANCE:
        worst = ", ".join(f"{name} {value:.3g} {units[name]}" for name, value in found.items())
        raise UserError(
            f"onnxruntime and torch differ by up to {worst}, more than {TOLERANCE:g} of the range "
            "of the values"
        )
    return Exported(opset, *told, [list(size) for size in sizes], found, relative)


def invented(size: Sequence[int], low: np.ndarray, high: np.ndarray, hole: int) -> np.ndarray:
    """Frames (B, T, C, H, W) float32 of values that were trained on, some missing; as every time.

    More of them are low than high, as in rain. hole: side of a missing corner, pixels.
    """
    share = np.random.default_rng(0).random(size, np.float32) ** 3
    frames = low[:, None, None] + (high - low)[:, None, None] * share
    frames[..., :hole, :hole] = np.nan
    return frames.astype(np.float32)


def ranges(trained: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """Of all channels of the frames, what was trained on; where that is not known, what is valid.

    Both (C,) float64, physical units.
    """
    known, channels = trained.data.seen, trained.data.channels
    low, high = (
        np.array(known.get(side) or [channel[f"valid_{side}"] for channel in channels], float)
        for side in ("min", "max")
    )
    return low, np.where(high > low, high, low + 1)


def metadata(about: Mapping[str, Any]) -> dict[str, str]:
    """As ONNX keeps it: texts."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in about.items()
    }


def reason(error: BaseException) -> str:
    """What lies behind it, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's remarks on its own parts, and on packages that it could translate too."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        logger.setLevel(before)
