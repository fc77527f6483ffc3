"""Checkpoints: plain data, written whole or not at all, read without running any code in them."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

import models
from models import Geometry
from pipeline import atomic, tasks
from pipeline.errors import UserError
from pipeline.exporting import folder
from pipeline.problem import Problem
from pipeline.progress import say
from pipeline.runs import in_run as in_run
from pipeline.runs import refuse_missing as refuse_missing
from pipeline.scaling import Scaling
from pipeline.settings import RunSettings

FORMAT = "eddy checkpoint"
FORMAT_VERSION = 1
PREVIOUS = "previous"  # the name of the last checkpoint but one
PRETRAINED = "pretrained"  # and of the best from before all players took part


@dataclass(frozen=True)
class Data:
    """What a model was trained on, as far as its use later depends on it."""

    store: str
    manifest_hash: str
    channels: list[dict[str, Any]]  # name, units, valid range ... of the store
    train: list[str]
    eval: list[str]  # what the best checkpoint was chosen on
    attrs: dict[str, Any]  # licence, attribution, projection, pixel_km
    seen: dict[str, Any] = field(default_factory=dict)  # of train: min, max, satellites
    grid: dict[str, Any] | None = None  # of the frames, where the task is of a place on it
    step: int = 0  # seconds between frames, of a forecast; 0: any


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and everything needed to use it or to train on."""

    settings: RunSettings
    geometry: Geometry
    scaling: Scaling
    data: Data
    weights: dict[str, Any]  # state of the model
    averaged: dict[str, Any] | None  # state of its moving average, which is what is judged
    training: dict[str, Any]  # position, optimizers, random numbers: for --resume

    @property
    def task(self) -> tasks.Task:
        return tasks.build(
            models.find(self.settings.model_name).TASK,
            self.settings.task,
            self.settings.training.sequence_length,
            self.data.channels,
            tasks.of_plain(self.data.grid),
        )

    @property
    def problem(self) -> Problem:
        return Problem.of(self.task, self.scaling)

    @property
    def targets(self) -> list[Mapping[str, Any]]:
        """The channels of the answers."""
        return self.problem.channels(self.data.channels)

    def model(self, device: torch.device | str = "cpu") -> nn.Module:
        """The model in evaluation mode, with the averaged weights where there are any.

        Raises UserError for one that this version cannot build.
        """
        name = self.settings.model_name
        try:
            made: nn.Module = models.build(name, self.geometry, self.settings.model_settings)
            made.load_state_dict(self.averaged or self.weights)
        except (ValidationError, RuntimeError):  # of settings, of weights' names and shapes
            raise UserError(
                f"this checkpoint is of another version of the model {name}: its settings or "
                "weights do not fit; train again, or use the eddy that wrote it"
            ) from None
        return made.to(device).eval()


def usable_device(name: str) -> torch.device:
    """The device of that name; auto: a GPU where there is one. Raises UserError."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UserError(f"device {name!r}: expected auto, cpu, cuda or cuda:1")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"device {name!r}: there is no such GPU here; use auto or cpu") from None
    return device


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; whatever happens, `path` holds the old one or the new one.

    Raises UserError or OSError when the disk refuses.
    """
    whole = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        **plain(checkpoint),
        "weights": checkpoint.weights,
        "averaged": checkpoint.averaged,
        "training": checkpoint.training,
    }
    try:
        with atomic.replacing(path) as temporary:
            torch.save(whole, temporary)
    except RuntimeError as error:  # torch's own writer says so when the disk is full
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"{path}: could not be written (is the disk full? {reason})") from None


def plain(checkpoint: Checkpoint) -> dict[str, Any]:
    """All but the weights and what only a training needs."""
    return {
        "settings": checkpoint.settings.model_dump(mode="json"),
        "geometry": asdict(checkpoint.geometry),
        "scaling": checkpoint.scaling.plain(),
        "data": asdict(checkpoint.data),
    }


def keep(path: Path, name: str) -> None:
    """Keep what is there under another name beside it, before another takes its place.

    A second name of the same file, which costs no time; where the disk has no such names, a copy.
    """
    kept = path.with_name(f"{name}.ckpt")
    if not path.is_file() or (kept.is_file() and kept.samefile(path)):
        return  # the second: a kill came between the two
    with atomic.replacing(kept) as temporary:
        try:
            temporary.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, temporary)


def latest(run: Path) -> tuple[Checkpoint, Path]:
    """What to go on from: last.ckpt, or where that is damaged or gone the one before it.

    Raises UserError where neither can be read.
    """
    kept = run / "checkpoints"
    last, previous = (kept / f"{name}.ckpt" for name in ("last", PREVIOUS))
    if not last.is_file() and not previous.is_file():
        raise UserError(
            f"{run}: no checkpoint here to go on from, its training stopped before it saved one; "
            "leave out --resume to start it anew"
        )
    try:
        return load(last), last
    except UserError:
        if not previous.is_file():
            raise
    found = load(previous)
    step = found.training["position"]["step"]
    say(f"{last}: damaged or gone. Going on from {previous.name}, step {step}")
    return found, previous


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, or an exported model's settings.json with its weights, onto the CPU.

    Raises UserError for anything else.
    """
    found = folder.read(path.parent) if path.name == folder.SETTINGS else of_file(path)
    try:
        of_json: dict[str, Any] = {  # which knows no tuples
            name: tuple(value) if isinstance(value, list) else value
            for name, value in found["geometry"].items()
        }
        return Checkpoint(
            settings=RunSettings(**found["settings"]),
            geometry=Geometry(**of_json),
            scaling=Scaling.of(found["scaling"]),
            data=Data(**found["data"]),
            weights=found["weights"],
            averaged=found["averaged"],
            training=found["training"],
        )
    except (AttributeError, KeyError, TypeError, ValidationError) as error:
        reason = " ".join(repr(error).split())[:200]  # pydantic's own takes several lines
        raise UserError(f"{path}: a damaged checkpoint ({reason})") from None


def of_file(path: Path) -> dict[str, Any]:
    """What `save` wrote. Raises UserError."""
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint here; give a run's, or run `cli train` first")
    try:
        plain = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError):
        # torch's own words speak of weights_only, and tempt to switch it off
        raise UserError(
            f"{path}: not a readable checkpoint, damaged or another kind of file; "
            "use another with --checkpoint, or train again"
        ) from None
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of eddy")
    if plain["version"] > FORMAT_VERSION:
        raise UserError(f"{path}: checkpoint version {plain['version']}; update eddy to read it")
    return plain
