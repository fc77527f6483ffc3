"""All scores of a method on the frames of a track, one after the other."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.metrics import Errors, Motion, Variability
from pipeline.scorecard import Card, Judge, Yardstick

KELVIN = Yardstick(low=150.0, high=330.0, units="K", pixel=5.0, pixel_units="km")
RAIN = Yardstick(low=0.0, high=100.0, units="mm", pixel=1.0, pixel_units="pixels")
CHANNEL = {"name": "ir", "units": "K", "valid_min": 150.0, "valid_max": 330.0}


@pytest.fixture
def storm() -> Tensor:
    """(T, C, H, W) kelvin: a cold blob that moves two pixels per frame over a rough sea."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    rough = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) * 6
    blobs = [285 - 90 * torch.exp(-((x - 24 - 2 * t) ** 2 + (y - 30) ** 2) / 150) for t in range(5)]
    return torch.stack([blob + rough.roll(2 * t, 1) for t, blob in enumerate(blobs)])[:, None]


def judged(answers: Tensor, truth: Tensor, yardstick: Yardstick = KELVIN, gap: int = 0) -> Card:
    """gap: the frame before which one is missing; 0: none is."""
    judge = Judge(yardstick, ["model"])
    for number, (answer, true) in enumerate(zip(answers, truth, strict=True)):
        judge.frame({"model": answer}, true, follows=0 < number != gap)
    return judge.cards[0]["model"]


PERFECT = {
    "rmse": 0, "mae": 0, "bias": 0, "ssim": 1, "log_spectral_distance": 0,
    "effective_resolution": 10, "tof": 0, "temporal_std_ratio": 1, "cold_area_error_208": 0,
    "cold_area_error_220": 0, "cold_area_error_235": 0, "min_temperature_error": 0,
    "min_temperature_bias": 0, "csi_220": 1, "fss_220": 1,
}  # fmt: skip


def test_a_perfect_prediction_scores_perfectly(storm: Tensor) -> None:
    scores = judged(storm, storm).scores(KELVIN)
    assert math.isnan(scores.pop("psnr"))  # no finite one
    assert scores == pytest.approx(PERFECT)


def test_a_shifted_one_does_not(storm: Tensor) -> None:
    scores = judged(storm.roll(3, dims=-2), storm).scores(KELVIN)
    for name in ("rmse", "mae", "ssim", "csi_220", "fss_220"):
        assert abs(scores[name] - PERFECT[name]) > 0.005, name


def test_a_colder_a_smoother_and_a_still_one_are_each_found_out(storm: Tensor) -> None:
    colder = judged(storm - 5, storm).scores(KELVIN)
    assert colder["bias"] == pytest.approx(-5, abs=1e-4)
    assert colder["min_temperature_bias"] == pytest.approx(-5, abs=1e-4)
    assert colder["cold_area_error_220"] > 0.5  # per cent of the frame
    smoother = judged(torch.nn.functional.avg_pool2d(storm, 5, 1, 2, False, False), storm)
    assert smoother.scores(KELVIN)["log_spectral_distance"] > 3
    assert smoother.scores(KELVIN)["effective_resolution"] > 10
    still = judged(storm[:1].expand_as(storm), storm).scores(KELVIN)
    assert still["temporal_std_ratio"] == pytest.approx(0, abs=1e-6)
    assert still["tof"] > 0.1


def test_motion_never_spans_a_gap(storm: Tensor) -> None:
    whole, parted = judged(storm, storm), judged(storm, storm, gap=3)
    pixels = 64 * 64
    assert (whole.part(Motion).pixels, parted.part(Motion).pixels) == (4 * pixels, 3 * pixels)
    assert whole.part(Variability).pixels == 3 * pixels  # windows of three of five frames
    assert parted.part(Variability).pixels == 1 * pixels  # the first three alone


def test_missing_pixels_do_not_count_anywhere(storm: Tensor) -> None:
    """Whatever a prediction says there; and what it says there changes no neighbour's score."""
    holed = storm.clone()
    holed[2, :, 40:44, 40:44] = torch.nan
    wild = storm.clone()
    wild[2, :, 40:44, 40:44] = 155.0
    tame, odd = judged(storm, holed), judged(wild, holed)
    assert odd.scores(KELVIN) == pytest.approx(tame.scores(KELVIN), nan_ok=True)
    assert tame.part(Errors).pixels == storm.numel() - 16


def test_cards_add_and_come_back_from_json_exactly(storm: Tensor) -> None:
    one, other = judged(storm, storm + 1), judged(storm - 1, storm)
    both = one + other
    assert both.scores(KELVIN)["bias"] == pytest.approx(-1, abs=1e-4)
    assert (Card() + both).scores(KELVIN) == both.scores(KELVIN)
    again = Card.of_plain(json.loads(json.dumps(both.plain())))
    assert again.plain() == both.plain()
    assert both.without_curves().scores(KELVIN) == both.scores(KELVIN)
    assert "Distribution" not in both.without_curves().parts


def test_scores_of_cold_cloud_are_for_kelvin_alone(storm: Tensor) -> None:
    scores = judged(storm - 200, storm - 200, RAIN).scores(RAIN)
    assert "rmse" in scores
    assert not [name for name in scores if "cold" in name or "220" in name or "temperature" in name]


def test_nothing_counted_is_undefined_not_zero() -> None:
    assert all(math.isnan(value) for value in Card().scores(KELVIN).values())


def test_the_yardstick_is_what_the_store_says() -> None:
    assert Yardstick.of([CHANNEL], {"pixel_km": 5.0}) == KELVIN
    assert Yardstick.of([CHANNEL], {}).pixel_units == "pixels"
    with pytest.raises(UserError, match="several units"):
        Yardstick.of([CHANNEL, {**CHANNEL, "units": "mm"}], {})
