"""Learning rates, and what goes with them, as a function of how far a training is."""

from __future__ import annotations

import math

from pipeline.settings import TrainSettings

LAST_LR = 0.01  # of the first, at the end of a cosine schedule
# onecycle: Smith & Topin 2018, arXiv:1708.07120, with the numbers that torch's OneCycleLR has
RISING = 0.3  # of all steps
FIRST_LR, FINAL_LR = 1 / 25, 1 / 25 / 1e4  # of the highest
HIGH_BETA, LOW_BETA = 0.95, 0.85


def share_of_lr(t: TrainSettings, step: int, total: int) -> float:
    """What is left of the learning rate at this step (from 0) of all."""
    done = step / total
    if t.schedule == "cosine":
        return LAST_LR + (1 - LAST_LR) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
    if t.schedule == "halve":
        return t.drop ** sum(done >= milestone for milestone in t.milestones)
    if t.schedule == "onecycle":
        return cycled(step, total, FIRST_LR, 1.0, FINAL_LR)
    return 1.0


def beta1(t: TrainSettings, step: int, total: int) -> float:
    """Adam's first beta at this step: low where the learning rate of a onecycle is high."""
    if t.schedule == "onecycle":
        return cycled(step, total, HIGH_BETA, LOW_BETA, HIGH_BETA)
    return t.beta1


def cycled(step: int, total: int, first: float, top: float, last: float) -> float:
    """From first to top over the rising steps, then to last, each along half a cosine."""
    peak = RISING * total - 1  # the step at the top, where there was one exactly there
    if step <= peak:
        return between(first, top, step / peak)
    return between(top, last, (step - peak) / (total - 1 - peak))


def between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
