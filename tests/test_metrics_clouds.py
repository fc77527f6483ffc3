"""Cold cloud: areas and minima with known answers."""

import math

import pytest
import torch

from pipeline.metrics import ColdClouds


def frame(*cold: float) -> torch.Tensor:
    """(10, 10), 290 K but for these pixels."""
    made = torch.full((10, 10), 290.0)
    made.view(-1)[: len(cold)] = torch.tensor(cold)
    return made


def test_areas_are_percent_of_the_frame_below_each_threshold():
    truth = frame(200, 207.9, 208, 219, 220, 234)
    prediction = frame(209, 209, 209, 209, 230, 240)
    found = ColdClouds.of(prediction, truth).scores()
    assert found["cold_area_error_208"] == pytest.approx(2)  # 0 against 200 and 207.9
    assert found["cold_area_error_220"] == pytest.approx(0)  # 4 and 4
    assert found["cold_area_error_235"] == pytest.approx(1)  # 5 against 6
    assert found["min_temperature_error"] == pytest.approx(9)
    assert found["min_temperature_bias"] == pytest.approx(9)


def test_images_do_not_make_up_for_each_other():
    truth = torch.stack([frame(200), frame(210)])
    found = ColdClouds.of(truth.flip(0), truth).scores()
    assert found["cold_area_error_208"] == pytest.approx(1)
    assert found["cold_area_error_220"] == 0
    assert (found["min_temperature_error"], found["min_temperature_bias"]) == (10, 0)


def test_areas_are_of_the_pixels_seen():
    truth = frame(200, 200)
    truth[5:] = torch.nan
    found = ColdClouds.of(frame(200), truth).scores()
    assert found["cold_area_error_208"] == pytest.approx(100 / 50)
    blank = torch.full((10, 10), torch.nan)
    with_blank = ColdClouds.of(torch.stack([frame(200), frame()]), torch.stack([truth, blank]))
    assert with_blank.images == 1
    assert with_blank.scores() == found
    assert math.isnan(ColdClouds.of(blank, blank).scores()["min_temperature_bias"])
