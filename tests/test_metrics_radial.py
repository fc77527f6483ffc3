"""Profiles about the centre, pixel by pixel."""

import math

import numpy as np
import pytest
import torch

from pipeline.metrics import RadialProfile


def distance(size: tuple[int, int]) -> np.ndarray:
    y, x = (np.arange(n) - (n - 1) / 2 for n in size)
    return np.hypot(y[:, None], x)


@pytest.mark.parametrize(("size", "width"), [((32, 32), 4), ((31, 40), 3), ((24, 24), 2.5)])
def test_a_profile_is_that_of_a_slow_loop(size, width):
    rng = np.random.default_rng(0)
    truth, prediction = torch.tensor(rng.normal(260, 20, (2, 3, *size)))
    truth[1, 4:9] = torch.nan
    radius, of_truth, of_prediction, rmse = RadialProfile.of(prediction, truth, width).curve(5.0)
    assert len(radius) == int(min(size) / 2 / width)
    for k in range(len(radius)):
        ring = (distance(size) >= k * width) & (distance(size) < (k + 1) * width)
        seen = ~truth.isnan() & torch.tensor(ring)
        assert radius[k] == (k + 0.5) * width * 5.0
        assert of_truth[k] == pytest.approx(float(truth[seen].mean()), rel=1e-12)
        assert of_prediction[k] == pytest.approx(float(prediction[seen].mean()), rel=1e-12)
        error = (prediction - truth)[seen].square().mean().sqrt()
        assert rmse[k] == pytest.approx(float(error), rel=1e-12)


def test_an_error_in_the_eye_shows_in_the_first_ring_only():
    truth = torch.full((32, 32), 280.0)
    prediction = torch.where(torch.tensor(distance((32, 32))) < 4, 270.0, truth)
    made = RadialProfile.of(prediction, truth)
    assert (made.curve()[2] - made.curve()[1]).tolist() == [-10, 0, 0, 0]
    assert made.curve()[3].tolist() == [10, 0, 0, 0]
    assert made.scores()["radial_profile_error"] == pytest.approx(math.sqrt(100 / 4))


def test_frames_of_several_sizes_add_ring_by_ring():
    small, large = torch.full((16, 16), 200.0), torch.full((32, 32), 300.0)
    made = RadialProfile.of(small, small) + RadialProfile.of(large, large)
    assert made.curve()[1].tolist() == pytest.approx([250, 250, 300, 300])
    assert made == RadialProfile.of(large, large) + RadialProfile.of(small, small)


def test_a_ring_never_seen_is_nan():
    truth = torch.full((32, 32), 280.0)
    truth[12:20, 12:20] = torch.nan
    made = RadialProfile.of(torch.full((32, 32), 281.0), truth)
    assert np.isnan(made.curve()[1]).tolist() == [True, False, False, False]
    assert made.scores()["radial_profile_error"] == pytest.approx(1)
    assert [len(each) for each in RadialProfile().curve()] == [0] * 4
