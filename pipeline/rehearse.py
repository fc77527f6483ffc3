"""Settings + store -> what a training would take: steps, memory, arithmetic, time.

Nothing is written: neither the run folder nor a checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch

from models import Geometry
from pipeline import budget, demands, engine
from pipeline.budget import Budget, Case, Choice
from pipeline.errors import UsageError, UserError
from pipeline.inspecting.words import size
from pipeline.reporting.words import count as counted
from pipeline.settings import RunSettings
from pipeline.steps import LATE, Batch, update
from pipeline.trainer import Trainer

SECONDS = 6.0  # of timed steps, together; at least
LEAST = 2  # of them
SHARE_OF_RAM = 0.8  # that the timed steps may take

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Pace:
    """Of steps that were timed with the real loader, on one device."""

    device: str
    steps: int
    windows: int  # of each; where a whole step has more, the rest is extrapolated
    seconds: float  # of a whole step
    waiting: float  # of these, for data
    reserved: int | None  # bytes of the GPU, with what the allocator holds and does not use

    @property
    def share_waiting(self) -> float:
        return self.waiting / self.seconds


@dataclass(frozen=True)
class Rehearsal:
    """What a training would take."""

    settings: RunSettings
    geometry: Geometry
    parameters: dict[str, int]  # by player
    train_windows: int
    samples: int  # per epoch
    eval_windows: int
    steps_per_epoch: int
    forward_macs: int  # of one window: the answer
    step_macs: int  # of one window: a step of all players, there and back
    kept: int  # bytes of tensors between two steps: weights, optimizers' states, average
    present: Choice
    memory: int | None  # bytes of a GPU that it shall fit into
    proposed: Choice | None  # None: nothing fits, or no memory was said
    pace: Pace | None  # None: this machine has too little memory for the least step
    threads: int

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.settings.training.epochs

    def rows(self) -> Rows:
        """For the screen: a word, and what there is to say of it."""
        t = self.settings.training
        memory = [("Fits", self.fits())] if self.memory else []
        return [
            ("Model", self.of_model()),
            ("Window", f"{frames(self.geometry.x)} -> {frames(self.geometry.y)}"),
            (
                "Data",
                f"{counted(self.train_windows, 'training window')}, {self.samples:,} shown per "
                f"epoch; {counted(self.eval_windows, 'validation window')}",
            ),
            (
                "Steps",
                f"{self.steps_per_epoch:,} per epoch, {self.total_steps:,} in "
                f"{counted(t.epochs, 'epoch')}; each of "
                + (f"{t.accumulate} batches of " if t.accumulate > 1 else "")
                + counted(t.batch_size, "window")
                + (f", on {t.devices} devices" if t.devices > 1 else ""),
            ),
            (
                "MACs",
                f"{many(self.forward_macs)} for the answer to one window, {many(self.step_macs)} "
                "for all that training does with it; FFTs are not counted",
            ),
            ("Memory", self.of_memory()),
            ("Time", self.of_time()),
            *memory,
        ]

    def of_model(self) -> str:
        each = ", ".join(f"{name} {number:,}" for name, number in self.parameters.items())
        return f"{self.settings.model_name}, {sum(self.parameters.values()):,} parameters: {each}"

    def of_memory(self) -> str:
        tensors = self.present.tensors
        t = self.settings.training
        lines = [
            f"about {size(self.present.needs)} of {'each' if t.devices > 1 else 'a'} GPU: tensors "
            f"{size(tensors)} at most, {size(self.kept)} of them weights and optimizers",
            f"(counted), CUDA itself {size(budget.CONTEXT)} and {budget.SLACK:.0%} for workspaces "
            "and gaps (assumed)",
        ]
        if self.pace and self.pace.reserved is not None:
            lines.append(f"the timed steps reserved {size(self.pace.reserved)}, without CUDA")
        if t.accumulate > 1 and len(self.parameters) > 1:
            lines.append("accumulating saves little: the first player's pass of each batch is kept")
        if t.compile == "graphs":
            lines.append("training.compile graphs takes more, which is not counted")
        return "\n".join(lines)

    def of_time(self) -> str:
        if not self.pace:
            return "not known: this machine has too little memory for such a step"
        pace, t = self.pace, self.settings.training
        share = t.batch_size * t.accumulate // t.devices
        epoch = pace.seconds * self.steps_per_epoch
        of = f"of {pace.windows} of {share} windows" if pace.windows < share else ""
        lines = [
            f"{lasting(pace.seconds)} per step, {pace.share_waiting:.1%} of it waiting for data; "
            f"{lasting(epoch)} per epoch, {lasting(epoch * t.epochs)} for all, without validation",
            f"{counted(pace.steps, 'step')} {of}{' ' if of else ''}timed here, of all players: "
            f"{pace.device}"
            + (f", {counted(self.threads, 'thread')}" if pace.reserved is None else ""),
        ]
        if pace.reserved is None:
            lines.append("a GPU is faster; by how much is not to be known from here")
        if t.compile != "off":
            lines.append(f"without training.compile {t.compile}, which is tried out in training")
        if t.devices > 1:
            lines.append("one device's share; what the exchange of gradients takes is not counted")
        return "\n".join(lines)

    def fits(self) -> str:
        assert self.memory
        return budget.advice(self.settings, self.proposed, self.memory)


def rehearse(settings: RunSettings, memory: int | None = None) -> Rehearsal:
    """Open the data, build the model, take a few timed steps, forget them.

    memory: bytes of a GPU that the training shall fit into; where none is said, of the GPU here.
    Raises UserError and UsageError as `train` does.
    """
    t = settings.training
    if engine.started():
        raise UsageError("a dry run is of one process; start it without torchrun and srun")
    own = one_of_them(settings)
    fabric = engine.make_fabric(own.training)
    trainer = Trainer.of(own, Path("dry run"), fabric)
    case = Case.of(trainer, settings)
    try:
        needed = Budget(case)
    except ValueError as error:
        raise UserError(f"model {settings.model_name}: {error}") from None
    memory = memory or budget.memory_of(t.device)
    loader = trainer.loader
    return Rehearsal(
        settings=settings,
        geometry=trainer.geometry,
        parameters={
            name: sum(p.numel() for p in net.parameters())
            for name, net in trainer.model.players().items()
        },
        train_windows=len(loader.windows),
        samples=loader.shown,
        eval_windows=len(trainer.validation),
        steps_per_epoch=max(1, loader.shown // t.batch_size // t.accumulate),
        forward_macs=needed.practice.forward_macs,
        step_macs=needed.practice.step_macs,
        kept=needed.practice.kept,
        present=needed.present,
        memory=memory,
        proposed=needed.fitting(memory) if memory else None,
        pace=paced(trainer, needed),
        threads=torch.get_num_threads(),
    )


def one_of_them(settings: RunSettings) -> RunSettings:
    """One device's share of the training; on a CPU in a precision that it has. Raises UserError."""
    t = settings.training
    changed: dict[str, Any] = {"batch_size": demands.share(t, t.devices), "devices": 1}
    if t.precision == "fp16" and (t.device == "cpu" or not torch.cuda.is_available()):
        changed["precision"] = "bf16"
    return settings.model_copy(update={"training": t.model_copy(update=changed)})


def paced(trainer: Trainer, needed: Budget) -> Pace | None:
    """Time steps of all players; on a CPU of so few windows that it takes seconds."""
    device, t = trainer.fabric.device, trainer.settings.training
    whole = t.batch_size * t.accumulate
    windows = whole if device.type == "cuda" else affordable(needed, whole)
    if not windows:
        return None
    source = endless(trainer)

    def step(windows: int) -> tuple[float, float]:
        """Seconds of waiting for data, and of work."""
        begun = time.perf_counter()
        batches = list(islice(source, max(1, windows // t.batch_size)))
        fetched = time.perf_counter()
        batches = [(x[:windows], y[:windows]) for x, y in batches]
        update(trainer.fabric, trainer.model, trainer.optimizers, batches, LATE, t.clip)
        if trainer.averaged:
            trainer.averaged.update(trainer.model)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return fetched - begun, time.perf_counter() - fetched

    try:
        few = min(windows, budget.FEW)
        step(windows if device.type == "cuda" else few)  # the first makes the optimizers' states
        if device.type == "cpu":
            _, work = step(few)
            windows = min(windows, max(few, int(few * SECONDS / LEAST / work)))
            if windows > t.batch_size:
                windows -= windows % t.batch_size
        else:
            torch.cuda.reset_peak_memory_stats(device)
        found: list[tuple[float, float]] = []
        begun = time.perf_counter()
        while len(found) < LEAST or time.perf_counter() - begun < SECONDS:
            found.append(step(windows))
    except torch.cuda.OutOfMemoryError:
        return None
    finally:
        source.close()
    waiting, work = (sum(each) / len(found) for each in zip(*found, strict=True))
    gpu = device.type == "cuda"
    return Pace(
        device=torch.cuda.get_device_name(device) if gpu else "CPU",
        steps=len(found),
        windows=windows,
        seconds=waiting + work * whole / windows,
        waiting=waiting,
        reserved=torch.cuda.max_memory_reserved(device) if gpu else None,
    )


def endless(trainer: Trainer) -> Generator[Batch]:
    for epoch in count():
        yield from trainer.batches(epoch, 0)


def available() -> int:
    """Bytes of memory that this machine has left. Raises OSError where it does not say."""
    told = Path("/proc/meminfo").read_text(encoding="ascii")
    kilobytes = next(line for line in told.splitlines() if line.startswith("MemAvailable:"))
    return int(kilobytes.split()[1]) * 1024


def frames(shape: tuple[int, int, int, int]) -> str:
    T, C, H, W = shape
    return f"{counted(T, 'frame')} of {counted(C, 'channel')}, {H}x{W}"


def many(number: float) -> str:
    """In thousands, millions and so on: 12.3 G."""
    power = min(4, max(0, int(math.log10(max(1.0, number)) // 3)))
    return f"{number / 1000**power:,.3g} {' kMGT'[power]}".rstrip()


def lasting(seconds: float) -> str:
    """For a person: 12 ms, 3.2 s, 5 min, 2.5 h."""
    for most, part, unit in ((1, 1e-3, "ms"), (100, 1, "s"), (100 * 60, 60, "min")):
        if seconds < most:
            return f"{seconds / part:.3g} {unit}"
    return f"{seconds / 3600:,.3g} h"


def affordable(needed: Budget, whole: int) -> int:
    """The windows of a step that this machine's memory holds: all, some or, if none, 0."""
    try:
        room = SHARE_OF_RAM * available()
    except OSError:  # of systems that do not say
        return whole
    t, share = needed.t, needed.case.devices
    batch = t.batch_size // share
    if needed.practice.peak(batch, t.accumulate) <= room:
        return whole
    while batch:
        if needed.practice.peak(batch) <= room:
            return batch
        batch //= 2
    return 0
