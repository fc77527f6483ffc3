"""Settings + store -> what a training would take: steps, memory, arithmetic, time.

Nothing is written: neither the run folder nor a checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models import Geometry
from pipeline import budget, demands, engine
from pipeline.budget import Budget, Case, Choice
from pipeline.errors import UsageError, UserError
from pipeline.pace import Pace, paced
from pipeline.progress import duration
from pipeline.reporting.words import count, size
from pipeline.settings import RunSettings
from pipeline.trainer import Trainer

Rows = list[tuple[str, str]]


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
    early: list[str]  # players that take part in the first step
    joined: int  # steps, after which all take part
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

    @property
    def validations(self) -> int:
        t = self.settings.training
        every = t.validate_every_steps
        return t.epochs * (1 + ((self.steps_per_epoch - 1) // every if every else 0))

    @property
    def seconds(self) -> float | None:
        """Of the whole training, with validation; None where no step could be timed."""
        return self.pace.total(self.validations) if self.pace else None

    def rows(self) -> Rows:
        """For the screen: a word, and what there is to say of it."""
        t = self.settings.training
        memory = [("Fits", self.fits())] if self.memory else []
        return [
            ("Model", self.of_model()),
            ("Window", f"{frames(self.geometry.x)} -> {frames(self.geometry.y)}"),
            (
                "Data",
                f"{count(self.train_windows, 'training window')}, {self.samples:,} shown per "
                f"epoch; {count(self.eval_windows, 'validation window')}",
            ),
            (
                "Steps",
                f"{self.steps_per_epoch:,} per epoch, {self.total_steps:,} in "
                f"{count(t.epochs, 'epoch')}; each of "
                + (f"{t.accumulate} batches of " if t.accumulate > 1 else "")
                + count(t.batch_size, "window")
                + (f", on {t.devices} devices" if t.devices > 1 else "")
                + self.of_players(),
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

    def of_players(self) -> str:
        """From when on all take part, where that is not from the first step on."""
        if not self.joined:
            return ""
        alone = " and ".join(self.early)
        if self.joined < self.total_steps:
            return f"; {alone} alone until step {self.joined:,}, all players from then on"
        return f"; {alone} alone: the others would join after more steps than that"

    def of_memory(self) -> str:
        tensors = self.present.tensors
        t = self.settings.training
        lines = [
            f"about {size(self.present.needs)} of {'each' if t.devices > 1 else 'a'} GPU: tensors "
            f"{size(tensors)} at most, {size(self.kept)} of them weights and optimizers (counted); "
            f"CUDA itself {size(budget.CONTEXT)} and {budget.SLACK:.0%} for workspaces and gaps "
            "(assumed)",
        ]
        if self.pace and self.pace.reserved is not None:
            lines.append(f"the timed steps reserved {size(self.pace.reserved)}, without CUDA")
        if t.accumulate > 1 and len(self.parameters) > 1:
            lines.append("accumulating saves little: the first player's pass of each batch is kept")
        if t.compile == "graphs":
            lines.append("training.compile graphs takes more, which is not counted")
        return "\n".join(lines)

    def of_time(self) -> str:
        pace, t = self.pace, self.settings.training
        if not pace:
            return "not known: this machine has too little memory for such a step"
        share = t.batch_size * t.accumulate // t.devices
        whole = pace.total(self.validations)
        lines = [
            f"{'roughly ' if pace.rough else ''}{duration(whole, 2)} for all, "
            f"{duration(whole / t.epochs, 2)} per epoch, with validation "
            f"({self.validations * pace.validation / whole:.0%} of it)"
        ]
        for stage in pace.stages:
            which = f" from step {stage.first:,} on" if stage.first > 1 else ""
            which = which or (f" until step {stage.steps:,}" if len(pace.stages) > 1 else "")
            lines.append(
                f"{duration(stage.seconds)} per step{which}, {stage.share_waiting:.1%} of it "
                "waiting for data"
            )
        windows = min(stage.windows for stage in pace.stages)
        of = f" of {windows} of {share} windows" if windows < share else ""
        lines.append(
            f"{count(sum(stage.timed for stage in pace.stages), 'step')}{of} timed here: "
            + pace.device
            + (f", {count(self.threads, 'thread')}" if pace.reserved is None else "")
        )
        if pace.busy:
            fewer = ", or with one thread: OMP_NUM_THREADS=1" if self.threads > 1 else ""
            lines.append(f"other work keeps this machine busy; steps are shorter without it{fewer}")
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
    per_epoch = max(1, loader.shown // t.batch_size // t.accumulate)
    joined = needed.practice.joined(per_epoch * t.epochs)
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
        steps_per_epoch=per_epoch,
        early=sorted(needed.practice.players(0)),
        joined=joined,
        forward_macs=needed.practice.forward_macs,
        step_macs=needed.practice.step_macs,
        kept=needed.practice.kept,
        present=needed.present,
        memory=memory,
        proposed=needed.fitting(memory) if memory else None,
        pace=paced(trainer, needed, joined, per_epoch * t.epochs),
        threads=torch.get_num_threads(),
    )


def one_of_them(settings: RunSettings) -> RunSettings:
    """One device's share of the training; on a CPU in a precision that it has. Raises UserError."""
    t = settings.training
    changed: dict[str, Any] = {"batch_size": demands.share(t, t.devices), "devices": 1}
    if t.precision == "fp16" and (t.device == "cpu" or not torch.cuda.is_available()):
        changed["precision"] = "bf16"
    return settings.model_copy(update={"training": t.model_copy(update=changed)})


def frames(shape: tuple[int, int, int, int]) -> str:
    T, C, H, W = shape
    return f"{count(T, 'frame')} of {count(C, 'channel')}, {H}x{W}"


def many(number: float) -> str:
    """In thousands, millions and so on: 12.3 G."""
    power = min(4, max(0, int(math.log10(max(1.0, number)) // 3)))
    return f"{number / 1000**power:,.3g} {' kMGT'[power]}".rstrip()
