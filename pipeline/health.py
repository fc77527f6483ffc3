"""Whether a training is well: what is logged is finite, has not exploded, and a game is played."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low

from pipeline.errors import UserError, few
from pipeline.progress import say

EXPLODED = 1000.0  # times a loss at the beginning, or times 1 if that is more
# A discriminator that gives truth more, and what is made less, has won. (With its labels smoothed
# by 0.1 it gives truth 0.9 at best.)
SURE_OF_TRUTH, SURE_OF_MADE = 0.85, 0.01
LOOKS = 5  # in a row, before that is said


class Unhealthy(UserError):
    """What a training came to, which all its processes see alike."""


@dataclass(frozen=True)
class Place:
    """Of one step."""

    step: int  # counted from 1
    epoch: int  # counted from 0
    batches: range  # within the epoch


@dataclass
class Health:
    """Looks at every step's numbers when they are written.

    shown: what windows an epoch's batches hold, for people. overflows: gradients may be infinite
    now and then, as GradScaler makes them, which then steps over them.
    """

    run: Path
    shown: Callable[[int, range], list[str]]
    overflows: bool
    usual: dict[str, float] = field(default_factory=dict)  # by player, the loss at the beginning
    sure: dict[str, int] = field(default_factory=dict)  # by discriminator, looks in a row

    def look(self, steps: Sequence[tuple[Place, Mapping[str, float]]]) -> None:
        """Raises Unhealthy naming the first step that went wrong, and its frames."""
        losses: dict[str, list[float]] = {}
        for _, values in steps:
            for name, value in values.items():
                if name.startswith("player/") and math.isfinite(value):
                    losses.setdefault(name, []).append(abs(value))
        for name, found in losses.items():
            # Not the mean: what explodes among the first steps must not become what is usual
            self.usual.setdefault(name, max(1.0, median_low(found)))
        for place, values in steps:
            for name, value in values.items():
                if not math.isfinite(value):
                    if self.overflows and name.startswith("grad_norm/"):
                        continue
                    raise Unhealthy(self.told(f"{name} is no longer finite", place))
                if name.startswith("player/") and abs(value) > EXPLODED * self.usual[name]:
                    raise Unhealthy(self.told(f"{name} has exploded to {value:.3g}", place))

    def told(self, what: str, place: Place) -> str:
        windows = few(self.shown(place.epoch, place.batches))
        return (
            f"{self.run}: {what} at step {place.step} (of the windows {windows}); lower "
            "training.lr, set training.clip, or go back to fp32; the checkpoints are from before"
        )

    def watch(self, means: Mapping[str, float], step: int) -> None:
        """Say once of each discriminator that it tells truth from what is made without fail.

        means: over some steps, of which loss/d_real... and loss/d_fake... are logits.
        """
        for name, on_real in means.items():
            if not name.startswith("loss/d_real"):
                continue
            which = name.removeprefix("loss/d_real")
            on_fake = means.get(f"loss/d_fake{which}", 0.0)
            won = sigmoid(on_real) > SURE_OF_TRUTH and sigmoid(on_fake) < SURE_OF_MADE
            self.sure[which] = self.sure.get(which, 0) + 1 if won else 0
            if self.sure[which] == LOOKS:
                judged = f"D(real) {sigmoid(on_real):.3f}, D(fake) {sigmoid(on_fake):.3f}"
                say(
                    f"step {step}: the discriminator{' ' * bool(which)}{which.strip('_')} tells "
                    f"truth from what is made without fail ({judged}), and the generator learns "
                    "little from it; let it rest with model.rest_above 0.4, or lower its rate in "
                    "training.lr_of"
                )


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0
