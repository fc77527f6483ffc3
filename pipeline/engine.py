"""What training runs on: device and precision, averaged weights, random numbers."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from pipeline import checkpoint
from pipeline.errors import UserError
from pipeline.settings import TrainSettings

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def make_fabric(t: TrainSettings) -> Fabric:
    """One device in one precision. Raises UserError for what this machine has not."""
    device = checkpoint.usable_device(t.device)
    if t.precision == "fp16" and device.type == "cpu":
        raise UserError("training.precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it announces bf16 by itself
    return Fabric(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        precision=PRECISIONS[t.precision],  # type: ignore[arg-type]  # a plain str is a Literal
    )


class Average:
    """Exponential moving average of a model's weights and buffers.

    The decay grows with the steps towards its final value, as in TensorFlow's
    ExponentialMovingAverage, so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.count = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        kept = min(self.decay, self.count / (10 + self.count))
        self.count += 1
        new = model.state_dict()
        for name, old in self.module.state_dict().items():
            if old.is_floating_point():
                old.lerp_(new[name], 1 - kept)
            else:
                old.copy_(new[name])


def random_state(device: torch.device) -> dict[str, Any]:
    """Of the generators that a training on this device draws from."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
