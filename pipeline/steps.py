"""One step of a training: every player's loss, gradients and optimizer, whatever the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from models import Model
from pipeline import engine
from pipeline.settings import TrainSettings

Batch = tuple[Tensor, Tensor]  # x, y: (B, T, C, H, W), normalised
# A step after any warm-up, in which all players take part, and whatever is done every n steps, too
LATE = math.factorial(20)


@dataclass
class Outcome:
    """Of one step; scalars that are still on the device."""

    parts: dict[str, Tensor] = field(default_factory=dict)  # what the model logs
    losses: dict[str, Tensor] = field(default_factory=dict)  # by player
    norms: dict[str, Tensor] = field(default_factory=dict)  # of its gradient before clipping

    def named(self) -> dict[str, Tensor]:
        """All of it, as the log has it."""
        return {
            **{f"loss/{name}": value for name, value in self.parts.items()},
            **{f"player/{name}": value for name, value in self.losses.items()},
            **{f"grad_norm/{name}": value for name, value in self.norms.items()},
        }


def update(
    fabric: Fabric,
    model: Model,
    optimizers: dict[str, Optimizer],
    batches: Sequence[Batch],
    step: int,
    clip: float,
) -> Outcome:
    """One step of every player, over the gradients of all the batches.

    A regressor yields one loss per batch, a GAN one per player: the loop need not know which. All
    batches ask the same player before it is stepped and the next one is asked, so that several
    batches make the step of one large one. (With several players each batch's pass through the
    first network is kept until its turn: accumulation then saves less memory.)
    Nothing in here waits for the device, except GradScaler's look at fp16 gradients.
    """
    made = Outcome()
    streams = [autocast(fabric, model.losses(x, y, step)) for x, y in batches]
    while True:
        for stream in streams:
            item = next(stream, None)
            if item is None:  # every batch has the same players: all streams end together
                return made
            player, loss, logged = item
            if loss.requires_grad:  # else the model lets this player rest
                fabric.backward(loss / len(batches))
            add(made.losses, player, loss.detach() / len(batches))
            for name, value in logged.items():
                add(made.parts, name, value / len(batches))
        net = model.players()[player]
        if all(p.grad is None for p in net.parameters()):
            continue
        engine.share_gradients(fabric, net)
        norm = fabric.clip_gradients(
            net, optimizers[player], max_norm=clip or math.inf, error_if_nonfinite=False
        )
        assert norm is not None  # asked by norm, not by value
        made.norms[player] = norm
        optimizers[player].step()
        optimizers[player].zero_grad(set_to_none=True)


def add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value


def autocast(fabric: Fabric, losses: Iterator[Any]) -> Iterator[Any]:
    """The same items, each computed under the run's precision; the backward passes are not."""
    while True:
        with fabric.autocast():
            item = next(losses, None)
        if item is None:
            return
        yield item


def optimizers_of(
    fabric: Fabric, t: TrainSettings, players: Mapping[str, nn.Module]
) -> dict[str, Optimizer]:
    """Each player's own, at its own learning rate.

    Fused: one kernel for all parameters (measured on a CPU: a step of TempoGAN 10 % shorter).
    """
    kind = AdamW if t.optimizer == "adamw" else Adam
    # fp16: a fused one would undo GradScaler's scaling by itself, too late for clipping
    fused = t.precision != "fp16"
    made: dict[str, Any] = {}
    for name, net in players.items():
        optimizer = kind(
            net.parameters(),
            lr=t.lr_of.get(name, t.lr),
            betas=(t.beta1, t.beta2),
            weight_decay=t.weight_decay,
            fused=fused,
        )
        made[name] = fabric.setup_optimizers(optimizer)
    return made
