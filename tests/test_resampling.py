"""Intervals: tracks drawn again, the same draws for every method."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline import resampling
from pipeline.scorecard import Card, Judge, Yardstick

KELVIN = Yardstick(low=150.0, high=330.0, units="K", pixel=5.0, pixel_units="km")


def track(error: float, frames: int, size: int, seed: int) -> dict[str, Card]:
    """A model that is off by `error` kelvin, and a baseline that is off by one more."""
    generator = torch.Generator().manual_seed(seed)
    judge = Judge(KELVIN, ["model", "bicubic"])
    for number in range(frames):
        truth = 200 + 90 * torch.rand(1, size, size, generator=generator)
        answers = {"model": truth + error, "bicubic": truth + error + 1}
        judge.frame(answers, truth, follows=number > 0)
    return judge.cards[0]


@pytest.fixture(scope="module")
def tracks() -> list[dict[str, Card]]:
    """Of several lengths and frame sizes; one is too short for any motion."""
    return [track(1, 3, 32, 0), track(2, 2, 32, 1), track(4, 1, 24, 2), track(3, 4, 24, 3)]


def test_each_draw_is_what_adding_its_tracks_gives(tracks: list[dict[str, Card]]) -> None:
    times = np.array([[1, 1, 1, 1], [0, 3, 1, 0], [0, 0, 4, 0], [2, 0, 0, 2]])
    for row in ("model", "bicubic"):
        cards = resampling.added([t[row] for t in tracks], times)
        for counts, card in zip(times, cards, strict=True):
            by_hand = Card()
            for t, count in zip(tracks, counts, strict=True):
                for _ in range(count):
                    by_hand += t[row]
            assert card.scores(KELVIN) == pytest.approx(by_hand.scores(KELVIN), nan_ok=True)


def test_the_interval_holds_the_score_and_knows_no_more_than_the_tracks(tracks) -> None:
    made = resampling.drawn(tracks, KELVIN, 500)
    low, high = resampling.intervals(made)["model"]["rmse"]
    assert 1 <= low < sum((t["model"] for t in tracks), Card()).scores(KELVIN)["rmse"] < high <= 4
    few = resampling.drawn([track(2, 1, 24, seed) for seed in range(4)], KELVIN, 200)
    assert resampling.intervals(few)["model"]["rmse"] == pytest.approx((2, 2), abs=1e-5)


def test_differences_are_of_the_same_draws(tracks) -> None:
    """Every track says that the baseline is one kelvin worse, however the tracks differ."""
    made = resampling.drawn(tracks, KELVIN, 200)
    apart = resampling.differences(made, "model", "bicubic")
    assert apart["bias"] == pytest.approx((-1, -1), abs=1e-4)
    assert apart["mae"] == pytest.approx((-1, -1), abs=1e-4)


def test_the_same_seed_gives_the_same_interval(tracks) -> None:
    one, again, other = (
        resampling.intervals(resampling.drawn(tracks, KELVIN, 100, seed))["model"]["rmse"]
        for seed in (3, 3, 4)
    )
    assert one == again
    assert one != other


def test_what_a_draw_leaves_undefined_has_no_interval() -> None:
    """One of two tracks has a single frame: drawn twice, nothing moves."""
    made = resampling.drawn([track(1, 3, 24, 0), track(1, 1, 24, 1)], KELVIN, 100)
    assert all(map(math.isnan, resampling.intervals(made)["model"]["tof"]))
    assert all(map(math.isfinite, resampling.intervals(made)["model"]["rmse"]))
