"""Losses for more than one model. All are computed in float32, whatever autocast made of the input.

Where the truth is NaN the pixel does not count: its value and its gradient are exactly nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models._ranks import mean_everywhere, ranks

Content = Literal["l1", "mse"]
Adversarial = Literal["bce", "hinge"]


def content_loss(
    kind: Content | Literal["log_cosh"],
    prediction: Tensor,
    truth: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean error of the pixels seen in truth; 0 (with a gradient, of zeros) if there are none.

    weight: by what each pixel's error is multiplied first; any value where truth is NaN.
    """
    seen = ~truth.isnan()
    # masked before the error is taken: the slope of |NaN| is NaN, and NaN × 0 stays NaN
    error = (prediction.float() - truth.float()).where(seen, 0.0)
    error = error.square() if kind == "mse" else error.abs()
    if kind == "log_cosh":  # log((1 + exp(-2e)) / 2) + e: no overflow, and exact for small e
        error = error + ((-2 * error).expm1() / 2).log1p()
    if weight is not None:
        error = error * weight.where(seen, 0.0)
    # Over all processes, whose gradients are averaged: the mean over the whole batch's pixels
    return error.sum() / mean_everywhere(seen.sum().float()).clamp(min=1 / ranks())


def rain_weight(truth: Tensor, log_scale: float, alpha: float, cap: float) -> Tensor:
    """1 + alpha × mm, float32, of truth × log_scale = log1p(mm); above cap mm it grows no more."""
    return 1 + alpha * (truth.float() * log_scale).expm1().clamp(0, cap)


def judging_loss(
    kind: Adversarial, on_real: Tensor, on_fake: Tensor, smoothing: float = 0.0
) -> Tensor:
    """What a discriminator minimises; logits, high for real. The two halves are summed.

    smoothing: what the label of real is below 1, for bce; Salimans et al. 2016, one-sided.
    """
    on_real, on_fake = on_real.float(), on_fake.float()
    if kind == "hinge":
        return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
    # BCE with logits, labels 1 - smoothing and 0
    return (F.softplus(-on_real) + smoothing * on_real).mean() + F.softplus(on_fake).mean()


def fooling_loss(kind: Adversarial, on_fake: Tensor) -> Tensor:
    """What a generator minimises: -log D (non-saturating), or minus the logit for hinge."""
    on_fake = on_fake.float()
    return -on_fake.mean() if kind == "hinge" else F.softplus(-on_fake).mean()


def lead(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """How far a discriminator is ahead: mean log D(real) - mean log D(fake); from logits.

    Over all processes, without a gradient.
    """
    ahead = F.softplus(-on_fake.float()).mean() - F.softplus(-on_real.float()).mean()
    return mean_everywhere(ahead)


def resting(loss: Tensor, on_real: Tensor, on_fake: Tensor, above: float) -> tuple[Tensor, Tensor]:
    """A discriminator's loss, without a gradient while its lead is above; and 1 if it rests.

    After TecoGAN (Chu et al. 2020), where it rests above 0.4. Waits for the device.
    """
    rests = lead(on_real, on_fake) > above
    return (loss.detach() if rests else loss), rests.float()


def r1(
    judge: Callable[[Tensor, Tensor | None], Tensor],
    real: Tensor,
    condition: Tensor | None,
    seen: Tensor,
) -> Tensor:
    """Squared norm of judge(real, condition)'s slope in real, over the pixels seen; mean over N.

    Mescheder et al. 2018, Eq. 9, without gamma / 2. real and seen are (N, ...).
    """
    with torch.autocast(real.device.type, enabled=False):  # slopes underflow in half precision
        real = real.detach().float().requires_grad_()
        (slope,) = torch.autograd.grad(judge(real, condition).sum(), real, create_graph=True)
        return slope.where(seen, 0.0).square().flatten(1).sum(1).mean()


@contextmanager
def frozen(player: nn.Module) -> Iterator[None]:
    """What is computed inside asks no gradient of the player; gradients it holds already stay."""
    free = [p for p in player.parameters() if p.requires_grad]
    for p in free:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in free:
            p.requires_grad_(True)
