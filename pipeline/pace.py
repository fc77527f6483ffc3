"""How long a training takes on this machine: a validation and some steps of each stage, timed."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from statistics import median, quantiles

import torch

from pipeline import budget
from pipeline.budget import Budget
from pipeline.steps import LATE, Batch, update
from pipeline.trainer import Trainer
from pipeline.workers import cores

SECONDS = 4.0  # of timed steps, of each stage; where steps are long up to twice that
LEAST = 3  # of them, where so many fit
# An estimate is rough if the middle half of the steps differ by more than this share of the usual
# one, or if a whole step has more than so many times the windows of those that were timed
UNSTEADY, FAR = 0.3, 3
BUSY = 1.5  # load per core, from which other work makes steps longer
SHARE_OF_RAM = 0.8  # that the timed steps may take

Timed = tuple[float, float]  # seconds of waiting for a batch of data, and of work
AFTER = LATE + 1  # a usual step of all players: at LATE there is also what is done every n steps


@dataclass(frozen=True)
class Stage:
    """Steps of a training in which the same players take part, and how long one of them takes."""

    players: list[str]
    first: int  # step, counted from 1
    steps: int
    timed: int  # steps
    windows: int  # of each of these; where a whole step has more, the rest is extrapolated
    seconds: float  # of a whole step
    waiting: float  # of these, for data
    rough: bool

    @property
    def share_waiting(self) -> float:
        return self.waiting / self.seconds


@dataclass(frozen=True)
class Pace:
    """Of validation and steps that were timed with the real loader, on one device."""

    device: str
    stages: list[Stage]
    validation: float  # seconds of one
    load: float  # of this machine per core, before: by other work
    reserved: int | None  # bytes of the GPU, with what the allocator holds and does not use

    @property
    def busy(self) -> bool:
        return self.reserved is None and self.load > BUSY

    @property
    def rough(self) -> bool:
        return self.busy or any(stage.rough for stage in self.stages)

    def total(self, validations: int) -> float:
        """Seconds of all stages and so many validations."""
        steps = sum(stage.seconds * stage.steps for stage in self.stages)
        return steps + validations * self.validation


def paced(trainer: Trainer, needed: Budget, joined: int, total: int) -> Pace | None:
    """Time them; on a CPU steps of so few windows that it takes seconds. None: too little memory.

    joined: of so many steps in total, those before all players take part.
    """
    device, t = trainer.fabric.device, trainer.settings.training
    gpu = device.type == "cuda"
    load = os.getloadavg()[0] / cores() if hasattr(os, "getloadavg") else 0.0
    whole = t.batch_size * t.accumulate
    most = whole if gpu else affordable(needed, whole)
    if not most:
        return None
    sizes = [most] if gpu else list(growing(min(most, budget.FEW), most, t.batch_size))
    watch = Stopwatch(trainer)
    stages = []
    try:
        validation = watch.validation(min(sizes[0], t.batch_size))
        watch.step(LATE, sizes[0])  # the first makes the optimizers' states
        if gpu:
            torch.cuda.reset_peak_memory_stats(device)
        for first, steps, number in ((0, joined, 0), (joined, total - joined, AFTER)):
            if steps > 0:
                playing = needed.practice.players(number)
                stages.append(
                    stage_of(
                        watch.steps(number, sizes),
                        t.batch_size,
                        whole,
                        players=[name for name in trainer.optimizers if name in playing],
                        first=first + 1,
                        steps=steps,
                    )
                )
    except torch.cuda.OutOfMemoryError:
        return None
    finally:
        watch.source.close()
    return Pace(
        device=torch.cuda.get_device_name(device) if gpu else "CPU",
        stages=stages,
        validation=validation,
        load=load,
        reserved=torch.cuda.max_memory_reserved(device) if gpu else None,
    )


class Stopwatch:
    """Takes steps of a trainer and validates it, and says how long that took."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.source = endless(trainer)

    def validation(self, windows: int) -> float:
        """Seconds of a whole one, from one of so many windows."""
        every = self.trainer.validation
        some = replace(self.trainer, validation=every[:windows])
        some.validate()  # the first scores the baselines, too, which is done once
        begun = time.perf_counter()
        some.validate()
        return (time.perf_counter() - begun) * len(every) / len(some.validation)

    def step(self, number: int, windows: int) -> Timed:
        """The step of that number, of so many windows."""
        trainer, device, t = (
            self.trainer,
            self.trainer.fabric.device,
            self.trainer.settings.training,
        )
        begun = time.perf_counter()
        batches = list(islice(self.source, max(1, windows // t.batch_size)))
        fetched = time.perf_counter()
        batches = [(x[:windows], y[:windows]) for x, y in batches]
        update(trainer.fabric, trainer.model, trainer.optimizers, batches, number, t.clip)
        if trainer.averaged:
            trainer.averaged.update(trainer.model)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (fetched - begun) / len(batches), time.perf_counter() - fetched

    def steps(self, number: int, sizes: Sequence[int]) -> dict[int, list[Timed]]:
        """By windows: of few at first, then of more, as long as there is time for some.

        Two sizes at least, where there are two: what a step takes does not grow as its windows do
        where threads wait for each other on a busy machine.
        """
        self.step(number, sizes[0])  # the first of its kind takes longer
        begun = time.perf_counter()
        found: dict[int, list[Timed]] = {}
        for windows in sizes:
            took = sum(map(sum, found[max(found)])) / 2 if found else 0.0
            spent = time.perf_counter() - begun
            if len(found) > 1 and spent + 2 * LEAST * took > SECONDS:
                break
            found[windows] = [self.step(number, windows) for _ in range(2)]
        last = max(found)
        while (spent := time.perf_counter() - begun) < 2 * SECONDS:
            if len(found[last]) >= LEAST and spent >= SECONDS:
                break
            found[last].append(self.step(number, last))
        return found


def stage_of(
    found: Mapping[int, Sequence[Timed]],
    batch: int,
    whole: int,
    *,
    players: list[str],
    first: int,
    steps: int,
) -> Stage:
    """What the timed steps say of one that has `whole` windows in batches. found: by windows."""
    windows = max(found)
    waits, works = zip(*found[windows], strict=True)
    work = median(works)
    quarter, _, three = quantiles(works, n=4, method="inclusive")
    seconds = work
    if windows < whole:
        smaller = max((size for size in found if size < windows), default=0)
        less = min(w for _, w in found[smaller]) if smaller else 0.0
        of_one = max(0.0, work - less) / (windows - smaller)
        seconds = min(work + of_one * (whole - windows), work * whole / windows)
    waiting = median(waits) * max(1, whole // batch)
    return Stage(
        players=players,
        first=first,
        steps=steps,
        timed=len(works),
        windows=windows,
        seconds=waiting + seconds,
        waiting=waiting,
        rough=three - quarter > UNSTEADY * work or whole > FAR * windows,
    )


def growing(least: int, most: int, batch: int) -> Iterator[int]:
    """From few windows to many, twice as many each; of more than one batch whole batches."""
    windows = least
    while windows < most:
        yield windows
        windows = min(most, 2 * windows)
        if windows > batch:
            windows -= windows % batch
    yield most


def endless(trainer: Trainer) -> Generator[Batch]:
    for epoch in count():
        yield from trainer.batches(epoch, 0)


def available() -> int:
    """Bytes of memory that this machine has left. Raises OSError where it does not say."""
    told = Path("/proc/meminfo").read_text(encoding="ascii")
    kilobytes = next(line for line in told.splitlines() if line.startswith("MemAvailable:"))
    return int(kilobytes.split()[1]) * 1024


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
