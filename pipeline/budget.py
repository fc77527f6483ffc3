"""What a step of a training needs of a GPU's memory and of arithmetic, and what fits into how much.

Nothing is computed for it: networks, optimizers and real steps of all players run on tensors that
have a shape and no values (torch's FakeTensorMode), on any machine, while a count is kept of the
storages that live. So any batch and patch can be asked for, also one that fits nowhere.
"""

from __future__ import annotations

import math
import re
import weakref
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

import models
from models import Geometry
from pipeline import checkpoint
from pipeline.errors import UsageError, UserError
from pipeline.problem import Problem
from pipeline.reporting.words import size
from pipeline.settings import RunSettings, TrainSettings
from pipeline.steps import LATE, Batch, optimizers_of, update
from pipeline.tasks import ForecastSettings
from pipeline.trainer import Trainer

BLOCK = 512  # bytes; a GPU's memory is given out in multiples of it
# What the tensors do not show: the CUDA context with its libraries, and, as a share, the workspaces
# of convolutions and what the allocator cannot use. Assumed, never measured. The count itself was
# held against the growth of a process on a CPU: five models, 3 % below to 7 % above.
CONTEXT = 600 * 10**6
SLACK = 0.2
ON_THEIR_WAY = 3  # batches of raw frames on the GPU: one in use, two being copied; see prefetch.py
FEW = 2  # windows of a step that is only looked at; batch norm wants more than one
LESS = 0.8  # of what was asked for in vain: to try next
UNITS = {"m": 10**6, "g": 10**9, "t": 10**12, "mi": 2**20, "gi": 2**30, "ti": 2**40}
PATCHES = (0.75, 0.5, 0.375, 0.25, 0.1875, 0.125)  # of the patch that was asked for


def bytes_of(text: str) -> int:
    """Of 12GB, 12GiB, 800MB or 24g, which is GB. Raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)b?\s*", text.lower())
    if not found or found[2] not in UNITS or not float(found[1]):
        raise UsageError(f"--memory {text}: expected a size, as in 12GB, 11.5GiB or 800MB")
    return int(float(found[1]) * UNITS[found[2]])


@dataclass(frozen=True)
class Case:
    """A training, as far as its shapes follow from it."""

    settings: RunSettings
    problem: Problem
    frame: tuple[int, int, int]  # (C, H, W) of the store; of tracks of several sizes the smallest
    devices: int = 1  # that share each batch

    @classmethod
    def of(cls, trainer: Trainer, settings: RunSettings) -> Case:
        """settings: of all devices together, of which the trainer may be one's share."""
        H, W = trainer.loader.sizes.min(0).tolist()
        channels = trainer.loader.tracks[0].shape[0]
        return cls(settings, trainer.problem, (channels, H, W), settings.training.devices)

    def geometry(self, patch: int | None) -> Geometry:
        """Raises UserError where the task cannot be posed on so small a patch."""
        C, H, W = self.frame
        return self.problem.geometry((C, patch or H, patch or W))

    @property
    def fewest(self) -> int:
        """Windows of one device that a batch must have."""
        return 2 if self.problem.task.borrows else 1

    def batches(self) -> list[int]:
        """Of all devices together: those that can make the same step, the smallest first."""
        t = self.settings.training
        windows = t.batch_size * t.accumulate
        return [
            batch
            for batch in range(self.devices * self.fewest, windows + 1, self.devices)
            if windows % batch == 0
        ]

    def patches(self) -> list[int]:
        """Smaller ones than the present one, the largest first; none where frames must be whole."""
        if self.problem.task.located:
            return []
        task = self.settings.task
        unit = task.coarsen if isinstance(task, ForecastSettings) else task.factor
        side = self.settings.training.patch_size or min(self.frame[1:])
        smaller = {rounded(int(side * share), unit) for share in PATCHES}
        return sorted(smaller - {0, side}, reverse=True)


def rounded(side: int, unit: int) -> int:
    """The largest multiple of unit that is no larger than side, and of 8 too if there is one."""
    step = math.lcm(unit, 8)
    step = step if step <= side else unit
    return side // step * step


class Living(TorchDispatchMode):
    """Counts the bytes of all storages that are made inside, while they live, and their peak.

    A view is of its base's storage, and so counted once. What a kernel takes for itself while it
    runs is not seen. has_values: of the tensors; those without are said to be 0 where asked.
    """

    def __init__(self, has_values: bool) -> None:
        super().__init__()
        self.has_values = has_values
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and not self.has_values:
            return 0  # so that no discriminator rests
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.count, made)
        return made

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self.known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.known.add(id(storage))
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.gone, id(storage), size)

    def gone(self, number: int, size: int) -> None:
        self.known.discard(number)
        self.now -= size


def flops_of_way_back(
    of_answer: Sequence[int], of_input: Sequence[int], kernel: Sequence[int], *rest: Any, **_: Any
) -> int:
    """Of a convolution's gradients, from shapes: of input and kernel each as much as the way there.

    torch's own count forgets the kernel's groups, and has a step of SimVP 2.7 times too large.
    """
    transposed, wanted = rest[4], rest[7]  # after bias, stride, padding, dilation; the last
    places = of_input if transposed else of_answer
    return 2 * math.prod(places) * math.prod(kernel[1:]) * sum(wanted[:2])


def flops() -> FlopCounterMode:
    """Counts multiplications and additions of convolutions and matrix products, not of FFTs."""
    own = {torch.ops.aten.convolution_backward: flops_of_way_back}
    return FlopCounterMode(display=False, custom_mapping=own)


def alone(precision: Literal["32-true", "bf16-mixed"] = "32-true") -> Fabric:
    """On the CPU, in this process, whatever SLURM or torchrun made of it."""
    return Fabric(
        accelerator="cpu", devices=1, plugins=[LightningEnvironment()], precision=precision
    )


class Practice:
    """One device's networks and optimizers, which take steps that only have shapes.

    has_values: for comparison, everything is computed on the CPU after all. Raises UserError or
    ValueError where the task or the model refuses the patch, or a batch so small.
    """

    def __init__(self, case: Case, patch: int | None, *, has_values: bool = False) -> None:
        t = case.settings.training
        C, H, W = case.frame
        self.geometry = case.geometry(patch)
        self.frames = (case.problem.task.window, C, patch or H, patch or W)  # of one window
        self.clip = t.clip
        self.peaks: dict[tuple[int, int], int] = {}
        self.faking = None if has_values else FakeTensorMode(allow_non_fake_inputs=True)
        self.living = Living(has_values)
        self.fabric = alone("32-true" if t.precision == "fp32" else "bf16-mixed")  # of fp16's size
        name = case.settings.model_name
        with self.counted():
            self.model = models.build(name, self.geometry, case.settings.model_settings)
        with self.living:
            models.prepare(self.model)  # reads files, whose values have to be there
        with self.counted():
            self.optimizers = optimizers_of(self.fabric, t, self.model.players())
            weights = self.model.state_dict().values() if t.ema else ()
            self.averaged = [value.clone() for value in weights]
            with flops() as of_step:
                self.step([self.batch(FEW)], LATE + 1)  # the first makes the optimizers' states
            with flops() as of_forward, torch.no_grad():
                self.model(self.batch(FEW)[0])
        self.kept = self.living.now  # bytes, between two steps
        # Bytes of a player's gradients, which several devices exchange in one piece
        self.exchanged = max(
            sum(p.nbytes for p in net.parameters()) for net in self.model.players().values()
        )
        # Multiply-adds per window: of all players' forward and backward passes; of the answer alone
        self.step_macs = of_step.get_total_flops() // (2 * FEW)
        self.forward_macs = of_forward.get_total_flops() // (2 * FEW)

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self.faking or nullcontext(), self.living:
            yield

    def batch(self, windows: int) -> Batch:
        return torch.randn(windows, *self.geometry.x), torch.randn(windows, *self.geometry.y)

    def step(self, batches: list[Batch], number: int = LATE) -> None:
        update(self.fabric, self.model, self.optimizers, batches, number, self.clip)

    def players(self, step: int) -> set[str]:
        """Those that take part in the step of that number."""
        with self.counted():
            return {name for name, _, _ in self.model.losses(*self.batch(FEW), step)}

    def joined(self, steps: int) -> int:
        """The first of so many steps, counted from 0, in which all players take part; else steps.

        Once they do it is taken for granted that they stay.
        """
        every = self.players(LATE)
        return bisect_left(range(steps), True, key=lambda step: self.players(step) == every)

    def peak(self, windows: int, accumulate: int = 1) -> int:
        """Bytes of all tensors at their most, in a step of so many batches of so many windows."""
        if accumulate > 3:  # from the second on every batch adds the same
            two, three = self.peak(windows, 2), self.peak(windows, 3)
            return three + (accumulate - 3) * (three - two)
        if (windows, accumulate) not in self.peaks:
            self.peaks[windows, accumulate] = self.counted_peak(windows, accumulate)
        return self.peaks[windows, accumulate]

    def counted_peak(self, windows: int, accumulate: int) -> int:
        with self.counted():
            frames = [torch.empty(windows, *self.frames) for _ in range(ON_THEIR_WAY)]
            batches = [self.batch(windows) for _ in range(accumulate)]
            self.living.peak = self.living.now
            self.step(batches)
            del frames
        return self.living.peak


def on_gpu(tensors: int) -> int:
    """Bytes of a GPU that so many bytes of tensors need."""
    return CONTEXT + int(tensors * (1 + SLACK))


@dataclass(frozen=True)
class Choice:
    """What a step is made of, and what each GPU needs for it."""

    batch_size: int  # windows, of all devices together
    accumulate: int
    patch: int | None
    tensors: int  # bytes at their most, in a step

    @property
    def needs(self) -> int:
        """Bytes of a GPU, with what is no tensor."""
        return on_gpu(self.tensors)

    def words(self, t: TrainSettings) -> list[str]:
        """What to set, where the training has it otherwise."""
        ours = {
            "batch_size": self.batch_size,
            "accumulate": self.accumulate,
            "patch_size": self.patch,
        }
        return [f"--set training.{k}={v}" for k, v in ours.items() if v != getattr(t, k)]


class Budget:
    """Of one case: what it needs as it is, and what of it fits."""

    def __init__(self, case: Case) -> None:
        """Raises UserError or ValueError as Practice does."""
        self.case, self.t = case, case.settings.training
        self.practice = Practice(case, self.t.patch_size)
        self.present = self.choice(self.practice, self.t.batch_size)

    def choice(self, practice: Practice, batch: int) -> Choice:
        """The same step in batches of so many windows, of all devices together."""
        accumulate = self.t.batch_size * self.t.accumulate // batch
        tensors = practice.peak(batch // self.case.devices, accumulate)
        tensors += practice.exchanged if self.case.devices > 1 else 0
        patch = self.t.patch_size if practice is self.practice else practice.frames[-1]
        return Choice(batch, accumulate, patch, tensors)

    def fitting(self, memory: int) -> Choice | None:
        """The largest batch that makes the same step in so many bytes of each GPU.

        Of the present patch, else of the largest that is small enough. None: the model is too
        large for any.
        """
        if on_gpu(self.practice.kept) > memory:
            return None
        if found := self.of_patch(self.practice, memory):
            return found
        patches = self.case.patches()
        low, high = 0, len(patches)  # the first that fits, by halving: too large, fit, refused
        while low < high:
            middle = (low + high) // 2
            try:
                tried = self.of_patch(Practice(self.case, patches[middle]), memory)
            except (UserError, ValueError):
                high = middle
                continue
            if tried:
                found, high = tried, middle
            else:
                low = middle + 1
        return found

    def of_patch(self, practice: Practice, memory: int) -> Choice | None:
        """The largest batch of this patch that fits."""
        best = None
        batches = self.case.batches()
        low, high = -1, len(batches)  # the last that fits lies from low on, and before high
        first = True
        while high - low > 1:  # the largest is tried first: mostly it fits, or none does
            middle = high - 1 if first else (low + high) // 2
            tried, first = self.choice(practice, batches[middle]), False
            if tried.needs <= memory:
                low, best = middle, tried
            else:
                high = middle
        return best


def advice(settings: RunSettings, found: Choice | None, memory: int) -> str:
    """A sentence's worth: whether it fits, and what to set where it does not.

    found: what fits into so many bytes, if anything does.
    """
    t = settings.training
    if found is None:
        ways = ["training.precision bf16"] if t.precision == "fp32" else []
        ways += ["a larger task.coarsen"] if isinstance(settings.task, ForecastSettings) else []
        ways += ["a smaller model"]
        return f"nothing fits {size(memory)}, whatever the batch and patch: try {', '.join(ways)}"
    words = " ".join(found.words(t))
    if not words:
        return f"{size(memory)} hold it as it is"
    patches = "smaller patches" if found.patch != t.patch_size else "the same step"
    return f"{words}: {patches} in about {size(found.needs)} of {size(memory)}"


def memory_of(name: str) -> int | None:
    """Bytes of the GPU that training.device names; None: it is none. Raises UserError."""
    device = checkpoint.usable_device(name)
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def way_out(settings: RunSettings, run: Path) -> str:
    """What to set where a GPU's memory did not suffice; "" where that is not to be found out."""
    try:
        memory = memory_of(settings.training.device)
        if memory is None:
            return ""
        needed = Budget(Case.of(Trainer.of(settings, run, alone()), settings))
        # It did not fit, whatever is said here of how much it needs
        room = min(memory, int(LESS * needed.present.needs))
        return advice(settings, needed.fitting(room), memory)
    except (UserError, ValueError, RuntimeError):
        return ""
