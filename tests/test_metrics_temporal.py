"""Motion and variability: still, drifting and flickering clouds."""

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.metrics import Motion, Variability, filled, flow

RANGE = (150.0, 330.0)


def clouds(seed: int = 0, size: int = 64) -> torch.Tensor:
    rough = torch.tensor(np.random.default_rng(seed).normal(250, 30, (1, 1, 10, 10)))
    return F.interpolate(rough, (size, size), mode="bicubic")[0, 0].float()


def drifting(columns: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two frames cut from one field: what they show moves this far to the right and down."""
    field = clouds(size=80)
    return field[8:72, 8:72], field[8 - rows : 72 - rows, 8 - columns : 72 - columns]


def test_what_stands_still_has_no_flow():
    found = flow(clouds(), clouds(), *RANGE)
    assert found.shape == (2, 64, 64)
    assert found.dtype == torch.float32
    assert found[:, 8:-8, 8:-8].abs().max() < 1e-3
    assert found.square().sum(0).sqrt().mean() < 0.01  # OpenCV's own, at the edges


@pytest.mark.parametrize(("columns", "rows"), [(2, 0), (0, -3), (3, 1)])
def test_a_known_drift_is_found(columns, rows):
    found = flow(*drifting(columns, rows), *RANGE)[:, 8:-8, 8:-8]
    assert found[0].median() == pytest.approx(columns, abs=0.15)
    assert found[1].median() == pytest.approx(rows, abs=0.15)


def test_flow_is_farneback_s_of_grey_frames():
    before, after = drifting(2, 1)
    grey = [np.rint((x.numpy() - 150) * (255 / 180)).astype(np.uint8) for x in (before, after)]
    expected = cv2.calcOpticalFlowFarneback(grey[0], grey[1], None, 0.5, 3, 15, 3, 5, 1.2, 0)
    np.testing.assert_array_equal(flow(before, after, *RANGE), expected.transpose(2, 0, 1))


def test_values_beyond_the_range_are_white_or_black():
    before, after = drifting(2, 1)
    inside = [x.clamp(240, 260) for x in (before, after)]
    expected = flow(*inside, 240.0, 260.0)
    assert flow(before, after, 240.0, 260.0).equal(expected)


def test_a_still_prediction_of_a_drift_is_as_far_off_as_the_drift():
    before, after = drifting(3, 1)
    truth = flow(before, after, *RANGE)[:, 8:-8, 8:-8]
    still = flow(before, before, *RANGE)[:, 8:-8, 8:-8]
    assert Motion.of(still, truth).scores()["tof"] == pytest.approx(math.hypot(3, 1), rel=0.1)


def test_the_distance_is_that_of_the_end_points():
    truth = torch.zeros(2, 4, 5)
    prediction = torch.stack([torch.full((4, 5), 3.0), torch.full((4, 5), -4.0)])
    assert Motion.of(prediction, truth) == Motion(5.0 * 20, 20)


def test_leading_dimensions_are_kept():
    before, after = (torch.stack([clouds(0), clouds(1)])[:, None], clouds(2).expand(2, 1, 64, 64))
    found = flow(before, after, *RANGE)
    assert found.shape == (2, 1, 2, 64, 64)
    assert found[1, 0].equal(flow(clouds(1), clouds(2), *RANGE))


def test_missing_in_either_frame_is_missing_in_the_flow():
    before, after = drifting(2, 0)
    before, after = before.clone(), after.clone()
    before[3, 4] = torch.nan
    after[5, 6] = torch.nan
    found = flow(before, after, *RANGE)
    assert found.isnan().nonzero()[:, 1:].unique(dim=0).tolist() == [[3, 4], [5, 6]]
    whole = [torch.where(x.isnan(), x.nanmean(), x) for x in (before, after)]
    assert found.nan_to_num(0).equal(
        torch.where(found.isnan(), 0, flow(whole[0], whole[1], *RANGE))
    )
    assert flow(before, torch.full_like(after, torch.nan), *RANGE).isnan().all()


def test_holes_are_filled_with_the_truth_s_mean():
    truth = torch.tensor([[200.0, torch.nan], [300.0, 220.0]])
    prediction = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert filled(prediction, truth).tolist() == [[1.0, 240.0], [3.0, 4.0]]


def test_the_variability_of_a_damped_prediction():
    truth = torch.stack([clouds(seed)[None] for seed in range(3)])
    damped = truth.mean(0) + 0.7 * (truth - truth.mean(0))
    assert Variability.of(damped, truth).scores()["temporal_std_ratio"] == pytest.approx(0.7)
    expected = truth.double().std(dim=0, correction=0)
    assert Variability.of(damped, truth).truth == pytest.approx(float(expected.sum()), rel=1e-12)


def test_a_still_truth_has_no_ratio():
    still = clouds().expand(3, 1, 64, 64)
    assert math.isnan(Variability.of(still, still).scores()["temporal_std_ratio"])


def test_a_pixel_missing_once_does_not_count():
    truth = torch.stack([clouds(seed)[None] for seed in range(3)])
    truth[1, 0, :32] = torch.nan
    found = Variability.of(truth.nan_to_num(1e6), truth)
    assert found == Variability.of(truth[..., 32:, :], truth[..., 32:, :])
    assert found.pixels == 32 * 64
