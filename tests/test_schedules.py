"""Learning rates, step by step."""

import pytest
import torch

from pipeline import schedules
from pipeline.settings import TrainSettings


@pytest.mark.parametrize("total", [1, 2, 3, 7, 100, 1003])
def test_onecycle_is_torch_s_stepped_every_iteration(total):
    """The learning-rate curve that one run froze near its start by stepping it every epoch."""
    t = TrainSettings(schedule="onecycle", lr=0.01)
    ours = [
        (t.lr * schedules.share_of_lr(t, step, total), schedules.beta1(t, step, total))
        for step in range(total)
    ]
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=total)
    expected = []
    for step in range(total):
        group = optimizer.param_groups[0]
        expected.append((group["lr"], group["betas"][0]))
        optimizer.step()
        if step < total - 1:
            theirs.step()
    for one, other in zip(ours, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-12)
    if total >= 100:
        top = max(range(total), key=lambda step: ours[step][0])
        assert top == pytest.approx(0.3 * total - 1, abs=1)
        assert ours[-1][0] < 1e-5 * ours[top][0]


def test_the_others():
    cosine = TrainSettings(schedule="cosine")
    assert schedules.share_of_lr(cosine, 0, 10) == 1
    assert schedules.share_of_lr(cosine, 5, 10) == pytest.approx((1 + 0.01) / 2)
    assert schedules.share_of_lr(cosine, 10, 10) == pytest.approx(0.01)
    halve = TrainSettings(schedule="halve", milestones=(0.5, 0.8), drop=0.1)
    shares = [schedules.share_of_lr(halve, step, 10) for step in range(10)]
    assert shares == pytest.approx([1] * 5 + [0.1] * 3 + [0.01] * 2)
    assert schedules.share_of_lr(TrainSettings(schedule="constant"), 9, 10) == 1
    assert schedules.beta1(TrainSettings(beta1=0.5), 3, 10) == 0.5
